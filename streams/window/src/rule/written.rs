//! How cells of a judge are written, and read again.

use super::fill::Filling;
use super::judge::Key;
use super::kept::{Chunk, Layout};
use super::set::{Carries, Carry, Names};
use super::steps::{Partial, Progress};
use super::verdict::Piece;
use super::{ABSENT, EVIDENCE_MAX, STEPS_MAX, TIMES_MAX};
use crate::Corrupt;
use crate::agenda::NOT_LISTED;
use crate::encode::{Reader, VERSION, put_bytes, put_i64, put_u64};

fn put_names(names: &[Box<str>], out: &mut Vec<u8>) {
    put_u64(out, names.len() as u64);
    names.iter().for_each(|name| put_bytes(out, name.as_bytes()));
}

fn read_names(reader: &mut Reader<'_>) -> Result<Vec<Box<str>>, Corrupt> {
    let count = reader.count()?;
    (0..count).map(|_| Ok(String::from_utf8_lossy(reader.bytes()?).into())).collect()
}

pub(super) fn put_root(layouts: &[Names], out: &mut Vec<u8>) {
    out.push(VERSION);
    put_u64(out, layouts.len() as u64);
    for Names { numbers, texts, conditions, rules } in layouts {
        [numbers, texts, conditions, rules].into_iter().for_each(|names| put_names(names, out));
    }
}

pub(super) fn read_root(value: &[u8]) -> Result<Vec<Names>, Corrupt> {
    let mut reader = Reader::cell(value)?;
    let count = reader.count()?;
    let mut layouts = Vec::new();
    for _ in 0..count {
        let mut names = || read_names(&mut reader);
        layouts.push(Names { numbers: names()?, texts: names()?, conditions: names()?, rules: names()? });
    }
    reader.finish()?;
    Ok(layouts)
}

pub(super) fn put_key(layout: usize, key: &Key, out: &mut Vec<u8>) {
    out.push(VERSION);
    put_u64(out, layout as u64);
    put_i64(out, key.clock);
    put_u64(out, u64::from(key.kept.first));
    put_u64(out, key.kept.chunks.len() as u64);
    put_u64(out, u64::from(key.judged.chunk));
    put_u64(out, u64::from(key.judged.at));
    put_u64(out, key.overflows);
    put_u64(out, key.warming.len() as u64);
    for (rule, until) in &key.warming {
        put_u64(out, u64::from(*rule));
        put_i64(out, *until);
    }
    put_carries(&key.carries, out);
    let mut last = Vec::new();
    if let Some(chunk) = key.kept.chunks.back() {
        put_chunk(chunk, key.kept.layout, &mut last);
    }
    put_bytes(out, &last);
    let Filling { number, clock, is_open, is_stale } = key.filling;
    if key.listed != NOT_LISTED || number > 0 {
        put_i64(out, key.listed);
    }
    if number > 0 {
        put_u64(out, number);
        put_i64(out, clock);
        out.push(u8::from(is_open) | u8::from(is_stale) << 1);
    }
}

fn put_carries(carries: &Carries, out: &mut Vec<u8>) {
    put_u64(out, carries.0.len() as u64);
    for (rule, Carry { alert_at, suppressed, events, progress }) in &carries.0 {
        put_u64(out, u64::from(*rule));
        put_i64(out, *alert_at);
        put_u64(out, u64::from(*suppressed));
        put_u64(out, *events);
        put_u64(out, progress.next);
        put_u64(out, progress.partials.len() as u64);
        for Partial { step, count, no, first_ms, taken, pieces } in &progress.partials {
            put_u64(out, u64::from(*step));
            put_u64(out, u64::from(*count));
            put_u64(out, *no);
            put_i64(out, *first_ms);
            put_u64(out, u64::from(*taken));
            put_u64(out, pieces.len() as u64);
            for Piece { id, time, amount, step } in pieces {
                put_bytes(out, id);
                put_i64(out, time.ms());
                put_i64(out, amount.unwrap_or(ABSENT));
                put_u64(out, step.map_or(0, |step| u64::from(step) + 1));
            }
        }
    }
}

