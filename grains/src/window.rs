//! One window of one key as a grain: its row at present, while it is open and for as long as it is kept.

use std::collections::BTreeMap;

use granary_core::{Error, ErrorKind, Key, Result, Timestamp, Value, codec};
use granary_macros::grain;
use granary_window::{Op, Reason, State};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::not_hosted;

/// One window of one key, `Window/<key>/<by...>/<step>/<start ms>`: as `Window/d-7/cat-1/totals/1690000000000`.
///
/// ```
/// use granary_core::{Grain, Timestamp};
/// use granary_grains::Window;
/// let key = Window::key("d-7", ["cat-1"], "totals", Timestamp(1_690_000_000_000));
/// let call = Window::at(key).get(); // or: client.grain::<Window>(key).get().await?
/// assert_eq!(call.target().to_string(), "Window/d-7/cat-1/totals/1690000000000");
/// ```
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Window {}

/// Where a step's only window of a key stands in its address: it has no start.
const ALL: &str = "all";

impl Window {
    /// The window of `step` that starts at `start`: of `key`, and of the values `by` in the step's order.
    pub fn key<S: AsRef<str>>(
        key: &str,
        by: impl IntoIterator<Item = S>,
        step: &str,
        start: Timestamp,
    ) -> Key {
        address(key, by, step, &start.to_string())
    }

    /// The window from `start` until `end`: of a cumulating step, where several windows start together.
    pub fn key_until<S: AsRef<str>>(
        key: &str,
        by: impl IntoIterator<Item = S>,
        step: &str,
        start: Timestamp,
        end: Timestamp,
    ) -> Key {
        address(key, by, step, &format!("{start}..{end}"))
    }

    /// The window of a step that has no times, counting or global.
    pub fn key_of_all<S: AsRef<str>>(key: &str, by: impl IntoIterator<Item = S>, step: &str) -> Key {
        address(key, by, step, ALL)
    }
}

fn address<S: AsRef<str>>(key: &str, by: impl IntoIterator<Item = S>, step: &str, bounds: &str) -> Key {
    let by: Vec<S> = by.into_iter().collect();
    let below = by.iter().map(S::as_ref);
    Key::from_segments(std::iter::once(key).chain(below).chain([step, bounds]))
}

/// A window's row as the sink has it, and where the window stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowState {
    /// The window's first time; `None` for a window without times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_start: Option<Timestamp>,
    /// The first time after the window; `None` for a window without times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_end: Option<Timestamp>,
    /// How many rows came before this one; `None` while there is no row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u32>,
    /// Why the row is there; `None` while there is no row.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "by_name")]
    pub reason: Option<Reason>,
    /// Given when the step retracts.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "by_name")]
    pub op: Option<Op>,
    /// Whether the window is open, due or closed.
    #[serde(with = "by_name::always")]
    pub state: State,
    /// The key's watermark.
    pub watermark: Timestamp,
    /// The key, the `by` columns and the aggregates, by name; a whole number beyond 64 bits is text.
    #[serde(flatten)]
    pub columns: BTreeMap<String, Value>,
}

impl WindowState {
    /// A column as a type of the caller's choice.
    pub fn column<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let value = self.columns.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.columns.keys().map(String::as_str).collect();
            Error::new(ErrorKind::NotFound, format!("no column `{name}`; there are: {}", names.join(", ")))
        })?;
        codec::from_bytes(&codec::to_bytes(value)?)
            .map_err(|e| Error::new(ErrorKind::Codec, format!("column `{name}` is {value}: {}", e.message())))
    }
}

#[grain(crate = granary_core)]
impl Window {
    /// The row at present.
    fn get(&self) -> Result<WindowState> {
        Err(not_hosted::<Self>())
    }
}

/// Words of rows, written as `granary-window` names them.
trait Named: Copy + 'static {
    const ALL: &'static [Self];
    fn name(self) -> &'static str;
}

impl Named for State {
    const ALL: &'static [State] = &[State::Open, State::Due, State::Closed];
    fn name(self) -> &'static str {
        self.as_str()
    }
}

impl Named for Reason {
    const ALL: &'static [Reason] =
        &[Reason::Early, Reason::OnTime, Reason::Late, Reason::Final, Reason::Update, Reason::Delete];
    fn name(self) -> &'static str {
        self.as_str()
    }
}

impl Named for Op {
    const ALL: &'static [Op] = &[Op::Add, Op::Retract];
    fn name(self) -> &'static str {
        self.as_str()
    }
}

/// Members that may be missing.
mod by_name {
    use super::Named;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<N: Named, S: Serializer>(word: &Option<N>, serializer: S) -> Result<S::Ok, S::Error> {
        match word {
            Some(word) => serializer.serialize_str(word.name()),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, N: Named, D: Deserializer<'de>>(deserializer: D) -> Result<Option<N>, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        text.map(|text| always::find(&text)).transpose()
    }

    /// Members that are always there.
    pub mod always {
        use super::super::Named;
        use serde::{Deserialize, Deserializer, Serializer, de};

        pub fn find<N: Named, E: de::Error>(text: &str) -> Result<N, E> {
            let found = N::ALL.iter().copied().find(|word| word.name() == text);
            found.ok_or_else(|| {
                let names: Vec<&str> = N::ALL.iter().map(|word| word.name()).collect();
                E::custom(format!("`{text}` is none of {}", names.join(", ")))
            })
        }

        pub fn serialize<N: Named, S: Serializer>(word: &N, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(word.name())
        }

        pub fn deserialize<'de, N: Named, D: Deserializer<'de>>(deserializer: D) -> Result<N, D::Error> {
            find(&String::deserialize(deserializer)?)
        }
    }
}

#[cfg(test)]
mod tests;
