//! Kinds with hooks, and kinds that are told of records.

use std::sync::Mutex;

use granary_core::{Cx, Error, Key, Result};
use granary_macros::grain;
use serde::{Deserialize, Serialize};

use super::Counter;

/// What the hooks below did, in order.
pub static HOOKS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A grain with hooks.
#[derive(Default, Serialize, Deserialize)]
pub struct Guest {
    visits: u64,
}

#[grain(idle = "1m", crate = granary_core)]
impl Guest {
    pub fn visit(&mut self) -> u64 {
        self.visits += 1;
        self.visits
    }

    pub fn leave(&mut self, cx: &mut Cx) -> u64 {
        self.visits += 1;
        cx.deactivate();
        self.visits
    }

    fn on_activate(&mut self, cx: &mut Cx) -> Result<()> {
        HOOKS.lock().expect("no test panics with it").push(format!("{} in at {}", cx.key(), self.visits));
        if cx.key().as_str().starts_with("bad") {
            return Err(Error::rejected("no room for bad guests"));
        }
        assert!(!cx.key().as_str().starts_with("worse"), "a guest that breaks the door");
        Ok(())
    }

    fn on_deactivate(&mut self, cx: &mut Cx) {
        HOOKS.lock().expect("no test panics with it").push(format!("{} out at {}", cx.key(), self.visits));
    }
}

/// A grain that is told of records.
#[derive(Default, Serialize, Deserialize)]
pub struct Tally {
    seen: Vec<String>,
}

#[grain(crate = granary_core)]
impl Tally {
    /// Notes the record's text; `err` in it makes the handler refuse, `boom` panic.
    pub fn take(&mut self, text: String, cx: &mut Cx) -> Result<()> {
        self.seen.push(text.clone());
        cx.emit("out", &format!("{}: {text}, the {}. of its key", cx.key(), self.seen.len()))?;
        assert!(!text.contains("boom"), "the handler panics at `{text}`");
        if text.contains("err") { Err(Error::rejected(format!("not `{text}`"))) } else { Ok(()) }
    }

    /// The same, with calls inside the slot on the way.
    pub async fn take_with_help(&mut self, text: String, cx: &mut Cx) -> Result<()> {
        let helper = Key::parse(&format!("{}/helper", cx.key()));
        let seen = cx.grain::<Tally>(helper.clone()).note(text.clone()).await?;
        self.seen.push(format!("{text} ({seen})"));
        cx.emit("out", &format!("{}: {text}", cx.key()))
    }

    /// Raises two alerts of it.
    pub fn raise(&mut self, text: String, cx: &mut Cx) -> Result<()> {
        self.seen.push(text.clone());
        drop(cx.alert("told", &text));
        cx.alert("again", &self.seen.len()).into_inner()
    }

    /// The same, with a pause between them.
    pub async fn raise_slowly(&mut self, text: String, cx: &mut Cx) -> Result<()> {
        self.seen.push(text.clone());
        cx.alert("told", &text).await?;
        tokio::task::yield_now().await;
        cx.alert("again", &self.seen.len()).await
    }

    pub async fn note(&mut self, text: String) -> u64 {
        tokio::task::yield_now().await;
        self.seen.push(text);
        self.seen.len() as u64
    }

    /// Calls a grain of another slot, which no handler of records may.
    pub async fn reach_out(&mut self, text: String, cx: &mut Cx) -> Result<()> {
        self.seen.push(text);
        for i in 0..8 {
            cx.grain::<Counter>(format!("far-{i}")).add(1).await?;
        }
        Ok(())
    }

    pub fn seen(&self) -> Vec<String> {
        self.seen.clone()
    }
}
