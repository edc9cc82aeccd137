//! Frames to bytes.

use granary_core::time::Span;
use granary_core::{ErrorKind, Ran};
use rmp::encode as write;

use crate::error::{Error, Result};
use crate::frame::{Ask, Call, Caller, Failure, Frame, NewRecord, Record, Role, Start};
use crate::{FRAME_BYTES_MAX, LENGTH_BYTES, MAGIC};

/// Appends `frame` to `out`, its length first. On an error `out` is as it was.
///
/// ```
/// use granary_wire::{Decoder, Frame, encode};
/// let mut bytes = Vec::new();
/// encode(&Frame::Stop { id: 7 }, &mut bytes).unwrap();
/// assert_eq!(bytes, [3, 0, 0, 0, 0x92, 7, 7]);
///
/// let mut decoder = Decoder::new();
/// decoder.feed(&bytes);
/// assert_eq!(decoder.next_frame().unwrap(), Some(Frame::Stop { id: 7 }));
/// ```
pub fn encode(frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<()> {
    let begin = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    payload(frame, out);
    let bytes = out.len() - begin - LENGTH_BYTES;
    if bytes > FRAME_BYTES_MAX {
        out.truncate(begin);
        return Err(Error::oversized(bytes));
    }
    let length = u32::try_from(bytes).expect("a frame of at most FRAME_BYTES_MAX has a length of 32 bits");
    out[begin..begin + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

fn payload(frame: &Frame<'_>, out: &mut Vec<u8>) {
    let tag = frame.tag();
    array(tag.entries(), out);
    uint(tag as u64, out);
    match frame {
        Frame::Hello(hello) => {
            text(MAGIC, out);
            uint(u64::from(hello.version), out);
            text(hello.cluster, out);
            uint(role_number(hello.role), out);
            text(hello.name, out);
        }
        Frame::Goodbye(failure) => fail(failure, out),
        Frame::Call(call) => call_fields(call, out),
        Frame::Reply(reply) => {
            uint(reply.id, out);
            match &reply.result {
                Ok(answer) => binary(answer, out),
                Err(failure) => fail(failure, out),
            }
        }
        Frame::Tail(tail) => {
            uint(tail.id, out);
            text(tail.stream, out);
            start(&tail.start, out);
            uint(tail.credit_bytes, out);
        }
        Frame::Credit { id, bytes } => {
            uint(*id, out);
            uint(*bytes, out);
        }
        Frame::Stop { id } | Frame::Cancel { id } => uint(*id, out),
        Frame::Ask(Ask { id, what, arguments }) => {
            uint(*id, out);
            text(what, out);
            binary(arguments, out);
        }
        Frame::Record { id, record } => {
            uint(*id, out);
            record_fields(record, out);
        }
        Frame::Produce(produce) => {
            uint(produce.id, out);
            text(produce.topic, out);
            array(length_of(produce.records.len()), out);
            for record in &produce.records {
                new_record(record, out);
            }
        }
    }
}

fn call_fields(call: &Call<'_>, out: &mut Vec<u8>) {
    uint(call.id, out);
    text(call.kind, out);
    text(call.key, out);
    text(call.method, out);
    binary(call.arguments, out);
    uint(call.timeout.ms(), out);
    optional(call.idempotency_key, out, text);
    boolean(call.one_way, out);
    optional((!call.chain.is_empty()).then_some(&call.chain), out, |chain, out| {
        array(length_of(chain.len()), out);
        for Caller { kind, key, method } in chain {
            array(3, out);
            text(kind, out);
            text(key, out);
            text(method, out);
        }
    });
    optional((!call.context.is_empty()).then_some(&call.context), out, |context, out| {
        write::write_map_len(out, length_of(context.len())).expect(TO_MEMORY);
        for (name, value) in context {
            text(name, out);
            text(value, out);
        }
    });
}

fn record_fields(record: &Record<'_>, out: &mut Vec<u8>) {
    uint(u64::from(record.partition), out);
    uint(record.offset, out);
    optional(record.key, out, binary);
    optional(record.id, out, text);
    binary(record.value, out);
}

fn new_record(record: &NewRecord<'_>, out: &mut Vec<u8>) {
    array(2, out);
    optional(record.key, out, binary);
    binary(record.value, out);
}

fn fail(failure: &Failure<'_>, out: &mut Vec<u8>) {
    uint(kind_number(failure.kind), out);
    text(failure.message, out);
    optional(failure.ran, out, |ran, out| uint(ran_number(ran), out));
    optional(failure.retry_after, out, |wait: Span, out| uint(wait.ms(), out));
}

/// A number for the two ends; `[partition, offset, partition, offset, ...]` for offsets.
fn start(start: &Start, out: &mut Vec<u8>) {
    match start {
        Start::Earliest => uint(0, out),
        Start::Latest => uint(1, out),
        Start::Offsets(offsets) => {
            array(length_of(offsets.len() * 2), out);
            for (partition, offset) in offsets {
                uint(u64::from(*partition), out);
                uint(*offset, out);
            }
        }
    }
}

const fn role_number(role: Role) -> u64 {
    match role {
        Role::Client => 0,
        Role::Silo => 1,
    }
}

const fn ran_number(ran: Ran) -> u64 {
    match ran {
        Ran::No => 0,
        Ran::Unknown => 1,
        Ran::Yes => 2,
    }
}

/// The number of the kind's page: `GR-001` is 1.
fn kind_number(kind: ErrorKind) -> u64 {
    let place = ErrorKind::ALL.iter().position(|k| *k == kind);
    place.expect("every kind is in the list of kinds") as u64 + 1
}

fn length_of(entries: usize) -> u32 {
    u32::try_from(entries).expect("a frame has less than 2^32 entries: its bytes are bounded")
}

const TO_MEMORY: &str = "writing to memory does not fail";

fn array(entries: u32, out: &mut Vec<u8>) {
    write::write_array_len(out, entries).expect(TO_MEMORY);
}

fn uint(value: u64, out: &mut Vec<u8>) {
    write::write_uint(out, value).expect(TO_MEMORY);
}

fn text(value: &str, out: &mut Vec<u8>) {
    write::write_str(out, value).expect(TO_MEMORY);
}

fn binary(value: &[u8], out: &mut Vec<u8>) {
    write::write_bin(out, value).expect(TO_MEMORY);
}

fn boolean(value: bool, out: &mut Vec<u8>) {
    write::write_bool(out, value).expect(TO_MEMORY);
}

fn optional<T>(value: Option<T>, out: &mut Vec<u8>, put: impl FnOnce(T, &mut Vec<u8>)) {
    match value {
        Some(value) => put(value, out),
        None => write::write_nil(out).expect(TO_MEMORY),
    }
}
