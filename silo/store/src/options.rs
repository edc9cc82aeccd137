//! How an embedded store is opened.

use std::time::{SystemTime, UNIX_EPOCH};

use granary_core::{Error, Result, Timestamp};

/// When a commit counts as kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// On the disk: an acknowledged commit survives a power cut.
    #[default]
    Fsync,
    /// In the operating system's hands, on the disk within a second: may lose up to 2 s of acknowledged calls when
    /// the machine stops. The death of the process alone loses nothing.
    Everysec,
    /// In the operating system's hands, never synced. For benchmarks and tests only.
    None,
}

impl Durability {
    /// Reads the name used in configuration.
    pub fn from_name(name: &str) -> Result<Durability> {
        match name {
            "fsync" => Ok(Durability::Fsync),
            "everysec" => Ok(Durability::Everysec),
            "none" => Ok(Durability::None),
            other => Err(Error::invalid(format!(
                "durability `{other}` is not known: write fsync, everysec (may lose up to 2 s of acknowledged \
                 calls), or none (benchmarks and tests only)"
            ))),
        }
    }

    /// The name used in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Durability::Fsync => "fsync",
            Durability::Everysec => "everysec",
            Durability::None => "none",
        }
    }
}

/// Where the entries of one output stream go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The topic.
    pub topic: String,
    /// How many partitions it has; an entry goes to `murmur2(routing key) mod partitions`.
    pub partitions: u32,
}

impl Stream {
    /// A topic with so many partitions.
    pub fn new(topic: impl Into<String>, partitions: u32) -> Stream {
        Stream { topic: topic.into(), partitions }
    }
}

/// Settings of an embedded store.
#[derive(Clone, Debug)]
pub struct Options {
    /// When a commit counts as kept.
    pub durability: Durability,
    /// How many slots the cluster has; fixed when the directory is created.
    pub slots: u16,
    /// The topic of each output stream, by [`granary_cluster::StreamId`].
    pub streams: Vec<Stream>,
    /// Memory for recently written cells; at this size they are folded into the sorted tables on disk.
    pub recent_bytes_max: usize,
    /// Memory for blocks read from disk.
    pub cache_bytes_max: u64,
    /// Memory for records of the log that the engine has in its journal only; at this size it writes a table.
    pub log_bytes_max: u64,
    /// The wall clock: only used to note when the log took a record.
    pub clock: fn() -> Timestamp,
}

impl Options {
    /// The default settings for so many slots.
    pub fn new(slots: u16) -> Options {
        Options {
            durability: Durability::Fsync,
            slots,
            streams: Vec::new(),
            recent_bytes_max: 192 << 20,
            cache_bytes_max: 256 << 20,
            log_bytes_max: 64 << 20,
            clock: wall_clock,
        }
    }

    /// With this durability.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Options {
        self.durability = durability;
        self
    }

    /// With these output streams.
    #[must_use]
    pub fn streams(mut self, streams: impl IntoIterator<Item = Stream>) -> Options {
        self.streams = streams.into_iter().collect();
        self
    }

    /// With so much memory for recent cells.
    #[must_use]
    pub fn recent_bytes_max(mut self, bytes: usize) -> Options {
        self.recent_bytes_max = bytes;
        self
    }
}

fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_durability_reads_its_own_name() {
        for durability in [Durability::Fsync, Durability::Everysec, Durability::None] {
            assert_eq!(Durability::from_name(durability.name()).unwrap(), durability);
        }
        assert!(Durability::from_name("always").unwrap_err().message().contains("fsync"));
    }
}
