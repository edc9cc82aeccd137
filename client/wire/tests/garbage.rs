//! Whatever arrives, the answer is a frame or a typed error; whatever is written comes back as it was.

use granary_core::time::Span;
use granary_core::{ErrorKind, Ran};
use granary_wire::{
    Ask, Call, Caller, Decoder, Error, FRAME_BYTES_MAX, Failure, Frame, HELLO_BYTES_MAX, Hello, NewRecord,
    PRODUCE_RECORDS_MAX, Produce, Record, Reply, Role, SlotTable, Start, Tail, decode, encode,
};
use proptest::prelude::*;

/// The owned parts any frame is made of.
#[derive(Clone, Debug)]
struct Parts {
    which: u8,
    numbers: [u64; 2],
    texts: [String; 4],
    bytes: Vec<u8>,
    pairs: Vec<(u32, u64)>,
    flags: [bool; 3],
}

fn parts() -> impl Strategy<Value = Parts> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..300);
    let pairs = proptest::collection::vec(any::<(u32, u64)>(), 0..20);
    (0_u8..14, any::<[u64; 2]>(), any::<[String; 4]>(), bytes, pairs, any::<[bool; 3]>()).prop_map(
        |(which, numbers, texts, bytes, pairs, flags)| Parts { which, numbers, texts, bytes, pairs, flags },
    )
}

fn failure(parts: &Parts) -> Failure<'_> {
    Failure {
        kind: ErrorKind::ALL[(parts.numbers[1] % 12) as usize],
        message: &parts.texts[0],
        ran: [None, Some(Ran::No), Some(Ran::Unknown), Some(Ran::Yes)][(parts.numbers[1] / 12 % 4) as usize],
        retry_after: parts.flags[0].then_some(Span(parts.numbers[1])),
    }
}

fn frame(parts: &Parts) -> Frame<'_> {
    let [id, number] = parts.numbers;
    let [a, b, c, d] = &parts.texts;
    let [x, y, _] = parts.flags;
    let bytes = &parts.bytes[..];
    match parts.which {
        0 => Frame::Hello(Hello {
            version: number as u16,
            cluster: a,
            role: if x { Role::Client } else { Role::Silo },
            name: b,
        }),
        1 => Frame::Goodbye(failure(parts)),
        2 => Frame::Call(Call {
            id,
            kind: a,
            key: b,
            method: c,
            arguments: bytes,
            timeout: Span(number),
            idempotency_key: x.then_some(d),
            one_way: y,
            chain: vec![Caller { kind: a, key: b, method: c }; if x { parts.pairs.len() } else { 0 }],
            context: vec![(&**c, &**d); if y && c.len() + d.len() < 200 { parts.pairs.len() } else { 0 }],
        }),
        3 => Frame::Reply(Reply { id, result: Ok(bytes) }),
        4 => Frame::Reply(Reply { id, result: Err(failure(parts)) }),
        5 => Frame::Tail(Tail {
            id,
            stream: a,
            start: match (x, y) {
                (true, _) => Start::Offsets(parts.pairs.clone()),
                (false, true) => Start::Earliest,
                (false, false) => Start::Latest,
            },
            credit_bytes: number,
        }),
        6 => Frame::Credit { id, bytes: number },
        7 => Frame::Stop { id },
        8 | 9 => Frame::Record {
            id,
            record: Record {
                partition: number as u32,
                offset: number,
                key: x.then_some(bytes),
                id: y.then_some(a),
                value: bytes,
            },
        },
        10 => {
            let record = NewRecord { key: x.then_some(bytes), value: c.as_bytes() };
            Frame::Produce(Produce { id, topic: b, records: vec![record; parts.pairs.len()] })
        }
        11 => Frame::Ask(Ask { id, what: a, arguments: bytes }),
        12 => Frame::Cancel { id },
        _ => Frame::Stop { id },
    }
}

