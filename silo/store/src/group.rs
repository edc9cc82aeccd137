//! What one atomic batch of the writer carries, and whom it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fjall::OwnedWriteBatch;
use granary_cluster::{Commit, Reply};
use granary_core::{Error, Result};

use crate::disk;
use crate::rows::Bounds;
use crate::shared::{Answer, Shared};
use crate::topics::Topic;

type Replies = Box<dyn FnOnce(Result<Vec<Reply>>) + Send>;
type Waiting = Box<dyn FnOnce(Option<&Error>) + Send>;

/// One batch in the making.
pub struct Group {
    /// The engine's batch.
    pub batch: OwnedWriteBatch,
    /// How many requests it took.
    pub requests: usize,
    /// About how many bytes it carries.
    pub bytes: usize,
    /// Cells of its commits as `recent` keeps them.
    pub segments: Vec<u8>,
    /// Slots whose rows it changes.
    pub dirty: BTreeSet<u16>,
    /// Its commits, in order.
    pub commits: Vec<Arc<Commit>>,
    /// New bounds of partitions.
    pub grown: BTreeMap<(u32, u32), Bounds>,
    /// Something in it has to outlive the machine, not only the process.
    pub must_sync: bool,
    /// Topics that got records.
    pub woken: BTreeSet<u32>,
    /// New topics.
    pub created: Vec<(String, Topic)>,
    /// Scripts to be answered.
    pub scripts: Vec<(Vec<Reply>, Replies)>,
    waiting: Vec<Waiting>,
}

impl Group {
    /// An empty batch.
    pub fn new(shared: &Shared) -> Group {
        Group {
            batch: disk::batch(&shared.engine, 64, None),
            requests: 0,
            bytes: 0,
            segments: Vec::new(),
            dirty: BTreeSet::new(),
            commits: Vec::new(),
            grown: BTreeMap::new(),
            must_sync: false,
            woken: BTreeSet::new(),
            created: Vec::new(),
            scripts: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Gives `done` this answer once the batch is kept; the error of the batch otherwise.
    pub fn answer<T: Send + 'static>(&mut self, answer: Result<T>, done: Answer<T>) {
        self.waiting.push(Box::new(move |refused| done(refused.map_or(answer, |e| Err(e.clone())))));
    }

    /// Number and partition count of a topic, also of one this batch creates.
    pub fn topic(&self, shared: &Shared, name: &str) -> Option<(u32, u32)> {
        let counted = |topic: &Topic| (topic.id, topic.partitions.len() as u32);
        let created = self.created.iter().find(|(created, _)| created == name);
        created.map(|(_, topic)| counted(topic)).or_else(|| shared.topics.read().get(name).map(counted))
    }

    /// The batch is kept: answers all, wakes readers.
    pub fn acknowledge(self, shared: &Shared) {
        for (replies, done) in self.scripts {
            done(Ok(replies));
        }
        for done in self.waiting {
            done(None);
        }
        if self.woken.is_empty() {
            return;
        }
        let names: Vec<String> = shared
            .topics
            .read()
            .iter()
            .filter(|(_, topic)| self.woken.contains(&topic.id))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            shared.topics.wake(&name);
        }
    }

    /// The batch was not kept, or nobody knows.
    pub fn refuse(self, error: &Error) {
        for (_, done) in self.scripts {
            done(Err(error.clone()));
        }
        for done in self.waiting {
            done(Some(error));
        }
    }
}
