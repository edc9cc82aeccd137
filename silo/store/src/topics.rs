//! Names, partitions and bounds of the topics, who watches them, and blocks read lately.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use granary_core::{Error, ErrorKind, Result};

use crate::block::{Block, Mark};
use crate::rows::Bounds;

/// Decompressed blocks kept for readers, each about a mebibyte at most.
const BLOCKS_MAX: usize = 64;
/// Places kept in a block for readers that will go on from there.
const MARKS_MAX: usize = 16;

/// One topic.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its number in keys.
    pub id: u32,
    /// Its partitions.
    pub partitions: Vec<Bounds>,
}

/// All topics, by name.
pub type ByName = BTreeMap<String, Topic>;

/// Called after each durable append to a topic.
pub type Watcher = Arc<dyn Fn() + Send + Sync>;

/// What readers and the writer share about topics.
#[derive(Default)]
pub struct Topics {
    by_name: RwLock<ByName>,
    watchers: Mutex<Watchers>,
    blocks: Mutex<Vec<Cached>>,
}

#[derive(Default)]
struct Watchers {
    next: u64,
    by_topic: BTreeMap<String, Vec<(u64, Watcher)>>,
}

struct Cached {
    topic: u32,
    partition: u32,
    block: Arc<Block>,
    marks: Vec<Mark>,
}

impl Topics {
    /// The topics.
    pub fn read(&self) -> RwLockReadGuard<'_, ByName> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The topics, to be changed by the writer.
    pub fn write(&self) -> RwLockWriteGuard<'_, ByName> {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The topic's number and a partition's bounds.
    pub fn bounds(&self, topic: &str, partition: u32) -> Result<(u32, Bounds)> {
        let topics = self.read();
        let found = topics.get(topic).ok_or_else(|| unknown(topic, &topics))?;
        let bounds = found.partitions.get(partition as usize).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!(
                    "topic `{topic}` has {} partitions: there is no partition {partition}",
                    found.partitions.len()
                ),
            )
        })?;
        Ok((found.id, *bounds))
    }

    /// Adds a watcher; the number names it.
    pub fn watch(&self, topic: &str, watcher: Watcher) -> u64 {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.next += 1;
        let number = watchers.next;
        watchers.by_topic.entry(topic.to_owned()).or_default().push((number, watcher));
        number
    }

    /// Removes a watcher.
    pub fn unwatch(&self, topic: &str, number: u64) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = watchers.by_topic.get_mut(topic) {
            list.retain(|(n, _)| *n != number);
            if list.is_empty() {
                watchers.by_topic.remove(topic);
            }
        }
    }

    /// Calls the watchers of a topic; none may be called under a lock of this store.
    pub fn wake(&self, topic: &str) {
        let called: Vec<Watcher> = {
            let watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
            let list = watchers.by_topic.get(topic);
            list.into_iter().flatten().map(|(_, watcher)| Arc::clone(watcher)).collect()
        };
        for watcher in called {
            watcher();
        }
    }

    /// The cached block that holds `offset`, and the best place in it to start from.
    pub fn cached(&self, topic: u32, partition: u32, offset: u64) -> Option<(Arc<Block>, Mark)> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |cached: &Cached| {
            (cached.topic, cached.partition) == (topic, partition)
                && (cached.block.base()..cached.block.end()).contains(&offset)
        };
        let at = blocks.iter().position(holds)?;
        let cached = blocks.remove(at);
        let mark = cached.marks.iter().copied().filter(|mark| mark.offset <= offset).max_by_key(|m| m.offset);
        let found = (Arc::clone(&cached.block), mark.unwrap_or_default());
        blocks.push(cached); // the block used last is kept longest
        Some(found)
    }

    /// Keeps a block, and in it the place where a reader stopped.
    pub fn keep(&self, topic: u32, partition: u32, block: &Arc<Block>, mark: Mark) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |cached: &&mut Cached| Arc::ptr_eq(&cached.block, block);
        if let Some(cached) = blocks.iter_mut().find(same) {
            cached.marks.push(mark);
            if cached.marks.len() > MARKS_MAX {
                cached.marks.remove(0);
            }
            return;
        }
        if blocks.len() >= BLOCKS_MAX {
            blocks.remove(0);
        }
        blocks.push(Cached { topic, partition, block: Arc::clone(block), marks: vec![mark] });
    }
}

/// There is no such topic.
pub fn unknown(topic: &str, topics: &ByName) -> Error {
    let known: Vec<&str> = topics.keys().map(String::as_str).take(20).collect();
    Error::new(ErrorKind::NotFound, format!("there is no topic `{topic}`; there are: {}", known.join(", ")))
}
