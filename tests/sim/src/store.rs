//! The simulated store: rows, cells and outboxes of slots; atomic scripts; a rollback of the last writes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use granary_core::SlotId;

use granary_cluster::slot::Stored;
use granary_cluster::{Commit, CommitNo, Incarnation, Noted, Outbox, RunId, Script, SlotRecord, Verdict};

use crate::log::{Output, outputs};

/// One slot, as stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The slot's row.
    pub record: SlotRecord,
    /// Its cells.
    pub cells: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Outputs by commit.
    pub outbox: Vec<(CommitNo, Arc<Outbox>)>,
    /// With the embedded engine: the log, which is the same store.
    pub visible: Vec<Output>,
}

/// Checks a store leaves out, to see that they are missed.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeftOut {
    /// Owner and epoch at a commit.
    pub epoch: bool,
    /// The server run.
    pub run: bool,
}

/// The store.
#[derive(Clone, Debug)]
pub struct Store {
    /// Slots, by number.
    pub rows: Vec<Row>,
    /// The server's run.
    pub run: RunId,
    past: VecDeque<Vec<Row>>,
    keeps: usize,
    /// With the embedded engine a commit publishes its own outputs: the outbox stays empty.
    publishes: bool,
    left_out: LeftOut,
}

/// What a script did.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The verdict.
    pub verdict: Verdict,
    /// The row after an acquire.
    pub record: Option<SlotRecord>,
    /// The commit that was written, if it was now and not before: with the row as it stood.
    pub written: Option<(SlotRecord, Arc<Commit>)>,
}

/// How many writes a rollback can lose.
pub const ROLLBACK_MAX: usize = 3;

impl Store {
    /// So many new slots.
    pub fn new(slots: usize, publishes: bool, left_out: LeftOut) -> Store {
        Store {
            rows: vec![Row::default(); slots],
            run: RunId(1),
            past: VecDeque::new(),
            keeps: ROLLBACK_MAX,
            publishes,
            left_out,
        }
    }

    /// Whether commits publish their own outputs.
    pub fn publishes(&self) -> bool {
        self.publishes
    }

    /// How many writes can be lost.
    pub fn history(&self) -> usize {
        self.past.len()
    }

    /// A row and its outbox, as read now.
    pub fn read(&self, slot: SlotId) -> Stored {
        let row = &self.rows[usize::from(slot.0)];
        Stored { record: row.record.clone(), outbox: row.outbox.clone(), run: self.run }
    }

    /// The last `writes` writes are gone; the server runs anew.
    pub fn roll_back(&mut self, writes: usize) {
        if let Some(rows) = self.past.drain(..writes).next_back() {
            self.rows = rows;
        }
        self.past.clear();
        self.run = RunId(self.run.0 + 1);
    }

    /// A store that remembers none of its past: whoever wants it to go back keeps the rows.
    pub fn forgetful(self) -> Store {
        Store { keeps: 0, ..self }
    }

    /// Another server goes on, with these rows.
    pub fn fail_over(&mut self, rows: Vec<Row>) {
        self.rows = rows;
        self.run = RunId(self.run.0 + 1);
    }

    /// Carries out one script. `may_acquire`: its sender is a member, not declared dead.
    pub fn execute(&mut self, script: &Script, may_acquire: bool) -> Ran {
        if self.keeps == 0 {
            return self.carry_out(script, may_acquire);
        }
        let before = self.rows.clone();
        let ran = self.carry_out(script, may_acquire);
        if self.rows != before {
            self.past.push_front(before);
            self.past.truncate(self.keeps);
        }
        ran
    }

