//! The topics of a silo in Kafka: created where they are missing, compared with what they were, and where reading begins.

use granary_cluster::Log as _;
use granary_core::{Error, Result};
use granary_kafka::{BY_APPEND_TIME, KafkaLog, POSITIONS_MAX, TopicIdentity};
use granary_streams::plan::Start;

use super::External;

/// A topic that a silo needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed {
    /// Its name.
    pub topic: String,
    /// How many partitions it gets when it is missing.
    pub partitions: u32,
    /// What it is for.
    pub role: Role,
}

/// What a topic is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is read.
    Source,
    /// It is written, with the event times of its records.
    Output,
    /// It is written; its records keep until their retention has passed since they were written, whatever their own times.
    SetAside,
    /// Written and read by the silo itself: one partition for each slot.
    Internal,
}

/// A topic as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Its name.
    pub topic: String,
    /// Its partitions.
    pub partitions: u32,
    /// Whether it was missing.
    pub is_new: bool,
}

/// Creates what is missing; what is there must fit.
pub fn create(kafka: &KafkaLog, needed: &[Needed]) -> Result<Vec<Present>> {
    needed.iter().map(|needed| create_one(kafka, needed)).collect()
}

fn create_one(kafka: &KafkaLog, needed: &Needed) -> Result<Present> {
    let Needed { topic, partitions, role } = needed;
    match kafka.partitions(topic)? {
        Some(found) if *role == Role::Internal && found != *partitions => Err(Error::invalid(format!(
            "topic `{topic}` has {found} partitions, {partitions} are needed: it has one for each slot of the cluster. \
             Delete it if nothing of it is wanted any more, or choose another cluster.name"
        ))),
        Some(found) => Ok(Present { topic: topic.clone(), partitions: found, is_new: false }),
        None => {
            let by_append_time = [BY_APPEND_TIME];
            let settings: &[(&str, &str)] = match role {
                Role::SetAside | Role::Internal => &by_append_time,
                Role::Source | Role::Output => &[],
            };
            kafka.create_with(topic, *partitions, settings)?;
            Ok(Present { topic: topic.clone(), partitions: *partitions, is_new: true })
        }
    }
}

impl External {
    /// Compares a topic with what it was when the cluster first read it: positions in another topic of the same name
    /// mean nothing.
    pub fn check_identity(&self, topic: &str) -> Result<()> {
        let now = self.kafka.identity(topic)?;
        let noted = self.redis.note(&format!("topic/{topic}"), &now.to_text())?;
        let Some(before) = noted.as_deref().and_then(TopicIdentity::from_text) else { return Ok(()) };
        let Some(difference) = before.differs(&now) else { return Ok(()) };
        let cluster = &self.kafka.settings().cluster;
        let remedy = if before.partitions == now.partitions {
            "the positions stored for it belong to the other one"
        } else {
            "records of one key now go to another partition than before, and their order is lost"
        };
        Err(Error::invalid(format!(
            "topic `{topic}` is not the one cluster `{cluster}` has read: {difference}; {remedy}. Read it under another \
             cluster.name, which begins anew, or copy its records to a topic of another name and read that"
        )))
    }

    /// The offsets a slot without a position begins at, by partition.
    pub fn starts(&self, topic: &str, partitions: u32, start: Start) -> Result<Vec<u64>> {
        (0..partitions)
            .map(|partition| match start {
                Start::Earliest => Ok(self.kafka.bounds(topic, partition)?.0),
                Start::Latest => Ok(self.kafka.bounds(topic, partition)?.1),
                Start::At(time) => self.kafka.offset_at(topic, partition, time),
            })
            .collect()
    }
}

/// Refuses a plan whose slots have more positions than a marker can hold.
pub fn check_positions(slots: u16, sources: impl Iterator<Item = (u32, bool)>) -> Result<()> {
    let of_a_slot: usize =
        sources.map(|(partitions, in_place)| if in_place { 1 } else { partitions as usize }).sum();
    if of_a_slot <= POSITIONS_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a slot would read {of_a_slot} partitions, {POSITIONS_MAX} is the most: every slot reads every partition of a topic \
         whose number of partitions does not divide {slots}, the number of slots. Read fewer topics, or topics with a \
         number of partitions that divides {slots}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_bounded() {
        assert!(check_positions(96, [(12, true), (96, true), (100, false)].into_iter()).is_ok());
        let error = check_positions(96, [(200, false), (200, false), (1, true)].into_iter()).unwrap_err();
        assert!(error.message().contains("401") && error.message().contains("400"), "{error}");
    }
}
