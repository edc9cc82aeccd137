//! Reads: rows, outboxes, cells. What belongs to a slot's owner is `fenced` under another run of the server.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_cluster::{CommitNo, Incarnation, Lookup, RunId, SlotRecord, StoredOutbox};
use granary_core::{Error, ErrorKind, Result, SlotId};
use redis::{Pipeline, Value};

use super::encode::unreadable;
use super::job::Read;
use super::keys::{Keys, Shelf};
use super::{Redis, outbox, row};

/// Cells looked up in one round trip, and of one hash in one command.
const CELLS_MAX: usize = 4_096;

/// Cells looked at in one step of a scan, about.
const SCAN_STEP: usize = 1_000;

/// A step of a scan: where to go on, and some cells.
type Step = (u64, Vec<(Vec<u8>, Vec<u8>)>);

impl Redis {
    pub(super) fn read_rows(&self, slots: &[SlotId]) -> Result<Vec<Result<SlotRecord>>> {
        let mut pipeline = Pipeline::with_capacity(slots.len());
        slots.iter().for_each(|slot| ask_row(&mut pipeline, &self.shared.keys, *slot));
        let Read { values, .. } = self.ask(pipeline)?;
        if values.len() != slots.len() {
            return Err(unreadable());
        }
        Ok(values.into_iter().map(row::from_pairs).collect())
    }

    pub(super) fn read_outbox(&self, slot: SlotId) -> Result<StoredOutbox> {
        let mut pipeline = Pipeline::new();
        ask_run(&mut pipeline, &self.shared.keys, slot);
        ask_outbox(&mut pipeline, &self.shared.keys, slot);
        let Read { values, run } = self.ask(pipeline)?;
        let [known, entries] = <[Value; 2]>::try_from(values).map_err(|_| unreadable())?;
        check_run(slot, &known, run)?;
        outbox_of(entries)
    }

    /// Each row, then its outbox.
    pub(super) fn read_with_outboxes(
        &self,
        slots: &[SlotId],
    ) -> Result<Vec<Result<(SlotRecord, StoredOutbox)>>> {
        let mut pipeline = Pipeline::with_capacity(2 * slots.len());
        for slot in slots {
            ask_row(&mut pipeline, &self.shared.keys, *slot);
            ask_outbox(&mut pipeline, &self.shared.keys, *slot);
        }
        let Read { values, run } = self.ask(pipeline)?;
        if values.len() != 2 * slots.len() {
            return Err(unreadable());
        }
        let mut values = values.into_iter();
        let mut next = || values.next().unwrap_or(Value::Nil);
        let each = |slot: &SlotId| {
            let (row, entries) = (next(), next());
            let record = row::from_pairs(row)?;
            if record.owner != Incarnation(0) && record.run != run {
                return Err(of_another_run(*slot));
            }
            Ok((record, outbox_of(entries)?))
        };
        Ok(slots.iter().map(each).collect())
    }

    pub(super) fn read_cell(&self, slot: SlotId, cell: &[u8], value: &mut Vec<u8>) -> Result<Lookup> {
        let keys = &self.shared.keys;
        let mut pipeline = Pipeline::new();
        ask_run(&mut pipeline, keys, slot);
        pipeline.cmd("HGET").arg(keys.cells(slot, Shelf::of(cell))).arg(cell);
        let Read { values, run } = self.ask(pipeline)?;
        let [known, found] = <[Value; 2]>::try_from(values).map_err(|_| unreadable())?;
        check_run(slot, &known, run)?;
        match found {
            Value::BulkString(bytes) => {
                value.extend_from_slice(&bytes);
                Ok(Lookup::Found)
            }
            Value::Nil => Ok(Lookup::Absent),
            _ => Err(unreadable()),
        }
    }

    pub(super) fn read_cells(
        &self,
        cells: &[(SlotId, Vec<u8>)],
        each: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        for (part, cells) in cells.chunks(CELLS_MAX).enumerate() {
            let mut found = self.read_part(cells)?;
            for (i, value) in found.iter_mut().enumerate() {
                match value {
                    Value::BulkString(bytes) => each(part * CELLS_MAX + i, Some(bytes)),
                    Value::Nil => each(part * CELLS_MAX + i, None),
                    _ => return Err(unreadable()),
                }
            }
        }
        Ok(())
    }

