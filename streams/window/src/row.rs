//! What comes out of an operator: rows, and what became of an event.

use granary_core::Timestamp;

use crate::Corrupt;

/// Takes the rows of an operator, in their order.
pub trait Output {
    /// One row. It borrows the operator's state: copy what shall be kept.
    fn result(&mut self, row: Row<'_>);
}

impl<F: FnMut(Row<'_>)> Output for F {
    fn result(&mut self, row: Row<'_>) {
        self(row);
    }
}

/// Why a row is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Before the window was due.
    Early,
    /// The window became due.
    OnTime,
    /// An event came after the window was due.
    Late,
    /// The window closed.
    Final,
    /// An event came.
    Update,
    /// The row published before is withdrawn: its session became another.
    Delete,
}

impl Reason {
    const ALL: [Reason; 6] =
        [Reason::Early, Reason::OnTime, Reason::Late, Reason::Final, Reason::Update, Reason::Delete];

    /// Its number in cells.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    /// The reason with this number.
    pub(crate) fn of_code(code: u8) -> Result<Reason, Corrupt> {
        Reason::ALL.get(usize::from(code)).copied().ok_or(Corrupt { what: "reason expected" })
    }

    /// As rows and case files write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Early => "early",
            Reason::OnTime => "on_time",
            Reason::Late => "late",
            Reason::Final => "final",
            Reason::Update => "update",
            Reason::Delete => "delete",
        }
    }
}

/// Whether a row of a retracting step adds or takes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// `+`
    Add,
    /// `-`
    Retract,
}

impl Op {
    /// As case files write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Op::Add => "+",
            Op::Retract => "-",
        }
    }
}

/// One row of a window.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The routing key.
    pub key: &'a [u8],
    /// The step's further segments, as the events gave them.
    pub by: &'a [u8],
    /// The window's first time. Count and global windows have none: [`Timestamp::MIN`].
    pub start: Timestamp,
    /// The first time after the window. Count and global windows have none: [`Timestamp::MAX`].
    pub end: Timestamp,
    /// Why the row is there.
    pub reason: Reason,
    /// Given when the step retracts.
    pub op: Option<Op>,
    /// 0 for the window's first row, then one more for each.
    pub revision: u32,
    /// The values of the aggregates, in the order of the spec; none in a [`Reason::Delete`] row that does not retract.
    pub values: Values<'a>,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It entered its windows; or the input was no event.
    Accepted,
    /// It entered some of its windows: the others were closed.
    PartiallyLate,
    /// An open window (or the horizon) remembers its id: it changed nothing but the clock.
    Duplicate,
    /// All its windows were closed: it changed nothing but the clock.
    Late,
    /// It falls into no window.
    Unassigned,
    /// It is too far ahead of its log time: it changed nothing at all.
    Future,
}

/// Where a window stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not due yet.
    Open,
    /// Due: late events still correct it.
    Due,
    /// Closed: what comes now is late.
    Closed,
}

impl State {
    /// As `granary call` writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Due => "due",
            State::Closed => "closed",
        }
    }
}

pub use crate::value::Values;
