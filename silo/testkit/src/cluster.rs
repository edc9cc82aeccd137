//! The cluster a test holds: calls, time, faults, streams.

use std::sync::Arc;

use granary_cluster::{Batch, Log};
use granary_core::id::positive_murmur2;
use granary_core::{Clock, Error, ErrorKind, Grain, GrainId, Key, Result, Span, Timestamp};
use granary_engine::Stats;
use serde::{Serialize, de::DeserializeOwned};

use crate::builder::Builder;
use crate::calls::Outside;
use crate::faults::{Fault, Faults};
use crate::inner::Inner;
use crate::outputs::partitions;
use crate::records::Emitted;

/// Several silos in this process, over one store and log in memory, on a clock that is moved by hand.
///
/// It ends, with everything in it, when it is dropped.
pub struct TestCluster {
    inner: Arc<Inner>,
}

impl TestCluster {
    /// One to be described and started.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) async fn start(inner: Arc<Inner>, silos: usize) -> Result<TestCluster> {
        let cluster = TestCluster { inner };
        {
            let mut roster = cluster.inner.roster();
            for no in 1..=silos {
                cluster.inner.begin(&format!("silo-{no}"), &mut roster)?;
            }
        }
        // Each joins, hears of those before it, and with its first renewal of those after it.
        cluster.inner.tick()?;
        cluster.settle().await?;
        Ok(cluster)
    }

    /// A grain, as a client outside of the cluster sees it.
    pub fn grain<G: Grain>(&self, key: impl Into<Key>) -> G::Ref<Outside> {
        self.outside().grain::<G>(key.into())
    }

    /// Calls a grain by name with encoded arguments; built-in grains, too.
    pub async fn call(&self, grain: GrainId, method: &'static str, arguments: Vec<u8>) -> Result<Vec<u8>> {
        self.outside().by_name(grain, method, arguments).await
    }

    fn outside(&self) -> Outside {
        Outside(self.inner.clone())
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.inner.now()
    }

    /// Moves time by so much, and waits for everything that brings about: timers, reminders, leases, idle grains, silent
    /// keys, each at its time.
    pub async fn advance(&self, by: Span) -> Result<()> {
        self.inner.advance(by).await
    }

    /// Waits until nothing goes on any more, and moves time only as far as the cluster needs it: until silos that are gone
    /// were declared dead, every slot has a silo again, and everything decided is stored. How far it moved.
    pub async fn settle(&self) -> Result<Span> {
        self.inner.settle().await
    }

    /// The names of the silos that run, stopped ones too.
    pub fn silos(&self) -> Vec<String> {
        self.inner.roster().lives.keys().cloned().collect()
    }

    /// The silo that a grain belongs to by the member table; `None` when nobody has its slot.
    pub fn silo_of<G: Grain>(&self, key: impl Into<Key>) -> Option<String> {
        let slots = self.inner.mold.parts.slots;
        let slot = granary_core::id::slot_of(key.into().routing_key().as_bytes(), slots);
        self.inner.roster().owner(slot, slots).map(|(name, _)| name.to_owned())
    }

    /// What a silo has counted in its present life.
    pub fn stats(&self, silo: &str) -> Result<Stats> {
        Ok(self.inner.roster().life(silo)?.handle.stats())
    }

    /// Kills a silo, as `kill -9` does: what it had not stored is gone. The others take its slots when they have not seen
    /// its lease renewed for as long as it is.
    pub async fn kill(&self, silo: &str) -> Result<()> {
        let _driving = self.inner.driving.lock().await;
        let mut roster = self.inner.roster();
        roster.life(silo)?;
        if let Some(life) = roster.lives.remove(silo) {
            self.inner.bury(life);
        }
        Ok(())
    }

    /// Stops a silo in order: it gives its slots to the others, finishes turns, stores what they changed, and goes.
    pub async fn stop(&self, silo: &str) -> Result<()> {
        {
            let _driving = self.inner.driving.lock().await;
            let now = self.now();
            self.inner.roster().life(silo)?.leave(now);
            self.inner.tick()?;
        }
        self.inner.give_all(silo).await?;
        let engine = self.inner.roster().life(silo)?.take_engine();
        if let Some(engine) = engine {
            self.inner.drive(engine.stop(), true).await?;
        }
        let _driving = self.inner.driving.lock().await;
        let now = self.now();
        self.inner.roster().life(silo)?.go(now);
        self.inner.tick()
    }

    /// Starts a silo of this name: a new one, or one that was stopped or killed. [`TestCluster::settle`] waits until it has
    /// its slots.
    pub async fn start_silo(&self, silo: &str) -> Result<()> {
        let _driving = self.inner.driving.lock().await;
        let mut roster = self.inner.roster();
        if roster.lives.contains_key(silo) {
            return Err(Error::new(ErrorKind::Invalid, format!("silo `{silo}` runs already")));
        }
        self.inner.begin(silo, &mut roster)?;
        drop(roster);
        self.inner.tick()
    }

    /// Stops a silo in order and starts it again.
    pub async fn restart(&self, silo: &str) -> Result<()> {
        self.stop(silo).await?;
        self.start_silo(silo).await
    }

    /// Holds a silo up, as SIGSTOP does: nothing of it runs. Beyond its lease it is declared dead.
    pub async fn pause(&self, silo: &str) -> Result<()> {
        let _driving = self.inner.driving.lock().await;
        self.inner.roster().life(silo)?.pause();
        Ok(())
    }

    /// Lets it go on, as SIGCONT does. One that was declared dead learns so, and comes back as a new life.
    pub async fn resume(&self, silo: &str) -> Result<()> {
        let _driving = self.inner.driving.lock().await;
        self.inner.roster().life(silo)?.resume();
        self.inner.tick()
    }

    /// Parts a silo from the store and the member table; callers still reach it.
    pub async fn partition(&self, silo: &str) -> Result<()> {
        let _driving = self.inner.driving.lock().await;
        self.inner.roster().life(silo)?.set_cut_off(true);
        Ok(())
    }

    /// Lets it reach the store again.
    pub async fn heal(&self, silo: &str) -> Result<()> {
        let _driving = self.inner.driving.lock().await;
        self.inner.roster().life(silo)?.set_cut_off(false);
        self.inner.tick()
    }

    /// The next writes of this silo fail: nothing is carried out, and the store says that it does not know.
    pub fn fail_next_writes(&self, silo: &str, writes: usize) -> Result<()> {
        self.faults(silo)?.next_commits(std::iter::repeat_n(Fault::Refused, writes));
        Ok(())
    }

    /// The next writes of this silo are carried out, but their answers are lost.
    pub fn lose_next_answers(&self, silo: &str, writes: usize) -> Result<()> {
        self.faults(silo)?.next_commits(std::iter::repeat_n(Fault::AnswerLost, writes));
        Ok(())
    }

    /// Everything else that the store of a silo's present life can be made to suffer.
    pub fn faults(&self, silo: &str) -> Result<Arc<Faults>> {
        Ok(self.inner.roster().life(silo)?.faults.clone())
    }

    /// Appends a record with this key to a topic, as JSON, where Kafka's default partitioner puts it. The topic is created
    /// when it is not there. [`TestCluster::settle`] waits until it was applied and stored.
    pub fn push<T: Serialize + ?Sized>(&self, topic: &str, key: &str, record: &T) -> Result<()> {
        let value = serde_json::to_vec(record).map_err(|e| Error::new(ErrorKind::Codec, e.to_string()))?;
        self.push_bytes(topic, key, &value)
    }

    /// The same with the record's bytes.
    pub fn push_bytes(&self, topic: &str, key: &str, value: &[u8]) -> Result<()> {
        let mold = &self.inner.mold;
        let partitions = partitions(&*mold.memory, topic, mold.parts.partitions)?;
        let mut batch = Batch::default();
        batch.push(0, mold.clock.now(), Some(key.as_bytes()), value);
        mold.memory.append(topic, positive_murmur2(key.as_bytes()) % partitions, &batch)?;
        Ok(())
    }

    /// What a stream holds, decoded: `alerts`, a stream that grains emit to, a sink of the plan, `late`, `rejected`,
    /// `poisoned`, or a topic by its own name.
    pub fn stream<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>> {
        self.records(name)?.iter().map(Emitted::decode).collect()
    }

    /// The same with keys, identities and times.
    pub fn records(&self, name: &str) -> Result<Vec<Emitted>> {
        let mold = &self.inner.mold;
        let (topic, may_be_grain) = mold.parts.topic_of(name);
        let partitions = mold.memory.partitions(&topic)?.unwrap_or(1);
        let mut records = Vec::new();
        for partition in 0..partitions {
            let stored = mold.memory.records(&topic, partition)?;
            records.extend(stored.into_iter().map(|stored| Emitted::new(stored, may_be_grain)));
        }
        Ok(records)
    }
}

/// Every silo ends as a killed one does; calls still under way are told so.
impl Drop for TestCluster {
    fn drop(&mut self) {
        let lives = std::mem::take(&mut self.inner.roster().lives);
        lives.into_values().for_each(|life| self.inner.bury(life));
    }
}
