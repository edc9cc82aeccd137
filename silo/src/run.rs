//! `granary run`: a pipeline over files to their end, embedded. Started again it goes on from its last commit.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use granary_cluster::{Batch, Log, Store};
use granary_core::{Error, ErrorKind, KindInfo, Result, SlotId, Span};
use granary_engine::config::OpenSource;
use granary_engine::{Handle, Source, SourceSpec, Stats};
use granary_store::{Durability, Embedded, Export};
use granary_streams::plan::Target;
use granary_streams::run::counts::Counts;
use granary_streams::{Plan, plan};

use crate::assembly::{Assembly, Running};
use crate::backing::Backing;
use crate::files::FileSource;
use crate::results;
use crate::revisions::nobodys;

/// The store of a run, below its output directory.
pub const STORE_DIR: &str = ".granary";

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// What to run.
pub struct Options {
    /// The pipeline.
    pub plan: Plan,
    /// `[SOURCE=]FILE`: files stand in for sources.
    pub inputs: Vec<String>,
    /// Where results go.
    pub out: PathBuf,
    /// Also every row in order, to `DIR/<sink>.changes.jsonl`.
    pub changes: bool,
    /// Also `DIR/verdicts.csv`.
    pub verdicts: bool,
    /// Lanes; one per core when 0.
    pub lanes: u16,
    /// Records per commit at most.
    pub batch_records_max: usize,
    /// When a commit counts as kept.
    pub durability: Durability,
    /// Kinds of grains that sinks call.
    pub kinds: Vec<&'static KindInfo>,
    /// How long a plain turn may hold its lane before the process is ended.
    pub turn_max: Option<Span>,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What the lanes have counted since the start of the process.
    pub stats: Stats,
    /// Bytes of all inputs.
    pub is_finished: bool,
}

/// Runs to the end of all inputs; `progress` is told now and then. Returns what became of all records, of earlier
/// attempts too.
pub async fn run(options: Options, mut progress: impl FnMut(Progress)) -> Result<Counts> {
    let Options {
        plan,
        inputs,
        out,
        changes,
        verdicts,
        lanes,
        batch_records_max,
        durability,
        kinds,
        turn_max,
    } = options;
    let plan = Arc::new(if verdicts { plan.with_verdicts() } else { plan });
    let files = files_of(&plan, &inputs)?;
    std::fs::create_dir_all(&out).map_err(|e| unwritable(&out, &e))?;
    let assembly = |level| Assembly {
        cluster: "run".into(),
        lanes,
        plan: Some(plan.clone()),
        sink_partitions: 1,
        durability,
        kinds: kinds.clone(),
        turn_max,
        ending_level: level,
        ..Assembly::default()
    };
    let store = assembly(0).open_store(&out.join(STORE_DIR))?;
    check_same_run(&store, &plan, &files)?;
    tell_where_it_stands(&store, assembly(0).slots)?;
    let mut last = None;
    // What comes to roll-ups has an end when all that is sent there was: level by level.
    for level in 0..=plan.levels() {
        let assembly = assembly(level);
        let backing = Backing::embedded(store.clone(), assembly.slots)?;
        let mut config = assembly.config(&backing)?;
        config.finite = true;
        config.batch_records_max = batch_records_max;
        config.sources = sources(&plan, &files, level, &assembly, &backing)?;
        let running = Running::start(assembly, config, backing)?;
        wait(&running.handle(), level == plan.levels(), &mut progress).await;
        last = Some((running.counts()?, Topics::of(&running, &plan)?));
        running.stop().await;
    }
    let (counts, topics) = last.expect("there is one level at least");
    write_out(&store, &plan, &topics, &out, changes)?;
    Ok(counts)
}

