//! The windows of roll-ups, asked for as grains.

use granary_core::{Error, ErrorKind, GrainId, Result, Timestamp, codec};
use granary_window::rollup::Output;
use granary_window::{Datum, Row};
use serde_json::{Value, json};

use super::tell::write;
use super::{Rolled, step_of};
use crate::run::prepared::Prepared;
use crate::run::slot::Slot;

/// Key, further segments, start and end of a window, as its name has them.
type Named<'a> = (&'a [u8], &'a [u8], Timestamp, Option<Timestamp>);

impl Slot {
    /// The present row of a window in MessagePack, with its state and the watermark; `None` when cells are missing.
    pub fn ask_rolled(
        &mut self,
        prepared: &Prepared,
        place: usize,
        (key, by, start, end): Named<'_>,
        grain: &GrainId,
        missing: &mut Vec<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>> {
        let rolled = &prepared.rolled[place];
        let Some(end) = end.or(step_of(prepared, rolled).size.map(|size| start + size)) else {
            return Err(Error::invalid(format!(
                "{grain}: windows here have no one length: write START..END"
            )));
        };
        let mut shown = Shown { prepared, rolled, row: None };
        let rollup = &mut self.rollups[place];
        let Some(state) = rollup.peek((key, by), (start, end), missing, &mut shown) else { return Ok(None) };
        let Some(mut row) = shown.row else {
            return Err(Error::new(ErrorKind::NotFound, format!("no window {grain}")));
        };
        row["state"] = json!(state.as_str());
        row["watermark"] = json!(rollup.watermark().ms());
        codec::to_bytes(&row).map(Some)
    }
}

/// Takes the row that is shown.
struct Shown<'a> {
    prepared: &'a Prepared,
    rolled: &'a Rolled,
    row: Option<Value>,
}

impl Output for Shown<'_> {
    fn result(&mut self, row: &Row<'_>, best: Option<&[&[Datum]]>) {
        let mut json = Vec::new();
        write(self.prepared, self.rolled, row, best, &mut json);
        self.row = serde_json::from_slice(&json).ok();
    }
}
