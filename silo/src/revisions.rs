//! What a silo runs, as a numbered revision: registered in the store before anything starts, see [`cluster::revision`].
//!
//! [`cluster::revision`]: granary_cluster::revision

use std::sync::Arc;

use granary_cluster::revision::{Content, Registered, Registry, StepState};
use granary_cluster::{SourceId, StreamId};
use granary_core::{Error, ErrorKind, Result};
use granary_engine::{Config, SourceSpec};
use granary_streams::numbered::{Numbered, Numbers};

use crate::assembly::Assembly;
use crate::backing::Backing;

/// Where the store keeps the registry.
const NAME: &str = "revisions";

/// Silos that start at the same time change the registry one after the other; one that was overtaken so often gives up.
const ATTEMPTS_MAX: usize = 64;

/// A silo's revision, registered.
#[derive(Clone, Debug)]
pub struct Runs {
    /// Revision and generation, and why it may own no slot.
    pub registered: Registered,
    /// The topics of its output streams, by their numbers.
    pub streams: Vec<String>,
    content: Arc<Content>,
}

impl Runs {
    /// Whether the store still says the same: a server that lost its last writes may have lost the registration, and have
    /// given its numbers to others.
    pub fn are_known(&self, backing: &Backing) -> Result<bool> {
        let registry = read(backing)?.1;
        let program = self.registered.program;
        let mut same = registry.revisions().iter().filter(|revision| revision.number == program.revision);
        let known = same.next();
        Ok(known
            .is_some_and(|known| known.content == *self.content && known.generation >= program.generation))
    }
}

/// A number's topic: names end with it, and no topic has a blank.
fn topic(name: &str) -> String {
    name.rsplit_once(' ').map_or(name, |(_, topic)| topic).to_owned()
}

impl Assembly {
    /// Has the store number what this silo runs.
    pub(crate) fn register(&self, backing: &Backing) -> Result<(Runs, Numbers)> {
        let content = self.content(backing);
        for _ in 0..ATTEMPTS_MAX {
            let (before, mut registry) = read(backing)?;
            let registered = registry
                .register(&content, &self.left_out)
                .map_err(|refused| Error::invalid(refused.to_string()))?;
            if !registered.outdated.is_empty() && backing.as_external().is_none() {
                // an embedded store has one silo: there is nobody who could own the slots instead
                let message = format!(
                    "this program is older than the state in its store: {}. Start the newer program",
                    registered.outdated.join("; ")
                );
                return Err(Error::invalid(message));
            }
            if replace(backing, before.as_deref(), &registry)? {
                let numbers = numbers(&content, &registry);
                let streams = registry.streams().iter().map(|name| topic(name)).collect();
                return Ok((Runs { registered, streams, content: Arc::new(content) }, numbers));
            }
        }
        let message = format!("other silos changed the registry of revisions {ATTEMPTS_MAX} times meanwhile");
        Err(Error::new(ErrorKind::Unavailable, message))
    }

    /// What this silo runs.
    fn content(&self, backing: &Backing) -> Content {
        let plan = self.plan.as_deref();
        let mut content =
            Content { plan: plan.map(|plan| plan.text()).unwrap_or_default(), ..Content::default() };
        if let Some(plan) = plan {
            for ((step, shape), (_, drops)) in plan.shapes().into_iter().zip(plan.drops()) {
                content.steps.insert(step.to_owned(), StepState { shape, drops });
            }
        }
        content.kinds = self.hosted().iter().map(|kind| (kind.name.to_owned(), kind.version)).collect();
        content.sources = self.source_names();
        content.streams = self.stream_names();
        if let Some(external) = backing.as_external() {
            content.streams.push(format!("journal {}", external.kafka.settings().slots_topic()));
        }
        content
    }
}

/// The numbers of a content's sources and streams. A silo that may own no slot uses none of them: names that are not
/// numbered stand behind the others.
fn numbers(content: &Content, registry: &Registry) -> Numbers {
    let number = |known: &[String], wanted: &[String]| -> Vec<u16> {
        let place = |name: &String| known.iter().position(|known| known == name);
        let mut unknown = known.len()..;
        let mut number = |name| place(name).or_else(|| unknown.next()).map(|place| place as u16);
        wanted.iter().filter_map(&mut number).collect()
    };
    Numbers {
        sources: number(registry.sources(), &content.sources).into_iter().map(SourceId).collect(),
        streams: number(registry.streams(), &content.streams).into_iter().map(StreamId).collect(),
    }
}

/// The configuration of a plan that numbers from the top, by the numbers of the cluster.
pub(crate) fn renumber(config: &mut Config, numbers: Numbers) {
    if numbers.are_places() {
        return;
    }
    config.streams.iter_mut().for_each(|(_, stream)| *stream = numbers.stream(*stream));
    config.eager.iter_mut().for_each(|stream| *stream = numbers.stream(*stream));
    let end = numbers.sources.iter().map(|source| usize::from(source.0) + 1).max().unwrap_or(0);
    let mut sources = vec![nobodys(); end];
    for (mut source, number) in std::mem::take(&mut config.sources).into_iter().zip(&numbers.sources) {
        source.strays = source.strays.map(|stream| numbers.stream(stream));
        source.again_of = source.again_of.map(|first| numbers.sources[usize::from(first.0)]);
        sources[usize::from(number.0)] = source;
    }
    config.sources = sources;
    let (inner, numbers) = (config.pipeline.clone(), Arc::new(numbers));
    config.pipeline = Arc::new(move || Box::new(Numbered::new(inner(), numbers.clone())));
}

/// In the place of a source that another revision reads. It has no partitions: what slots know of it stays as it is.
pub(crate) fn nobodys() -> SourceSpec {
    SourceSpec {
        topic: String::new(),
        partitions: 0,
        in_place: false,
        strays: None,
        starts: Vec::new(),
        rewound: Vec::new(),
        again_of: None,
        open: Arc::new(|_| Err(Error::new(ErrorKind::NotFound, "this revision does not read the source"))),
    }
}

/// The registry, and its text as it is stored.
fn read(backing: &Backing) -> Result<(Option<String>, Registry)> {
    let text = match (backing.as_external(), backing.as_embedded()) {
        (Some(external), _) => external.redis.noted(NAME)?,
        (_, Some(embedded)) => {
            embedded.bookmark(NAME)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        }
        (None, None) => None,
    };
    let unreadable = |e: serde_json::Error| {
        Error::new(ErrorKind::Codec, format!("the registry of revisions in the store cannot be read: {e}"))
    };
    let registry = text.as_deref().map(serde_json::from_str).transpose().map_err(unreadable)?;
    Ok((text, registry.unwrap_or_default()))
}

/// Stores the registry if it is still what it was.
fn replace(backing: &Backing, before: Option<&str>, registry: &Registry) -> Result<bool> {
    let text = serde_json::to_string(registry).map_err(|e| Error::new(ErrorKind::Codec, e.to_string()))?;
    if before == Some(&*text) {
        return Ok(true);
    }
    match (backing.as_external(), backing.as_embedded()) {
        (Some(external), _) => external.redis.replace_note(NAME, before, &text),
        (_, Some(embedded)) => embedded.set_bookmark(NAME, text.as_bytes()).map(|()| true),
        (None, None) => Ok(true),
    }
}
