//! Random scripts on Redis and on the rules of `slots.rs`: every verdict, row, cell and outbox is the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_cluster::{
    CommitNo, Epoch, Generation, Incarnation, Outbox, Position, Program, RevisionNo, RunId, Script,
    SlotRecord, SourceId, Store, TxId, Verdict,
};
use granary_core::{ErrorKind, SlotId};
use granary_store::conformance::{Owner, commit, emit, run, scan};
use granary_store::slots::run_script;
use granary_store::{Durability, Redis, RedisOptions};

use super::{Server, open, refused, until};

const SLOTS: u16 = 3;
const ROUNDS: u64 = 12;
const BATCHES: u64 = 150;

/// What the rules say is stored.
#[derive(Default)]
struct Slot {
    row: SlotRecord,
    cells: BTreeMap<Vec<u8>, Vec<u8>>,
    outbox: Vec<(CommitNo, Outbox)>,
    /// Sent before, to be sent again.
    sent: Vec<Script>,
}

impl Slot {
    /// The rules, and what an external log adds: outputs stay until they are covered, and then only may a slot be given.
    fn run(&mut self, script: &Script, run: RunId) -> Verdict {
        let mut row = self.row.clone();
        let (verdict, changed) = run_script(&mut row, script, run);
        if verdict != Verdict::Done {
            return verdict;
        }
        match script {
            Script::Give { covered, .. } => {
                if self.outbox.iter().any(|(n, _)| n > covered) {
                    return Verdict::Fenced;
                }
                self.outbox.clear();
            }
            Script::Trim { covered, .. } => self.outbox.retain(|(n, _)| n > covered),
            Script::Commit(commit) if changed => {
                for (cell, value) in commit.cells.iter() {
                    match value {
                        Some(value) => self.cells.insert(cell.to_vec(), value.to_vec()),
                        None => self.cells.remove(cell),
                    };
                }
                self.outbox.retain(|(n, _)| *n > commit.trim);
                if !commit.outbox.is_empty() {
                    self.outbox.push((commit.n, commit.outbox.clone()));
                }
            }
            _ => {}
        }
        self.row = row;
        verdict
    }
}

/// xorshift: the same sequence every time.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    /// The right number mostly, else one near by.
    fn near(&mut self, right: u64) -> u64 {
        match self.roll(8) {
            0 => right.wrapping_add(1),
            1 => right.saturating_sub(1),
            _ => right,
        }
    }
}

/// Numbers beyond what a floating-point number holds: an epoch far up there must still be told from the next.
pub(super) const HIGH: u64 = (1 << 60) + 7;

fn random_script(dice: &mut Dice, id: SlotId, slot: &Slot, run: RunId) -> Script {
    if !slot.sent.is_empty() && dice.roll(6) == 0 {
        return slot.sent[dice.roll(slot.sent.len() as u64) as usize].clone();
    }
    let row = &slot.row;
    let me = match dice.roll(10) {
        0 => Incarnation(HIGH + dice.roll(3)),
        _ => row.owner,
    };
    let (epoch, run) = (Epoch(dice.near(row.epoch.0)), RunId(if dice.roll(12) == 0 { 5 } else { run.0 }));
    let covered = CommitNo(dice.near(row.n.0));
    let txid = TxId { incarnation: me, lane: dice.roll(2) as u16 };
    let slot = id;
    match dice.roll(12) {
        0 | 1 => {
            let me = Incarnation(HIGH + dice.roll(3));
            let txid = TxId { incarnation: me, lane: dice.roll(2) as u16 };
            let first = if row.epoch.0 == 0 { HIGH } else { row.epoch.0 + 1 };
            let expected = (row.owner, Epoch(dice.near(row.epoch.0)));
            let generation = Generation(dice.near(row.program.generation.0.max(HIGH)));
            let program = Program { generation, revision: RevisionNo(HIGH + dice.roll(9)) };
            Script::Acquire { slot, me, txid, expected, epoch: Epoch(dice.near(first)), run, program }
        }
        2 => {
            let noted = Position { source: SourceId(1), partition: 2, offset: HIGH + dice.roll(2) };
            Script::Note { slot, me, epoch, run, noted }
        }
        3 => Script::Trim { slot, me, epoch, run, covered },
        4 => Script::Rebase { slot, me, epoch, run, n: CommitNo(dice.near(row.n.0) + dice.roll(20)) },
        5 => Script::Give { slot, me, txid, epoch, run, to: Incarnation(HIGH + dice.roll(3)), covered },
        _ => random_commit(dice, slot, row, Owner { me, epoch, run, txid }),
    }
}