pub(super) fn read_carries(reader: &mut Reader<'_>, rules: usize) -> Result<Carries, Corrupt> {
    let mut carries = Carries::default();
    for _ in 0..reader.count()? {
        let rule = reader.u32()?;
        let is_next = carries.0.last().is_none_or(|(last, _)| u32::from(*last) < rule);
        if rule as usize >= rules || !is_next {
            return Err(Corrupt { what: "a rule of the layout expected" });
        }
        let (alert_at, suppressed, events) = (reader.i64()?, reader.u32()?, reader.u64()?);
        let mut progress = Progress { next: reader.u64()?, partials: Vec::new() };
        let count = reader.count()?;
        if count > STEPS_MAX * TIMES_MAX as usize {
            return Err(Corrupt { what: "fewer sequences expected" });
        }
        for _ in 0..count {
            progress.partials.push(read_partial(reader)?);
        }
        carries.0.push((rule as u16, Carry { alert_at, suppressed, events, progress }));
    }
    Ok(carries)
}

fn read_partial(reader: &mut Reader<'_>) -> Result<Partial, Corrupt> {
    let (step, count) = (reader.u32()? as u16, reader.u32()?);
    let (no, first_ms, taken) = (reader.u64()?, reader.i64()?, reader.u32()?);
    let pieces = reader.count()?;
    if usize::from(step) >= STEPS_MAX || pieces > EVIDENCE_MAX {
        return Err(Corrupt { what: "a step of a sequence expected" });
    }
    let mut partial = Partial { step, count, no, first_ms, taken, pieces: Vec::with_capacity(pieces) };
    for _ in 0..pieces {
        partial.pieces.push(Piece {
            id: reader.bytes()?.into(),
            time: granary_core::Timestamp(reader.i64()?),
            amount: Some(reader.i64()?).filter(|amount| *amount != ABSENT),
            step: reader.u32()?.checked_sub(1).map(|step| step as u16),
        });
    }
    Ok(partial)
}

pub(super) fn put_chunk(chunk: &Chunk, layout: Layout, out: &mut Vec<u8>) {
    out.push(VERSION);
    put_carries(&chunk.carries, out);
    put_u64(out, chunk.len() as u64);
    let mut before = 0;
    for at in 0..chunk.len() {
        put_i64(out, chunk.times[at].wrapping_sub(before));
        before = chunk.times[at];
        chunk.numbers[at * layout.numbers..][..layout.numbers]
            .iter()
            .for_each(|number| put_i64(out, *number));
        chunk.bits[at * layout.words()..][..layout.words()].iter().for_each(|word| put_u64(out, *word));
        for i in 0..=layout.texts {
            match chunk.span(at * (1 + layout.texts) + i) {
                None => out.push(0),
                Some(text) => {
                    put_u64(out, text.len() as u64 + 1);
                    out.extend_from_slice(text);
                }
            }
        }
    }
    chunk.silents.iter().for_each(|word| put_u64(out, *word));
}

/// What a key that was stored lately has behind its events.
pub(super) fn read_filling(reader: &mut Reader<'_>) -> Result<Filling, Corrupt> {
    let (number, clock, bits) = (reader.u64()?, reader.i64()?, reader.byte()?);
    Ok(Filling { number, clock, is_open: bits & 1 != 0, is_stale: bits & 2 != 0 })
}

pub(super) fn read_chunk(value: &[u8], names: &Names) -> Result<Chunk, Corrupt> {
    let layout = names.layout();
    let mut reader = Reader::cell(value)?;
    let mut chunk = Chunk { carries: read_carries(&mut reader, names.rules.len())?, ..Chunk::default() };
    let mut time = 0i64;
    for _ in 0..reader.count()? {
        time = time.wrapping_add(reader.i64()?);
        chunk.times.push(time);
        for _ in 0..layout.numbers {
            chunk.numbers.push(reader.i64()?);
        }
        for _ in 0..layout.words() {
            chunk.bits.push(reader.u64()?);
        }
        for _ in 0..=layout.texts {
            let Some(length) = reader.u64()?.checked_sub(1) else {
                chunk.spans.push((1, 0));
                continue;
            };
            let length = usize::try_from(length).map_err(|_| Corrupt { what: "length too large" })?;
            let start = chunk.bytes.len() as u32;
            chunk.bytes.extend_from_slice(reader.take(length)?);
            chunk.spans.push((start, chunk.bytes.len() as u32));
        }
    }
    if reader.left() > 0 {
        for _ in 0..chunk.len() * layout.rule_words() {
            chunk.silents.push(reader.u64()?);
        }
    }
    reader.finish()?;
    Ok(chunk)
}