/// Feeds `bytes` in pieces of `piece` and counts the frames until they end or an error comes.
fn read(decoder: &mut Decoder, bytes: &[u8], piece: usize) -> Result<usize, Error> {
    let mut frames = 0;
    for piece in bytes.chunks(piece.max(1)) {
        decoder.feed(piece);
        while decoder.next_frame()?.is_some() {
            frames += 1;
        }
    }
    decoder.finish().map(|()| frames)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn frames_come_back_in_pieces_of_any_size(
        all in proptest::collection::vec(parts(), 1..12),
        piece in 1_usize..700,
    ) {
        let frames: Vec<Frame<'_>> = all.iter().map(frame).collect();
        let mut bytes = Vec::new();
        for frame in &frames {
            encode(frame, &mut bytes).unwrap();
        }
        let mut decoder = Decoder::new();
        let mut seen = 0;
        for piece in bytes.chunks(piece) {
            decoder.feed(piece);
            while let Some(frame) = decoder.next_frame().unwrap() {
                prop_assert_eq!(&frame, &frames[seen]);
                seen += 1;
            }
        }
        prop_assert_eq!(seen, frames.len());
        prop_assert_eq!(decoder.finish(), Ok(()));
    }

    #[test]
    fn garbage_is_an_error_or_a_frame(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode::decode(&bytes);
        let _ = SlotTable::from_bytes(&bytes);
        let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        let mut decoder = Decoder::new();
        if let Err(error) = read(&mut decoder, &framed, 64) {
            prop_assert_eq!(decoder.next_frame().err(), Some(error), "an error stays");
        }
    }

    #[test]
    fn a_frame_with_one_byte_changed_never_panics(
        parts in parts(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = Vec::new();
        encode(&frame(&parts), &mut bytes).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = read(&mut Decoder::new(), &bytes, 97);
    }

    #[test]
    fn a_frame_cut_short_is_truncated(parts in parts(), at in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        encode(&frame(&parts), &mut bytes).unwrap();
        let at = at.index(bytes.len());
        let end = read(&mut Decoder::new(), &bytes[..at], 50);
        prop_assert_eq!(end, if at == 0 { Ok(0) } else { Err(Error::Truncated) });
        if at > 4 && parts.which != 0 {
            prop_assert!(decode::decode(&bytes[4..at]).is_err(), "its payload alone is no frame either");
        }
    }
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_its_bytes_come() {
    let mut decoder = Decoder::new();
    decoder.feed(&(FRAME_BYTES_MAX as u32 + 1).to_le_bytes());
    let error = Error::Oversized { bytes: FRAME_BYTES_MAX + 1, bytes_max: FRAME_BYTES_MAX };
    assert_eq!(decoder.next_frame(), Err(error));
}

#[test]
fn a_stranger_gets_a_short_first_frame_only() {
    let mut decoder = Decoder::handshake();
    decoder.feed(b"GET / HTTP/1.1\r\n\r\n");
    assert!(matches!(decoder.next_frame(), Err(Error::Oversized { bytes_max: HELLO_BYTES_MAX, .. })));
    let stranger = b"\x92\x00\xa5redis";
    assert_eq!(decode::decode(b"\x96\x00\xa5redis\x01\xa0\x00\xa0"), Err(Error::Stranger));
    assert!(decode::decode(stranger).is_err());
}

#[test]
fn the_longest_frame_passes_and_one_byte_more_does_not() {
    let mut bytes = Vec::new();
    let overhead = {
        encode(&Frame::Reply(Reply { id: 1, result: Ok(&vec![0; 70_000]) }), &mut bytes).unwrap();
        bytes.len() - 4 - 70_000
    };
    bytes.clear();
    let longest = vec![7; FRAME_BYTES_MAX - overhead];
    encode(&Frame::Reply(Reply { id: 1, result: Ok(&longest) }), &mut bytes).unwrap();
    assert_eq!(read(&mut Decoder::new(), &bytes, 1 << 16), Ok(1));
    bytes.clear();
    let longer = vec![7; FRAME_BYTES_MAX - overhead + 1];
    let refused = encode(&Frame::Reply(Reply { id: 1, result: Ok(&longer) }), &mut bytes);
    assert_eq!(refused, Err(Error::Oversized { bytes: FRAME_BYTES_MAX + 1, bytes_max: FRAME_BYTES_MAX }));
    assert!(bytes.is_empty(), "a refused frame leaves nothing behind");
}

#[test]
fn a_list_that_announces_more_than_allowed_is_refused() {
    let mut bytes = b"\x94\x09\x01\xa1t\xdd".to_vec();
    bytes.extend_from_slice(&(PRODUCE_RECORDS_MAX as u32 + 1).to_be_bytes());
    assert!(matches!(decode::decode(&bytes), Err(Error::Field { frame: "produce", field: "records", .. })));
    let mut many = b"\x9b\x02\x01\xa1S\xa1k\xa1m\xc4\x00\x05\xc0\xc2".to_vec();
    let begin = many.len();
    many.extend_from_slice(b"\xdc\x00\x41");
    assert!(matches!(decode::decode(&many), Err(Error::Field { frame: "call", field: "chain", .. })));
    many.truncate(begin);
    many.extend_from_slice(b"\xc0\xde\x00\x21");
    assert!(matches!(decode::decode(&many), Err(Error::Field { frame: "call", field: "context", .. })));
    let one_of_each = b"\x95\x05\x01\xa1s\x93\x01\x02\x03\x00";
    assert!(matches!(decode::decode(one_of_each), Err(Error::Field { field: "start", .. })));
}

#[test]
fn bytes_after_the_last_field_are_an_error() {
    assert_eq!(decode::decode(b"\x92\x07\x07\x00"), Err(Error::Trailing { bytes: 1 }));
    assert_eq!(decode::decode(b"\x91\x63"), Err(Error::UnknownTag { tag: 0x63 }));
}
