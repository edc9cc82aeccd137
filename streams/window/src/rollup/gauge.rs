//! How far all slots have come: the least of what they report, for all of them to know.
//!
//! One slot hears the reports of all, and tells every slot. A slot's report follows its rows in the log, and what is told follows the
//! reports, so whoever reads it has read every row that it speaks of. *Why not have every slot tell every other: that is the
//! square of their number at each end of a window.*

use granary_core::{Span, Timestamp};

use super::{Reach, Rollup};
use crate::Corrupt;
use crate::clock::Partitions;
use crate::encode::{Reader, VERSION, put_i64};

/// What one slot reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which slot.
    pub slot: u16,
    /// Its rows to come have later times.
    pub watermark: Timestamp,
    /// It has nothing to come and has been silent for a while: the others do not wait for it.
    pub is_idle: bool,
}

/// What slots have reported of one step.
#[derive(Debug)]
pub struct Gauge {
    slots: Partitions,
    told_ms: i64,
    is_known: bool,
    is_dirty: bool,
}

impl Gauge {
    pub(super) fn new(slots: u16) -> Gauge {
        Gauge {
            slots: Partitions::new(u32::from(slots)),
            told_ms: i64::MIN,
            is_known: false,
            is_dirty: false,
        }
    }

    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }

    pub(super) fn supply(&mut self, value: Option<&[u8]>) -> Result<(), Corrupt> {
        if std::mem::replace(&mut self.is_known, true) {
            return Ok(());
        }
        let Some(value) = value else { return Ok(()) };
        let mut reader = Reader::cell(value)?;
        self.told_ms = reader.i64()?;
        self.slots.decode(&mut reader)?;
        reader.finish()
    }

    pub(super) fn seal(&mut self, out: &mut Vec<u8>) -> bool {
        if !std::mem::take(&mut self.is_dirty) {
            return false;
        }
        out.clear();
        out.push(VERSION);
        put_i64(out, self.told_ms);
        self.slots.encode(out);
        true
    }
}

/// What this slot has reported.
#[derive(Debug)]
pub(super) struct Teller {
    told_ms: i64,
    is_idle: bool,
    /// How long it has had nothing to come, since it was opened or an event came.
    quiet: Span,
    is_known: bool,
    is_dirty: bool,
}

impl Default for Teller {
    fn default() -> Self {
        Teller { told_ms: i64::MIN, is_idle: false, quiet: Span::ZERO, is_known: false, is_dirty: false }
    }
}

impl Teller {
    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }

    pub(super) fn supply(&mut self, value: Option<&[u8]>) -> Result<(), Corrupt> {
        if std::mem::replace(&mut self.is_known, true) {
            return Ok(());
        }
        let Some(value) = value else { return Ok(()) };
        let mut reader = Reader::cell(value)?;
        (self.told_ms, self.is_idle) = (reader.i64()?, reader.byte()? != 0);
        reader.finish()
    }

    pub(super) fn seal(&mut self, out: &mut Vec<u8>) -> bool {
        if !std::mem::take(&mut self.is_dirty) {
            return false;
        }
        out.clear();
        out.push(VERSION);
        put_i64(out, self.told_ms);
        out.push(u8::from(self.is_idle));
        true
    }
}

impl Rollup {
    /// A slot reports; what all slots are to be told then.
    ///
    /// # Panics
    /// When [`Rollup::missing_gauge`] has something missing.
    pub fn report(&mut self, report: &Report) -> Option<Timestamp> {
        let gauge = &mut self.gauge;
        assert!(gauge.is_known, "missing cells are supplied before a report is taken");
        gauge.is_dirty = true;
        let slot = u32::from(report.slot);
        gauge.slots.observe(slot, report.watermark.ms());
        if report.is_idle {
            gauge.slots.set_idle(slot, true);
        }
        let now_ms = gauge.slots.watermark();
        if now_ms <= gauge.told_ms {
            return None;
        }
        gauge.told_ms = now_ms;
        Some(Timestamp(now_ms))
    }

    /// The step before has come this far in this slot; what the slot reports, when that says more than its last report. `is_idle`:
    /// the others need not wait for it.
    pub fn reached(&mut self, slot: u16, reach: Reach, is_idle: bool) -> Option<Report> {
        let teller = &mut self.teller;
        let is_back = teller.is_idle && !reach.is_quiet;
        if !teller.is_known || (reach.watermark.ms() <= teller.told_ms && !is_back && !is_idle) {
            return None;
        }
        let watermark = Timestamp(reach.watermark.ms().max(teller.told_ms));
        (teller.told_ms, teller.is_idle, teller.is_dirty) = (watermark.ms(), is_idle, true);
        Some(Report { slot, watermark, is_idle })
    }

    /// An event came to the step before.
    pub fn hear(&mut self) {
        self.teller.quiet = Span::ZERO;
    }

    /// The slot has stood so much longer at the end of its inputs, with something to come from the step before or not; how long it
    /// has had nothing to come.
    pub fn stand(&mut self, stood: Span, is_quiet: bool) -> Span {
        self.teller.quiet =
            if is_quiet { Span(self.teller.quiet.ms().saturating_add(stood.ms())) } else { Span::ZERO };
        self.teller.quiet
    }

    /// Whether the others do not wait for this slot.
    pub fn is_idle(&self) -> bool {
        self.teller.is_idle
    }
}
