//! The journals of slots: partitions of the internal topic that also has their markers.

use std::ops::Range;

use granary_cluster::{Batch, Log as _, SourceId};
use granary_core::{Error, ErrorKind, Result, SlotId};

use crate::log::KafkaLog;

/// Bytes of a journal read at a time.
const READ_BYTES_MAX: usize = 1 << 20;

/// The values whose keys are numbers of this range, in order.
pub(super) fn read(log: &KafkaLog, slot: SlotId, numbers: &Range<u64>) -> Result<Vec<Vec<u8>>> {
    let (topic, partition) = (log.settings().slots_topic(), u32::from(slot.0));
    let (mut next, end) = log.bounds(&topic, partition)?;
    let (mut values, mut batch) = (Vec::new(), Batch::default());
    while next < end {
        batch.clear();
        log.read(&topic, partition, next, READ_BYTES_MAX, &mut batch)?;
        for record in batch.iter(SourceId(0), partition) {
            let key = record.key.and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
            let number: u64 = key.parse().map_err(|_| {
                Error::new(ErrorKind::Codec, format!("`{key}` in topic `{topic}` is no number of a step"))
            })?;
            if numbers.contains(&number) {
                values.push(record.value.to_vec());
            }
            next = record.offset + 1;
        }
        if batch.is_empty() {
            break; // the ends of transactions have offsets, too
        }
    }
    Ok(values)
}
