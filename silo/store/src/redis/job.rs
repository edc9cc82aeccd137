//! What a connection is asked to do, and the promise that each request is answered once.

use std::sync::mpsc::SyncSender;

use granary_cluster::Reply;
use granary_cluster::port::Done;
use granary_core::{Error, ErrorKind, Ran, Result};
use redis::{Pipeline, Value};

use super::encode::Encoded;

/// A request to one connection.
pub enum Job {
    /// Runs scripts on slots.
    Scripts(Encoded, Answer),
    /// Runs reads and hands the answers over, with the run of the server that gave them.
    Read(Pipeline, SyncSender<Result<Read>>),
}

/// The answers to a pipeline of reads.
#[derive(Debug)]
pub struct Read {
    /// One for each command.
    pub values: Vec<Value>,
    /// The run of the server.
    pub run: granary_cluster::RunId,
}

impl Job {
    /// Answers that the server is away and nothing was sent.
    pub fn refuse(self, why: &Error) {
        match self {
            Job::Scripts(_, answer) => answer.give(Err(why.clone())),
            // The reader may have given up.
            Job::Read(_, tell) => drop(tell.send(Err(why.clone()))),
        }
    }
}

/// The way back to whoever submitted scripts. When it is dropped unanswered, that is the answer.
pub struct Answer(Option<Done>);

impl Answer {
    /// The way back.
    pub fn new(done: Done) -> Answer {
        Answer(Some(done))
    }

    /// Answers.
    pub fn give(mut self, replies: Result<Vec<Reply>>) {
        if let Some(done) = self.0.take() {
            done(replies);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(Error::new(ErrorKind::Closed, "the store was closed before the server answered")
                .ran(Ran::Unknown)));
        }
    }
}
