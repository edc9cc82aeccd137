//! How many different values there are, about, in bounded memory: HyperLogLog.
//!
//! P. Flajolet, É. Fusy, O. Gandouet, F. Meunier: "HyperLogLog: the analysis of a near-optimal cardinality estimation
//! algorithm", AofA 2007. What is made of the registers is the improved raw estimator of O. Ertl: "New cardinality
//! estimation algorithms for HyperLogLog sketches", arXiv:1702.01284, algorithm 6: it needs neither tables nor
//! thresholds, and is without bias from the first value on.
//!
//! Up to [`HASHES_MAX`] values their hashes are kept as they are, and the answer is exact. Beyond that there are 2^12
//! registers, and the standard error is 1.04 / √2^12, which is 1.63 %.
//!
//! Invariant: the state follows from the set of values alone, not from their order, their copies or the parts they were
//! counted in. It and every answer are the same on every machine: additions, multiplications, divisions and square
//! roots of doubles are rounded alike everywhere.

use crate::Corrupt;
use crate::encode::{Reader, put_u64};

/// So many first bits of a hash choose its register.
const BITS: u32 = 12;
const REGISTERS: usize = 1 << BITS;
/// What a register holds at most: the place of the first one among the other bits, and one more when there is none.
const RANK_MAX: u8 = (64 - BITS + 1) as u8;
/// Bytes of the registers in a cell, six bits each.
const PACKED_BYTES: usize = REGISTERS * 6 / 8;

/// So many values are counted exactly: as many hashes as take the memory of the registers.
pub(crate) const HASHES_MAX: usize = REGISTERS / size_of::<u64>();

/// The values counted so far, by their hashes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum HyperLogLog {
    /// The hashes, ascending.
    Few(Vec<u64>),
    /// For each register the highest rank of its hashes; 0: none.
    Many(Box<[u8; REGISTERS]>),
}

impl Default for HyperLogLog {
    fn default() -> Self {
        HyperLogLog::Few(Vec::new())
    }
}

impl HyperLogLog {
    /// Counts a value by its hash; returns how many bytes of memory were newly taken.
    pub(crate) fn add(&mut self, hash: u64) -> usize {
        match self {
            HyperLogLog::Few(hashes) => {
                let Err(at) = hashes.binary_search(&hash) else { return 0 };
                if hashes.len() < HASHES_MAX {
                    hashes.insert(at, hash);
                    return size_of::<u64>();
                }
                let mut registers = Box::new([0; REGISTERS]);
                hashes.iter().for_each(|hash| raise(&mut registers, *hash));
                raise(&mut registers, hash);
                *self = HyperLogLog::Many(registers);
            }
            HyperLogLog::Many(registers) => raise(registers, hash),
        }
        0
    }

    /// Counts what another one has counted.
    pub(crate) fn merge(&mut self, other: HyperLogLog) {
        match (&mut *self, other) {
            (_, HyperLogLog::Few(hashes)) => hashes.into_iter().for_each(|hash| {
                self.add(hash);
            }),
            (HyperLogLog::Few(hashes), HyperLogLog::Many(mut registers)) => {
                hashes.iter().for_each(|hash| raise(&mut registers, *hash));
                *self = HyperLogLog::Many(registers);
            }
            (HyperLogLog::Many(ours), HyperLogLog::Many(theirs)) => {
                ours.iter_mut().zip(theirs.iter()).for_each(|(rank, other)| *rank = (*rank).max(*other));
            }
        }
    }

    /// How many different values there are, about.
    pub(crate) fn count(&self) -> u64 {
        match self {
            HyperLogLog::Few(hashes) => hashes.len() as u64,
            HyperLogLog::Many(registers) => estimate(registers).round() as u64,
        }
    }

    /// Memory beside the value itself, about.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            HyperLogLog::Few(hashes) => hashes.len() * size_of::<u64>(),
            HyperLogLog::Many(_) => REGISTERS,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            HyperLogLog::Few(hashes) => {
                out.push(0);
                put_u64(out, hashes.len() as u64);
                hashes.iter().for_each(|hash| out.extend_from_slice(&hash.to_le_bytes()));
            }
            HyperLogLog::Many(registers) => {
                out.push(1);
                for four in registers.chunks_exact(4) {
                    let bits = four.iter().rev().fold(0, |bits, rank| bits << 6 | u32::from(*rank));
                    out.extend_from_slice(&bits.to_le_bytes()[..3]);
                }
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<HyperLogLog, Corrupt> {
        match reader.byte()? {
            0 => {
                let n = reader.count()?;
                let hashes =
                    (0..n).map(|_| Ok(u64::from_le_bytes(reader.array()?))).collect::<Result<Vec<_>, _>>()?;
                if n > HASHES_MAX || !hashes.is_sorted_by(|a, b| a < b) {
                    return Err(Corrupt { what: "ascending hashes expected" });
                }
                Ok(HyperLogLog::Few(hashes))
            }
            1 => {
                let mut registers = Box::new([0; REGISTERS]);
                let packed = reader.take(PACKED_BYTES)?.chunks_exact(3);
                for (four, bytes) in registers.chunks_exact_mut(4).zip(packed) {
                    let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
                    four.iter_mut().zip(0..).for_each(|(rank, i)| *rank = (bits >> (6 * i)) as u8 & 63);
                }
                if registers.iter().any(|rank| *rank > RANK_MAX) {
                    return Err(Corrupt { what: "ranks of hashes expected" });
                }
                Ok(HyperLogLog::Many(registers))
            }
            _ => Err(Corrupt { what: "hashes or registers expected" }),
        }
    }
}

/// Lets the hash's register know of it.
fn raise(registers: &mut [u8; REGISTERS], hash: u64) {
    let register = &mut registers[(hash >> (64 - BITS)) as usize];
    let others = hash << BITS | 1 << (BITS - 1); // a one behind the last bit bounds the rank
    *register = (*register).max(others.leading_zeros() as u8 + 1);
}

/// Ertl's improved raw estimator. `z` weighs how many registers hold each rank.
fn estimate(registers: &[u8; REGISTERS]) -> f64 {
    let mut held = [0u32; RANK_MAX as usize + 1];
    registers.iter().for_each(|rank| held[usize::from(*rank)] += 1);
    let m = REGISTERS as f64;
    let last = usize::from(RANK_MAX);
    let mut z = m * tau(1.0 - f64::from(held[last]) / m);
    for count in held[1..last].iter().rev() {
        z = 0.5 * (z + f64::from(*count));
    }
    z += m * sigma(f64::from(held[0]) / m);
    m * m / (2.0 * std::f64::consts::LN_2 * z)
}

/// x + Σ x^(2^k) · 2^(k-1) over k ≥ 1, until another term changes nothing: registers that no value has reached.
fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

/// (1 - x - Σ (1 - x^(2^-k))² · 2^-k over k ≥ 1) / 3, likewise: registers that are full.
fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
mod tests;
