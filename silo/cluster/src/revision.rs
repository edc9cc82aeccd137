//! What silos run, in numbered revisions: several may be alive at once while a cluster is upgraded.
//!
//! A silo that starts says what it has: the text of its plan, the steps and kinds that have state, and the names of its sources
//! and streams. [`Registry::register`] gives that a number; the same content has the same number whenever it comes back.
//!
//! A *generation* is what revisions have in common that can read each other's state. As long as it stays the same, silos of
//! any of its revisions may own any slot, and slots go both ways between them: what differs takes effect at the position
//! where a slot changes hands, and the slot's row says which revision has it. What others could not read or know begins the
//! next generation: a kind or step that is new, or of a raised version, a new source or stream. From then on nobody of an
//! earlier generation may own a slot that one of the later has owned: the store refuses it.
//!
//! Sources and streams are numbered by the registry, by their names and for ever: a number in a slot's positions or in its
//! outbox means the same to every revision.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::commit::{Generation, RevisionNo};

#[cfg(test)]
mod tests;

/// Revisions the registry remembers; the oldest is forgotten first. One that was forgotten and comes back has a new number.
pub const REVISIONS_MAX: usize = 64;

/// Which revision a silo runs, and the generation that was its own when it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Program {
    /// The revision's generation.
    pub generation: Generation,
    /// The revision's number.
    pub revision: RevisionNo,
}

/// The state of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepState {
    /// What its cells depend on.
    pub shape: String,
    /// How often a person has decided to drop its state: cells belong to this number, too.
    pub drops: u32,
}

/// What a silo runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The plan, as a text that is equal for equal plans.
    pub plan: String,
    /// The steps that have state, by name.
    pub steps: BTreeMap<String, StepState>,
    /// The state version of each kind.
    pub kinds: BTreeMap<String, u32>,
    /// The names of the sources it reads.
    pub sources: Vec<String>,
    /// The names of the streams it writes.
    pub streams: Vec<String>,
}

/// A numbered content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Its number: 1, 2, 3, ...
    pub number: RevisionNo,
    /// The latest generation it was registered in.
    pub generation: Generation,
    /// What it is.
    pub content: Content,
}

/// State that slots may hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Held<T> {
    state: T,
    /// A person has decided to go on without it.
    is_left_out: bool,
}

/// Every revision that ran lately, and the state that the present generation reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    generation: Generation,
    last: RevisionNo,
    steps: BTreeMap<String, Held<StepState>>,
    kinds: BTreeMap<String, Held<u32>>,
    sources: Vec<String>,
    streams: Vec<String>,
    revisions: Vec<Revision>,
}

/// What a silo has become by registering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// What it runs.
    pub program: Program,
    /// Why it may own no slot: it is of an earlier generation than the newest. Empty when it may.
    pub outdated: Vec<String>,
}

/// Why a program may not run at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Steps have another shape than the state that is stored for them.
    Shapes(Vec<ChangedShape>),
    /// It is older than what is stored, for these reasons, and was never registered.
    Older(Vec<String>),
}

/// A step whose state cannot be read any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedShape {
    /// Its name.
    pub step: String,
    /// The stored shape.
    pub stored: String,
    /// The program's.
    pub wanted: String,
    /// How often its state was dropped so far.
    pub drops: u32,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Shapes(changed) => {
                for ChangedShape { step, stored, wanted, drops } in changed {
                    let next = drops + 1;
                    writeln!(
                        f,
                        "step `{step}` has changed, and its stored state cannot be read any more.\n  stored: {stored}\n  \
                         wanted: {wanted}"
                    )?;
                    writeln!(
                        f,
                        "  Give the changed step another name, which begins with no state beside the old one's; or write \
                         `drop_state: {next}` in the step, which gives up the stored state; or undo the change. State of \
                         a step cannot be migrated yet"
                    )?;
                }
                Ok(())
            }
            Refused::Older(reasons) => write!(
                f,
                "this program is older than the state that is stored: {}. Start the newer program",
                reasons.join("; ")
            ),
        }
    }
}

/// What comparing a content with the present generation found.
#[derive(Default)]
struct Found {
    /// It has what the present generation does not know.
    is_raised: bool,
    older: Vec<String>,
    changed: Vec<ChangedShape>,
}

impl Registry {
    /// The present generation.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Those that ran lately, by number.
    pub fn revisions(&self) -> &[Revision] {
        &self.revisions
    }

    /// The names of all sources there ever were: a source's number is its place.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    /// The names of all streams there ever were: a stream's number is its place.
    pub fn streams(&self) -> &[String] {
        &self.streams
    }

