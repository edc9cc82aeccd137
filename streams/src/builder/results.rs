//! Where the results of a built pipeline go, and its plan.

use std::marker::PhantomData;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use granary_core::{Call, Method, Timestamp, Unbound};
use granary_window::{Op, Reason, Row};

use super::sinks::Sinks;
use super::value::Shown;
use super::windows::WindowStream;
use super::{Keyed, Of, Parts};
use crate::file::{Mistakes, is_name};
use crate::plan::{
    Column, ColumnKind, Delivery, Does, MakeCall, Plan, Step, Target, Tell, WindowStep, prefix,
};

/// A window's value, as a grain gets it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Windowed<V> {
    /// The routing key.
    pub key: String,
    /// The window's first time; [`Timestamp::MIN`] for a window without times.
    pub start: Timestamp,
    /// The first time after it; [`Timestamp::MAX`] for a window without times.
    pub end: Timestamp,
    /// The value.
    pub value: V,
    /// How many rows of the window came before: above 0 it corrects an earlier one.
    pub revision: u32,
}

/// Results of windows: say where they go.
#[must_use = "a stream does nothing until its plan is run"]
pub struct Results<T, V> {
    windows: WindowStream<T>,
    sinks: Sinks,
    value: Of<V>,
}

impl<T: 'static, V: Shown> Results<T, V> {
    pub(super) fn new(windows: WindowStream<T>) -> Results<T, V> {
        Results { windows, sinks: Sinks::default(), value: PhantomData }
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

    /// Calls a grain of the same key with every value, as part of the turn: what it changes is committed with the
    /// window. Withdrawn rows call nobody.
    pub fn to_grain<M: Method>(
        mut self,
        call: impl Fn(Windowed<V>) -> Call<Unbound, M> + Send + Sync + 'static,
    ) -> Self
    where
        V: 'static,
    {
        let make: Box<MakeCall> = Box::new(move |row| {
            if row.reason == Reason::Delete || row.op == Some(Op::Retract) {
                return Ok(None);
            }
            let (grain, method, arguments) =
                call(windowed(row)).into_parts().map_err(|error| error.message().to_owned())?;
            if grain.key.routing_key().as_bytes() != row.key {
                let key = String::from_utf8_lossy(row.key);
                return Err(format!(
                    "{grain} does not live with key `{key}`: a pipeline calls grains of its own key"
                ));
            }
            Ok(Some(Tell { grain, method: method.into(), arguments }))
        });
        self.sinks.grain(Target::Call(make));
        self
    }

    /// The plan, or everything that is wrong with it.
    pub fn plan(self) -> Result<Plan, Mistakes> {
        let WindowStream { stream, key, name, by, mut spec, inputs, drops } = self.windows;
        let mut mistakes = Mistakes::default();
        spec.watermark = stream.watermark;
        for mistake in spec.check() {
            mistakes.add(None, format!("step `{name}`: {}: {}", mistake.field, mistake.message));
        }
        names(&name, &by, &mut mistakes);
        self.sinks.check(&mut mistakes);
        let id = stream.id.into_iter().collect();
        let mut parts = Parts::default();
        let from = Keyed { stream, key, fields: Vec::new() }.read_into(&mut parts);
        let columns = parts.sources[0].columns.clone();
        let window = WindowStep {
            by,
            spec: Arc::new(spec),
            inputs,
            id,
            gap: None,
            drops,
            prefix: prefix(&name, drops),
        };
        let does = Does::Window(Box::new(window));
        let step = Step { name, from, source: 0, does, columns };
        if mistakes.is_empty() { Ok(parts.plan(step, self.sinks)) } else { Err(mistakes) }
    }
}

fn names(step: &str, by: &[Column], mistakes: &mut Mistakes) {
    check_name(step, mistakes);
    for column in by.iter().filter(|column| column.kind != ColumnKind::Any || !is_name(&column.name)) {
        mistakes
            .add(None, format!("by `{}`: a letter, then letters, digits, `_` or `-` expected", column.name));
    }
}

/// Whether a step can have this name.
pub(super) fn check_name(step: &str, mistakes: &mut Mistakes) {
    if !is_name(step) {
        mistakes.add(None, format!("step `{step}`: a letter, then letters, digits, `_` or `-` expected"));
    }
}

fn windowed<V: Shown>(row: &Row<'_>) -> Windowed<V> {
    Windowed {
        key: String::from_utf8_lossy(row.key).into_owned(),
        start: row.start,
        end: row.end,
        value: V::shown(&row.values.get(0)),
        revision: row.revision,
    }
}
