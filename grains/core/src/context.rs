//! What a request carries along through all calls it causes: a few short texts by name, such as a trace or a tenant.

use std::sync::Arc;

use crate::error::{Error, Ran, Result};

/// How many entries a context may have.
pub const CONTEXT_ENTRIES_MAX: usize = 32;

/// How many bytes its names and values may have together.
pub const CONTEXT_BYTES_MAX: usize = 4 << 10;

/// The context of a request: texts by name. It is immutable once sent, and the calls of a turn share it.
///
/// ```
/// use granary_core::Context;
/// let context = Context::new([("tenant", "acme"), ("trace", "t-1")]).unwrap();
/// assert_eq!(context.get("tenant"), Some("acme"));
/// assert!(Context::new([("blob", "x".repeat(5_000))]).is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// In the order of their names, each name once.
    entries: Vec<(Box<str>, Box<str>)>,
}

impl Context {
    /// A context of these entries; of two with one name the later counts. `Invalid` beyond the limits.
    pub fn new<K: AsRef<str>, V: AsRef<str>>(entries: impl IntoIterator<Item = (K, V)>) -> Result<Context> {
        let mut context = Context::default();
        for (name, value) in entries {
            context.put(name.as_ref(), value.as_ref());
            if context.entries.len() > CONTEXT_ENTRIES_MAX {
                break; // more is not even kept
            }
        }
        context.check()?;
        Ok(context)
    }

    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let place = self.place(name).ok()?;
        Some(&self.entries[place].1)
    }

    /// All entries, in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.entries.iter().map(|(name, value)| (&**name, &**value))
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// `Invalid` when it is beyond the limits.
    pub fn check(&self) -> Result<()> {
        let bytes: usize = self.entries.iter().map(|(name, value)| name.len() + value.len()).sum();
        if self.entries.len() > CONTEXT_ENTRIES_MAX {
            return Err(beyond(self.entries.len(), "entries", CONTEXT_ENTRIES_MAX));
        }
        if bytes > CONTEXT_BYTES_MAX {
            return Err(beyond(bytes, "bytes", CONTEXT_BYTES_MAX));
        }
        Ok(())
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.entries.binary_search_by(|(other, _)| (**other).cmp(name))
    }

    /// Sets an entry. Whoever sends the context checks it.
    pub(crate) fn put(&mut self, name: &str, value: &str) {
        match self.place(name) {
            Ok(place) => self.entries[place].1 = value.into(),
            Err(place) => self.entries.insert(place, (name.into(), value.into())),
        }
    }

    /// What a call carries that is made by a turn: the turn's own context, with what the call sets over it.
    pub(crate) fn over(
        turn: Option<&Arc<Context>>,
        call: Option<Arc<Context>>,
    ) -> Result<Option<Arc<Context>>> {
        let (Some(turn), Some(call)) = (turn, &call) else {
            call.as_ref().map_or(Ok(()), |own| own.check())?;
            return Ok(call.or_else(|| turn.cloned()));
        };
        let mut both = (**turn).clone();
        call.iter().for_each(|(name, value)| both.put(name, value));
        both.check()?;
        Ok(Some(Arc::new(both)))
    }
}

fn beyond(is: usize, what: &str, max: usize) -> Error {
    Error::invalid(format!("a context of {is} {what}, at most {max} are allowed")).ran(Ran::No)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared<const N: usize>(entries: [(&str, &str); N]) -> Arc<Context> {
        Arc::new(Context::new(entries).unwrap())
    }

    #[test]
    fn entries_are_sorted_and_the_later_of_a_name_counts() {
        let context = Context::new([("b", "1"), ("a", "2"), ("b", "3")]).unwrap();
        assert_eq!(context.iter().collect::<Vec<_>>(), [("a", "2"), ("b", "3")]);
        assert_eq!((context.get("b"), context.get("c"), context.len()), (Some("3"), None, 2));
    }

    #[test]
    fn limits_are_limits() {
        let many = |n: usize| Context::new((0..n).map(|i| (format!("{i:02}"), "")));
        assert!(many(CONTEXT_ENTRIES_MAX).is_ok() && many(CONTEXT_ENTRIES_MAX + 1).is_err());
        let long = |n: usize| Context::new([("k", "v".repeat(n))]);
        assert!(long(CONTEXT_BYTES_MAX - 1).is_ok() && long(CONTEXT_BYTES_MAX).is_err());
    }

    #[test]
    fn a_call_carries_the_context_of_its_turn_and_what_it_sets_itself() {
        let turn = shared([("tenant", "acme"), ("trace", "t-1")]);
        assert_eq!(Context::over(None, None), Ok(None));
        assert_eq!(Context::over(Some(&turn), None), Ok(Some(turn.clone())));
        let own = shared([("trace", "t-2"), ("user", "u")]);
        assert_eq!(Context::over(None, Some(own.clone())), Ok(Some(own.clone())));
        let both = shared([("tenant", "acme"), ("trace", "t-2"), ("user", "u")]);
        assert_eq!(Context::over(Some(&turn), Some(own)), Ok(Some(both)));
        let mut large = Context::default();
        large.put("k", &"v".repeat(CONTEXT_BYTES_MAX));
        assert!(Context::over(None, Some(Arc::new(large))).is_err());
    }
}
