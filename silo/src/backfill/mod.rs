//! Back-fills of rules: where they begin, found once by who publishes a revision, and the second reading of their topics.
//!
//! | module | holds |
//! |---|---|
//! | [`mod@self`] | where a back-fill begins |
//! | `again` | a partition that is read a second time, as a source of its own |

mod again;

use std::collections::BTreeMap;

use granary_cluster::{Batch, Log};
use granary_core::{Result, Span, Timestamp};
use granary_streams::plan::{Fill, Wanted};

use crate::backing::Backing;

pub(crate) use again::Again;

/// Finds where a back-fill begins that a revision asks for; and what a person should know about it.
pub(crate) fn find(
    backing: &Backing,
    slots: u16,
    wanted: Wanted,
    number: u64,
    now: Timestamp,
) -> Result<(Fill, Vec<String>)> {
    let Wanted { length, rules, steps } = wanted;
    let since = Timestamp(now.ms().saturating_sub(i64::try_from(length.ms()).unwrap_or(i64::MAX)));
    let (mut from, mut short, mut notices) = (BTreeMap::new(), Vec::new(), Vec::new());
    for step in steps {
        let (name, topic) = (step.name, step.topic);
        let partitions = backing.log.partitions(&topic)?.unwrap_or(0);
        if !step.in_place || partitions == 0 || !u32::from(slots).is_multiple_of(partitions) {
            notices.push(format!(
                "step {name}: topic {topic} is not read in place, so it is not read again: new rules warn that they have not \
                 seen all they look back on until they have"
            ));
            continue;
        }
        let mut begins = Vec::new();
        let mut reaches_back = true;
        for partition in 0..partitions {
            let (first, end) = backing.log.bounds(&topic, partition)?;
            let begin = offset_at(backing, &topic, partition, (first, end), since)?;
            reaches_back &= begin > first || first == 0;
            begins.push(begin);
        }
        if !reaches_back {
            notices.push(format!(
                "step {name}: topic {topic} does not reach back {}: it is read again from its first record on, and new rules \
                 warn that they have not seen all they look back on until they have",
                in_words(length)
            ));
            short.push(name.clone());
        }
        from.insert(name, begins);
    }
    let fill = Fill { number, began_ms: now.ms(), length_ms: length.ms(), rules, from, short };
    Ok((fill, notices))
}

/// The first offset of a record from that time or later; the end when there is none.
fn offset_at(
    backing: &Backing,
    topic: &str,
    partition: u32,
    (first, end): (u64, u64),
    since: Timestamp,
) -> Result<u64> {
    if let Some(external) = backing.as_external() {
        return external.kafka.offset_at(topic, partition, since);
    }
    let (mut low, mut high) = (first, end);
    while low < high {
        let middle = low.midpoint(high);
        let is_before = appended_at(&*backing.log, topic, partition, middle)?.is_some_and(|at| at < since);
        if is_before { low = middle + 1 } else { high = middle }
    }
    Ok(low)
}

fn appended_at(log: &dyn Log, topic: &str, partition: u32, offset: u64) -> Result<Option<Timestamp>> {
    let mut batch = Batch::default();
    log.read(topic, partition, offset, 1, &mut batch)?;
    Ok(batch.iter(granary_cluster::SourceId(0), partition).next().map(|record| record.appended_at))
}

/// A length as people write it: in the greatest unit that leaves no rest.
pub(crate) fn in_words(length: Span) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let fits = units.iter().find(|(unit, _)| length.ms() > 0 && length.ms().is_multiple_of(*unit));
    fits.map_or_else(|| format!("{} ms", length.ms()), |(unit, name)| format!("{}{name}", length.ms() / unit))
}
