//! One life after the other, until the silo is stopped.

use std::sync::{Arc, PoisonError, RwLock};

use granary_cluster::members::View;
use granary_core::Result;
use granary_engine::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::backing::Backing;

use super::membership::Standing;
use super::{Life, Mold};

/// The present life of a silo, as others use it.
pub struct Current(RwLock<Now>);

#[derive(Clone)]
struct Now {
    lanes: Handle,
    backing: Backing,
    standing: Option<watch::Receiver<Standing>>,
}

impl Now {
    fn of(life: &Life) -> Now {
        Now { lanes: life.handle(), backing: life.backing().clone(), standing: life.standing() }
    }
}

impl Current {
    /// Its lanes.
    pub fn handle(&self) -> Handle {
        self.read().lanes
    }

    /// Its store and log.
    pub fn backing(&self) -> Backing {
        self.read().backing
    }

    /// The cluster as the silo sees it; `None` when it is alone, or no member at present.
    pub fn view(&self) -> Option<Arc<View>> {
        let standing = self.read().standing?;
        match &*standing.borrow() {
            Standing::Member(view) => Some(view.clone()),
            Standing::Joining | Standing::Out(_) => None,
        }
    }

    /// Whether there may be several silos.
    pub fn is_one_of_several(&self) -> bool {
        self.read().standing.is_some()
    }

    fn read(&self) -> Now {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

enum Wish {
    Leave(oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
}

/// Keeps a silo alive.
pub struct Keeper {
    wishes: mpsc::Sender<Wish>,
    current: Arc<Current>,
    kept: JoinHandle<()>,
}

impl Keeper {
    /// Begins the first life. When it ends otherwise than by a wish, the next one begins.
    pub async fn start(mold: Mold) -> Result<Keeper> {
        let life = mold.live().await?;
        mold.gateway.runs(life.handle(), life.backing().log.clone());
        let current = Arc::new(Current(RwLock::new(Now::of(&life))));
        let (wishes, wished) = mpsc::channel(1);
        let kept = tokio::spawn(keep(mold, life, current.clone(), wished));
        Ok(Keeper { wishes, current, kept })
    }

    /// The present life.
    pub fn current(&self) -> &Arc<Current> {
        &self.current
    }

    /// Gives the silo's slots to others, if there are any.
    pub async fn leave(&self) {
        let (done, is_done) = oneshot::channel();
        if self.wishes.send(Wish::Leave(done)).await.is_ok() {
            let _ = is_done.await;
        }
    }

    /// Ends in order.
    pub async fn stop(self) {
        let (done, is_done) = oneshot::channel();
        if self.wishes.send(Wish::Stop(done)).await.is_ok() {
            let _ = is_done.await;
        }
        let _ = self.kept.await;
    }
}

async fn keep(mold: Mold, first: Life, current: Arc<Current>, mut wished: mpsc::Receiver<Wish>) {
    let mut life = first;
    loop {
        tokio::select! {
            biased;
            wish = wished.recv() => match wish {
                Some(Wish::Leave(done)) => {
                    life.leave().await;
                    let _ = done.send(());
                }
                Some(Wish::Stop(done)) => {
                    life.stop().await;
                    let _ = done.send(());
                    return;
                }
                None => return life.drop_all().await,
            },
            () = life.over() => {
                tracing::error!("the silo was declared dead: it drops what it has and comes back as a new life");
                mold.gateway.waits("it was declared dead and comes back");
                life.drop_all().await;
                life = match mold.live().await {
                    Ok(next) => next,
                    Err(error) => {
                        tracing::error!(%error, "the silo cannot come back");
                        std::process::exit(EXIT_CANNOT_COME_BACK);
                    }
                };
                *current.0.write().unwrap_or_else(PoisonError::into_inner) = Now::of(&life);
                mold.gateway.runs(life.handle(), life.backing().log.clone());
            }
        }
    }
}

/// The process ends with this when it was declared dead and cannot join again: whoever started it starts it anew.
const EXIT_CANNOT_COME_BACK: i32 = 71;
