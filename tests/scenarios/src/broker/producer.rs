//! A lane's producer on the log in memory: requests are carried out in order on a thread of its own.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use granary_cluster::producer::Answer;
use granary_cluster::slot::Publication;
use granary_cluster::{Ended, Marker, Outbox, Producer, TxId, TxIds};
use granary_core::{Result, SlotId};

use super::{Broker, ProducerFenced, State};
use crate::faults::{EndFault, Faults};

/// Outputs that leave before their commit are sent again so soon.
const AGAIN_AFTER: Duration = Duration::from_millis(1);

enum Request {
    Init(Answer<()>),
    Fence(TxIds, Answer<()>),
    Marker(SlotId, Answer<Option<Marker>>),
    Journal(SlotId, Range<u64>, Answer<Vec<Vec<u8>>>),
    AtOnce(SlotId, Outbox, Box<dyn FnOnce() + Send>),
    Publish(Vec<(SlotId, Publication)>, Box<dyn FnOnce(Ended) + Send>),
}

/// The producer of one lane.
pub struct MemoryProducer {
    requests: mpsc::Sender<Request>,
}

/// The process has died at a fail point: nothing is carried out or answered any more.
struct Dead;

/// How a transaction went on its way to its end.
type Sent = std::result::Result<std::result::Result<(), ProducerFenced>, Dead>;

struct Worker {
    broker: Arc<Broker>,
    id: TxId,
    generation: u64,
    faults: Arc<Faults>,
}

impl MemoryProducer {
    /// A producer of this id, in the life that `faults` are of.
    pub fn start(broker: Arc<Broker>, id: TxId, faults: Arc<Faults>) -> MemoryProducer {
        let (requests, asked) = mpsc::channel();
        let mut worker = Worker { broker, id, generation: 0, faults };
        let body = move || {
            for request in asked {
                if worker.carry_out(request).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("producer".into()).spawn(body).expect("a thread can be started");
        MemoryProducer { requests }
    }

    fn ask(&self, request: Request) {
        drop(self.requests.send(request)); // fails only when the process has died
    }
}

impl Producer for MemoryProducer {
    fn init(&mut self, done: Answer<()>) {
        self.ask(Request::Init(done));
    }

    fn fence(&mut self, ids: TxIds, done: Answer<()>) {
        self.ask(Request::Fence(ids, done));
    }

    fn marker(&mut self, slot: SlotId, done: Answer<Option<Marker>>) {
        self.ask(Request::Marker(slot, done));
    }

    fn journal(&mut self, slot: SlotId, numbers: Range<u64>, done: Answer<Vec<Vec<u8>>>) {
        self.ask(Request::Journal(slot, numbers, done));
    }

    fn publish_at_once(&mut self, slot: SlotId, outputs: Outbox, done: Box<dyn FnOnce() + Send>) {
        self.ask(Request::AtOnce(slot, outputs, done));
    }

    fn publish(&mut self, publications: Vec<(SlotId, Publication)>, done: Box<dyn FnOnce(Ended) + Send>) {
        self.ask(Request::Publish(publications, done));
    }
}

impl Worker {
    fn pass(&self, point: &str) -> std::result::Result<(), Dead> {
        if self.faults.passes(point) { Ok(()) } else { Err(Dead) }
    }

    fn carry_out(&mut self, request: Request) -> std::result::Result<(), Dead> {
        if self.faults.is_cut_off() {
            return Err(Dead);
        }
        match request {
            Request::Init(done) => {
                let inited = self.broker.init(self.id);
                self.generation = *inited.as_ref().unwrap_or(&self.generation);
                done(inited.map(|_| ()));
            }
            Request::Fence(ids, done) => {
                self.pass("fence.before")?;
                let fenced = self.fence(&ids);
                self.pass("fence.after")?;
                done(fenced);
            }
            Request::Marker(slot, done) => done(self.broker.stable_marker(slot)),
            Request::Journal(slot, numbers, done) => done(Ok(self.broker.journal(slot, &numbers))),
            Request::AtOnce(slot, outputs, done) => {
                self.pass("eager.before")?;
                while self.broker.send_at_once(slot, &outputs).is_err() {
                    if self.faults.is_cut_off() {
                        return Err(Dead);
                    }
                    std::thread::sleep(AGAIN_AFTER);
                }
                self.pass("eager.after")?;
                done();
            }
            Request::Publish(publications, done) => {
                let ended = self.publish(&publications)?;
                done(ended);
            }
        }
        Ok(())
    }

    fn fence(&self, ids: &TxIds) -> Result<()> {
        let all = if ids.everyone { self.broker.ids() } else { ids.ids.clone() };
        all.into_iter().filter(|id| *id != self.id).try_for_each(|id| self.broker.init(id).map(|_| ()))
    }

    fn publish(&self, publications: &[(SlotId, Publication)]) -> std::result::Result<Ended, Dead> {
        let fault = self.faults.next_end();
        self.faults.wait_for_log();
        if self.send(publications)?.is_err() {
            return Ok(Ended::Lost);
        }
        let finish = |as_what| self.broker.finish(self.id, self.generation, as_what);
        if fault == Some(EndFault::Aborted) {
            return Ok(finish(State::Aborted).map_or(Ended::Lost, |()| Ended::Aborted));
        }
        self.pass("end.before")?;
        if fault == Some(EndFault::RequestLost) {
            return Ok(Ended::Lost);
        }
        let ended = finish(State::Committed);
        self.pass("end.after")?;
        Ok(if ended.is_err() || fault == Some(EndFault::ReplyLost) { Ended::Lost } else { Ended::Done })
    }

    /// Begins, sends the outputs, then the markers.
    fn send(&self, publications: &[(SlotId, Publication)]) -> Sent {
        self.pass("begin.before")?;
        let begun = self.broker.begin(self.id, self.generation);
        self.pass("begin.after")?;
        self.pass("send.before")?;
        let send = |(slot, publication): &(SlotId, Publication)| {
            self.broker.send(self.id, self.generation, *slot, publication)
        };
        let sent = begun.and_then(|()| publications.iter().try_for_each(send));
        self.pass("send.after")?;
        self.pass("markers.before")?;
        let stage = |(slot, publication): &(SlotId, Publication)| {
            self.broker.stage(self.id, self.generation, *slot, &publication.marker)
        };
        let staged = sent.and_then(|()| publications.iter().try_for_each(stage));
        self.pass("markers.after")?;
        Ok(staged)
    }
}
