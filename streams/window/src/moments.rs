//! Mean and variance in one pass.

use crate::Corrupt;
use crate::encode::{Reader, put_f64, put_u64};

/// Mean and squared distances from it (Welford; merged after Chan).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    n: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    pub(crate) fn add(&mut self, x: f64) {
        self.merge(Moments { n: 1, mean: x, squares: 0.0 });
    }

    pub(crate) fn merge(&mut self, other: Moments) {
        let n = self.n + other.n;
        if n == 0 {
            return;
        }
        let (a, b) = (self.n as f64, other.n as f64);
        let distance = other.mean - self.mean;
        self.mean += distance * b / n as f64;
        self.squares += other.squares + distance * distance * a * b / n as f64;
        self.n = n;
    }

    /// The variance of the population; `None` when there is no number.
    pub(crate) fn variance(&self) -> Option<f64> {
        (self.n > 0).then(|| self.squares / self.n as f64)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.n);
        put_f64(out, self.mean);
        put_f64(out, self.squares);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Moments, Corrupt> {
        Ok(Moments { n: reader.u64()?, mean: reader.f64()?, squares: reader.f64()? })
    }
}
