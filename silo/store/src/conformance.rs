//! What every store and every log must do, as checks any adapter's tests can run.
//!
//! Each check takes a function that makes an empty adapter and panics, saying what differed, when the adapter breaks
//! the port's promise.

mod log;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use granary_cluster::{
    Cause, Cells, Commit, CommitId, CommitNo, Epoch, Generation, Incarnation, Lookup, Noted, Outbox,
    Position, Program, Reply, RevisionNo, RunId, Script, SlotRecord, SourceId, Store, StreamId, TxId,
    Verdict,
};
use granary_core::{Result, SlotId, Timestamp};

pub use log::{check_log, check_log_at, check_published};

/// A reply later than this is counted as none.
const REPLY_MAX: Duration = Duration::from_secs(60);

/// Submits scripts and waits for the replies.
pub fn run(store: &dyn Store, scripts: Vec<Script>) -> Result<Vec<Reply>> {
    let (tell, told) = channel();
    store.submit(
        scripts,
        Box::new(move |replies| {
            // Fails only when the waiting test has given up.
            let _ = tell.send(replies);
        }),
    );
    told.recv_timeout(REPLY_MAX).expect("a store answers every submission once")
}

/// Submits one script and waits for its reply.
pub fn run_one(store: &dyn Store, script: Script) -> Reply {
    let mut replies = run(store, vec![script]).expect("the store takes scripts");
    assert_eq!(replies.len(), 1, "one reply for each script");
    replies.remove(0)
}

/// A silo's lane, as the checks play it.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// Its life.
    pub me: Incarnation,
    /// The slot's epoch it holds.
    pub epoch: Epoch,
    /// The run it knows.
    pub run: RunId,
    /// Its transactional id.
    pub txid: TxId,
}

/// Takes a slot for a new life, whoever has it.
pub fn acquire(store: &dyn Store, slot: SlotId, me: u64) -> Owner {
    let row = store.record(slot).expect("a row can be read");
    let owner = Owner {
        me: Incarnation(me),
        epoch: Epoch(row.epoch.0 + 1),
        run: store.run(),
        txid: TxId { incarnation: Incarnation(me), lane: 0 },
    };
    let reply = run_one(store, acquire_script(slot, owner, (row.owner, row.epoch)));
    assert_eq!(reply.verdict, Verdict::Done, "an expected acquire is done");
    let after = reply.record.expect("an acquire answers with the row");
    assert_eq!((after.owner, after.epoch, after.run), (owner.me, owner.epoch, owner.run));
    owner
}

/// The script that takes a slot.
pub fn acquire_script(slot: SlotId, owner: Owner, expected: (Incarnation, Epoch)) -> Script {
    Script::Acquire {
        slot,
        me: owner.me,
        txid: owner.txid,
        expected,
        epoch: owner.epoch,
        run: owner.run,
        program: Program::default(),
    }
}

/// Commit `n` of a slot: these cells (`None` deletes), standing at offset `n` of source 0.
pub fn commit(slot: SlotId, owner: Owner, n: u64, cells: &[(&[u8], Option<&[u8]>)]) -> Commit {
    let mut written = Cells::default();
    for (key, value) in cells {
        match value {
            Some(value) => {
                written.put(|out| out.extend_from_slice(key), |out| out.extend_from_slice(value));
            }
            None => written.delete(|out| out.extend_from_slice(key)),
        }
    }
    Commit {
        slot,
        epoch: owner.epoch,
        n: CommitNo(n),
        id: CommitId { incarnation: owner.me, epoch: owner.epoch, n: CommitNo(n) },
        cells: written,
        positions: vec![Position { source: SourceId(0), partition: 0, offset: n }],
        outbox: Outbox::default(),
        trim: CommitNo(0),
    }
}