    fn carry_out(&mut self, script: &Script, may_acquire: bool) -> Ran {
        let now = self.run;
        let row = &mut self.rows[usize::from(script.slot().0)];
        let says = |verdict| Ran { verdict, record: None, written: None };
        let left_out = self.left_out;
        let ours = |row: &Row, me: Incarnation, epoch| {
            (row.record.owner, row.record.epoch) == (me, epoch) && (row.record.run == now || left_out.run)
        };
        match script {
            Script::Acquire { run, .. } if *run != now && !left_out.run => says(Verdict::Fenced),
            Script::Acquire { me, txid, expected, epoch, program, .. } => {
                let record = &mut row.record;
                let again = (record.owner, record.epoch) == (*me, *epoch) && record.txids.ids.contains(txid);
                if !again {
                    if (record.owner, record.epoch) != *expected || !may_acquire {
                        return says(Verdict::Fenced);
                    }
                    if program.generation < record.program.generation {
                        return says(Verdict::Outdated);
                    }
                    record.program = *program;
                    // a server that lost writes may have lost ids: nobody is trusted
                    record.txids.everyone |= record.run != now && !left_out.run;
                    if !record.txids.ids.contains(txid) {
                        record.txids.ids.push(*txid);
                    }
                    (record.owner, record.epoch, record.run) = (*me, *epoch, now);
                    // only who takes it from another has seen a process end
                    record.tries += u32::from(expected.0 != *me);
                    record.noted = Noted::survived(record.noted, *me);
                }
                Ran { verdict: Verdict::Done, record: Some(record.clone()), written: None }
            }
            Script::Commit(commit) => {
                if !ours(row, commit.id.incarnation, commit.epoch) && !left_out.epoch {
                    return says(Verdict::Fenced);
                }
                if row.record.n == commit.n && row.record.commit_id == Some(commit.id) {
                    return says(Verdict::Done);
                }
                if row.record.n.next() != commit.n {
                    return says(Verdict::Behind);
                }
                let before = row.record.clone();
                write(row, commit, self.publishes);
                Ran { verdict: Verdict::Done, record: None, written: Some((before, commit.clone())) }
            }
            Script::Note { me, epoch, noted, .. } if ours(row, *me, *epoch) => {
                row.record.noted = Some(Noted::after(row.record.noted, *noted, *me));
                says(Verdict::Done)
            }
            Script::Trim { me, epoch, covered, .. } if ours(row, *me, *epoch) => {
                row.outbox.retain(|(n, _)| n > covered);
                says(Verdict::Done)
            }
            Script::Rebase { me, epoch, n, .. } if ours(row, *me, *epoch) => {
                if *n > row.record.n {
                    (row.record.n, row.record.commit_id) = (*n, None);
                }
                says(Verdict::Done)
            }
            Script::Give { me, txid, epoch, to, covered, .. } if ours(row, *me, *epoch) => {
                row.outbox.retain(|(n, _)| n > covered);
                (row.record.owner, row.record.noted) = (*to, None); // nobody ended
                row.record.txids.ids.retain(|id| id != txid);
                says(Verdict::Done)
            }
            Script::Note { .. } | Script::Trim { .. } | Script::Rebase { .. } | Script::Give { .. } => {
                says(Verdict::Fenced)
            }
        }
    }
}

fn write(row: &mut Row, commit: &Commit, publishes: bool) {
    for (key, value) in commit.cells.iter() {
        match value {
            Some(value) => row.cells.insert(key.to_vec(), value.to_vec()),
            None => row.cells.remove(key),
        };
    }
    row.outbox.retain(|(n, _)| *n > commit.trim);
    if publishes {
        row.visible.extend(outputs(&commit.outbox));
    } else if !commit.outbox.is_empty() {
        row.outbox.push((commit.n, Arc::new(commit.outbox.clone())));
    }
    let record = &mut row.record;
    record.n = commit.n;
    record.commit_id = Some(commit.id);
    record.positions.clone_from(&commit.positions);
    // the owner has cleared the list before its first commit: only its own ids remain
    record.txids.everyone = false;
    record.txids.ids.retain(|id| id.incarnation == commit.id.incarnation);
    (record.tries, record.noted) = (0, None);
}
