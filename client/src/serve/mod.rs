//! The accepting end: what a silo puts behind its listening socket.
//!
//! [`serve`] takes connections and hands what they ask for to a [`Service`], which answers through a [`Reply`] or
//! feeds records through a [`Feed`], from any thread, in any order. Requests of one connection arrive in the order
//! they were sent.
//!
//! Everything is bounded: connections, requests in flight and tails of a connection, and the bytes that wait for a
//! peer that does not read. Who is at a limit is read from no more until there is room.

mod connection;
mod feed;
mod following;
mod reply;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use granary_wire::{Call, Produce, Tail};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

pub use feed::{Feed, Gone};
pub use reply::Reply;

/// How many connections are served at once; one more is told `Overloaded`.
pub const CONNECTIONS_MAX: usize = 1_024;

/// How many requests of one connection may wait for their answers; no more are read until one leaves.
pub const CONNECTION_IN_FLIGHT_MAX: usize = 4_096;

/// How many tails one connection may have.
pub const CONNECTION_TAILS_MAX: usize = 64;

/// How long a stranger may take to say hello.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// How long answers under way may take once the silo stops.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);

/// The wait after the system could not accept, for want of file handles say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What connections ask for. The methods return at once; they are called on the task that reads the connection.
pub trait Service: Send + Sync + 'static {
    /// Calls a grain. The answer of a one-way call is dropped.
    fn call(&self, call: Call<'_>, reply: Reply);
    /// Feeds the records of a stream.
    fn tail(&self, tail: Tail<'_>, feed: Feed);
    /// Writes records and answers when they are durable.
    fn produce(&self, produce: Produce<'_>, reply: Reply);
    /// Answers a question about the silo itself: `status` is a MessagePack map that says how it is, `slots` a
    /// [`SlotTable`](granary_wire::SlotTable). What it does not know is `NotFound`.
    fn ask(&self, what: &str, arguments: &[u8], reply: Reply);
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's name; a client of another cluster is refused.
    pub cluster: String,
    /// The silo's name.
    pub silo: String,
}

/// Serves until `stop` ends: then every connection is told goodbye, answers under way still leave, for at most
/// [`DRAIN_MAX`].
pub async fn serve(
    listener: TcpListener,
    service: Arc<dyn Service>,
    identity: Identity,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let identity = Arc::new(identity);
    let (stopping, stopped) = watch::channel(false);
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            tokio::spawn(connection::turn_away(socket));
            continue;
        };
        let (service, identity, stopped) = (service.clone(), identity.clone(), stopped.clone());
        tokio::spawn(async move {
            // What ends a connection concerns that connection only; its client is told or has gone.
            drop(connection::run(socket, &*service, &identity, stopped).await);
            drop(permit);
        });
    }
    drop(listener);
    stopping.send_replace(true);
    let all = u32::try_from(CONNECTIONS_MAX).expect("the limit of connections is a small number");
    // Connections that do not drain in time end with the runtime.
    drop(tokio::time::timeout(DRAIN_MAX, room.acquire_many(all)).await);
    Ok(())
}
