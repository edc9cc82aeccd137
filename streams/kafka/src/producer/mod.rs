//! The transactional producer of a lane: the port's requests, carried out one after the other on a thread of its own; on
//! another one markers are read that need not wait for them.
//!
//! | module | does |
//! |---|---|
//! | `publish` | one transaction: outputs, markers, end |
//! | `eager` | outputs that leave before their commit, on a thread of their own |
//! | `entries` | what an output is as a record |
//! | `fence` | init of other ids; the registry of all ids |
//! | `journal` | what the wall clock decided in a slot |
//! | `offsets` | stable reads of markers |

mod eager;
mod entries;
mod fence;
mod journal;
mod offsets;
mod publish;

pub use entries::ID_HEADER;

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread;

use granary_cluster::producer::Answer;
use granary_cluster::slot::Publication;
use granary_cluster::{Ended, Marker, Outbox, Producer, TxId, TxIds};
use granary_core::{Error, ErrorKind, Result, SlotId, Span};

use crate::log::KafkaLog;
use eager::Eager;
use offsets::Offsets;
use publish::Publisher;

/// Requests of a lane that wait for its publisher thread. A lane has one transaction under way, and one question for each
/// slot that opens; what does not fit is refused and asked again.
pub const REQUESTS_MAX: usize = 4096;

/// Markers read in one question.
const MARKERS_MAX: usize = 256;

/// Which lane a producer works for, and where its outputs and inputs are.
#[derive(Clone)]
pub struct Lane {
    /// Its transactional id: each life of a silo has its own.
    pub txid: TxId,
    /// The topics of output streams, by `StreamId`.
    pub streams: Vec<String>,
    /// The topics of sources, by `SourceId`: how far they were read is committed too, so that ordinary tools show lag.
    /// An empty name stands for a source that is no topic.
    pub sources: Vec<String>,
}

/// The transactional producer of one lane.
pub struct LaneProducer {
    requests: SyncSender<Request>,
    /// Markers that need not wait for transactions.
    questions: SyncSender<Question>,
    /// For outputs that leave at once: started when there are any.
    eager: Option<Eager>,
    place: (Arc<KafkaLog>, Lane),
}

/// A question for a slot's marker.
type Question = (SlotId, Answer<Option<Marker>>);

enum Request {
    Init(Answer<()>),
    Fence(TxIds, Answer<()>),
    Marker(Question),
    Journal(SlotId, Range<u64>, Answer<Vec<Vec<u8>>>),
    Publish(Vec<(SlotId, Publication)>, Box<dyn FnOnce(Ended) + Send>),
}

impl LaneProducer {
    /// Starts the lane's publisher thread. Nothing is sent before the first request; the thread ends when this is
    /// dropped and what was asked before has been carried out.
    pub fn start(log: Arc<KafkaLog>, lane: Lane) -> Result<LaneProducer> {
        let (requests, received) = sync_channel(REQUESTS_MAX);
        let name = format!("publish-{}", lane.txid.lane);
        let place = (log.clone(), lane.clone());
        let offsets = Arc::new(Offsets::new(log.settings().clone())?);
        let publisher = Publisher::new(log, lane, offsets.clone());
        let no_thread =
            |error| Error::new(ErrorKind::Unavailable, format!("no thread to publish on: {error}"));
        thread::Builder::new().name(name).spawn(move || serve(publisher, &received)).map_err(no_thread)?;
        let (questions, asked) = sync_channel(REQUESTS_MAX);
        let name = format!("markers-{}", place.1.txid.lane);
        thread::Builder::new().name(name).spawn(move || answer(&offsets, &asked)).map_err(no_thread)?;
        Ok(LaneProducer { requests, questions, eager: None, place })
    }

