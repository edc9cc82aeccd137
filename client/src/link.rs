//! One connection to a silo: requests go out as they come, answers find who waits for them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use granary_core::{Error, ErrorKind, Ran, Result};
use granary_wire::{Decoder, Frame};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{Semaphore, oneshot};

use crate::connect::Opened;
use crate::outgoing::{Outgoing, Unsent, lock};
use crate::pending::{Pending, Waiter};

/// How many requests may wait for their answers on one connection; the next waits until there is room.
pub const IN_FLIGHT_MAX: usize = 1_024;

/// How long answers may take to come once nothing more is asked.
const LAST_ANSWERS_MAX: Duration = Duration::from_secs(60);

pub(crate) struct Link {
    pub(crate) address: String,
    pub(crate) outgoing: Outgoing,
    pub(crate) pending: Mutex<Pending>,
    pub(crate) in_flight: Semaphore,
    /// The silo said goodbye, or the connection ended: new requests go elsewhere.
    leaving: AtomicBool,
}

impl Link {
    pub(crate) fn new(address: String) -> Link {
        Link {
            address,
            outgoing: Outgoing::default(),
            pending: Mutex::default(),
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
            leaving: AtomicBool::new(false),
        }
    }

    /// Whether it takes requests.
    pub(crate) fn is_open(&self) -> bool {
        !self.leaving.load(Ordering::Acquire)
    }

    /// Sends a request made by `frame` of its id; the answer comes to the [`Waiting`].
    pub(crate) fn ask<'f>(&self, frame: impl FnOnce(u64) -> Frame<'f>) -> Result<Waiting<'_>> {
        let (to, answer) = oneshot::channel();
        let id = lock(&self.pending).insert(Waiter::Answer(to)).map_err(|e| e.ran(Ran::No))?;
        let waiting = Waiting { link: self, id, answer };
        self.send(&frame(id))?;
        Ok(waiting)
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

    /// Takes no more requests; what was pushed is still written.
    pub(crate) fn close(&self) {
        self.leaving.store(true, Ordering::Release);
        self.outgoing.close();
    }

    /// Runs the connection to its end.
    pub(crate) async fn run(&self, opened: Opened) {
        let Opened { socket, mut decoder } = opened;
        let (mut from, mut to) = socket.into_split();
        let reading = self.read(&mut from, &mut decoder);
        tokio::pin!(reading);
        let why = tokio::select! {
            biased;
            why = &mut reading => why,
            written = self.outgoing.write_to(&mut to) => match written {
                // Nothing more is asked; what was asked is still answered.
                Ok(()) => match tokio::time::timeout(LAST_ANSWERS_MAX, reading).await {
                    Ok(why) => why,
                    Err(_) => "no answers came after this client had closed it".to_owned(),
                },
                Err(error) => error.to_string(),
            },
        };
        self.leaving.store(true, Ordering::Release);
        self.outgoing.close();
        lock(&self.pending).end(&self.ended(&why));
    }

    /// Hands out what comes; ends with why there is no more.
    async fn read(&self, from: &mut OwnedReadHalf, decoder: &mut Decoder) -> String {
        loop {
            if let Err(error) = self.hand_out(decoder) {
                return error.message().to_owned();
            }
            match from.read(decoder.space()).await {
                Ok(0) => {
                    return match decoder.finish() {
                        Ok(()) => "the silo closed it".to_owned(),
                        Err(error) => error.to_string(),
                    };
                }
                Ok(count) => decoder.filled(count),
                Err(error) => return error.to_string(),
            }
        }
    }

    fn hand_out(&self, decoder: &mut Decoder) -> Result<()> {
        let unread = |e: granary_wire::Error| Error::new(ErrorKind::Codec, e.to_string());
        while let Some(frame) = decoder.next_frame().map_err(unread)? {
            match frame {
                Frame::Reply(reply) => {
                    let waiter = lock(&self.pending).take(reply.id);
                    let result = reply.result.map(<[u8]>::to_vec).map_err(|failure| failure.to_error());
                    match waiter {
                        Some(Waiter::Answer(to)) => drop(to.send(result)), // who gave up misses it
                        Some(Waiter::Tail { records, .. }) => {
                            if let Err(error) = result {
                                drop(records.send(Err(error)));
                            }
                        }
                        None => {}
                    }
                }
                Frame::Record { id, record } => lock(&self.pending).record(id, &record)?,
                // Our end of requests is what the silo waits for: it refuses or answers all that came before.
                Frame::Goodbye(_) => self.close(),
                other => return Err(unread(granary_wire::Error::Misplaced { frame: other.name() })),
            }
        }
        Ok(())
    }
}

/// A request under way. Dropped, its answer is dropped too.
pub(crate) struct Waiting<'l> {
    link: &'l Link,
    id: u64,
    answer: oneshot::Receiver<Result<Vec<u8>>>,
}

impl Waiting<'_> {
    /// The answer, or the error of the connection's end.
    pub(crate) async fn answer(&mut self) -> Result<Vec<u8>> {
        let answer = (&mut self.answer).await;
        answer.unwrap_or_else(|_| Err(self.link.ended("the client's runtime has shut down")))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        drop(lock(&self.link.pending).take(self.id));
    }
}
