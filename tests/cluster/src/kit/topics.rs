//! Topics of a test's own: records with keys, written step by step, and the same records as files.

use std::path::{Path, PathBuf};

use granary_cluster::{Batch, Log as _};
use granary_core::{Timestamp, id};

use super::rig::Rig;
use super::until;

/// Records of a topic in their order: key and value.
pub type Records = Vec<(String, String)>;

/// The partition of a key, as slots and Kafka's own clients have it.
fn partition_of(key: &str, partitions: u32) -> u32 {
    id::positive_murmur2(key.as_bytes()) % partitions
}

/// Writes records, each to the partition of its key, and tries until the brokers have them.
#[track_caller]
pub fn write(rig: &Rig, topic: &str, records: &[(String, String)]) {
    let partitions = rig.log.partitions(topic).expect("brokers").expect("a topic that is there");
    let mut batches = vec![Batch::default(); partitions as usize];
    for (key, value) in records {
        let batch = &mut batches[partition_of(key, partitions) as usize];
        batch.push(0, Timestamp(0), Some(key.as_bytes()), value.as_bytes());
    }
    until("the brokers take records", || rig.log.append_all(topic, &batches).is_ok());
}

/// Writes the same records to files in this directory, one for each partition.
pub fn write_files(directory: &Path, name: &str, partitions: u32, records: &Records) -> Vec<PathBuf> {
    let file = |partition: u32| {
        let of_it = records.iter().filter(|(key, _)| partition_of(key, partitions) == partition);
        let lines: String = of_it.map(|(_, value)| format!("{value}\n")).collect();
        let path = directory.join(format!("{name}-{partition}.jsonl"));
        std::fs::write(&path, lines).expect("it can be written");
        path
    };
    (0..partitions).map(file).collect()
}
