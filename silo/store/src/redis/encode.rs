//! Scripts as arguments of the server's script, and its verdicts as replies.

use std::collections::BTreeMap;

use granary_cluster::{Cells, Commit, CommitId, Reply, Script, TxId, Verdict};
use granary_core::{Error, ErrorKind, Result, SlotId, codec};
use hashbrown::HashMap;
use redis::{Cmd, Value};

use super::keys::{Keys, Shelf};
use super::outbox;
use super::row;

/// One call of the server's script takes no more than this, unless a single script is longer: while it runs the
/// server does nothing else.
const CALL_BYTES_MAX: usize = 1 << 20;

/// Scripts of one submission, encoded: some calls of the server's script. The server's run is still to be appended.
#[derive(Debug)]
pub struct Encoded {
    calls: Vec<Call>,
}

/// One call of the server's script.
#[derive(Debug)]
pub struct Call {
    keys: Vec<String>,
    arguments: Arguments,
    /// Slot and whether the reply carries the row.
    expected: Vec<SlotId>,
}

/// Arguments in one arena.
#[derive(Debug, Default)]
struct Arguments {
    arena: Vec<u8>,
    ends: Vec<usize>,
}

impl Arguments {
    fn push(&mut self, argument: &[u8]) {
        self.arena.extend_from_slice(argument);
        self.ends.push(self.arena.len());
    }

    fn text(&mut self, argument: impl std::fmt::Display) {
        use std::io::Write;
        write!(self.arena, "{argument}").expect("a vector takes every write");
        self.ends.push(self.arena.len());
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.arena[start..*end])
    }
}

impl Encoded {
    /// Encodes scripts, in order.
    pub fn new(keys: &Keys, scripts: &[Script]) -> Result<Encoded> {
        let mut calls: Vec<Call> = Vec::new();
        for script in scripts {
            let size = match script {
                Script::Commit(commit) => commit.cells.bytes() + commit.outbox.bytes(),
                _ => 0,
            };
            if calls.last().is_none_or(|call| call.arguments.arena.len() + size > CALL_BYTES_MAX) {
                calls.push(Call { keys: Vec::new(), arguments: Arguments::default(), expected: Vec::new() });
            }
            calls.last_mut().expect("one was pushed").push(keys, script)?;
        }
        Ok(Encoded { calls })
    }

    /// The calls, in order.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }
}

impl Call {
    fn push(&mut self, keys: &Keys, script: &Script) -> Result<()> {
        let slot = script.slot();
        self.keys.push(keys.row(slot));
        self.keys.push(keys.outbox(slot));
        self.expected.push(slot);
        let out = &mut self.arguments;
        match script {
            Script::Commit(commit) => return self.push_commit(keys, commit),
            Script::Acquire { me, txid, expected, epoch, run, program, .. } => {
                head(out, "acquire", 2, 8);
                for number in [me.0, expected.0.0, expected.1.0, epoch.0, run.0] {
                    out.text(number);
                }
                out.text(txid_text(txid));
                out.text(program.generation);
                out.text(program.revision);
            }
            Script::Note { me, epoch, run, noted, .. } => {
                head(out, "note", 2, 4);
                [me.0, epoch.0, run.0].into_iter().for_each(|number| out.text(number));
                out.text(format_args!("{}.{}.{}", noted.source, noted.partition, noted.offset));
            }
            Script::Trim { me, epoch, run, covered, .. } => {
                head(out, "trim", 2, 4);
                [me.0, epoch.0, run.0, covered.0].into_iter().for_each(|number| out.text(number));
            }
            Script::Rebase { me, epoch, run, n, .. } => {
                head(out, "rebase", 2, 4);
                [me.0, epoch.0, run.0, n.0].into_iter().for_each(|number| out.text(number));
            }
            Script::Give { me, txid, epoch, run, to, covered, .. } => {
                head(out, "give", 2, 6);
                [me.0, epoch.0, run.0, covered.0, to.0].into_iter().for_each(|number| out.text(number));
                out.text(txid_text(txid));
            }
        }
        Ok(())
    }

