//! The bytes of one frame to the frame. Nothing is copied; every length is checked against the bytes at hand.

use granary_core::call::CHAIN_DEPTH_MAX;
use granary_core::context::{CONTEXT_BYTES_MAX, CONTEXT_ENTRIES_MAX};
use granary_core::time::Span;
use granary_core::{ErrorKind, Ran};
use rmp::Marker;

use crate::error::{Error, Result};
use crate::frame::{
    Ask, Call, Caller, Failure, Frame, Hello, NewRecord, Produce, Record, Reply, Role, Start, Tag, Tail,
};
use crate::{MAGIC, PRODUCE_RECORDS_MAX, START_PARTITIONS_MAX};

/// Reads the frame whose bytes these are, without its length.
pub fn decode(bytes: &[u8]) -> Result<Frame<'_>> {
    let mut reader = Reader { bytes, frame: "first" };
    let entries = reader.array("entries")?;
    let number = reader.uint("tag")?;
    let tag = Tag::of(number).ok_or(Error::UnknownTag { tag: number })?;
    reader.frame = tag.name();
    // Later versions may add to a hello, so that both sides can always tell each other what they speak.
    let fits = if tag == Tag::Hello { entries >= tag.entries() } else { entries == tag.entries() };
    if !fits {
        return Err(reader.wrong("entries", "not as many as this frame has"));
    }
    let frame = fields(tag, &mut reader)?;
    if !reader.bytes.is_empty() && tag != Tag::Hello {
        return Err(Error::Trailing { bytes: reader.bytes.len() });
    }
    Ok(frame)
}

fn fields<'a>(tag: Tag, reader: &mut Reader<'a>) -> Result<Frame<'a>> {
    Ok(match tag {
        Tag::Hello => Frame::Hello(hello(reader)?),
        Tag::Goodbye => Frame::Goodbye(failure(reader)?),
        Tag::Call => Frame::Call(call(reader)?),
        Tag::Answer => Frame::Reply(Reply { id: reader.uint("id")?, result: Ok(reader.binary("answer")?) }),
        Tag::Refusal => Frame::Reply(Reply { id: reader.uint("id")?, result: Err(failure(reader)?) }),
        Tag::Tail => Frame::Tail(Tail {
            id: reader.uint("id")?,
            stream: reader.text("stream")?,
            start: start(reader)?,
            credit_bytes: reader.uint("credit_bytes")?,
        }),
        Tag::Credit => Frame::Credit { id: reader.uint("id")?, bytes: reader.uint("bytes")? },
        Tag::Stop => Frame::Stop { id: reader.uint("id")? },
        Tag::Record => Frame::Record { id: reader.uint("id")?, record: record(reader)? },
        Tag::Produce => Frame::Produce(produce(reader)?),
        Tag::Ask => Frame::Ask(Ask {
            id: reader.uint("id")?,
            what: reader.text("what")?,
            arguments: reader.binary("arguments")?,
        }),
        Tag::Cancel => Frame::Cancel { id: reader.uint("id")? },
    })
}

fn hello<'a>(reader: &mut Reader<'a>) -> Result<Hello<'a>> {
    if reader.text("magic").map_err(|_| Error::Stranger)? != MAGIC {
        return Err(Error::Stranger);
    }
    Ok(Hello {
        version: reader.number("version")?,
        cluster: reader.text("cluster")?,
        role: match reader.uint("role")? {
            0 => Role::Client,
            1 => Role::Silo,
            _ => return Err(reader.wrong("role", "neither client nor silo")),
        },
        name: reader.text("name")?,
    })
}

fn call<'a>(reader: &mut Reader<'a>) -> Result<Call<'a>> {
    Ok(Call {
        id: reader.uint("id")?,
        kind: reader.text("kind")?,
        key: reader.text("key")?,
        method: reader.text("method")?,
        arguments: reader.binary("arguments")?,
        timeout: Span(reader.uint("timeout")?),
        idempotency_key: reader.optional(|r| r.text("idempotency_key"))?,
        one_way: reader.boolean("one_way")?,
        chain: reader.optional(chain)?.unwrap_or_default(),
        context: reader.optional(context)?.unwrap_or_default(),
    })
}

