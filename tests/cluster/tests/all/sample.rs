//! Every way in which records may be partitioned gives the same exact results.

use super::kit::rig::{Partitioning, Rig, Setup};

#[track_caller]
fn is_exact(partitions: u32, partitioning: Partitioning) {
    let rig = Rig::with(Setup { partitions, ..Setup::default() });
    let options = rig.load(40, 60);
    let silo = rig.silo();
    rig.inject_as(&options, partitioning, |_| {});
    rig.until_right(&options);
    silo.stop();
    rig.must_be_right(&options);
}

#[test]
fn keyed_by_murmur2_from_one_partition() {
    is_exact(1, Partitioning::Murmur2);
}

#[test]
fn keyed_by_murmur2_from_twelve_partitions() {
    is_exact(12, Partitioning::Murmur2);
}

#[test]
fn keyed_by_crc32_from_four_partitions() {
    is_exact(4, Partitioning::Crc32);
}
