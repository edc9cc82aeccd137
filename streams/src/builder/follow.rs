//! What a built pattern and a built join have in common: name, state, sinks, the plan.

use granary_core::Grain;

use super::results::check_name;
use super::sinks::Sinks;
use super::{Parts, name_of};
use crate::asked::Written;
use crate::file::{Mistakes, is_name};
use crate::plan::{Delivery, Does, From, Plan, State, Step, Target};

/// A pattern ([`Follow<Sequence>`](super::Sequence)) or a join ([`Follow<Pairs>`](super::Pairs)): say more of what it looks for, and
/// where its rows go.
#[must_use = "a stream does nothing until its plan is run"]
#[derive(Debug)]
pub struct Follow<S> {
    pub(super) parts: Parts,
    pub(super) name: Box<str>,
    pub(super) seeks: S,
    drops: u32,
    sinks: Sinks,
}

impl<S> Follow<S> {
    pub(super) fn new(parts: Parts, name: Box<str>, seeks: S) -> Follow<S> {
        Follow { parts, name, seeks, drops: 0, sinks: Sinks::default() }
    }

    /// Names the step: its state belongs to the name. Unique in a cluster; without it, the step is named after its topics.
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// How often the stored state of this step was given up: raise it by one when the step has changed so that its state
    /// cannot be read any more, and is to begin anew.
    pub fn drop_state(mut self, times: u32) -> Self {
        self.drops = times;
        self
    }

    /// Writes every row to a topic, exactly once.
    pub fn to_topic(mut self, topic: &str) -> Self {
        self.sinks.topic(topic, Delivery::ExactlyOnce);
        self
    }

    /// Writes every row to a topic before its commit: sooner, and again with the same identity when a commit is made
    /// again. On the embedded log a row is visible with its commit, exactly once.
    pub fn to_topic_eagerly(mut self, topic: &str) -> Self {
        self.sinks.topic(topic, Delivery::Eager);
        self
    }

    /// Calls this method of the grain of the row's key with every row, as part of the turn: what it changes is committed with the
    /// row. Its argument has the members of the row.
    pub fn to_grain<G: Grain>(mut self, method: &str) -> Self {
        self.sinks.grain(Target::Grain { kind: G::KIND.into(), method: method.into() });
        self
    }

    /// The plan, or everything that is wrong with it. `does` makes the step, and says what it reads first.
    pub(super) fn finish(
        self,
        does: impl FnOnce(S, &Parts, State, &mut Mistakes) -> Option<(From, Does)>,
    ) -> Result<Plan, Mistakes> {
        let Follow { parts, name, seeks, drops, sinks } = self;
        let (mut mistakes, mut own) = (Mistakes::default(), Mistakes::default());
        check_name(&name, &mut mistakes);
        sinks.check(&mut mistakes);
        parts.check(&name, &mut own);
        let does = does(seeks, &parts, State::new(&name, drops), &mut own);
        mistakes.add_part(&format!("step `{name}`"), own);
        let Some((from, does)) = does.filter(|_| mistakes.is_empty()) else { return Err(mistakes) };
        let source = parts.source_of(from);
        let columns = if does_join(&does) { Vec::new() } else { parts.sources[source].columns.clone() };
        Ok(parts.plan(Step { name, from, source, does, columns }, sinks))
    }
}

fn does_join(does: &Does) -> bool {
    matches!(does, Does::Join(_))
}

impl Parts {
    /// The place of the source at the beginning of what is read.
    pub(super) fn source_of(&self, from: From) -> usize {
        match from {
            From::Source(place) => place,
            From::Step(place) => self.steps[place].source,
        }
    }

    /// The names of the fields of a source.
    pub(super) fn fields(&self, source: usize) -> Vec<Written<'_>> {
        let columns = &self.sources[source].columns;
        let names = self.fields[source].iter().filter_map(|field| columns.iter().find(|c| c.index == *field));
        names.map(|column| Written::by_code(&column.name)).collect()
    }

    /// What is wrong with names: of the pipeline, of fields, of the step.
    fn check(&self, step: &str, mistakes: &mut Mistakes) {
        if let [first, second] = &self.pipelines[..]
            && first != second
        {
            mistakes.add(None, format!("one pipeline has two names, `{first}` and `{second}`"));
        }
        for (source, fields) in self.sources.iter().zip(&self.fields) {
            if *source.name == *step {
                mistakes.add(None, format!("`{step}` is the name of a source too"));
            }
            for (i, column) in source.columns.iter().enumerate().filter(|(i, _)| fields.contains(i)) {
                let name = &column.name;
                if !is_name(name) {
                    let message =
                        format!("field `{name}`: a letter, then letters, digits, `_` or `-` expected");
                    mistakes.add(None, message);
                }
                if source.columns.iter().enumerate().any(|(other, c)| other != i && c.name == *name) {
                    mistakes.add(None, format!("field `{name}` of `{}` stands twice", source.name));
                }
            }
        }
    }
}

/// The name of a step that has none: after what it reads.
pub(super) fn name_after(parts: &Parts, last: &str) -> Box<str> {
    let topics: Vec<_> = parts.sources.iter().map(|source| name_of(&source.topic)).collect();
    format!("{}-{last}", topics.join("-")).into()
}
