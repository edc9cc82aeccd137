//! A step of rules: which of a file's rules it judges, and where their events come from.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use granary_core::Timestamp;
use granary_window::Value;

use super::revision::{Bundle, Newest};
use super::{Column, ColumnKind, Rows, Source, Step};
use crate::decode::Fields;
use crate::rules::{Event, Field, Info, Raw, Reader, Rules, UnfitEvent};

/// What names a row of a window, for rules.
pub(crate) const ROW_ID: &str = "window";
/// The place of the routing key among the members of such a row.
const ROW_KEY: usize = 3;

/// Rules on the events of a source, as far as their key begins with the source's.
pub struct RulesStep {
    /// Which revision it is; 0 for the file that the pipeline names.
    pub revision: u64,
    /// What the rules are made of.
    pub bundle: Bundle,
    /// The rules of the file.
    pub rules: Arc<Rules>,
    /// For each rule the alerts that were raised here by this revision and reach people.
    pub(crate) raised: Vec<AtomicU64>,
    /// For each rule those that were raised and are muted.
    pub(crate) muted: Vec<AtomicU64>,
    /// What the events of the step are like.
    frame: Arc<Frame>,
    /// Reads rows of windows.
    pub(crate) reader: Reader,
    /// The newest revision, for all of them.
    pub(crate) newest: Arc<Newest>,
    /// The sets that are judged here.
    pub(crate) groups: Vec<usize>,
    /// For each field of the file's events its column.
    columns: Vec<Option<usize>>,
    /// The column that names an event.
    id: usize,
    /// The prefix of its cells' keys.
    pub(crate) prefix: Box<[u8]>,
}

/// What rules have to fit.
#[derive(Debug)]
struct Frame {
    source: Box<str>,
    /// The column that names an event, and the one of the routing key.
    id: Option<usize>,
    key: usize,
    columns: Vec<Column>,
    /// They are rows of a step.
    are_rows: bool,
}

/// The same for equal rules, whatever order their lists are kept in.
impl std::fmt::Debug for RulesStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rules = self.rules.infos().iter().map(|info| {
            let Info { id, hash, mode, severity, case, include, .. } = info;
            (id, hash, mode, severity, case, include)
        });
        let lists = self.rules.lists();
        f.debug_struct("Rules").field("rules", &rules.collect::<Vec<_>>()).field("lists", &lists).finish()
    }
}

impl RulesStep {
    /// The rules of a file on events with these columns; what is wrong with that.
    pub(crate) fn new(
        step: &str,
        (bundle, rules): (Bundle, Rules),
        source: &Source,
        columns: &[Column],
    ) -> Result<RulesStep, Vec<String>> {
        let (name, columns) = (source.name.clone(), columns.to_vec());
        let frame = Frame { source: name, id: source.id, key: source.key, columns, are_rows: false };
        RulesStep::begin(step, frame, (bundle, rules))
    }

    /// The rules of a file on the rows of a step; what is wrong with that.
    pub(crate) fn on_rows(
        step: &str,
        (bundle, rules): (Bundle, Rules),
        of: &Step,
        rows: &Rows,
    ) -> Result<RulesStep, Vec<String>> {
        let columns = row_columns(rows);
        let frame = Frame { source: of.name.clone(), id: Some(0), key: ROW_KEY, columns, are_rows: true };
        RulesStep::begin(step, frame, (bundle, rules))
    }

    fn begin(step: &str, frame: Frame, (bundle, rules): (Bundle, Rules)) -> Result<RulesStep, Vec<String>> {
        // Beside the prefixes of windows (`w/`), counts (`c/`) and the engine's own: reminders have `r/`.
        let prefix = format!("j/{step}/").into_bytes().into();
        RulesStep::fit(0, bundle, rules, Arc::new(frame), Arc::default(), prefix)
    }

    /// Whether it judges rows of windows.
    pub(crate) fn reads_rows(&self) -> bool {
        self.frame.are_rows
    }

    /// The same step with the rules of another revision; what is wrong with them.
    pub(crate) fn revised(&self, revision: u64, bundle: &Bundle) -> Result<Arc<RulesStep>, Vec<String>> {
        let (frame, newest, prefix) = (self.frame.clone(), self.newest.clone(), self.prefix.clone());
        let rules = bundle.rules()?;
        RulesStep::fit(revision, bundle.clone(), rules, frame, newest, prefix).map(Arc::new)
    }

