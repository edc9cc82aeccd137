//! What a slot's input must yield, told without any of the code under test.

use granary_cluster::{Cause, SourceId, StreamId};

use crate::log::Output;
use crate::random::mix;

/// The stream of results.
pub const RESULTS: StreamId = StreamId(0);
/// The stream of records that were set aside.
pub const POISONED: StreamId = StreamId(1);

/// One slot's input: records `0..records` of partition `slot`, one of which may always fail.
#[derive(Clone, Debug)]
pub struct Truth {
    slot: u32,
    /// How many records there are.
    pub records: u64,
    /// The record whose handler always fails.
    pub poison: Option<u64>,
    outputs: Vec<Output>,
    folds: Vec<u64>,
}

impl Truth {
    /// Works it all out.
    pub fn new(slot: u32, records: u64, poison: Option<u64>) -> Truth {
        let mut truth = Truth { slot, records, poison, outputs: Vec::new(), folds: vec![0] };
        let mut state = 0;
        for offset in 0..records {
            if poison == Some(offset) {
                let value = b"poisoned".to_vec();
                truth.outputs.push(Output { stream: POISONED, cause: truth.cause(offset, 0), value });
            } else {
                state = fold(state, offset);
                for index in 0..outputs_of(offset) {
                    let value = result(state, index);
                    truth.outputs.push(Output { stream: RESULTS, cause: truth.cause(offset, index), value });
                }
            }
            truth.folds.push(state);
        }
        truth
    }

    /// The cause of an output of this slot.
    pub fn cause(&self, offset: u64, index: u32) -> Cause {
        Cause { source: SourceId(0), partition: self.slot, offset, index }
    }

    /// All outputs, in order.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The state after the records below `next`.
    pub fn state_at(&self, next: u64) -> u64 {
        self.folds[next as usize]
    }

    /// How often the cell `key/i` was written by the records below `next`.
    pub fn writes_at(&self, next: u64, i: u64) -> u64 {
        (0..next).filter(|offset| offset % 3 == i && self.poison != Some(*offset)).count() as u64
    }
}

/// The state after one more record.
pub fn fold(state: u64, offset: u64) -> u64 {
    mix(state ^ (offset + 1))
}

/// How many outputs a record yields: some none, some two.
pub fn outputs_of(offset: u64) -> u32 {
    [1, 1, 0, 2][(offset % 4) as usize]
}

/// The bytes of an output.
pub fn result(state: u64, index: u32) -> Vec<u8> {
    (state ^ u64::from(index)).to_le_bytes().to_vec()
}
