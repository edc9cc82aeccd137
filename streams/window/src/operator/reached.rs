//! How far the step has come, for those who wait for its rows.

use super::Operator;
use super::cells::{KEY, LEDGER, cell};
use crate::Corrupt;
use crate::reach::{Grid, Ledger, NOT_COUNTED, Reach};
use crate::rules::Rules;
use crate::spec::Emit;

impl Operator {
    /// Keeps count of how far the step has come, as far as that makes windows due with these ends.
    #[must_use]
    pub fn told_to(mut self, grid: Grid) -> Operator {
        self.ledger = Some(Box::new(Ledger::new(grid, behind(&self.rules))));
        self
    }

    /// How far it has come; `None` of a step that nobody waits for, or while more is due than was published. Nothing may be missing
    /// for the input before.
    pub fn reach(&self) -> Option<Reach> {
        let ledger = self.ledger.as_ref().filter(|ledger| ledger.is_whole() && !self.is_closing())?;
        if self.root.ended {
            return Some(ledger.reach_of(i64::MAX, true));
        }
        if self.rules.per_key {
            return Some(ledger.reach());
        }
        Some(ledger.reach_of(self.stream_w(), self.index.members().next().is_none()))
    }

    /// Appends the cells without which it is not known how far the step has come.
    pub fn missing_reach(&mut self, cells: &mut Vec<Vec<u8>>) {
        self.missing_ledger(cells);
        if self.ledger.is_some() && self.rules.resident {
            self.missing_index(cells);
        }
    }

    /// Appends the cell of the ledger; when a store has none though it has keys, theirs: they are counted once all are there.
    pub(super) fn missing_ledger(&mut self, cells: &mut Vec<Vec<u8>>) {
        let Some(ledger) = &self.ledger else { return };
        if !ledger.is_known {
            cells.push(cell(&self.prefix, LEDGER, b""));
            return;
        }
        if !ledger.is_new {
            return;
        }
        let before = cells.len();
        self.missing_index(cells);
        if cells.len() > before {
            return;
        }
        let absent = self.index.members().map(|place| self.keys.get(place)).filter(|key| !key.flags.loaded);
        cells.extend(absent.map(|key| cell(&self.prefix, KEY, key.name.bytes())));
        if cells.len() == before {
            self.count_all();
        }
    }

    pub(super) fn supply_ledger(&mut self, value: Option<&[u8]>) -> Result<(), Corrupt> {
        self.ledger.as_mut().map_or(Ok(()), |ledger| ledger.supply(value))
    }

    fn count_all(&mut self) {
        let listed: Vec<u32> = self.index.members().collect();
        if let Some(ledger) = &mut self.ledger {
            ledger.is_new = false;
        }
        for place in listed {
            self.keys.get_mut(place).counted = NOT_COUNTED;
            self.count(place, true);
        }
    }

    /// A key has changed: it is counted by its watermark as long as a result of it is to come.
    pub(super) fn count(&mut self, place: u32, is_listed: bool) {
        let Some(ledger) = self.ledger.as_mut().filter(|_| self.rules.per_key) else { return };
        let key = self.keys.get_mut(place);
        let now = if is_listed { ledger.mark(key.clock) } else { NOT_COUNTED };
        ledger.count(std::mem::replace(&mut key.counted, now), now, key.clock);
    }
}

/// How much later than its window's end a row that stands may come first, ms: one result when the window closes comes by as much
/// later as the window stays open.
fn behind(rules: &Rules) -> i64 {
    if rules.emit == Emit::Final { rules.last_call(0).saturating_sub(rules.due(0)) } else { 0 }
}
