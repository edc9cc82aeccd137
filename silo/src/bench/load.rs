//! Messages of devices, and what the results of 5-second windows over them add up to.

use std::io::Write;

use granary_cluster::Batch;
use granary_core::{Error, ErrorKind, Result, Timestamp, id};

/// Messages written in one step.
const BATCH_MESSAGES: usize = 50_000;
/// A copy comes so many periods after its message.
const COPY_AFTER: u64 = 3;
const START_MS: i64 = 1_700_000_000_000;

/// The messages: one a second of each device, in the order of their times, one in twenty a second time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Messages, copies not counted.
    pub events: u64,
    /// Devices; the messages are spread evenly.
    pub devices: u64,
    /// Categories of a device, 1 or 4, in turn.
    pub categories: u64,
}

/// What results have to add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub rows: u64,
    pub count: u64,
    pub m1: i64,
}

impl Sums {
    /// Adds a row.
    pub fn add(&mut self, row: &[u8]) -> Result<()> {
        let row: serde_json::Value = serde_json::from_slice(row)
            .map_err(|e| Error::new(ErrorKind::Codec, format!("a row is no JSON: {e}")))?;
        self.rows += 1;
        self.count += row["count"].as_u64().unwrap_or(0);
        self.m1 += row["m1_sum"].as_i64().unwrap_or(0);
        Ok(())
    }
}

impl Load {
    fn per_device(&self) -> u64 {
        self.events / self.devices
    }

    /// Hands out all messages in batches by partition, to be written and cleared. Returns what results add up to when all
    /// windows have closed.
    pub fn write(&self, partitions: u32, write: &mut impl FnMut(&mut [Batch]) -> Result<()>) -> Result<Sums> {
        let mut batches = vec![Batch::default(); partitions as usize];
        let (mut waiting, mut line) = (0, Vec::with_capacity(160));
        let per_device = self.per_device();
        let mut expected = Sums::default();
        for period in 0..per_device + COPY_AFTER {
            for device in 0..self.devices {
                let original = (period < per_device).then_some(period);
                let copied =
                    period.checked_sub(COPY_AFTER).filter(|p| *p < per_device && is_copied(device, *p));
                for number in original.into_iter().chain(copied) {
                    self.message(device, number, &mut line);
                    push(&mut batches, device, &line);
                    waiting += 1;
                }
                if let Some(number) = original {
                    expected.count += 1;
                    expected.m1 += m1(device, number);
                }
            }
            if waiting >= BATCH_MESSAGES || period + 1 == per_device + COPY_AFTER {
                write(&mut batches)?;
                waiting = 0;
            }
        }
        // five messages of a device fall into a window, the first and the last of them into the same of four categories
        let (windows, rest) = (per_device / 5, per_device % 5);
        expected.rows = match self.categories {
            1 => self.devices * (windows + rest.min(1)),
            _ => self.devices * (windows * 4 + rest.min(4)),
        };
        Ok(expected)
    }

    /// One message more of each device, an hour later: it closes the windows of all others, and its own stays open.
    pub fn write_end(
        &self,
        partitions: u32,
        write: &mut impl FnMut(&mut [Batch]) -> Result<()>,
    ) -> Result<()> {
        let mut batches = vec![Batch::default(); partitions as usize];
        let mut line = Vec::new();
        for device in 0..self.devices {
            self.message(device, self.per_device() + 3_600, &mut line);
            push(&mut batches, device, &line);
        }
        write(&mut batches)
    }

    fn message(&self, device: u64, number: u64, line: &mut Vec<u8>) {
        line.clear();
        let at = START_MS + (number * 1_000 + device % 1_000) as i64;
        let (category, m1, m2) = (
            number % 5 % self.categories + 1,
            m1(device, number),
            (device % 977) as f64 + number as f64 / 8.0,
        );
        write!(
            line,
            r#"{{"id":"{device}-{number}","di":"device-{device}","dt":"{at}","c":"cat-{category}","m1":{m1},"m2":{m2}}}"#
        )
        .expect("a vector takes everything");
    }
}

fn push(batches: &mut [Batch], device: u64, line: &[u8]) {
    let key = format!("device-{device}");
    let partition = id::positive_murmur2(key.as_bytes()) % batches.len() as u32;
    batches[partition as usize].push(0, Timestamp(START_MS), Some(key.as_bytes()), line);
}

fn m1(device: u64, number: u64) -> i64 {
    ((device * 31 + number * 7) % 100) as i64
}

/// About one in twenty.
fn is_copied(device: u64, number: u64) -> bool {
    (device * 2_654_435_761 + number * 40_503).is_multiple_of(20)
}