    fn ask(&mut self, request: Request) {
        match self.requests.try_send(request) {
            Ok(()) => {}
            Err(TrySendError::Full(request)) => request.refuse(|| {
                Error::new(ErrorKind::Overloaded, "too many requests wait for the publisher").after(Span(100))
            }),
            Err(TrySendError::Disconnected(request)) => {
                request.refuse(|| Error::new(ErrorKind::Closed, "the publisher thread has ended"));
            }
        }
    }
}

impl Request {
    fn refuse(self, error: impl FnOnce() -> Error) {
        match self {
            Request::Init(done) | Request::Fence(_, done) => done(Err(error())),
            Request::Marker((_, done)) => done(Err(error())),
            Request::Journal(_, _, done) => done(Err(error())),
            Request::Publish(_, done) => done(Ended::Aborted),
        }
    }
}

impl Producer for LaneProducer {
    fn init(&mut self, done: Answer<()>) {
        self.ask(Request::Init(done));
    }

    fn fence(&mut self, ids: TxIds, done: Answer<()>) {
        self.ask(Request::Fence(ids, done));
    }

    fn marker(&mut self, slot: SlotId, done: Answer<Option<Marker>>) {
        self.ask(Request::Marker((slot, done)));
    }

    fn marker_at_once(&mut self, slot: SlotId, done: Answer<Option<Marker>>) {
        match self.questions.try_send((slot, done)) {
            Ok(()) => {}
            // in order with everything else it is answered, too
            Err(TrySendError::Full(question) | TrySendError::Disconnected(question)) => {
                self.ask(Request::Marker(question));
            }
        }
    }

    fn journal(&mut self, slot: SlotId, numbers: Range<u64>, done: Answer<Vec<Vec<u8>>>) {
        self.ask(Request::Journal(slot, numbers, done));
    }

    fn publish_at_once(&mut self, _: SlotId, outputs: Outbox, done: Box<dyn FnOnce() + Send>) {
        let (log, lane) = &self.place;
        self.eager.get_or_insert_with(|| Eager::start(log, lane)).send(outputs, done);
    }

    fn publish(&mut self, publications: Vec<(SlotId, Publication)>, done: Box<dyn FnOnce(Ended) + Send>) {
        self.ask(Request::Publish(publications, done));
    }
}

/// Carries out requests in order, until there can be no more.
fn serve(mut publisher: Publisher, requests: &Receiver<Request>) {
    let mut put_back = None;
    while let Some(request) = put_back.take().or_else(|| requests.recv().ok()) {
        match request {
            Request::Init(done) => done(publisher.init()),
            Request::Fence(ids, done) => done(publisher.fence(&ids)),
            Request::Publish(publications, done) => done(publisher.publish(&publications)),
            Request::Journal(slot, numbers, done) => done(journal::read(publisher.log(), slot, &numbers)),
            Request::Marker(question) => {
                // A silo that starts asks for the markers of all its slots: they come in one answer.
                let mut asked = vec![question];
                while asked.len() < MARKERS_MAX && put_back.is_none() {
                    match requests.try_recv() {
                        Ok(Request::Marker(question)) => asked.push(question),
                        Ok(other) => put_back = Some(other),
                        Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                    }
                }
                markers(publisher.offsets(), asked);
            }
        }
    }
}

/// Answers questions, those that wait together, until there can be no more.
fn answer(offsets: &Offsets, questions: &Receiver<Question>) {
    while let Ok(first) = questions.recv() {
        let others = questions.try_iter().take(MARKERS_MAX - 1);
        markers(offsets, std::iter::once(first).chain(others).collect());
    }
}

fn markers(offsets: &Offsets, asked: Vec<Question>) {
    let slots: Vec<SlotId> = asked.iter().map(|(slot, _)| *slot).collect();
    match offsets.markers(&slots) {
        Ok(found) => {
            for ((_, done), marker) in asked.into_iter().zip(found) {
                done(marker);
            }
        }
        Err(error) => {
            for (_, done) in asked {
                done(Err(error.clone()));
            }
        }
    }
}
