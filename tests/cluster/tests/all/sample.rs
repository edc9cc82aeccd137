//! Every way in which records may be partitioned gives the same exact results.

use granary_streams::inject::{Layout, Options};

use granary_cluster_tests::kit::rig::{Partitioning, Rig, Setup};

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

#[test]
fn keyless_from_ten_partitions() {
    is_exact(10, Partitioning::Keyless);
}

#[test]
fn keyed_by_crc32_from_ten_partitions() {
    is_exact(10, Partitioning::Crc32);
}

/// `id|device|dt|category|m1|m2` instead of JSON.
#[test]
fn pipe_separated() {
    let columns = "format: delimited\n      columns: [id, di, dt, c, m1, m2]\n";
    let rig = Rig::with(Setup {
        pipeline: vec![
            ("idle_after: 10s", "idle_after: 1s".into()),
            ("format: json                    # json | delimited | messagepack\n", columns.into()),
        ],
        ..Setup::default()
    });
    let options = Options { layout: Layout::Delimited, ..rig.load(40, 60) };
    let silo = rig.silo();
    rig.inject(&options);
    rig.until_right(&options);
    silo.stop();
    rig.must_be_right(&options);
}