fn chain<'a>(reader: &mut Reader<'a>) -> Result<Vec<Caller<'a>>> {
    const FIELD: &str = "chain";
    let callers = reader.array(FIELD)?;
    if callers > CHAIN_DEPTH_MAX {
        return Err(reader.wrong(FIELD, "more grains than may wait for one another"));
    }
    (0..callers).map(|_| caller(reader)).collect()
}

fn caller<'a>(reader: &mut Reader<'a>) -> Result<Caller<'a>> {
    if reader.array("chain")? != 3 {
        return Err(reader.wrong("chain", "a waiting grain has three entries"));
    }
    Ok(Caller { kind: reader.text("kind")?, key: reader.text("key")?, method: reader.text("method")? })
}

fn context<'a>(reader: &mut Reader<'a>) -> Result<Vec<(&'a str, &'a str)>> {
    const FIELD: &str = "context";
    let entries = reader.map(FIELD)?;
    if entries as usize > CONTEXT_ENTRIES_MAX {
        return Err(reader.wrong(FIELD, "more entries than a context may have"));
    }
    let mut bytes = 0;
    let mut entry = || {
        let (name, value) = (reader.text(FIELD)?, reader.text(FIELD)?);
        bytes += name.len() + value.len();
        if bytes > CONTEXT_BYTES_MAX {
            return Err(reader.wrong(FIELD, "more bytes than a context may have"));
        }
        Ok((name, value))
    };
    (0..entries).map(|_| entry()).collect()
}

fn failure<'a>(reader: &mut Reader<'a>) -> Result<Failure<'a>> {
    let number = reader.number::<usize>("kind")?;
    let kind = number.checked_sub(1).and_then(|place| ErrorKind::ALL.get(place).copied());
    Ok(Failure {
        kind: kind.ok_or_else(|| reader.wrong("kind", "no such kind of error"))?,
        message: reader.text("message")?,
        ran: reader.optional(|r| match r.uint("ran")? {
            0 => Ok(Ran::No),
            1 => Ok(Ran::Unknown),
            2 => Ok(Ran::Yes),
            _ => Err(r.wrong("ran", "none of no, unknown and yes")),
        })?,
        retry_after: reader.optional(|r| Ok(Span(r.uint("retry_after")?)))?,
    })
}

fn start(reader: &mut Reader<'_>) -> Result<Start> {
    const FIELD: &str = "start";
    if reader.is_array() {
        let numbers = reader.array(FIELD)? as usize;
        if !numbers.is_multiple_of(2) || numbers / 2 > START_PARTITIONS_MAX {
            return Err(reader.wrong(FIELD, "not a list of partitions and offsets, or too long"));
        }
        let offsets = (0..numbers / 2).map(|_| Ok((reader.number(FIELD)?, reader.uint(FIELD)?)));
        return Ok(Start::Offsets(offsets.collect::<Result<_>>()?));
    }
    match reader.uint(FIELD)? {
        0 => Ok(Start::Earliest),
        1 => Ok(Start::Latest),
        _ => Err(reader.wrong(FIELD, "neither earliest nor latest")),
    }
}

fn record<'a>(reader: &mut Reader<'a>) -> Result<Record<'a>> {
    Ok(Record {
        partition: reader.number("partition")?,
        offset: reader.uint("offset")?,
        key: reader.optional(|r| r.binary("key"))?,
        id: reader.optional(|r| r.text("record id"))?,
        value: reader.binary("value")?,
    })
}

fn produce<'a>(reader: &mut Reader<'a>) -> Result<Produce<'a>> {
    let (id, topic) = (reader.uint("id")?, reader.text("topic")?);
    let records = reader.array("records")? as usize;
    if records > PRODUCE_RECORDS_MAX {
        return Err(reader.wrong("records", "more than one frame may carry"));
    }
    let records = (0..records).map(|_| new_record(reader)).collect::<Result<_>>()?;
    Ok(Produce { id, topic, records })
}

