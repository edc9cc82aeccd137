//! The bytes of some frames, written out: two versions of this crate must agree on them.

use granary_core::time::{millis, secs};
use granary_core::{Error, ErrorKind, Ran};
use granary_wire::{Call, Failure, Frame, Hello, Record, Reply, Role, Start, Tail, decode, encode};

fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(frame, &mut bytes).expect("a frame of moderate size");
    bytes
}

#[track_caller]
fn golden(frame: &Frame<'_>, payload: &[u8]) {
    let bytes = bytes_of(frame);
    let (length, rest) = bytes.split_at(4);
    assert_eq!(rest, payload, "payload {rest:x?}");
    assert_eq!(length, (payload.len() as u32).to_le_bytes());
    assert_eq!(decode::decode(payload).as_ref(), Ok(frame));
}

#[test]
fn hello() {
    let frame = Frame::Hello(Hello { version: 1, cluster: "dev", role: Role::Client, name: "t" });
    golden(&frame, b"\x96\x00\xa7granary\x01\xa3dev\x00\xa1t");
}

#[test]
fn a_hello_of_a_later_version_can_be_read() {
    let longer = b"\x98\x00\xa7granary\x02\xa3dev\x01\xa1t\xc3\xa4more";
    let frame = decode::decode(longer).unwrap();
    assert_eq!(frame, Frame::Hello(Hello { version: 2, cluster: "dev", role: Role::Silo, name: "t" }));
}

#[test]
fn call() {
    let call = Call {
        id: 300,
        kind: "Sensor",
        key: "d-7",
        method: "bump",
        arguments: &[0x91, 3],
        timeout: secs(1),
        idempotency_key: Some("k"),
        one_way: false,
    };
    golden(
        &Frame::Call(call),
        b"\x99\x02\xcd\x01\x2c\xa6Sensor\xa3d-7\xa4bump\xc4\x02\x91\x03\xcd\x03\xe8\xa1k\xc2",
    );
    golden(
        &Frame::Call(Call { id: 0, idempotency_key: None, one_way: true, arguments: &[], ..call }),
        b"\x99\x02\x00\xa6Sensor\xa3d-7\xa4bump\xc4\x00\xcd\x03\xe8\xc0\xc3",
    );
}

#[test]
fn replies() {
    golden(&Frame::Reply(Reply { id: 9, result: Ok(&[7]) }), b"\x93\x03\x09\xc4\x01\x07");
    let error = Error::new(ErrorKind::Overloaded, "full").ran(Ran::No).after(millis(5));
    let failure = Failure::of(&error);
    golden(&Frame::Reply(Reply { id: 9, result: Err(failure) }), b"\x96\x04\x09\x02\xa4full\x00\x05");
    assert_eq!(failure.to_error(), error);
}

#[test]
fn streams() {
    let tail = |start| Frame::Tail(Tail { id: 1, stream: "late", start, credit_bytes: 65_536 });
    golden(&tail(Start::Earliest), b"\x95\x05\x01\xa4late\x00\xce\x00\x01\x00\x00");
    golden(&tail(Start::Offsets(vec![(2, 9)])), b"\x95\x05\x01\xa4late\x92\x02\x09\xce\x00\x01\x00\x00");
    let record = Record { partition: 2, offset: 9, key: Some(b"d-7"), id: None, value: b"{}" };
    golden(&Frame::Record { id: 1, record }, b"\x97\x08\x01\x02\x09\xc4\x03d-7\xc0\xc4\x02{}");
}

#[test]
fn every_kind_of_error_comes_back_as_it_went() {
    for kind in ErrorKind::ALL {
        for ran in [None, Some(Ran::No), Some(Ran::Unknown), Some(Ran::Yes)] {
            let mut error = Error::new(kind, "why");
            if let Some(ran) = ran {
                error = error.ran(ran);
            }
            let bytes = bytes_of(&Frame::Goodbye(Failure::of(&error)));
            let Frame::Goodbye(failure) = decode::decode(&bytes[4..]).unwrap() else {
                panic!("a goodbye was written")
            };
            assert_eq!(failure.to_error(), error);
        }
    }
}