/// The files, and what comes to the roll-ups up to a level as far as it was sent.
fn sources(
    plan: &Plan,
    files: &[Vec<PathBuf>],
    level: u16,
    assembly: &Assembly,
    backing: &Backing,
) -> Result<Vec<SourceSpec>> {
    let of_files = files.iter().enumerate().map(|(i, files)| SourceSpec {
        topic: plan.sources[i].topic.to_string(),
        partitions: files.len() as u32,
        in_place: false,
        starts: Vec::new(),
        rewound: Vec::new(),
        again_of: None,
        strays: None,
        open: FileSource::opener(files.clone()),
    });
    // a file has no strays, and nothing of it is read again
    let none = (0..plan.sources.len() + plan.again().count()).map(|_| nobodys());
    let rolled = plan.rollups().zip(plan.rolled()).map(|((_, rollup), stream)| {
        if rollup.level > level {
            return Ok(nobodys());
        }
        let topic = plan.topic(stream, &assembly.cluster);
        let ends =
            (0..u32::from(assembly.slots)).map(|partition| Ok(backing.log.bounds(&topic, partition)?.1));
        let ends = ends.collect::<Result<Vec<u64>>>()?;
        Ok(SourceSpec {
            partitions: ends.len() as u32,
            in_place: true,
            open: Written::opener(backing.log.clone(), topic.clone(), ends),
            topic,
            ..nobodys()
        })
    });
    of_files.chain(none).map(Ok).chain(rolled).collect()
}

/// A topic as far as it was written when the run came to it.
struct Written {
    log: Arc<dyn Log>,
    topic: String,
    partition: u32,
    end: u64,
}

impl Written {
    fn opener(log: Arc<dyn Log>, topic: String, ends: Vec<u64>) -> OpenSource {
        Arc::new(move |partition| {
            let end = ends[partition as usize];
            Ok(Box::new(Written { log: log.clone(), topic: topic.clone(), partition, end }))
        })
    }
}

impl Source for Written {
    fn read(&mut self, from: u64, bytes_max: usize, batch: &mut Batch) -> Result<()> {
        if from >= self.end {
            return Ok(());
        }
        self.log.read(&self.topic, self.partition, from, bytes_max, batch)
    }

    fn has_ended(&mut self, at: u64) -> Result<bool> {
        Ok(at >= self.end)
    }
}

/// Logs how far the slots have come: where reading will go on.
fn tell_where_it_stands(store: &Embedded, slots: u16) -> Result<()> {
    let (mut commits, mut uncommitted, mut lowest) = (0, 0, u64::MAX);
    for slot in 0..slots {
        let record = store.record(SlotId(slot))?;
        commits += record.n.0;
        uncommitted += u64::from(record.n.0 == 0);
        lowest = lowest.min(record.positions.iter().map(|p| p.offset).min().unwrap_or(0));
    }
    tracing::info!(commits, uncommitted, lowest, "slots stand");
    Ok(())
}

async fn wait(handle: &Handle, is_last: bool, progress: &mut impl FnMut(Progress)) {
    let finished = handle.finished();
    tokio::pin!(finished);
    loop {
        let is_finished = tokio::time::timeout(PROGRESS_EVERY, &mut finished).await.is_ok();
        progress(Progress { stats: handle.stats(), is_finished: is_finished && is_last });
        if is_finished {
            return;
        }
    }
}

/// The files of each source, in the order of the plan.
fn files_of(plan: &Plan, inputs: &[String]) -> Result<Vec<Vec<PathBuf>>> {
    let mut files = vec![Vec::new(); plan.sources.len()];
    for input in inputs {
        let named = input.split_once('=').and_then(|(name, file)| Some((plan.source(name)?, file)));
        let (source, file) = match named {
            Some(named) => named,
            None if plan.sources.len() == 1 => (0, input.as_str()),
            None => {
                let names: Vec<&str> = plan.sources.iter().map(|s| &*s.name).collect();
                let message = format!(
                    "--input {input}: say which source it stands in for: {}=FILE",
                    names.join("=FILE or ")
                );
                return Err(Error::invalid(message));
            }
        };
        let path = PathBuf::from(file);
        if !path.is_file() {
            return Err(Error::new(ErrorKind::NotFound, format!("--input {file}: there is no such file")));
        }
        files[source].push(path);
    }
    match files.iter().position(Vec::is_empty) {
        Some(i) => {
            Err(Error::invalid(format!("source `{}` has no input: give --input", plan.sources[i].name)))
        }
        None => Ok(files),
    }
}

