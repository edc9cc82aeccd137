//! What one script does to one slot's row: the rules of the commit protocol, without IO.
//!
//! Invariant: a script answered `Fenced`, `Behind` or `Outdated` changes nothing; a resend of the last commit is `Done`.

use granary_cluster::{Commit, Incarnation, Noted, RunId, Script, SlotRecord, TxId, Verdict};

/// Runs `script` on the slot's row under the present `run` of the store. The row is changed only when the answer is
/// `Done` and the second value is true; a resend is `Done` and changes nothing.
pub fn run_script(row: &mut SlotRecord, script: &Script, run: RunId) -> (Verdict, bool) {
    match script {
        Script::Acquire { me, txid, expected, epoch, run: known, program, .. } => {
            if *known != run {
                return (Verdict::Fenced, false);
            }
            // a resend; a row without its id was given to it, and an acquire that comes late is none of those
            if (row.owner, row.epoch) == (*me, *epoch) && row.txids.ids.contains(txid) {
                return (Verdict::Done, false);
            }
            if (row.owner, row.epoch) != *expected || *epoch <= row.epoch {
                return (Verdict::Fenced, false);
            }
            if program.generation < row.program.generation {
                return (Verdict::Outdated, false);
            }
            acquire(row, *me, *txid, run);
            (row.epoch, row.program) = (*epoch, *program);
            (Verdict::Done, true)
        }
        Script::Commit(commit) => run_commit(row, commit, run),
        Script::Note { me, epoch, run: known, noted, .. } => owned(row, (*me, *epoch), *known, run, |row| {
            row.noted = Some(Noted::after(row.noted, *noted, *me));
        }),
        // Outputs are published in the batch of their commit: there is nothing to trim.
        Script::Trim { me, epoch, run: known, .. } => {
            let (verdict, _) = owned(row, (*me, *epoch), *known, run, |_| {});
            (verdict, false)
        }
        Script::Rebase { me, epoch, run: known, n, .. } => owned(row, (*me, *epoch), *known, run, |row| {
            row.n = row.n.max(*n);
            row.commit_id = None;
        }),
        Script::Give { me, txid, epoch, run: known, to, .. } => {
            owned(row, (*me, *epoch), *known, run, |row| {
                (row.owner, row.noted) = (*to, None); // nobody ended
                row.txids.ids.retain(|id| id != txid);
            })
        }
    }
}

fn acquire(row: &mut SlotRecord, me: Incarnation, txid: TxId, run: RunId) {
    // A slot nobody has owned has no writers to fence, whatever run its empty row names.
    row.txids.everyone |= row.run != run && row.epoch.0 > 0;
    if !row.txids.ids.contains(&txid) {
        row.txids.ids.push(txid);
    }
    // only who takes it from another has seen a process end
    row.tries = row.tries.saturating_add(u32::from(row.owner != me));
    row.noted = Noted::survived(row.noted, me);
    row.owner = me;
    row.run = run;
}

fn owned(
    row: &mut SlotRecord,
    owner: (Incarnation, granary_cluster::Epoch),
    known: RunId,
    run: RunId,
    change: impl FnOnce(&mut SlotRecord),
) -> (Verdict, bool) {
    if (row.owner, row.epoch) != owner || known != run || row.run != run {
        return (Verdict::Fenced, false);
    }
    change(row);
    (Verdict::Done, true)
}

fn run_commit(row: &mut SlotRecord, commit: &Commit, run: RunId) -> (Verdict, bool) {
    let me = commit.id.incarnation;
    if (row.owner, row.epoch) != (me, commit.epoch) || row.run != run {
        return (Verdict::Fenced, false);
    }
    if row.n == commit.n && row.commit_id == Some(commit.id) {
        return (Verdict::Done, false);
    }
    if row.n.next() != commit.n {
        return (Verdict::Behind, false);
    }
    row.n = commit.n;
    row.commit_id = Some(commit.id);
    row.positions.clone_from(&commit.positions);
    // The owner has fenced every other id before its first commit: only its own remain.
    row.txids.everyone = false;
    row.txids.ids.retain(|id| id.incarnation == me);
    row.tries = 0;
    row.noted = None;
    (Verdict::Done, true)
}
