//! A lane's connection over its life: what comes is sent at once; while the server is away it is refused at once.

use std::sync::Arc;
use std::time::Duration;

use granary_cluster::pace::Backoff;
use granary_core::{Error, ErrorKind, Ran};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;

use super::job::Job;
use super::link::{Health, Link};
use super::shared::Shared;

/// Why a connection is no longer used.
#[derive(PartialEq, Eq)]
enum Ended {
    /// The store was closed.
    Closed,
    /// It broke, or the server runs anew; `used` when it had answered something.
    Broken { used: bool },
}

/// Serves a queue until it is closed, beginning with this connection.
pub async fn serve(shared: Arc<Shared>, first: Link, mut queue: Receiver<Job>) {
    let mut link = Some(first);
    let mut backoff = Backoff::default();
    let mut wait = Duration::ZERO;
    let mut why = lost(&shared);
    loop {
        match link.take() {
            Some(open) => match use_link(&shared, open, &mut queue).await {
                Ended::Closed => return,
                Ended::Broken { used } => {
                    tracing::warn!(address = %shared.address, "a connection to the Redis server is lost");
                    if used {
                        backoff.succeeded();
                    }
                    // Also after good service: a name that leads to two servers in turn must not make it spin.
                    wait = backoff.failed();
                    why = lost(&shared);
                }
            },
            None => {
                let reopening = async {
                    tokio::time::sleep(wait).await;
                    reopen(&shared).await
                };
                match refuse_while(&mut queue, &why, reopening).await {
                    None => return,
                    Some(Ok(open)) => link = Some(open),
                    Some(Err(error)) => {
                        wait = backoff.failed();
                        tracing::warn!(%error, "the Redis server is away; connecting again in {wait:?}");
                        why = Error::new(ErrorKind::Unavailable, error.message()).ran(Ran::No);
                    }
                }
            }
        }
    }
}

async fn reopen(shared: &Shared) -> granary_core::Result<Link> {
    let link = Link::open(shared).await?;
    link.server.check_record(&shared.options)?;
    shared.connected(link.server.run);
    Ok(link)
}

/// Refuses what comes until `work` is done; `None` when the queue was closed.
async fn refuse_while<T>(queue: &mut Receiver<Job>, why: &Error, work: impl Future<Output = T>) -> Option<T> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            result = &mut work => return Some(result),
            job = queue.recv() => job?.refuse(why),
        }
    }
}

async fn use_link(shared: &Arc<Shared>, link: Link, queue: &mut Receiver<Job>) -> Ended {
    let mut running: JoinSet<Health> = JoinSet::new();
    let mut runs = shared.runs();
    let mut used = false;
    let ended = loop {
        if *runs.borrow_and_update() != link.server.run {
            break Ended::Broken { used };
        }
        tokio::select! {
            biased;
            Some(health) = running.join_next(), if !running.is_empty() => match health {
                Ok(Health::Good) => used = true,
                Ok(Health::Broken) | Err(_) => break Ended::Broken { used },
            },
            // The sender lives as long as `shared`.
            _ = runs.changed() => {}
            job = queue.recv() => match job {
                Some(job) => {
                    let (shared, link) = (Arc::clone(shared), link.clone());
                    running.spawn(async move { link.carry_out(&shared, job).await });
                }
                None => break Ended::Closed,
            },
        }
    };
    if ended == Ended::Closed {
        while running.join_next().await.is_some() {}
    } else {
        // They end by themselves: an answer that still comes is as good as any, else they time out.
        running.detach_all();
    }
    ended
}

fn lost(shared: &Shared) -> Error {
    let message =
        format!("the connection to the Redis server at {} is lost: connecting again", shared.address);
    Error::new(ErrorKind::Unavailable, message).ran(Ran::No)
}