/// A store goes on with the pipeline and the files it began with: with others its positions would mean nothing.
fn check_same_run(store: &Embedded, plan: &Plan, files: &[Vec<PathBuf>]) -> Result<()> {
    let dropped = |drops| if drops == 0 { String::new() } else { format!(" drop_state={drops}") };
    let shapes: Vec<String> = plan
        .shapes()
        .into_iter()
        .zip(plan.drops())
        .map(|((name, shape), (_, drops))| format!("{name}: {shape}{}", dropped(drops)))
        .collect();
    let names: Vec<String> = files.iter().flatten().map(|path| path.display().to_string()).collect();
    let now = format!("pipeline {}\nsteps {}\ninputs {}", plan.name, shapes.join("; "), names.join(" "));
    let Some(before) = store.bookmark("run")? else {
        return store.set_bookmark("run", now.as_bytes());
    };
    if before == now.as_bytes() {
        return Ok(());
    }
    let message = format!(
        "the output directory holds a run that began differently; choose another --out, or remove its {STORE_DIR}.\n\
         it began with:\n{}\nand this is:\n{now}",
        String::from_utf8_lossy(&before)
    );
    Err(Error::invalid(message))
}

/// The topics behind a run's output files.
struct Topics {
    sinks: Vec<(String, String)>,
    set_aside: Vec<(String, String)>,
    verdicts: Option<String>,
}

impl Topics {
    fn of(running: &Running, plan: &Plan) -> Result<Topics> {
        let topic = |name: &str| {
            let message = || Error::new(ErrorKind::NotFound, format!("the plan has no stream `{name}`"));
            running.assembly().topic_of(name).ok_or_else(message)
        };
        let written = |sink: &&plan::Sink| matches!(sink.to, Target::Topic(_) | Target::File(_));
        let sinks =
            plan.sinks.iter().filter(written).map(|sink| Ok((sink.name.to_string(), topic(&sink.name)?)));
        let alerts = plan::ALERTS.iter().filter(|name| plan.stream(name).is_some());
        let set_aside =
            plan::SET_ASIDE.iter().chain(alerts).map(|name| Ok(((*name).to_string(), topic(name)?)));
        let has_verdicts = plan.stream(plan::VERDICTS).is_some();
        Ok(Topics {
            sinks: sinks.collect::<Result<_>>()?,
            set_aside: set_aside.collect::<Result<_>>()?,
            verdicts: has_verdicts.then(|| topic(plan::VERDICTS)).transpose()?,
        })
    }
}

fn write_out(store: &Arc<Embedded>, plan: &Plan, topics: &Topics, out: &Path, changes: bool) -> Result<()> {
    for (sink, topic) in &topics.sinks {
        if changes {
            Export::open(store, topic, out, sink)?.catch_up()?;
        }
        let file = plan.sinks.iter().find(|s| *s.name == **sink).map(|s| match &s.to {
            Target::File(file) => file.to_string(),
            _ => format!("{sink}.jsonl"),
        });
        results::write_last(store, topic, &out.join(file.unwrap_or_else(|| format!("{sink}.jsonl"))))?;
    }
    for (name, topic) in &topics.set_aside {
        results::write_all(store, topic, &out.join(format!("{name}.jsonl")))?;
    }
    if let Some(topic) = &topics.verdicts {
        results::write_verdicts(store, topic, &out.join("verdicts.csv"))?;
    }
    Ok(())
}

pub(crate) fn unwritable(path: &Path, e: &std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{}: cannot be written: {e}", path.display()))
}
