//! The lane as an actix actor on its own arbiter: it sleeps until its bell rings or an alarm is due.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix::{Actor, ActorContext, AsyncContext, Context as ActorCx, Handler, Message, WrapFuture};
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep};

use super::Lane;

/// How often a lane looks at the clock at least: a clock that jumps, or is moved by hand, is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The actor around a lane.
pub(crate) struct LaneCell {
    lane: Rc<Lane>,
}

impl LaneCell {
    pub fn new(lane: Rc<Lane>) -> LaneCell {
        LaneCell { lane }
    }
}

impl Actor for LaneCell {
    type Context = ActorCx<Self>;

    fn started(&mut self, cx: &mut Self::Context) {
        self.lane.begin();
        let rounds = Rounds { lane: self.lane.clone(), sleep: Box::pin(sleep(Duration::ZERO)), more: true };
        cx.spawn(unconstrained(rounds).into_actor(self));
    }
}

/// Ends the actor, and with it the lane.
pub(crate) struct End;

impl Message for End {
    type Result = ();
}

impl Handler<End> for LaneCell {
    type Result = ();

    fn handle(&mut self, _: End, cx: &mut Self::Context) {
        self.lane.end();
        cx.stop();
    }
}

/// Runs rounds as long as there is work, then waits for the bell or the next alarm. Each poll runs one round, so the
/// arbiter's other tasks get their turn. A round bounds its own work; tokio's budget for a task must not, since it would
/// put off the wake of a turn whose answer is there, and the turn's slot would be sealed in the middle of its chain.
struct Rounds {
    lane: Rc<Lane>,
    sleep: Pin<Box<Sleep>>,
    more: bool,
}

impl Future for Rounds {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.lane.mailbox.listen(context.waker());
        let rung = self.lane.mailbox.answer_bell();
        if rung || self.more || self.sleep.as_mut().poll(context).is_ready() {
            self.more = self.lane.round();
            if !self.more {
                self.lane.tell_rest();
            }
        }
        if self.more {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let wait = self.lane.next_alarm_in().map_or(LOOK_EVERY, |wait| wait.min(LOOK_EVERY));
        self.more = wait.is_zero(); // what is due now does not wait for the timer's next beat
        self.sleep.as_mut().reset(Instant::now() + wait);
        self.more |= self.sleep.as_mut().poll(context).is_ready(); // polling registers the timer
        if self.more || !self.lane.mailbox.falls_asleep() {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
