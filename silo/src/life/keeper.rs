//! One life after the other, until the silo is stopped.

use granary_core::Result;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{Life, Mold};

/// The process ends with this when it was declared dead and cannot join again: whoever started it starts it anew.
const EXIT_CANNOT_COME_BACK: i32 = 71;

enum Wish {
    Leave(oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
}

/// Has the silo give its slots to others, from anywhere.
#[derive(Clone)]
pub struct Leaver(mpsc::Sender<Wish>);

impl Leaver {
    /// Gives the silo's slots to others, if there are any, and comes back when that is done or has taken too long.
    pub async fn leave(&self) {
        let (done, is_done) = oneshot::channel();
        if self.0.send(Wish::Leave(done)).await.is_ok() {
            let _ = is_done.await;
        }
    }
}

/// Keeps a silo alive.
pub struct Keeper {
    wishes: mpsc::Sender<Wish>,
    wished: mpsc::Receiver<Wish>,
}

impl Default for Keeper {
    fn default() -> Keeper {
        let (wishes, wished) = mpsc::channel(1);
        Keeper { wishes, wished }
    }
}

impl Keeper {
    /// Who may have the silo leave.
    pub fn leaver(&self) -> Leaver {
        Leaver(self.wishes.clone())
    }

    /// Begins the first life. When it ends otherwise than by a wish, the next one begins.
    pub async fn start(self, mold: Mold) -> Result<Kept> {
        let life = begin(&mold).await?;
        let kept = tokio::spawn(keep(mold, life, self.wished));
        Ok(Kept { wishes: self.wishes, kept })
    }
}

/// A silo that is kept alive.
pub struct Kept {
    wishes: mpsc::Sender<Wish>,
    kept: JoinHandle<()>,
}

impl Kept {
    /// Gives the silo's slots to others, if there are any.
    pub async fn leave(&self) {
        Leaver(self.wishes.clone()).leave().await;
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

async fn begin(mold: &Mold) -> Result<Life> {
    let life = mold.live().await?;
    mold.current.begin(&life);
    mold.gateway.runs(life.handle(), life.told());
    Ok(life)
}

async fn keep(mold: Mold, first: Life, mut wished: mpsc::Receiver<Wish>) {
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
                mold.waits("it was declared dead and comes back");
                life.drop_all().await;
                life = match begin(&mold).await {
                    Ok(next) => next,
                    Err(error) => {
                        tracing::error!(%error, "the silo cannot come back");
                        std::process::exit(EXIT_CANNOT_COME_BACK);
                    }
                };
            }
        }
    }
}
