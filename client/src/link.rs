//! One connection to a silo: requests go out as they come, answers find who waits for them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use granary_core::{Error, ErrorKind, Ran, Result};
use granary_wire::{Decoder, Frame};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::connect::Opened;
use crate::outgoing::{Outgoing, PORTION_FRAMES, Unsent, lock, others_first};
use crate::pending::{Missed, NOBODY, Pending};

/// How long answers may take to come once nothing more is asked: as long as a silo takes to drain.
const LAST_ANSWERS_MAX: Duration = crate::serve::DRAIN_MAX;

/// The same of a silo that is not in the table any more: it has left in order, or it is dead.
const RETIRED_ANSWERS_MAX: Duration = Duration::from_secs(2);

/// A silo that is asked and says nothing for so long is doubted.
pub const SILENCE_MAX: Duration = Duration::from_secs(2);

/// How long past the timeout a client still waits for the silo's own word on where the time went.
const GRACE: Duration = Duration::from_millis(100);

/// Deadlines are looked at no more often than this.
const ALARM_STEP: Duration = Duration::from_millis(5);

pub(crate) struct Link {
    pub(crate) address: String,
    /// What the silo calls itself.
    pub(crate) silo: String,
    outgoing: Outgoing,
    pub(crate) pending: Mutex<Pending>,
    /// There is room for one more request.
    room: Notify,
    /// The alarm is set to an earlier time.
    alarm: Notify,
    /// The silo said goodbye, or the connection ended: new requests go elsewhere.
    leaving: AtomicBool,
    /// The silo is not in the table any more.
    retired: AtomicBool,
    /// A one-way call went to this silo and belonged to another: the table is old.
    was_wrong: AtomicBool,
    /// How often something has come.
    heard: AtomicU64,
}

impl Link {
    pub(crate) fn new(address: String, silo: String) -> Link {
        Link {
            address,
            silo,
            outgoing: Outgoing::default(),
            pending: Mutex::default(),
            room: Notify::new(),
            alarm: Notify::new(),
            leaving: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            was_wrong: AtomicBool::new(false),
            heard: AtomicU64::new(0),
        }
    }

    /// Whether a one-way call was for another silo, since this was asked last.
    pub(crate) fn was_wrong(&self) -> bool {
        self.was_wrong.load(Ordering::Relaxed) && self.was_wrong.swap(false, Ordering::AcqRel)
    }

    /// Whether it takes requests.
    pub(crate) fn is_open(&self) -> bool {
        !self.leaving.load(Ordering::Acquire)
    }