/// Appends an output to a commit.
pub fn emit(commit: &mut Commit, stream: u16, index: u32, key: &[u8], id: &[u8], value: &[u8]) {
    let cause = Cause { source: SourceId(0), partition: 0, offset: commit.n.0, index };
    commit.outbox.push(
        StreamId(stream),
        cause,
        Timestamp(1_000 + i64::from(index)),
        key,
        |out| out.extend_from_slice(id),
        |out| out.extend_from_slice(value),
    );
}

fn verdict(store: &dyn Store, commit: Commit) -> Verdict {
    run_one(store, Script::Commit(Arc::new(commit))).verdict
}

/// The value of a cell.
pub fn load(store: &dyn Store, slot: SlotId, cell: &[u8]) -> Option<Vec<u8>> {
    let mut value = b"kept".to_vec();
    let found = store.load(slot, cell, &mut value).expect("a cell can be read");
    assert!(value.starts_with(b"kept"), "load appends");
    (found == Lookup::Found).then(|| value.split_off(4))
}

/// All cells of a slot with a prefix after a key.
pub fn scan(
    store: &dyn Store,
    slot: SlotId,
    prefix: &[u8],
    after: Option<&[u8]>,
    most: usize,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut seen = Vec::new();
    let each = &mut |cell: &[u8], value: &[u8]| {
        seen.push((cell.to_vec(), value.to_vec()));
        seen.len() < most
    };
    store.scan(slot, prefix, after, each).expect("cells can be scanned");
    seen
}

/// Checks everything a store promises that has at least two slots.
pub fn check_store<S: Store + ?Sized>(make: impl Fn() -> Arc<S>)
where
    Arc<S>: AsStore,
{
    for check in [ownership, generations, commits, resends, small_scripts, hand_over, cells, batches] {
        let store = make();
        check(store.as_store());
    }
}

/// A shared adapter seen as a store.
pub trait AsStore {
    /// The store.
    fn as_store(&self) -> &dyn Store;
}

impl<S: Store> AsStore for Arc<S> {
    fn as_store(&self) -> &dyn Store {
        &**self
    }
}

impl AsStore for Arc<dyn Store> {
    fn as_store(&self) -> &dyn Store {
        &**self
    }
}

/// A slot that a later generation has owned is nobody's of an earlier one, whoever gave it to whom.
fn generations(store: &dyn Store) {
    let slot = SlotId(0);
    let acquire_as = |me: u64, generation: u64, revision: u64| {
        let row = store.record(slot).expect("a row");
        let me = Incarnation(me);
        let owner = Owner {
            me,
            epoch: Epoch(row.epoch.0 + 1),
            run: store.run(),
            txid: TxId { incarnation: me, lane: 0 },
        };
        let mut script = acquire_script(slot, owner, (row.owner, row.epoch));
        if let Script::Acquire { program, .. } = &mut script {
            *program = Program { generation: Generation(generation), revision: RevisionNo(revision) };
        }
        run_one(store, script).verdict
    };
    let stands = || {
        let Program { generation, revision } = store.record(slot).expect("a row").program;
        (generation.0, revision.0)
    };
    for (me, generation, revision) in [(1, 1, 1), (2, 1, 2), (1, 1, 1), (3, 10, 3), (4, 10, 1)] {
        assert_eq!(
            acquire_as(me, generation, revision),
            Verdict::Done,
            "both ways within a generation, and on"
        );
        assert_eq!(stands(), (generation, revision), "the row names what its owner runs");
    }
    let before = store.record(slot).expect("a row");
    for (me, generation) in [(5, 9), (1, 1), (4, 0)] {
        assert_eq!(acquire_as(me, generation, 7), Verdict::Outdated, "{me} is of generation {generation}");
    }
    assert_eq!(store.record(slot).expect("a row"), before, "nothing was written");
    assert_eq!(acquire_as(5, 11, 4), Verdict::Done);
}