    /// A silo starts with this content. `left_out` names steps and kinds it goes on without on purpose.
    pub fn register(
        &mut self,
        content: &Content,
        left_out: &BTreeSet<String>,
    ) -> Result<Registered, Refused> {
        let found = self.compare(content, left_out);
        if !found.changed.is_empty() {
            return Err(Refused::Shapes(found.changed));
        }
        let known = self.revisions.iter().position(|revision| revision.content == *content);
        if !found.older.is_empty() {
            let Some(at) = known else { return Err(Refused::Older(found.older)) };
            let Revision { number, generation, .. } = self.revisions[at];
            return Ok(Registered {
                program: Program { revision: number, generation },
                outdated: found.older,
            });
        }
        if found.is_raised || self.generation == Generation(0) {
            self.generation.0 += 1;
            self.adopt(content);
        }
        let number = match known {
            Some(at) => {
                self.revisions[at].generation = self.generation;
                self.revisions[at].number
            }
            None => self.append(content),
        };
        Ok(Registered {
            program: Program { revision: number, generation: self.generation },
            outdated: Vec::new(),
        })
    }

    fn append(&mut self, content: &Content) -> RevisionNo {
        self.last.0 += 1;
        if self.revisions.len() == REVISIONS_MAX {
            self.revisions.remove(0);
        }
        let (number, generation, content) = (self.last, self.generation, content.clone());
        self.revisions.push(Revision { number, generation, content });
        number
    }

    /// The next generation reads what this content reads.
    fn adopt(&mut self, content: &Content) {
        adopt(&mut self.steps, &content.steps);
        adopt(&mut self.kinds, &content.kinds);
        for (known, wanted) in [(&mut self.sources, &content.sources), (&mut self.streams, &content.streams)]
        {
            for name in wanted {
                if !known.contains(name) {
                    known.push(name.clone());
                }
            }
        }
    }

    fn compare(&self, content: &Content, left_out: &BTreeSet<String>) -> Found {
        let mut found = Found::default();
        for (step, wanted) in &content.steps {
            self.compare_step(step, wanted, &mut found);
        }
        for (kind, wanted) in &content.kinds {
            match self.kinds.get(kind) {
                Some(held) if *wanted < held.state => found.older.push(format!(
                    "kind `{kind}` has state version {wanted}, stored is version {}",
                    held.state
                )),
                Some(held) => found.is_raised |= *wanted > held.state || held.is_left_out,
                None => found.is_raised = true,
            }
        }
        let steps = lacking(&self.steps, &content.steps).map(|name| ("step", name));
        let kinds = lacking(&self.kinds, &content.kinds).map(|name| ("kind", name));
        for (what, name) in steps.chain(kinds) {
            if left_out.contains(name) {
                found.is_raised = true;
            } else {
                found.older.push(format!(
                    "it has no {what} `{name}` (to go on without it, name it in cluster.left_out)"
                ));
            }
        }
        let is_new = |known: &[String], wanted: &[String]| wanted.iter().any(|name| !known.contains(name));
        found.is_raised |= is_new(&self.sources, &content.sources) || is_new(&self.streams, &content.streams);
        found
    }

    fn compare_step(&self, step: &str, wanted: &StepState, found: &mut Found) {
        let Some(Held { state, is_left_out }) = self.steps.get(step) else {
            found.is_raised = true;
            return;
        };
        let (drops, next) = (state.drops, state.drops + 1);
        if wanted.drops > drops {
            found.is_raised = true;
        } else if *is_left_out {
            found.older.push(format!(
                "step `{step}` was left out meanwhile, so its state has a gap (to begin it anew, write `drop_state: {next}` \
                 in the step)"
            ));
        } else if wanted.drops < drops {
            found
                .older
                .push(format!("step `{step}` has drop_state {}, the stored state {drops}", wanted.drops));
        } else if wanted.shape != state.shape {
            let (step, stored, wanted) = (step.to_owned(), state.shape.clone(), wanted.shape.clone());
            found.changed.push(ChangedShape { step, stored, wanted, drops });
        }
    }
}

/// What is held and neither wanted nor left out before.
fn lacking<'h, T, U>(
    held: &'h BTreeMap<String, Held<T>>,
    wanted: &BTreeMap<String, U>,
) -> impl Iterator<Item = &'h String> {
    held.iter().filter(|(name, held)| !held.is_left_out && !wanted.contains_key(*name)).map(|(name, _)| name)
}

fn adopt<T: Clone>(held: &mut BTreeMap<String, Held<T>>, wanted: &BTreeMap<String, T>) {
    for (name, held) in held.iter_mut() {
        held.is_left_out = !wanted.contains_key(name);
    }
    for (name, state) in wanted {
        held.insert(name.clone(), Held { state: state.clone(), is_left_out: false });
    }
}
