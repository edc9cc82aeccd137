//! Answers that come through channels, of one connection. One task awaits them all: a channel that has its answer rings
//! a bell with the number of its place.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use granary_core::Result;
use tokio::sync::{Notify, oneshot};

use super::Reply;
use crate::outgoing::{lock, others_first};

/// Where an answer comes from.
pub(super) type Channel = oneshot::Receiver<Result<Vec<u8>>>;

/// The places whose bells rang.
#[derive(Default)]
struct Rung {
    places: Mutex<Vec<usize>>,
    news: Notify,
}

struct Bell {
    place: usize,
    rung: Arc<Rung>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut places = lock(&self.rung.places);
        let is_first = places.is_empty();
        places.push(self.place);
        drop(places);
        if is_first {
            self.rung.news.notify_one();
        }
    }
}

struct Place {
    /// Made once, and used for every channel that waits here.
    bell: Waker,
    waiting: Option<(Reply, Channel)>,
}

#[derive(Default)]
struct Table {
    places: Vec<Place>,
    free: Vec<usize>,
    has_ended: bool,
}

impl Table {
    /// The answer at this place, when it is there.
    fn take_answered(&mut self, place: usize) -> Option<(Reply, Option<Result<Vec<u8>>>)> {
        let Place { bell, waiting } = self.places.get_mut(place)?;
        let (_, channel) = waiting.as_mut()?;
        let Poll::Ready(answer) = Pin::new(channel).poll(&mut Context::from_waker(bell)) else { return None };
        let (reply, _) = waiting.take()?;
        self.free.push(place);
        Some((reply, answer.ok()))
    }
}

/// The answers a connection waits for: at most as many as it has requests in flight.
#[derive(Default)]
pub(super) struct Following {
    table: Mutex<Table>,
    rung: Arc<Rung>,
}

impl Following {
    /// Answers `reply` with what comes through `channel`.
    pub(super) fn add(&self, reply: Reply, channel: Channel) {
        let mut table = lock(&self.table);
        if table.has_ended {
            drop(table);
            return; // nobody is there any more
        }
        let place = table.free.pop().unwrap_or_else(|| {
            let place = table.places.len();
            let bell = Arc::new(Bell { place, rung: self.rung.clone() });
            table.places.push(Place { bell: bell.into(), waiting: None });
            place
        });
        table.places[place].waiting = Some((reply, channel));
        let answered = table.take_answered(place);
        drop(table);
        answered.into_iter().for_each(send);
    }

    /// Nobody waits for the answer to this request any more: its channel is closed, so who would answer can see it.
    pub(super) fn cancel(&self, id: u64) {
        let mut table = lock(&self.table);
        let is_it = |place: &Place| place.waiting.as_ref().is_some_and(|(reply, _)| reply.is_for(id));
        let Some(place) = table.places.iter().position(is_it) else { return };
        let cancelled = table.places[place].waiting.take();
        table.free.push(place);
        drop(table);
        if let Some((reply, channel)) = cancelled {
            drop(channel);
            reply.forget();
        }
    }

    /// Passes answers on as they come.
    pub(super) async fn run(&self) -> Infallible {
        let (mut rung, mut answered) = (Vec::new(), Vec::new());
        loop {
            self.rung.news.notified().await;
            others_first().await;
            std::mem::swap(&mut *lock(&self.rung.places), &mut rung);
            let mut table = lock(&self.table);
            answered.extend(rung.drain(..).filter_map(|place| table.take_answered(place)));
            drop(table);
            answered.drain(..).for_each(send);
        }
    }

    /// The connection has ended: nobody waits any more.
    pub(super) fn end(&self) {
        let mut table = lock(&self.table);
        table.has_ended = true;
        let places = std::mem::take(&mut table.places);
        drop(table);
        drop(places);
    }
}

fn send((reply, answer): (Reply, Option<Result<Vec<u8>>>)) {
    match answer {
        Some(result) => reply.send(result),
        None => drop(reply), // answers that it was dropped
    }
}