fn random_commit(dice: &mut Dice, slot: SlotId, row: &SlotRecord, owner: Owner) -> Script {
    let names: [&[u8]; 6] = [b"", b"r/1", b"r/2", b"c/1", b"w", b"\xff\0"];
    let values: Vec<Vec<u8>> = (0..6).map(|_| vec![dice.roll(256) as u8; dice.roll(9) as usize]).collect();
    let mut cells: Vec<(&[u8], Option<&[u8]>)> = Vec::new();
    for value in &values[..dice.roll(6) as usize] {
        let name = names[dice.roll(6) as usize];
        cells.push((name, (dice.roll(3) > 0).then_some(value)));
    }
    let n = dice.near(row.n.0 + 1);
    let mut made = commit(slot, owner, n, &cells);
    made.positions = (0..dice.roll(3)).map(|_| position(dice)).collect();
    made.trim = CommitNo(n.saturating_sub(1 + dice.roll(4)));
    for index in 0..dice.roll(3) as u32 {
        emit(&mut made, 1, index, b"key", &n.to_be_bytes(), &values[index as usize]);
    }
    Script::Commit(Arc::new(made))
}

fn position(dice: &mut Dice) -> Position {
    Position {
        source: SourceId(dice.roll(3) as u16),
        partition: dice.roll(9) as u32,
        offset: HIGH + dice.roll(99),
    }
}

#[test]
fn random_scripts_have_the_same_outcome_as_by_the_rules() {
    let mut server = Server::start(&["--appendfsync", "no"]);
    let options = || RedisOptions::new(server.url(), "rules", SLOTS).durability(Durability::None);
    let store = open(options());
    let mut slots: Vec<Slot> = (0..SLOTS).map(|_| Slot::default()).collect();
    let mut seen: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..ROUNDS {
        for _ in 0..BATCHES {
            let run_now = store.run();
            let mut scripts = Vec::new();
            let mut expected = Vec::new();
            for _ in 0..=dice.roll(4) {
                let id = SlotId(dice.roll(u64::from(SLOTS)) as u16);
                let slot = &mut slots[usize::from(id.0)];
                let script = random_script(&mut dice, id, slot, run_now);
                let verdict = slot.run(&script, run_now);
                *seen.entry((kind(&script), name(&verdict))).or_default() += 1;
                let acquired = verdict == Verdict::Done && matches!(script, Script::Acquire { .. });
                expected.push((verdict, acquired.then(|| slot.row.clone())));
                slot.sent.push(script.clone());
                scripts.push(script);
            }
            let replies = run(&*store, scripts.clone()).expect("the server is there");
            let found: Vec<_> = replies.into_iter().map(|reply| (reply.verdict, reply.record)).collect();
            assert_eq!(found, expected, "round {round}: {scripts:#?}");
        }
        compare(&store, &slots);
        let before = store.run();
        server.kill();
        server.run();
        until(|| (store.record(SlotId(0)).is_ok() && store.run() != before).then_some(()));
        until(|| run(&*store, vec![nothing(&slots[0].row)]).ok());
        for slot in &mut slots {
            slot.sent = slot.sent.split_off(slot.sent.len().saturating_sub(20));
        }
        compare(&store, &slots);
    }
    for kind in ["acquire", "commit", "note", "trim", "rebase", "give"] {
        for verdict in ["done", "fenced"] {
            assert!(
                seen.get(&(kind, verdict)).is_some_and(|times| *times >= 10),
                "{kind} {verdict}: {seen:?}"
            );
        }
    }
    assert!(seen[&("commit", "behind")] >= 10, "{seen:?}");
    assert!(seen[&("acquire", "outdated")] >= 10, "{seen:?}");
}

/// Changes nothing, whoever owns the slot.
fn nothing(row: &SlotRecord) -> Script {
    let (slot, me, epoch, run) = (SlotId(0), row.owner, row.epoch, RunId(5));
    Script::Trim { slot, me, epoch, run, covered: CommitNo(0) }
}

fn compare(store: &Redis, slots: &[Slot]) {
    for (slot, expected) in slots.iter().enumerate() {
        let id = SlotId(slot as u16);
        assert_eq!(store.record(id).expect("a row"), expected.row, "slot {slot}");
        if expected.row.run != store.run() && expected.row.epoch.0 > 0 {
            for error in [
                refused(store.outbox(id)),
                refused(store.load(id, b"w", &mut Vec::new())),
                refused(store.load_many(&[(id, b"w".to_vec())], &mut |_, _| {})),
                refused(store.scan(id, b"r/", None, &mut |_, _| true)),
            ] {
                assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
            }
            continue;
        }
        let cells: Vec<_> = expected.cells.clone().into_iter().collect();
        assert_eq!(scan(store, id, b"", None, usize::MAX), cells, "slot {slot}");
        let outbox: Vec<_> =
            store.outbox(id).expect("an outbox").into_iter().map(|(n, o)| (n, (*o).clone())).collect();
        assert_eq!(outbox, expected.outbox, "slot {slot}");
    }
}

fn kind(script: &Script) -> &'static str {
    match script {
        Script::Acquire { .. } => "acquire",
        Script::Commit(_) => "commit",
        Script::Note { .. } => "note",
        Script::Trim { .. } => "trim",
        Script::Rebase { .. } => "rebase",
        Script::Give { .. } => "give",
    }
}

fn name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Done => "done",
        Verdict::Fenced => "fenced",
        Verdict::Behind => "behind",
        Verdict::Outdated => "outdated",
    }
}
