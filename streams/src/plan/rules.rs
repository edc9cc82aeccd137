//! A step of rules: which of a file's rules it judges, and where their events come from.

use std::sync::Arc;

use granary_core::Timestamp;
use granary_window::Value;
use granary_window::rule::Pace;

use super::{Column, Source};
use crate::decode::Fields;
use crate::rules::{Event, Field, Raw, Rules, UnfitEvent};

/// Rules on the events of a source, as far as their key begins with the source's.
pub struct RulesStep {
    /// The rules of the file.
    pub rules: Arc<Rules>,
    /// The sets that are judged here.
    pub(crate) groups: Vec<usize>,
    /// For each field of the file's events its column.
    columns: Vec<Option<usize>>,
    /// The column that names an event.
    id: usize,
    /// The prefix of its cells' keys.
    pub(crate) prefix: Box<[u8]>,
}

/// The same for equal rules, whatever order their lists are kept in.
impl std::fmt::Debug for RulesStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rules = self.rules.infos().iter().map(|info| (&info.id, &info.hash, info.mode, info.severity));
        let lists = self.rules.lists();
        f.debug_struct("Rules").field("rules", &rules.collect::<Vec<_>>()).field("lists", &lists).finish()
    }
}

impl RulesStep {
    /// The rules of a file on events with these columns; what is wrong with that.
    pub(crate) fn new(
        step: &str,
        rules: Arc<Rules>,
        source: &Source,
        columns: &[Column],
    ) -> Result<RulesStep, Vec<String>> {
        let mut mistakes = Vec::new();
        let place =
            |name: &str| columns.iter().find(|column| *column.name == *name).map(|column| column.index);
        let Some(id) = source.id else {
            return Err(vec![format!("source `{}` has no `id`: rules name events by it", source.name)]);
        };
        let spec = rules.spec();
        let column = |field: &Field| {
            let column = place(&field.from.member);
            if column.is_none() && !field.is_optional {
                let (member, name) = (&field.from.member, &source.name);
                mistakes.push(format!("no column `{member}` in source `{name}`, which the rules read"));
            }
            column
        };
        let of_fields = spec.fields.iter().map(column).collect::<Vec<_>>();
        let is_served =
            |per: &[usize]| per.first().is_some_and(|field| of_fields[*field] == Some(source.key));
        let groups = (0..rules.groups.len()).filter(|group| is_served(&rules.groups[*group].per)).collect();
        if rules.groups.iter().any(|group| group.set.pace() == Pace::OnWatermark) {
            mistakes.push(
                "`judge: on_watermark` is not supported in a pipeline yet: write on_arrival".to_owned(),
            );
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        // Beside the prefixes of windows (`w/`), counts (`c/`) and the engine's own: reminders have `r/`.
        let prefix = format!("j/{step}/").into_bytes().into();
        Ok(RulesStep { rules, groups, columns: of_fields, id, prefix })
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