fn ownership(store: &dyn Store) {
    let slot = SlotId(0);
    assert_eq!(store.record(slot).expect("a row"), SlotRecord::new(), "nobody has owned it");
    let first = acquire(store, slot, 7);
    let row = store.record(slot).expect("a row");
    assert_eq!((row.tries, row.txids.ids.as_slice(), row.txids.everyone), (1, &[first.txid][..], false));
    let again = run_one(store, acquire_script(slot, first, (Incarnation(0), Epoch(0))));
    assert_eq!(again.verdict, Verdict::Done, "a resent acquire is done already");
    assert_eq!(again.record.expect("a row").tries, 1, "a resend counts no try");

    let second = acquire(store, slot, 8);
    let row = store.record(slot).expect("a row");
    assert_eq!((row.tries, row.txids.ids.len()), (2, 2), "who may still hold a transaction is kept");
    let late = run_one(store, acquire_script(slot, first, (Incarnation(0), Epoch(0))));
    assert_eq!((late.verdict, late.record), (Verdict::Fenced, None));
    assert_eq!(verdict(store, commit(slot, first, 1, &[])), Verdict::Fenced, "the old owner writes nothing");
    let other_run = Owner { run: RunId(second.run.0 + 1), epoch: Epoch(second.epoch.0 + 1), ..second };
    let fenced = run_one(store, acquire_script(slot, other_run, (second.me, second.epoch)));
    assert_eq!(fenced.verdict, Verdict::Fenced, "a script of another run is fenced");
    assert_eq!(store.record(slot).expect("a row"), row, "what is fenced changes nothing");
}

fn commits(store: &dyn Store) {
    let slot = SlotId(1);
    let owner = acquire(store, slot, 7);
    acquire(store, slot, 9);
    let owner = Owner { epoch: Epoch(owner.epoch.0 + 2), ..owner };
    let row = store.record(slot).expect("a row");
    let taken = run_one(store, acquire_script(slot, owner, (row.owner, row.epoch)));
    assert_eq!(taken.verdict, Verdict::Done);
    let mut wrong = commit(slot, owner, 2, &[(b"a", Some(b"0"))]);
    assert_eq!(verdict(store, wrong.clone()), Verdict::Behind, "commit 2 before commit 1");
    wrong.epoch = Epoch(owner.epoch.0 + 1);
    assert_eq!(verdict(store, wrong), Verdict::Fenced);
    assert_eq!(load(store, slot, b"a"), None, "what is not done writes nothing");

    assert_eq!(verdict(store, commit(slot, owner, 1, &[(b"a", Some(b"1"))])), Verdict::Done);
    let row = store.record(slot).expect("a row");
    assert_eq!((row.n, row.tries, row.noted), (CommitNo(1), 0, None), "a commit clears tries");
    assert_eq!(row.positions, [Position { source: SourceId(0), partition: 0, offset: 1 }]);
    assert_eq!(row.txids.ids, [owner.txid], "only the owner's own ids remain");
    assert_eq!(load(store, slot, b"a"), Some(b"1".to_vec()));
    assert_eq!(load(store, SlotId(0), b"a"), None, "slots do not share cells");
}

fn resends(store: &dyn Store) {
    let slot = SlotId(0);
    let owner = acquire(store, slot, 7);
    let first = commit(slot, owner, 1, &[(b"a", Some(b"1"))]);
    assert_eq!(verdict(store, first.clone()), Verdict::Done);
    let row = store.record(slot).expect("a row");
    assert_eq!(verdict(store, first.clone()), Verdict::Done, "a resend is done already");
    assert_eq!(store.record(slot).expect("a row"), row, "a resend changes nothing");
    let mut other = first.clone();
    other.id.incarnation = Incarnation(99);
    assert_eq!(verdict(store, other), Verdict::Fenced, "a commit of another life");
    assert_eq!(verdict(store, commit(slot, owner, 2, &[(b"a", Some(b"2"))])), Verdict::Done);
    assert_eq!(verdict(store, first), Verdict::Behind, "an old commit does not come back");
    assert_eq!(load(store, slot, b"a"), Some(b"2".to_vec()));
}

