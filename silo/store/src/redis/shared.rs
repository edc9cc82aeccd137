//! What all connections of a store have in common.

use std::sync::{Mutex, PoisonError};

use granary_cluster::{OnRun, RunId};
use granary_core::{Error, Result};
use redis::{Client, IntoConnectionInfo, ProtocolVersion};
use tokio::sync::watch;

use super::keys::Keys;
use super::options::RedisOptions;

/// Settings, names, the present run.
pub struct Shared {
    pub options: RedisOptions,
    pub keys: Keys,
    pub client: Client,
    /// Host and port, without secrets.
    pub address: String,
    run: watch::Sender<RunId>,
    listeners: Mutex<Vec<OnRun>>,
}

impl Shared {
    /// Of a store that is not connected yet.
    pub fn new(options: RedisOptions) -> Result<Shared> {
        options.check()?;
        let wrong = |error: redis::RedisError| {
            Error::invalid(format!(
                "the Redis address cannot be used ({error}): write redis://[user[:password]@]host:port[/database]; TLS \
                 is not supported"
            ))
        };
        let info = options.url.as_str().into_connection_info().map_err(wrong)?;
        let settings = info.redis_settings().clone();
        let settings = settings.set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
        let info = info.set_redis_settings(settings);
        let address = info.addr().to_string();
        let client = Client::open(info).map_err(wrong)?;
        let keys = Keys::new(&options.cluster);
        let (run, _) = watch::channel(RunId(0));
        Ok(Shared { options, keys, client, address, run, listeners: Mutex::new(Vec::new()) })
    }

    /// The present run.
    pub fn run(&self) -> RunId {
        *self.run.borrow()
    }

    /// Follows the present run.
    pub fn runs(&self) -> watch::Receiver<RunId> {
        self.run.subscribe()
    }

    /// A connection is new: connections to another run are of no more use, whoever listens hears of it.
    pub fn connected(&self, run: RunId) {
        self.run.send_if_modified(|known| std::mem::replace(known, run) != run);
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().for_each(|tell| tell(run));
    }

    /// Adds a listener.
    pub fn listen(&self, tell: OnRun) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(tell);
    }
}