fn new_record<'a>(reader: &mut Reader<'a>) -> Result<NewRecord<'a>> {
    if reader.array("records")? != 2 {
        return Err(reader.wrong("records", "a record has two entries"));
    }
    Ok(NewRecord { key: reader.optional(|r| r.binary("key"))?, value: reader.binary("value")? })
}

/// The rest of a frame's bytes.
struct Reader<'a> {
    bytes: &'a [u8],
    frame: &'static str,
}

impl<'a> Reader<'a> {
    fn wrong(&self, field: &'static str, problem: &'static str) -> Error {
        Error::Field { frame: self.frame, field, problem }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(Error::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    /// An unsigned number of so many bytes, most significant first.
    fn wide(&mut self, count: usize) -> Result<u64> {
        Ok(self.take(count)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn marker(&mut self) -> Result<Marker> {
        Ok(Marker::from_u8(self.take(1)?[0]))
    }

    fn peek(&self) -> Option<Marker> {
        self.bytes.first().copied().map(Marker::from_u8)
    }

    fn uint(&mut self, field: &'static str) -> Result<u64> {
        match self.marker()? {
            Marker::FixPos(number) => Ok(u64::from(number)),
            Marker::U8 => self.wide(1),
            Marker::U16 => self.wide(2),
            Marker::U32 => self.wide(4),
            Marker::U64 => self.wide(8),
            _ => Err(self.wrong(field, "not a whole number of 0 or more")),
        }
    }

    fn number<T: TryFrom<u64>>(&mut self, field: &'static str) -> Result<T> {
        let number = self.uint(field)?;
        T::try_from(number).map_err(|_| self.wrong(field, "too large a number"))
    }

    fn boolean(&mut self, field: &'static str) -> Result<bool> {
        match self.marker()? {
            Marker::True => Ok(true),
            Marker::False => Ok(false),
            _ => Err(self.wrong(field, "neither true nor false")),
        }
    }

    fn text(&mut self, field: &'static str) -> Result<&'a str> {
        let length = match self.marker()? {
            Marker::FixStr(length) => usize::from(length),
            Marker::Str8 => self.wide(1)? as usize,
            Marker::Str16 => self.wide(2)? as usize,
            Marker::Str32 => self.wide(4)? as usize,
            _ => return Err(self.wrong(field, "not text")),
        };
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|_| self.wrong(field, "not UTF-8"))
    }

    fn binary(&mut self, field: &'static str) -> Result<&'a [u8]> {
        let length = match self.marker()? {
            Marker::Bin8 => self.wide(1)? as usize,
            Marker::Bin16 => self.wide(2)? as usize,
            Marker::Bin32 => self.wide(4)? as usize,
            _ => return Err(self.wrong(field, "not bytes")),
        };
        self.take(length)
    }

    fn is_array(&self) -> bool {
        matches!(self.peek(), Some(Marker::FixArray(_) | Marker::Array16 | Marker::Array32))
    }

    fn array(&mut self, field: &'static str) -> Result<u32> {
        match self.marker()? {
            Marker::FixArray(entries) => Ok(u32::from(entries)),
            Marker::Array16 => Ok(self.wide(2)? as u32),
            Marker::Array32 => Ok(self.wide(4)? as u32),
            _ => Err(self.wrong(field, "not a list")),
        }
    }

    fn map(&mut self, field: &'static str) -> Result<u32> {
        match self.marker()? {
            Marker::FixMap(entries) => Ok(u32::from(entries)),
            Marker::Map16 => Ok(self.wide(2)? as u32),
            Marker::Map32 => Ok(self.wide(4)? as u32),
            _ => Err(self.wrong(field, "not a map")),
        }
    }

    fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        if self.peek() == Some(Marker::Null) {
            self.take(1)?;
            return Ok(None);
        }
        read(self).map(Some)
    }
}
