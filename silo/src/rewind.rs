//! Goes on further ahead with a partition whose next records are gone: a person's decision, stored like a commit.
//!
//! The silo starts as it always does, and publishes what it had decided, but with sources that never give a record: what
//! changes is where its slots go on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use granary_cluster::members::{Change, Member, Report};
use granary_cluster::{Batch, Incarnation, Log, Store};
use granary_core::{Error, ErrorKind, Result, SlotId, Span};
use granary_engine::{Config, Handle, Source, SourceSpec};
use granary_store::Redis;

use crate::assembly::Running;
use crate::backing::Backing;
use crate::silo::{STOP_MAX, Silo, listen};

/// How long slots may take to start and to store where they go on.
const REWIND_MAX: Duration = Duration::from_secs(120);
/// How often is looked whether they have.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewind {
    /// The topic.
    pub topic: String,
    /// Its partition.
    pub partition: u32,
    /// The first offset that is still read.
    pub to: u64,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewound {
    /// How many slots read the partition.
    pub slots: usize,
    /// Those that stood before `to`, each with the offset it would have gone on at.
    pub moved: Vec<(SlotId, u64)>,
}

/// A slot that reads the partition, by the place of the source, and where it stands.
#[derive(Clone, Copy)]
struct Stand {
    source: usize,
    slot: SlotId,
    at: u64,
}

/// Moves every slot that stands before `wanted.to` there. No silo of the cluster may run: on this machine its address makes
/// sure, elsewhere the member table.
pub async fn rewind(silo: Silo, wanted: Rewind) -> Result<Rewound> {
    let (settings, assembly) = silo.assemble()?;
    let _nobody_listens = listen(&settings.silo.listen).await?;
    let (of, to) = (assembly.clone(), wanted.clone());
    let opened = tokio::task::spawn_blocking(move || -> Result<_> {
        let backing = Backing::open(&settings, &of)?;
        if let Some(external) = backing.as_external() {
            check_alone(&external.redis, settings.silo.lease())?;
        }
        let (config, runs) = of.prepare(&backing)?;
        if !runs.registered.outdated.is_empty() {
            let message = format!(
                "this program is older than the stored state: {}",
                runs.registered.outdated.join("; ")
            );
            return Err(Error::invalid(message));
        }
        check_range(&*backing.log, &config.sources, &to)?;
        let stands = stands(&*backing.store, &config, &to)?;
        Ok((backing, config, stands))
    });
    let (backing, mut config, stands) =
        opened.await.map_err(|e| Error::new(ErrorKind::Closed, e.to_string()))??;
    let behind: Vec<Stand> = stands.iter().copied().filter(|stand| stand.at < wanted.to).collect();
    if behind.is_empty() && stands.iter().any(|stand| stand.at > wanted.to) {
        return Err(goes_back(&wanted, &stands));
    }
    let rewound =
        Rewound { slots: stands.len(), moved: behind.iter().map(|stand| (stand.slot, stand.at)).collect() };
    if behind.is_empty() {
        return Ok(rewound);
    }
    for source in &mut config.sources {
        source.open = Arc::new(|_| Ok(Box::new(Silent)));
        if source.topic == wanted.topic {
            source.rewound.push((wanted.partition, wanted.to));
        }
    }
    let assembly = Arc::into_inner(assembly).expect("what was prepared has given it back");
    let store = backing.store.clone();
    let running = Running::start(assembly, config, backing)?;
    let stored = wait(&running.handle(), &store, &wanted, behind).await;
    let is_quiet = tokio::time::timeout(STOP_MAX, running.stop()).await.is_ok();
    if !is_quiet {
        tracing::warn!(
            "the slots did not come to rest in {STOP_MAX:?}: what is not stored is as after a kill"
        );
    }
    stored.map(|()| rewound)
}

/// A source that gives nothing. It never stands at its end either: nobody's silence is counted meanwhile.
struct Silent;

impl Source for Silent {
    fn read(&mut self, _: u64, _: usize, _: &mut Batch) -> Result<()> {
        Ok(())
    }

    fn is_at_end(&self) -> bool {
        false
    }
}

/// No silo of the cluster lives: who stands in the member table is watched for a lease. The dead are taken out of it.
fn check_alone(redis: &Redis, lease: Span) -> Result<()> {
    let nobody = Change::Renew { me: Incarnation(0), counter: 0, report: Report::default(), version_min: 0 }; // refused, and answered with the table
    let members = || redis.change_members(&nobody).map(|(_, table)| table.members);
    let before = members()?;
    if before.is_empty() {
        return Ok(());
    }
    std::thread::sleep(lease.into());
    for Member { incarnation, name, address, counter, .. } in members()? {
        let stood_still = before.iter().any(|m| (m.incarnation, m.counter) == (incarnation, counter));
        if !stood_still {
            return Err(Error::invalid(format!("silo {name} at {address} runs: stop it first")));
        }
        redis.change_members(&Change::Declare { dead: incarnation, counter })?;
    }
    Ok(())
}

