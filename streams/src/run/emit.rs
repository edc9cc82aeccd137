//! Rows of a window step on their way to the sinks, and who caused them.

use granary_cluster::{Cause, Effects, Failure, Record, StreamId};
use granary_core::{GrainId, Key, Timestamp};
use granary_window::{Output, Row};

use super::counts::Tally;
use super::judged_rows::WaitingRows;
use super::prepared::{Prepared, Window};
use super::{pack, rolled, rows};
use crate::plan::Target;

/// Numbers the outputs of one input.
pub(crate) struct Causes(pub Cause);

impl Causes {
    pub fn of(record: &Record<'_>) -> Causes {
        let Record { source, partition, offset, .. } = *record;
        Causes(Cause { source, partition, offset, index: 0 })
    }

    #[inline]
    pub fn next(&mut self) -> Cause {
        let cause = self.0;
        self.0.index += 1;
        cause
    }
}

/// Takes a window step's rows to its sinks.
pub(crate) struct Emit<'a> {
    pub prepared: &'a Prepared,
    pub window: &'a Window,
    pub tally: &'a mut Tally,
    pub causes: &'a mut Causes,
    pub effects: &'a mut Effects,
    /// Where rows wait that rules judge.
    pub waiting: &'a mut WaitingRows,
    /// The event time of rows that carry none of their own.
    pub time: Timestamp,
    /// Why a closure could not make its call: the slot rolls back.
    pub failed: &'a mut Option<Failure>,
}

impl Output for Emit<'_> {
    fn result(&mut self, row: Row<'_>) {
        let Window { template, rows: has, rolled_by, judged_by, .. } = self.window;
        self.waiting.push(self.prepared, judged_by, template, &row);
        rolled::send(self.prepared, rolled_by, (&row, template, has), self.causes, self.effects);
        let plan = &self.prepared.plan;
        let template = &self.window.template;
        for sink in &self.window.sinks {
            match &plan.sinks[*sink].to {
                Target::Topic(_) | Target::File(_) => self.effects.outbox.push(
                    StreamId(*sink as u16),
                    self.causes.next(),
                    rows::time(&row, self.time),
                    row.key,
                    |out| template.identity(&row, out),
                    |out| template.row(&row, out),
                ),
                Target::Grain { kind, method } => {
                    let step = &plan.steps[self.window.step];
                    let window = step.window().expect("prepared steps are window steps");
                    let mut arguments = Vec::new();
                    pack::row(plan, step, window, &pack::Named::of(&row), Some(&row), None, &mut arguments);
                    self.effects.tells.push((grain(kind, row.key), method.clone(), arguments));
                }
                Target::Call(call) => match call(&row) {
                    Ok(Some(tell)) => self.effects.tells.push((tell.grain, tell.method, tell.arguments)),
                    Ok(None) => {}
                    Err(message) => *self.failed = Some(Failure { message }),
                },
            }
            self.tally.result(*sink, rows::standing(&row));
        }
    }
}

/// The grain of a kind that has the row's routing key.
pub(crate) fn grain(kind: &str, key: &[u8]) -> GrainId {
    GrainId::new(kind, Key::from(&*String::from_utf8_lossy(key)))
}