    fn push_commit(&mut self, keys: &Keys, commit: &Commit) -> Result<()> {
        let shelves = shelves(&commit.cells);
        let cells: usize = shelves.values().map(|shelf| 2 + 2 * shelf.puts.len() + shelf.deletes.len()).sum();
        let out = &mut self.arguments;
        head(out, "commit", 2 + shelves.len(), 8 + cells);
        let numbers = [commit.id.incarnation.0, commit.epoch.0, commit.n.0.wrapping_sub(1), commit.n.0];
        numbers.into_iter().for_each(|number| out.text(number));
        out.text(commit_id_text(&commit.id));
        out.push(&codec::to_bytes(&commit.positions)?);
        out.text(commit.trim.0);
        let mut outputs = Vec::new();
        if !commit.outbox.is_empty() {
            outbox::encode(&commit.outbox, &mut outputs);
        }
        out.push(&outputs);
        for (name, shelf) in &shelves {
            self.keys.push(keys.cells(commit.slot, *name));
            out.text(2 * shelf.puts.len());
            out.text(shelf.deletes.len());
            for (cell, value) in &shelf.puts {
                out.push(cell);
                out.push(value);
            }
            shelf.deletes.iter().for_each(|cell| out.push(cell));
        }
        Ok(())
    }

    /// The command, for a connection to this run of the server.
    pub fn command(&self, sha: &str, run: &str) -> Cmd {
        let size = self.arguments.arena.len() + self.keys.iter().map(String::len).sum::<usize>();
        let mut command = Cmd::with_capacity(self.keys.len() + self.arguments.ends.len() + 4, size + 128);
        command.arg("EVALSHA").arg(sha).arg(self.keys.len());
        for key in &self.keys {
            command.arg(key.as_bytes());
        }
        for argument in self.arguments.iter() {
            command.arg(argument);
        }
        command.arg(run);
        command
    }

    /// What the server's script answered, appended to the replies.
    pub fn read(&self, answer: Value, replies: &mut Vec<Reply>) -> Result<()> {
        let Value::Array(verdicts) = answer else { return Err(unreadable()) };
        if verdicts.len() != self.expected.len() {
            return Err(unreadable());
        }
        for (slot, answer) in self.expected.iter().zip(verdicts) {
            let (answer, record) = match answer {
                Value::Array(parts) => {
                    let mut parts = parts.into_iter();
                    let answer = parts.next().ok_or_else(unreadable)?;
                    (answer, Some(row::from_pairs(parts.next().ok_or_else(unreadable)?)?))
                }
                answer => (answer, None),
            };
            replies.push(Reply { slot: *slot, verdict: verdict(&answer)?, record, published: None });
        }
        Ok(())
    }
}

fn head(out: &mut Arguments, kind: &str, keys: usize, count: usize) {
    out.push(kind.as_bytes());
    out.text(keys);
    out.text(count);
}

fn verdict(answer: &Value) -> Result<Verdict> {
    match answer {
        Value::BulkString(letter) => match letter.as_slice() {
            b"D" => Ok(Verdict::Done),
            b"F" => Ok(Verdict::Fenced),
            b"B" => Ok(Verdict::Behind),
            b"O" => Ok(Verdict::Outdated),
            _ => Err(unreadable()),
        },
        _ => Err(unreadable()),
    }
}

/// What the server said cannot be what was asked for.
pub fn unreadable() -> Error {
    Error::new(
        ErrorKind::Codec,
        "the Redis server's answer cannot be read: is something between it and the silo?",
    )
}

/// What one hash of cells is to become.
#[derive(Debug, Default)]
struct Writes<'a> {
    puts: Vec<(&'a [u8], &'a [u8])>,
    deletes: Vec<&'a [u8]>,
}

/// The writes of a commit by hash. Writing and deleting are one command each, so where a commit deletes, only the last
/// word on each cell is kept; else the order of writing is enough.
fn shelves(cells: &Cells) -> BTreeMap<Shelf, Writes<'_>> {
    let mut last: HashMap<&[u8], usize, foldhash::fast::FixedState> = HashMap::default();
    if cells.iter().any(|(_, value)| value.is_none()) {
        last.extend(cells.iter().enumerate().map(|(at, (cell, _))| (cell, at)));
    }
    let mut shelves: BTreeMap<Shelf, Writes<'_>> = BTreeMap::new();
    for (at, (cell, value)) in cells.iter().enumerate() {
        if last.get(cell).is_some_and(|last| *last != at) {
            continue;
        }
        let shelf = shelves.entry(Shelf::of(cell)).or_default();
        match value {
            Some(value) => shelf.puts.push((cell, value)),
            None => shelf.deletes.push(cell),
        }
    }
    shelves
}

fn txid_text(txid: &TxId) -> String {
    format!("{}.{}", txid.incarnation.0, txid.lane)
}

fn commit_id_text(id: &CommitId) -> String {
    format!("{}.{}.{}", id.incarnation.0, id.epoch.0, id.n.0)
}