/// The partition is read, and has or will have a record there.
fn check_range(log: &dyn Log, sources: &[SourceSpec], wanted: &Rewind) -> Result<()> {
    let Rewind { topic, partition, to } = wanted;
    let Some(source) = sources.iter().find(|source| source.topic == *topic) else {
        let first = sources.iter().filter(|source| source.again_of.is_none());
        let read: Vec<&str> = first.map(|source| source.topic.as_str()).collect();
        let message = format!("topic `{topic}` is not read by this silo; it reads: {}", read.join(", "));
        return Err(Error::invalid(message));
    };
    if *partition >= source.partitions {
        let message = format!(
            "topic `{topic}` has no partition {partition}: it has {}, counted from 0",
            source.partitions
        );
        return Err(Error::invalid(message));
    }
    let (first, end) = log.bounds(topic, *partition)?;
    if (first..=end).contains(to) {
        return Ok(());
    }
    let message = format!(
        "offset {to} of topic `{topic}` partition {partition} is out of range: the first kept offset is {first}, the \
         next one to be written {end}"
    );
    Err(Error::new(ErrorKind::NotFound, message))
}

/// Where the slots stand that read the partition.
fn stands(store: &dyn Store, config: &Config, wanted: &Rewind) -> Result<Vec<Stand>> {
    let mut stands = Vec::new();
    for (source, spec) in config.sources.iter().enumerate().filter(|(_, spec)| spec.topic == wanted.topic) {
        for slot in (0..config.slots).map(SlotId) {
            let is_fed = !spec.in_place || u32::from(slot.0) % spec.partitions == wanted.partition;
            if is_fed {
                let begins = spec.starts.get(wanted.partition as usize).copied().unwrap_or(0);
                let at = position(store, source, slot, wanted.partition)?.unwrap_or(begins);
                stands.push(Stand { source, slot, at });
            }
        }
    }
    Ok(stands)
}

fn position(store: &dyn Store, source: usize, slot: SlotId, partition: u32) -> Result<Option<u64>> {
    let positions = store.record(slot)?.positions;
    let is_of = |source_no: u16, of: u32| usize::from(source_no) == source && of == partition;
    Ok(positions.iter().find(|p| is_of(p.source.0, p.partition)).map(|p| p.offset))
}

fn goes_back(wanted: &Rewind, stands: &[Stand]) -> Error {
    let Rewind { topic, partition, to } = wanted;
    let lowest = stands.iter().map(|stand| stand.at).min().unwrap_or(0);
    let message = format!(
        "every slot has gone on to offset {lowest} or further in topic `{topic}` partition {partition}, and what it \
         published of the records from {to} on cannot be taken back: it is only possible to go on further ahead. To \
         compute anew what the topic still keeps, give the cluster another name (cluster.name) and its sinks other topics"
    );
    Error::new(ErrorKind::Rejected, message)
}

/// Waits until every slot that was behind has stored where it goes on, and all slots run.
async fn wait(
    handle: &Handle,
    store: &Arc<dyn Store>,
    wanted: &Rewind,
    mut behind: Vec<Stand>,
) -> Result<()> {
    let began = Instant::now();
    let last = loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let stats = handle.stats();
        let (of, partition, to) = (store.clone(), wanted.partition, wanted.to);
        let looked = tokio::task::spawn_blocking(move || {
            let is_behind = |stand: &Stand| {
                let at = position(&*of, stand.source, stand.slot, partition);
                at.map(|at| at.is_none_or(|at| at < to))
            };
            let mut error = None;
            behind.retain(|stand| match is_behind(stand) {
                Ok(is_behind) => is_behind,
                Err(e) => {
                    error = Some(e);
                    true
                }
            });
            (behind, error)
        });
        let (still, error) = looked.await.map_err(|e| Error::new(ErrorKind::Closed, e.to_string()))?;
        behind = still;
        let all_run = stats.slots_running + stats.parked >= u64::from(handle.slots());
        if behind.is_empty() && all_run {
            return Ok(());
        }
        if began.elapsed() > REWIND_MAX {
            break error;
        }
    };
    let slots: Vec<String> = behind.iter().map(|stand| stand.slot.to_string()).collect();
    let why = last.map_or_else(|| "see the log".to_string(), |error| error.to_string());
    let message = format!(
        "not within {REWIND_MAX:?}: slots that have not stored where they go on: {}; {why}. The others have; the same \
         command can be given again",
        if slots.is_empty() { "none".to_string() } else { slots.join(", ") },
    );
    Err(Error::new(ErrorKind::Timeout, message))
}
