//! How a Redis store is opened.

use std::time::Duration;

use granary_core::{Error, Result};

use crate::options::Durability;

/// Settings of a store on Redis.
#[derive(Clone)]
pub struct RedisOptions {
    /// The server: `redis://[user[:password]@]host:port[/database]` or `unix:///path`. Never printed as a whole.
    pub url: String,
    /// The cluster's name: it is part of every key.
    pub cluster: String,
    /// How many slots the cluster has; fixed when it is created.
    pub slots: u16,
    /// When a commit counts as kept. The server must be configured for it.
    pub durability: Durability,
    /// Replicas that must have a commit before its reply counts. Narrows what a failover can lose.
    pub wait_replicas: u32,
    /// How long the server waits for these replicas.
    pub wait_max: Duration,
    /// Connections for commits; a lane's thread always uses the same one.
    pub connections: u16,
    /// How long connecting may take.
    pub connect_max: Duration,
    /// How long a commit's reply may take before its outcome counts as unknown.
    pub reply_max: Duration,
    /// How long a read may hold the thread that asks.
    pub read_max: Duration,
}

impl RedisOptions {
    /// The default settings for so many slots of a cluster on this server.
    pub fn new(url: impl Into<String>, cluster: impl Into<String>, slots: u16) -> RedisOptions {
        RedisOptions {
            url: url.into(),
            cluster: cluster.into(),
            slots,
            durability: Durability::Fsync,
            wait_replicas: 0,
            wait_max: Duration::from_secs(1),
            connections: 2,
            connect_max: Duration::from_millis(500),
            reply_max: Duration::from_secs(5),
            read_max: Duration::from_secs(1),
        }
    }

    /// With this durability.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> RedisOptions {
        self.durability = durability;
        self
    }

    /// With a connection for each of so many lanes.
    #[must_use]
    pub fn connections(mut self, lanes: u16) -> RedisOptions {
        self.connections = lanes.max(1);
        self
    }

    /// With so many replicas that must have a commit.
    #[must_use]
    pub fn wait_replicas(mut self, replicas: u32) -> RedisOptions {
        self.wait_replicas = replicas;
        self
    }

    /// Checks what can be checked without the server.
    pub(super) fn check(&self) -> Result<()> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.cluster.is_empty() || !self.cluster.chars().all(is_plain) {
            return Err(Error::invalid(format!(
                "the cluster's name is `{}`: letters, digits, `-`, `_` and `.` are allowed",
                self.cluster
            )));
        }
        if self.slots == 0 {
            return Err(Error::invalid("a cluster needs at least one slot"));
        }
        if self.wait_replicas > 0 && self.wait_max >= self.reply_max {
            return Err(Error::invalid(format!(
                "replicas are waited for {:?}, replies only {:?}: wait less long",
                self.wait_max, self.reply_max
            )));
        }
        Ok(())
    }
}

impl std::fmt::Debug for RedisOptions {
    /// Leaves the address out: there may be a password in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisOptions")
            .field("cluster", &self.cluster)
            .field("slots", &self.slots)
            .field("durability", &self.durability)
            .field("wait_replicas", &self.wait_replicas)
            .finish_non_exhaustive()
    }
}
