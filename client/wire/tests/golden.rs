//! The bytes of some frames, written out: two versions of this crate must agree on them.

use granary_core::time::{millis, secs};
use granary_core::{Error, ErrorKind, Ran};
use granary_wire::{
    Ask, Call, Caller, Failure, Frame, Hello, Record, Reply, Role, SiloEntry, SlotTable, Start, Tail, decode,
    encode,
};

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
        chain: Vec::new(),
        context: Vec::new(),
    };
    golden(
        &Frame::Call(call.clone()),
        b"\x9b\x02\xcd\x01\x2c\xa6Sensor\xa3d-7\xa4bump\xc4\x02\x91\x03\xcd\x03\xe8\xa1k\xc2\xc0\xc0",
    );
    golden(
        &Frame::Call(Call { id: 0, idempotency_key: None, one_way: true, arguments: &[], ..call.clone() }),
        b"\x9b\x02\x00\xa6Sensor\xa3d-7\xa4bump\xc4\x00\xcd\x03\xe8\xc0\xc3\xc0\xc0",
    );
    let chain =
        vec![Caller { kind: "A", key: "1", method: "go" }, Caller { kind: "B", key: "2", method: "on" }];
    golden(
        &Frame::Call(Call { id: 1, idempotency_key: None, chain, context: vec![("t", "x")], ..call }),
        b"\x9b\x02\x01\xa6Sensor\xa3d-7\xa4bump\xc4\x02\x91\x03\xcd\x03\xe8\xc0\xc2\
          \x92\x93\xa1A\xa11\xa2go\x93\xa1B\xa12\xa2on\x81\xa1t\xa1x",
    );
}

#[test]
fn questions_and_cancels() {
    let ask = Ask { id: 7, what: "status", arguments: &[] };
    golden(&Frame::Ask(ask), b"\x94\x0a\x07\xa6status\xc4\x00");
    golden(&Frame::Cancel { id: 7 }, b"\x92\x0b\x07");
}

#[test]
fn a_table_of_slots() {
    let silo = SiloEntry { incarnation: 5, name: "s".into(), address: "h:1".into() };
    let table = SlotTable { version: 3, slots: 2, silos: vec![silo], owners: vec![Some(0), None] };
    let bytes = table.to_bytes().unwrap();
    let expected = b"\x84\xa7version\x03\xa5slots\x02\xa5silos\x91\
        \x83\xabincarnation\x05\xa4name\xa1s\xa7address\xa3h:1\xa6owners\x92\x00\xc0";
    assert_eq!(bytes, expected, "{bytes:x?}");
    assert_eq!(SlotTable::from_bytes(&bytes), Ok(table.clone()));
    let unreadable = |table: SlotTable| SlotTable::from_bytes(&table.to_bytes().unwrap()).is_err();
    assert!(unreadable(SlotTable { owners: vec![Some(1), None], ..table.clone() }), "an owner nobody knows");
    assert!(unreadable(SlotTable { slots: 3, ..table }), "a slot without an entry");
    assert!(unreadable(SlotTable::default()), "no slot");
}

#[test]
fn a_call_becomes_the_options_it_was_made_of() {
    let bytes = b"\x9b\x02\x01\xa1S\xa1k\xa1m\xc4\x00\x05\xa1i\xc2\
        \x92\x93\xa1A\xa11\xa2go\x93\xa1B\xa12\xa2on\x81\xa1t\xa1x";
    let Ok(Frame::Call(call)) = decode::decode(bytes) else { panic!("a call") };
    let options = call.options().unwrap();
    let chain = options.chain.unwrap();
    assert_eq!((chain.to_string(), chain.depth), ("A/1.go -> B/2.on".to_owned(), 2));
    assert_eq!(Caller::all_of(&chain), call.chain);
    assert_eq!(options.context.unwrap().get("t"), Some("x"));
    assert_eq!((options.timeout, options.idempotency_key.as_deref()), (Some(millis(5)), Some("i")));
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
