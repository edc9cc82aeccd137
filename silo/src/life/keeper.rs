//! One life after the other, until the silo is stopped.

use std::sync::{Arc, PoisonError, RwLock};

use granary_core::Result;
use granary_engine::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::backing::Backing;

use super::{Life, Mold};

/// The present life of a silo, as others use it.
pub struct Current(RwLock<(Handle, Backing)>);

impl Current {
    /// Its lanes.
    pub fn handle(&self) -> Handle {
        self.read().0
    }

    /// Its store and log.
    pub fn backing(&self) -> Backing {
        self.read().1
    }

    fn read(&self) -> (Handle, Backing) {
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
        let current = Arc::new(Current(RwLock::new((life.handle(), life.backing().clone()))));
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
                *current.0.write().unwrap_or_else(PoisonError::into_inner) = (life.handle(), life.backing().clone());
                mold.gateway.runs(life.handle(), life.backing().log.clone());
            }
        }
    }
}

/// The process ends with this when it was declared dead and cannot join again: whoever started it starts it anew.
const EXIT_CANNOT_COME_BACK: i32 = 71;
