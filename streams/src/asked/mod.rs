//! Patterns and joins as they are asked for, by the pipeline file or the Rust builder: what is wrong with them is found here, for
//! both in the same words, and the steps are made.

mod join;
mod pattern;

pub(crate) use join::{AskedJoin, AskedSide};
pub(crate) use pattern::{AskedPattern, AskedSkip, AskedStage, TIMES_MAX};

use crate::file::{Mistakes, Place};
use crate::plan::expression::{Expression, Group, Unfit};
use crate::plan::{Column, ColumnKind};

/// A text of whoever asks, and where it stands: code has no places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written<'a> {
    pub text: &'a str,
    pub place: Option<Place>,
    pub is_quoted: bool,
}

impl<'a> Written<'a> {
    /// A text of a program.
    pub fn by_code(text: &'a str) -> Written<'a> {
        Written { text, place: None, is_quoted: false }
    }

    /// A place inside a text of one line; the text's own place otherwise.
    fn within(&self, at: Option<(usize, usize)>) -> Option<Place> {
        let place = self.place?;
        Some(match at {
            Some((1, column)) => {
                Place { column: place.column + column - 1 + usize::from(self.is_quoted), ..place }
            }
            _ => place,
        })
    }
}

/// A CEL expression over columns, and over those of groups beside them.
pub(crate) fn compile(
    written: Written<'_>,
    columns: &[Column],
    groups: &[Group<'_>],
    mistakes: &mut Mistakes,
) -> Option<(Expression, ColumnKind)> {
    let text = written.text;
    match Expression::compile_beside(text, columns, groups) {
        Ok(compiled) => Some(compiled),
        Err(Unfit { unknown: Some(name), group, .. }) => {
            let of_group = groups.iter().find(|known| group.as_deref() == Some(known.name));
            let names = of_group.map_or(columns, |group| group.columns).iter().map(|column| &*column.name);
            let groups = groups.iter().filter(|_| of_group.is_none()).map(|group| group.name);
            let names: Vec<&str> = names.chain(groups).collect();
            let at = match &group {
                Some(group) => text.find(&format!("{group}.{name}")).map(|at| at + group.len() + 1),
                None => text.find(&*name),
            };
            let place = written.within(at.map(|at| (1, text[..at].chars().count() + 1)));
            let what = group.map_or("field".to_owned(), |group| format!("field of `{group}`:"));
            mistakes.unknown(place, &what, &name, &names);
            None
        }
        Err(unfit) => {
            mistakes.add(written.within(unfit.at), unfit.message);
            None
        }
    }
}

/// The column of this name.
pub(crate) fn column(written: Written<'_>, columns: &[Column], mistakes: &mut Mistakes) -> Option<Column> {
    let found = columns.iter().find(|column| &*column.name == written.text).cloned();
    if found.is_none() {
        let names: Vec<&str> = columns.iter().map(|column| &*column.name).collect();
        mistakes.unknown(written.place, "field", written.text, &names);
    }
    found
}

/// Whether an expression of this kind can be a condition.
fn is_condition(kind: ColumnKind) -> bool {
    matches!(kind, ColumnKind::Bool | ColumnKind::Any)
}

/// A kind, in the words of a file.
fn in_words(kind: ColumnKind) -> String {
    format!("{kind:?}").to_lowercase()
}
