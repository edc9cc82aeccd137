//! The exact answer to what is sent: one row per window, device and category, device by device.

use std::collections::BTreeMap;
use std::io::{self, Write};

use granary_core::Span;

use super::{Options, message};

/// The columns of a truth file.
pub const TRUTH_COLUMNS: &str =
    "window_start,device,category,count,m1_sum,m1_min,m1_max,m2_sum,m2_avg,m2_min,m2_max,m2_abs_sum";

/// One row of the truth.
#[derive(Clone, Debug, PartialEq)]
pub struct TruthRow {
    /// Start of the window, ms.
    pub window_start: i64,
    /// Which device.
    pub device: String,
    /// Which category.
    pub category: String,
    /// Messages, each counted once.
    pub count: u64,
    /// Exact.
    pub m1_sum: i128,
    /// The smallest first measure.
    pub m1_min: i64,
    /// The largest first measure.
    pub m1_max: i64,
    /// The sum of the doubles, rounded once.
    pub m2_sum: f64,
    /// The smallest second measure.
    pub m2_min: f64,
    /// The largest second measure.
    pub m2_max: f64,
    /// The sum of absolute values, for the tolerance.
    pub m2_abs_sum: f64,
}

/// The rows for windows of this size, aligned to 1970: the devices in order, each one's windows in order.
pub fn truth(options: &Options, window: Span) -> impl Iterator<Item = TruthRow> + '_ {
    (0..options.devices).flat_map(move |device| of_device(options, window, device))
}

fn of_device(options: &Options, window: Span, device: u32) -> Vec<TruthRow> {
    let size = i64::try_from(window.ms()).unwrap_or(i64::MAX).max(1);
    let mut rows: BTreeMap<(i64, u8), (TruthRow, Exact, Exact)> = BTreeMap::new();
    let mut name = Vec::new();
    message::device(device, &mut name);
    let name = String::from_utf8(name).expect("a device's name is ASCII");
    for number in 0..options.messages * options.sends_per_period(device) {
        let message = message::of(options, device, number);
        let start = message.at.ms() - message.at.ms().rem_euclid(size);
        let m2 = message.m2();
        let (row, sum, abs_sum) = rows.entry((start, message.category)).or_insert_with(|| {
            let row = TruthRow {
                window_start: start,
                device: name.clone(),
                category: format!("cat-{}", message.category),
                count: 0,
                m1_sum: 0,
                m1_min: i64::MAX,
                m1_max: i64::MIN,
                m2_sum: 0.0,
                m2_min: f64::INFINITY,
                m2_max: f64::NEG_INFINITY,
                m2_abs_sum: 0.0,
            };
            (row, Exact::default(), Exact::default())
        });
        row.count += 1;
        row.m1_sum += i128::from(message.m1);
        row.m1_min = row.m1_min.min(message.m1);
        row.m1_max = row.m1_max.max(message.m1);
        row.m2_min = row.m2_min.min(m2);
        row.m2_max = row.m2_max.max(m2);
        sum.add(m2);
        abs_sum.add(m2.abs());
    }
    let finished = rows.into_values().map(|(row, sum, abs_sum)| TruthRow {
        m2_sum: sum.value(),
        m2_abs_sum: abs_sum.value(),
        ..row
    });
    finished.collect()
}

/// A sum of doubles as a whole number of 2^-40 and what those cannot hold: a measure below 2^20 loses nothing above
/// 2^-52 of itself, and the rest is added beside it.
#[derive(Clone, Copy, Debug, Default)]
struct Exact {
    units: i128,
    rest: f64,
}

impl Exact {
    const UNITS: f64 = (1_u64 << 40) as f64;

    fn add(&mut self, value: f64) {
        // Scaling by a power of two is exact, and so is the difference to the nearest whole number.
        let scaled = value * Exact::UNITS;
        self.units += scaled.trunc() as i128;
        self.rest += scaled - scaled.trunc();
    }

    fn value(&self) -> f64 {
        let carried = self.rest.trunc();
        ((self.units + carried as i128) as f64 + (self.rest - carried)) / Exact::UNITS
    }
}

/// Writes the rows as a truth file.
pub fn write_truth(rows: impl Iterator<Item = TruthRow>, out: &mut impl Write) -> io::Result<u64> {
    writeln!(out, "{TRUTH_COLUMNS}")?;
    let mut count = 0;
    for row in rows {
        let TruthRow { window_start, device, category, count: n, m1_sum, m1_min, m1_max, .. } = &row;
        write!(out, "{window_start},{device},{category},{n},{m1_sum},{m1_min},{m1_max}")?;
        let TruthRow { m2_sum, m2_min, m2_max, m2_abs_sum, .. } = row;
        let m2_avg = m2_sum / *n as f64;
        writeln!(out, ",{m2_sum:?},{m2_avg:?},{m2_min:?},{m2_max:?},{m2_abs_sum:?}")?;
        count += 1;
    }
    Ok(count)
}