    fn fit(
        revision: u64,
        bundle: Bundle,
        rules: Rules,
        frame: Arc<Frame>,
        newest: Arc<Newest>,
        prefix: Box<[u8]>,
    ) -> Result<RulesStep, Vec<String>> {
        let mut mistakes = Vec::new();
        let Frame { source, id, key, columns, are_rows } = &*frame;
        let place =
            |name: &str| columns.iter().find(|column| *column.name == *name).map(|column| column.index);
        let Some(id) = *id else {
            return Err(vec![format!("source `{source}` has no `id`: rules name events by it")]);
        };
        let spec = rules.spec();
        if *are_rows {
            mistakes.extend(row_mistakes(source, &spec.id.member, &spec.time.member));
        }
        let column = |field: &Field| {
            let column = place(&field.from.member);
            if column.is_none() && !field.is_optional {
                let member = &field.from.member;
                mistakes.push(format!("no column `{member}` in source `{source}`, which the rules read"));
            }
            column
        };
        let of_fields = spec.fields.iter().map(column).collect::<Vec<_>>();
        let is_served = |per: &[usize]| per.first().is_some_and(|field| of_fields[*field] == Some(*key));
        let groups = (0..rules.groups.len()).filter(|group| is_served(&rules.groups[*group].per)).collect();
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let reader = Reader::new(rules.spec());
        let none = || rules.infos().iter().map(|_| AtomicU64::new(0)).collect();
        let (raised, muted, rules) = (none(), none(), Arc::new(rules));
        Ok(RulesStep {
            revision,
            bundle,
            rules,
            raised,
            muted,
            frame: frame.clone(),
            reader,
            newest,
            groups,
            columns: of_fields,
            id,
            prefix,
        })
    }

    /// The rules whose key none of these steps judges by: rule and key.
    pub(crate) fn unserved<'a>(
        &'a self,
        steps: impl Iterator<Item = &'a RulesStep> + Clone,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let is_served = move |place: &usize| steps.clone().any(|step| step.groups.contains(place));
        (0..self.rules.groups.len()).filter(move |place| !is_served(place)).map(|place| {
            let group = &self.rules.groups[place];
            let key = &self.rules.spec().fields[group.per[0]].name;
            (&*self.rules.infos()[group.rules[0]].id, &**key)
        })
    }

    /// Fills an event from a record's columns.
    pub(crate) fn fill(
        &self,
        fields: Fields<'_>,
        raw: &[u8],
        time: Timestamp,
        event: &mut Event,
    ) -> Result<(), UnfitEvent> {
        let spec = self.rules.spec();
        event.clear(spec.fields.len());
        event.time = time;
        let mut digits = (itoa::Buffer::new(), zmij::Buffer::new());
        event.set_id(&spec.id.member, raw_of(fields.value(self.id, raw), &mut digits))?;
        for (place, (field, column)) in spec.fields.iter().zip(&self.columns).enumerate() {
            if let Some(column) = column {
                event.set(place, field, raw_of(fields.value(*column, raw), &mut digits), false);
            }
        }
        Ok(())
    }
}

/// What rows have as events.
fn row_columns(rows: &Rows) -> Vec<Column> {
    let names = rows.members.iter().map(|member| &*member.name);
    let names = [ROW_ID].into_iter().chain(names).chain(["revision", "reason"]);
    let column = |(index, name): (usize, &str)| Column { name: name.into(), index, kind: ColumnKind::Any };
    names.enumerate().map(column).collect()
}

fn row_mistakes(step: &str, id: &str, time: &str) -> Vec<String> {
    let mut mistakes = Vec::new();
    if id != ROW_ID {
        mistakes.push(format!(
            "rows of step `{step}` are named by `{ROW_ID}`: write `id: {ROW_ID}` under `event`"
        ));
    }
    if !["window_start", "window_end"].contains(&time) {
        mistakes.push(format!(
            "rows of step `{step}` have the times `window_start` and `window_end`, not `{time}`"
        ));
    }
    mistakes
}

/// A value as rules read it: numbers by the digits that were written.
fn raw_of<'a>(value: Value<'a>, (int, double): &'a mut (itoa::Buffer, zmij::Buffer)) -> Raw<'a> {
    match value {
        Value::Null => Raw::Nothing,
        Value::Bool(value) => Raw::Boolean(value),
        Value::Int(value) => Raw::Number(int.format(value)),
        Value::Double(value) => Raw::Number(double.format(value)),
        Value::Text(text) => std::str::from_utf8(text).map_or(Raw::Other, Raw::Text),
    }
}
