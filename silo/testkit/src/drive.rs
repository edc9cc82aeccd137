//! Moving time: from one thing that falls due to the next, each followed by everything it brings about.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use granary_core::{Error, ErrorKind, Result, Span, Timestamp};
use granary_engine::{Rest, Stats};

use crate::inner::Inner;

/// Time moves by no more at once: ticks look for silent keys, lost turns and idle activations.
const STEP_MAX: Span = Span(1_000);
/// How far time is moved for a cluster that does not settle.
const SETTLE_MAX: Span = Span(10 * 60_000);
/// Rounds of looking at all lanes until one brings nothing new; more is a cluster that never comes to rest.
const LOOKS_MAX: u32 = 100_000;
/// How long a future that is waited for may go on by itself before the lanes are looked at.
const LOOK_AFTER: Duration = Duration::from_millis(2);

/// All lanes at rest.
struct Quiet {
    next: Option<Timestamp>,
    /// Why time has to move, if it has.
    unsettled: Option<String>,
}

impl Inner {
    /// Moves time by so much. Everything that falls due on the way happens at its time.
    pub async fn advance(&self, by: Span) -> Result<()> {
        let _driving = self.driving.lock().await;
        let until = self.now() + by;
        loop {
            let quiet = self.quiesce().await?;
            if self.now() >= until {
                return Ok(());
            }
            self.step(&quiet, until)?;
        }
    }

    /// Moves time for as long as anything needs it: slots that have no silo, writes that are sent again. How far.
    pub async fn settle(&self) -> Result<Span> {
        let _driving = self.driving.lock().await;
        let began = self.now();
        loop {
            let quiet = self.quiesce().await?;
            let gone = self.now().since(began);
            let Some(why) = &quiet.unsettled else { return Ok(gone) };
            if gone >= SETTLE_MAX {
                let message = format!("the test cluster does not settle within {SETTLE_MAX}: {why}");
                return Err(Error::new(ErrorKind::Timeout, message));
            }
            self.step(&quiet, Timestamp::MAX)?;
        }
    }

    /// Waits for `what`, and moves time while it cannot come true without: while the cluster is unsettled, or, when
    /// `needs_time`, whenever nothing else goes on.
    pub async fn drive<F: Future>(&self, what: F, needs_time: bool) -> Result<F::Output> {
        let mut what = pin!(what);
        loop {
            tokio::select! {
                biased;
                done = &mut what => return Ok(done),
                () = tokio::time::sleep(LOOK_AFTER) => {}
            }
            let Ok(_driving) = self.driving.try_lock() else { continue };
            let quiet = self.quiesce().await?;
            let polled = std::future::poll_fn(|context| {
                Poll::Ready(match what.as_mut().poll(context) {
                    Poll::Ready(done) => Some(done),
                    Poll::Pending => None,
                })
            });
            if let Some(done) = polled.await {
                return Ok(done);
            }
            if needs_time || quiet.unsettled.is_some() {
                self.step(&quiet, Timestamp::MAX)?;
            }
        }
    }

    /// Moves time to what falls due next.
    fn step(&self, quiet: &Quiet, until: Timestamp) -> Result<()> {
        let now = self.now();
        let wakes = self.roster().lives.values().map(|life| life.wakes_at()).min();
        let due = quiet.next.into_iter().chain(wakes).min().unwrap_or(Timestamp::MAX);
        let to = due.max(now + Span(1)).min(now + STEP_MAX).min(until);
        self.mold.clock.advance(to.since(now));
        self.tick()
    }

    /// Waits until nothing goes on in any lane, and no call is on its way between two.
    async fn quiesce(&self) -> Result<Quiet> {
        let mut before: Option<Vec<Stats>> = None;
        for _ in 0..LOOKS_MAX {
            // what an answer has woken among the calls between silos runs first
            let _ = self.runtime().spawn(tokio::task::yield_now()).await;
            let (mut rest, mut stats) = (Rest::default(), Vec::new());
            for (lanes, is_cut_off) in self.running() {
                let Some(own) = lanes.rest().await else { continue };
                let unsettled = if is_cut_off { 0 } else { own.unsettled };
                rest = rest + Rest { unsettled, ..own };
                stats.push(lanes.stats());
            }
            if before.as_ref() == Some(&stats) {
                return Ok(self.quiet(rest));
            }
            before = Some(stats);
        }
        Err(Error::new(ErrorKind::Timeout, "the test cluster does not come to rest: grains call on and on"))
    }

    fn quiet(&self, rest: Rest) -> Quiet {
        let slots =
            (rest.unsettled > 0).then(|| format!("{} slots move, or wait for the store", rest.unsettled));
        let roster = self.roster();
        let unsettled = if roster.lives.is_empty() { None } else { roster.disagreement().or(slots) };
        Quiet { next: rest.next, unsettled }
    }

    /// Waits until this silo holds no slots, moving time; it has been told to leave.
    pub async fn give_all(&self, name: &str) -> Result<()> {
        let _driving = self.driving.lock().await;
        let began = self.now();
        loop {
            let quiet = self.quiesce().await?;
            let (lanes, is_last) = {
                let mut roster = self.roster();
                let is_last = roster.members.members.len() <= 1;
                (roster.life(name)?.handle.clone(), is_last)
            };
            let held = lanes.rest().await.map_or(0, |rest| rest.held);
            if held == 0 || is_last || self.now().since(began) >= SETTLE_MAX {
                return Ok(());
            }
            self.step(&quiet, Timestamp::MAX)?;
        }
    }
}