fn small_scripts(store: &dyn Store) {
    let slot = SlotId(0);
    let Owner { me, epoch, run, .. } = acquire(store, slot, 7);
    let noted = Position { source: SourceId(3), partition: 4, offset: 5 };
    assert_eq!(run_one(store, Script::Note { slot, me, epoch, run, noted }).verdict, Verdict::Done);
    let first = Noted { at: noted, by: me, times: 1 };
    assert_eq!(store.record(slot).expect("a row").noted, Some(first));
    run_one(store, Script::Note { slot, me, epoch, run, noted });
    assert_eq!(store.record(slot).expect("a row").noted.map(|n| n.times), Some(1), "once by one silo");
    let other = Position { offset: 6, ..noted };
    run_one(store, Script::Note { slot, me, epoch, run, noted: other });
    let second = Some(Noted { at: other, by: me, times: 1 });
    assert_eq!(store.record(slot).expect("a row").noted, second);
    let epoch = acquire(store, slot, 7).epoch;
    assert_eq!(store.record(slot).expect("a row").noted, None, "who acquires again has not ended");
    run_one(store, Script::Note { slot, me, epoch, run, noted: other });
    let Owner { me, epoch, run, .. } = acquire(store, slot, 8);
    assert_eq!(store.record(slot).expect("a row").noted, second, "who came before may have ended with it");
    run_one(store, Script::Note { slot, me, epoch, run, noted: other });
    assert_eq!(store.record(slot).expect("a row").noted, Some(Noted { at: other, by: me, times: 2 }));
    let Owner { me, epoch, run, .. } = acquire(store, slot, 8);
    let survived = Some(Noted { at: other, by: Incarnation(0), times: 1 });
    assert_eq!(store.record(slot).expect("a row").noted, survived, "one of the two has not ended");
    let trim = Script::Trim { slot, me, epoch, run, covered: CommitNo(0) };
    assert_eq!(run_one(store, trim).verdict, Verdict::Done);
    assert_eq!(
        run_one(store, Script::Rebase { slot, me, epoch, run, n: CommitNo(40) }).verdict,
        Verdict::Done
    );
    assert_eq!(
        run_one(store, Script::Rebase { slot, me, epoch, run, n: CommitNo(4) }).verdict,
        Verdict::Done
    );
    let row = store.record(slot).expect("a row");
    assert_eq!((row.n, row.commit_id), (CommitNo(40), None), "a rebase never goes back");
    let stranger = Incarnation(99);
    for script in [
        Script::Note { slot, me: stranger, epoch, run, noted },
        Script::Trim { slot, me, epoch: epoch_after(epoch), run, covered: CommitNo(0) },
        Script::Rebase { slot, me, epoch, run: RunId(run.0 + 1), n: CommitNo(50) },
    ] {
        assert_eq!(run_one(store, script).verdict, Verdict::Fenced);
    }
    assert_eq!(store.record(slot).expect("a row"), row, "what is fenced changes nothing");
}

fn epoch_after(epoch: Epoch) -> Epoch {
    Epoch(epoch.0 + 1)
}

fn hand_over(store: &dyn Store) {
    let slot = SlotId(0);
    let before = store.record(slot).expect("a row");
    let owner = acquire(store, slot, 7);
    let Owner { me, epoch, run, txid } = owner;
    assert_eq!(verdict(store, commit(slot, owner, 1, &[])), Verdict::Done);
    let noted = Position { source: SourceId(0), partition: 0, offset: 3 };
    assert_eq!(run_one(store, Script::Note { slot, me, epoch, run, noted }).verdict, Verdict::Done);
    let to = Incarnation(8);
    let give = Script::Give { slot, me, txid, epoch, run, to, covered: CommitNo(1) };
    assert_eq!(run_one(store, give.clone()).verdict, Verdict::Done);
    let row = store.record(slot).expect("a row");
    assert_eq!((row.owner, row.epoch, row.txids.ids.len()), (to, epoch, 0));
    assert_eq!(row.noted, None, "who gives has not ended");
    assert_eq!(run_one(store, give).verdict, Verdict::Fenced, "it is no longer the giver's");
    assert_eq!(verdict(store, commit(slot, owner, 2, &[])), Verdict::Fenced);
    let rival = Owner { me: to, txid: TxId { incarnation: to, lane: 0 }, ..owner };
    let late = acquire_script(slot, rival, (before.owner, before.epoch));
    assert_eq!(
        run_one(store, late).verdict,
        Verdict::Fenced,
        "sent for the first owner's row, come after the give"
    );
    let successor = acquire(store, slot, 8);
    assert_eq!(verdict(store, commit(slot, successor, 2, &[])), Verdict::Done);
}