    /// The cells in one round trip: the run of each slot's row, then the cells of each hash.
    fn read_part(&self, cells: &[(SlotId, Vec<u8>)]) -> Result<Vec<Value>> {
        let keys = &self.shared.keys;
        let mut hashes: BTreeMap<(SlotId, Shelf), Vec<usize>> = BTreeMap::new();
        for (i, (slot, cell)) in cells.iter().enumerate() {
            hashes.entry((*slot, Shelf::of(cell))).or_default().push(i);
        }
        let mut slots: Vec<SlotId> = hashes.keys().map(|(slot, _)| *slot).collect();
        slots.dedup();
        let mut pipeline = Pipeline::with_capacity(slots.len() + hashes.len());
        slots.iter().for_each(|slot| ask_run(&mut pipeline, keys, *slot));
        for ((slot, shelf), places) in &hashes {
            pipeline.cmd("HMGET").arg(keys.cells(*slot, *shelf));
            for place in places {
                pipeline.arg(cells[*place].1.as_slice());
            }
        }
        let Read { mut values, run } = self.ask(pipeline)?;
        if values.len() != slots.len() + hashes.len() {
            return Err(unreadable());
        }
        let answers = values.split_off(slots.len());
        slots.iter().zip(&values).try_for_each(|(slot, known)| check_run(*slot, known, run))?;
        let mut found = vec![Value::Nil; cells.len()];
        for (places, answer) in hashes.values().zip(answers) {
            let Value::Array(values) = answer else { return Err(unreadable()) };
            for (place, value) in places.iter().zip(values) {
                found[*place] = value;
            }
        }
        Ok(found)
    }

    /// The cells with a prefix after a key, in order. A hash has none: its cells are read in steps and sorted here.
    pub(super) fn read_prefix(
        &self,
        slot: SlotId,
        prefix: &[u8],
        after: Option<&[u8]>,
    ) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut found = BTreeMap::new();
        for shelf in Shelf::with_prefix(prefix) {
            let mut cursor = 0u64;
            loop {
                let mut pipeline = Pipeline::new();
                ask_run(&mut pipeline, &self.shared.keys, slot);
                let key = self.shared.keys.cells(slot, shelf);
                pipeline.cmd("HSCAN").arg(key).arg(cursor).arg("COUNT").arg(SCAN_STEP);
                let Read { values, run } = self.ask(pipeline)?;
                let [known, step] = <[Value; 2]>::try_from(values).map_err(|_| unreadable())?;
                check_run(slot, &known, run)?;
                let (next, cells): Step = redis::from_redis_value(step).map_err(|_| unreadable())?;
                found.extend(cells.into_iter().filter(|(cell, _)| {
                    cell.starts_with(prefix) && after.is_none_or(|after| cell.as_slice() > after)
                }));
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(found)
    }
}

fn ask_row(pipeline: &mut Pipeline, keys: &Keys, slot: SlotId) {
    pipeline.cmd("HGETALL").arg(keys.row(slot));
}

fn ask_outbox(pipeline: &mut Pipeline, keys: &Keys, slot: SlotId) {
    pipeline.cmd("LRANGE").arg(keys.outbox(slot)).arg(0).arg(-1);
}

fn outbox_of(entries: Value) -> Result<StoredOutbox> {
    let Value::Array(entries) = entries else { return Err(unreadable()) };
    let mut out = Vec::with_capacity(entries.len() / 2);
    let mut entries = entries.into_iter();
    while let (Some(n), Some(outputs)) = (entries.next(), entries.next()) {
        let (Value::BulkString(n), Value::BulkString(outputs)) = (n, outputs) else {
            return Err(unreadable());
        };
        out.push((CommitNo(row::number(&n)?), Arc::new(outbox::decode(&outputs)?)));
    }
    Ok(out)
}

fn ask_run(pipeline: &mut Pipeline, keys: &Keys, slot: SlotId) {
    pipeline.cmd("HGET").arg(keys.row(slot)).arg("run");
}

/// A slot acquired under another run: what was stored then may be gone. A slot nobody has owned has nothing to lose.
fn check_run(slot: SlotId, known: &Value, run: RunId) -> Result<()> {
    match known {
        Value::Nil => Ok(()),
        Value::BulkString(known) if row::run(known)? == run => Ok(()),
        Value::BulkString(_) => Err(of_another_run(slot)),
        _ => Err(unreadable()),
    }
}

fn of_another_run(slot: SlotId) -> Error {
    let message =
        format!("slot {slot} was acquired under another run of the Redis server: it must be acquired again");
    Error::new(ErrorKind::Fenced, message)
}