    /// Sends a request made by `frame` of its id and waits for the answer. When the caller gives up before that, the
    /// silo is told if `is_call`.
    pub(crate) async fn ask<'f>(
        &self,
        deadline: Instant,
        is_call: bool,
        frame: impl FnOnce(u64) -> Frame<'f>,
    ) -> Result<Vec<u8>, Missed> {
        let begun = lock(&self.pending).begin(deadline + GRACE, true);
        let (id, is_earlier) = match begun {
            Err(Missed::Full) => self.begin_late(deadline).await?,
            Err(Missed::Failed(error)) => return Err(Missed::Failed(error.ran(Ran::No))),
            other => other?,
        };
        if is_earlier {
            self.alarm.notify_one();
        }
        let mut answer = Answer { link: self, id, is_over: false, tells: false };
        self.send(&frame(id)).map_err(Missed::Failed)?;
        answer.tells = is_call;
        answer.await
    }

    /// Waits for room for one more request.
    async fn begin_late(&self, deadline: Instant) -> Result<(u64, bool), Missed> {
        let _queued = Queued::of(self);
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let begun = lock(&self.pending).begin(deadline + GRACE, false);
            match begun {
                Err(Missed::Full) => timeout_at(deadline, room).await.map_err(|_| Missed::Full)?,
                Err(Missed::Failed(error)) => return Err(Missed::Failed(error.ran(Ran::No))),
                other => return other,
            }
        }
    }

    /// Waits until frames may be sent again, when too many wait to be written.
    pub(crate) async fn writable(&self) {
        self.outgoing.room().await;
    }

    /// Sends a frame.
    pub(crate) fn send(&self, frame: &Frame<'_>) -> Result<()> {
        self.outgoing.push(frame).map_err(|unsent| match unsent {
            Unsent::Closed => self.ended("it is closed").ran(Ran::No),
            Unsent::Frame(error) => Error::invalid(error.to_string()).ran(Ran::No),
        })
    }

    /// The error of what still waited when the connection ended.
    fn ended(&self, why: &str) -> Error {
        let message = format!("the connection to {} ended: {why}", self.address);
        Error::new(ErrorKind::Closed, message).ran(Ran::Unknown)
    }

    /// Takes no more requests; what was pushed is still written, and what was asked is still answered.
    pub(crate) fn close(&self) {
        self.leaving.store(true, Ordering::Release);
        self.outgoing.close();
    }

    /// As [`Link::close`], of a silo that has left: answers may come for a short time only.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.close();
    }

    fn last_answers_max(&self) -> Duration {
        if self.retired.load(Ordering::Acquire) { RETIRED_ANSWERS_MAX } else { LAST_ANSWERS_MAX }
    }

    /// Waits until answers are waited for and nothing has come for [`SILENCE_MAX`].
    pub(crate) async fn silent(&self) {
        loop {
            let (heard, waits) = (self.heard.load(Ordering::Relaxed), self.waits());
            tokio::time::sleep(SILENCE_MAX).await;
            if waits && self.waits() && self.heard.load(Ordering::Relaxed) == heard {
                return;
            }
        }
    }

    fn waits(&self) -> bool {
        lock(&self.pending).in_flight() > 0
    }

    /// Runs the connection to its end.
    pub(crate) async fn run(&self, opened: Opened) {
        let Opened { socket, mut decoder, .. } = opened;
        let (mut from, mut to) = socket.into_split();
        let conversation = async {
            let reading = self.read(&mut from, &mut decoder);
            tokio::pin!(reading);
            tokio::select! {
                biased;
                why = &mut reading => why,
                written = self.outgoing.write_to(&mut to) => match written {
                    // Nothing more is asked; what was asked is still answered.
                    Ok(()) => match tokio::time::timeout(self.last_answers_max(), reading).await {
                        Ok(why) => why,
                        Err(_) => "no answers came after this client had closed it".to_owned(),
                    },
                    Err(error) => error.to_string(),
                },
            }
        };
        let why = tokio::select! {
            biased;
            why = conversation => why,
            why = self.watch_deadlines() => match why {},
        };
        self.close();
        let mut wakers = Vec::new();
        lock(&self.pending).end(&self.ended(&why), &mut wakers);
        wakers.drain(..).for_each(Waker::wake);
        self.room.notify_waiters();
    }

    /// Hands out what comes; ends with why there is no more.
    async fn read(&self, from: &mut OwnedReadHalf, decoder: &mut Decoder) -> String {
        let mut wakers = Vec::new();
        loop {
            loop {
                let handed = self.hand_out(decoder, &mut wakers);
                wakers.drain(..).for_each(Waker::wake);
                match handed {
                    Ok(true) => others_first().await,
                    Ok(false) => break,
                    Err(error) => return error.message().to_owned(),
                }
            }
            match from.read(decoder.space()).await {
                Ok(0) => {
                    return match decoder.finish() {
                        Ok(()) => "the silo closed it".to_owned(),
                        Err(error) => error.to_string(),
                    };
                }
                Ok(count) => {
                    self.heard.fetch_add(1, Ordering::Relaxed);
                    decoder.filled(count);
                }
                Err(error) => return error.to_string(),
            }
        }
    }

    /// Hands out a portion of what has come; whether there may be more.
    fn hand_out(&self, decoder: &mut Decoder, wakers: &mut Vec<Waker>) -> Result<bool> {
        let unread = |e: granary_wire::Error| Error::new(ErrorKind::Codec, e.to_string());
        let mut pending = lock(&self.pending);
        for _ in 0..PORTION_FRAMES {
            let Some(frame) = decoder.next_frame().map_err(unread)? else { return Ok(false) };
            match frame {
                Frame::Reply(granary_wire::Reply { id: NOBODY, .. }) => {
                    self.was_wrong.store(true, Ordering::Release);
                }
                Frame::Reply(reply) => {
                    let result = reply.result.map(<[u8]>::to_vec).map_err(|failure| failure.to_error());
                    pending.answer(reply.id, result, wakers);
                }
                Frame::Record { id, record } => pending.record(id, &record)?,
                // Our end of requests is what the silo waits for: it refuses or answers all that came before.
                Frame::Goodbye(_) => self.close(),
                other => return Err(unread(granary_wire::Error::Misplaced { frame: other.name() })),
            }
        }
        Ok(true)
    }

    /// One look at all that wait, when the first of their deadlines may have passed: no timer for each request.
    async fn watch_deadlines(&self) -> Infallible {
        let mut wakers = Vec::new();
        loop {
            let at = lock(&self.pending).alarm();
            match at {
                None => self.alarm.notified().await,
                Some(at) => tokio::select! {
                    biased;
                    () = self.alarm.notified() => {}
                    () = sleep_until(at.max(Instant::now() + ALARM_STEP)) => {
                        lock(&self.pending).expire(Instant::now(), &mut wakers);
                        wakers.drain(..).for_each(Waker::wake);
                    }
                },
            }
        }
    }
}

/// Who queues for room on a connection.
struct Queued<'l> {
    link: &'l Link,
}

impl Queued<'_> {
    fn of(link: &Link) -> Queued<'_> {
        lock(&link.pending).queued += 1;
        Queued { link }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut pending = lock(&self.link.pending);
        pending.queued -= 1;
        let has_room = pending.has_room();
        drop(pending);
        if has_room {
            self.link.room.notify_one();
        }
    }
}

/// The answer to a request under way.
struct Answer<'l> {
    link: &'l Link,
    id: u64,
    is_over: bool,
    /// The silo is told when nobody waits any more.
    tells: bool,
}

impl Answer<'_> {
    /// Its place is free.
    fn over(&mut self, has_room: bool) {
        self.is_over = true;
        if has_room {
            self.link.room.notify_one();
        }
    }
}

impl Future for Answer<'_> {
    type Output = Result<Vec<u8>, Missed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut pending = lock(&self.link.pending);
        let answer = std::task::ready!(pending.poll(self.id, context.waker()));
        let has_room = pending.has_room();
        drop(pending);
        self.over(has_room);
        Poll::Ready(answer)
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut pending = lock(&self.link.pending);
        let is_to_come = pending.leave(self.id);
        let has_room = pending.has_room();
        drop(pending);
        self.over(has_room);
        if is_to_come && self.tells {
            drop(self.link.send(&Frame::Cancel { id: self.id })); // an ended connection waits for nothing
        }
    }
}