fn cells(store: &dyn Store) {
    let slot = SlotId(0);
    let owner = acquire(store, slot, 7);
    let write: &[(&[u8], Option<&[u8]>)] = &[
        (b"w/b", Some(b"2")),
        (b"w/a", Some(b"1")),
        (b"w/a", Some(b"one")),
        (b"w/c", Some(b"")),
        (b"x", Some(b"other")),
        (b"w/d", Some(b"gone")),
        (b"w/d", None),
        (b"w\xff\xff", Some(b"last")),
        (b"", Some(b"the empty key")),
    ];
    assert_eq!(verdict(store, commit(slot, owner, 1, write)), Verdict::Done);
    assert_eq!(load(store, slot, b"w/a"), Some(b"one".to_vec()), "the later of two writes holds");
    assert_eq!(load(store, slot, b"w/c"), Some(vec![]), "an empty value is a value");
    assert_eq!(load(store, slot, b"w/d"), None);
    assert_eq!(load(store, slot, b""), Some(b"the empty key".to_vec()));
    let pair = |cell: &[u8], value: &[u8]| (cell.to_vec(), value.to_vec());
    let all = [pair(b"w/a", b"one"), pair(b"w/b", b"2"), pair(b"w/c", b"")];
    assert_eq!(scan(store, slot, b"w/", None, 9), all);
    assert_eq!(scan(store, slot, b"w/", None, 2), all[..2]);
    assert_eq!(scan(store, slot, b"w/", Some(b"w/a"), 9), all[1..]);
    assert_eq!(scan(store, slot, b"w/", Some(b"a"), 9), all, "`after` before the prefix");
    assert_eq!(scan(store, slot, b"w/", Some(b"y"), 9), [], "`after` behind the prefix");
    assert_eq!(scan(store, slot, b"w\xff", None, 9), [pair(b"w\xff\xff", b"last")]);
    assert_eq!(scan(store, slot, b"", None, 99).len(), 6);
    assert_eq!(scan(store, SlotId(1), b"", None, 9), [], "slots do not share cells");
    assert_eq!(verdict(store, commit(slot, owner, 2, &[(b"w/b", None), (b"w/b", None)])), Verdict::Done);
    assert_eq!(scan(store, slot, b"w/", None, 9), [all[0].clone(), all[2].clone()]);
}

fn batches(store: &dyn Store) {
    let (zero, one) = (acquire(store, SlotId(0), 7), acquire(store, SlotId(1), 7));
    let script = |slot, owner, n| Script::Commit(Arc::new(commit(SlotId(slot), owner, n, &[])));
    let stale = Owner { epoch: Epoch(0), ..one };
    let replies = run(
        store,
        vec![
            script(0, zero, 1),
            script(1, stale, 1),
            script(0, zero, 2),
            script(1, one, 1),
            script(1, one, 3),
        ],
    )
    .expect("the store takes scripts");
    let verdicts: Vec<(u16, Verdict)> = replies.into_iter().map(|r| (r.slot.0, r.verdict)).collect();
    let (done, fenced, behind) = (Verdict::Done, Verdict::Fenced, Verdict::Behind);
    assert_eq!(
        verdicts,
        [(0, done.clone()), (1, fenced), (0, done.clone()), (1, done), (1, behind)],
        "each script by itself, in order"
    );
    assert!(run(store, Vec::new()).expect("an empty submission is answered").is_empty());
}
