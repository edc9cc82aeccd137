//! An agenda beside a plain list of who is due when, with storing and loading where a seed puts them.

use std::collections::BTreeMap;

use granary_core::{Span, Timestamp};

use super::{Agenda, NOT_LISTED, PAGE_KEYS_MAX};

/// xorshift64*: draws for tests.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }
}

#[derive(Default)]
struct Cells(BTreeMap<Vec<u8>, Vec<u8>>);

impl Cells {
    fn seal(&mut self, agenda: &mut Agenda, n: u64) {
        let mut named = Vec::new();
        agenda.seal(n, &mut |key, value| {
            assert!(!named.contains(&key.to_vec()), "each cell is named once");
            named.push(key.to_vec());
            match value {
                Some(value) => drop(self.0.insert(key.to_vec(), value.to_vec())),
                None => drop(self.0.remove(key)),
            }
        });
        agenda.acknowledged(n);
    }

    fn open(&self, resolution: Span) -> Agenda {
        let mut agenda = Agenda::new(b"a/", resolution);
        let mut missing = Vec::new();
        agenda.missing(&mut missing);
        assert_eq!(missing.len(), 2);
        self.supply(&mut agenda, missing);
        agenda
    }

    fn supply(&self, agenda: &mut Agenda, missing: Vec<Vec<u8>>) {
        for cell in missing {
            agenda.supply(&cell, self.0.get(&cell).map(Vec::as_slice)).unwrap();
        }
    }
}

/// What a key is: when it is due, and where it is listed.
type Keys = BTreeMap<Vec<u8>, (i64, i64)>;

/// Takes all that is due; what is not due yet is listed anew. Returns who was.
fn take_due(agenda: &mut Agenda, cells: &Cells, keys: &mut Keys) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while agenda.is_due() {
        let mut missing = Vec::new();
        if agenda.page(&mut missing).is_none() {
            assert!(!missing.is_empty(), "pages are there or they are named");
            cells.supply(agenda, missing);
            continue;
        }
        let due = agenda.take().unwrap();
        assert!(due.keys.len() <= PAGE_KEYS_MAX);
        for key in due.keys {
            let (due_ms, listed) = keys.get_mut(&*key).unwrap();
            if *listed != due.date {
                continue; // it was listed sooner since
            }
            *listed = NOT_LISTED;
            if *due_ms <= agenda.clock().ms() {
                found.push(key.to_vec());
                *due_ms = i64::MAX;
            } else {
                agenda.list(&key, listed, Timestamp(*due_ms));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn who_is_due_is_found_once_and_never_too_soon() {
    for seed in 1..300 {
        let mut draw = Draw(seed * 0x9e37_79b9_7f4a_7c15);
        let resolution = Span([1, 7, 100][draw.below(3) as usize]);
        let (mut cells, mut n) = (Cells::default(), 0);
        let mut agenda = cells.open(resolution);
        let mut keys = Keys::new();
        let mut stored = keys.clone();
        let mut time = 0i64;
        for _ in 0..draw.below(400) {
            time += draw.below(20) as i64;
            let key = format!("k{}", draw.below(if seed % 3 == 0 { 2_000 } else { 12 })).into_bytes();
            let (due, listed) = keys.entry(key.clone()).or_insert((i64::MAX, NOT_LISTED));
            *due = time + 1 + draw.below(200) as i64;
            agenda.see(Timestamp(time));
            agenda.list(&key, listed, Timestamp(*due));
            for found in take_due(&mut agenda, &cells, &mut keys) {
                assert!(keys.contains_key(&found));
            }
            let late = keys.values().filter(|(due, _)| *due != i64::MAX).map(|(due, _)| *due).min();
            if let Some(late) = late {
                let clock = agenda.clock().ms();
                assert!(
                    late + resolution.ms() as i64 + 1 >= clock,
                    "seed {seed}: due at {late}, and it is {clock}"
                );
            }
            match draw.below(10) {
                0 => {
                    n += 1;
                    cells.seal(&mut agenda, n);
                    stored.clone_from(&keys);
                    if draw.below(2) == 0 {
                        agenda.evict();
                    }
                }
                1 => {
                    agenda = cells.open(resolution); // what was not sealed is lost, and so is what keys noted
                    keys.clone_from(&stored);
                    time = agenda.newest().ms().max(0);
                }
                _ => {}
            }
        }
        agenda.set_clock(Timestamp(time + 1_000));
        take_due(&mut agenda, &cells, &mut keys);
        assert!(keys.values().all(|(due, _)| *due == i64::MAX), "seed {seed}: all were found: {keys:?}");
        n += 1;
        cells.seal(&mut agenda, n);
        assert!(cells.0.len() <= 2, "seed {seed}: no page is left");
    }
}

#[test]
fn a_silent_slot_is_later_by_the_time_it_stood() {
    let mut agenda = Agenda::new(b"", Span(10));
    let mut listed = NOT_LISTED;
    agenda.see(Timestamp(5_000));
    agenda.list(b"d", &mut listed, Timestamp(6_000));
    let newest = Timestamp(5_000);
    assert_eq!(agenda.pass(newest, Span(900)), None);
    agenda.see(Timestamp(4_000));
    assert_eq!(agenda.pass(newest, Span(900)), None, "an event came: the silence began anew");
    let now = agenda.pass(newest, Span(120)).expect("something is due");
    assert_eq!(now, Timestamp(6_020));
    assert!(!agenda.is_due(), "it is not decided yet that it is so late");
    agenda.set_clock(now);
    assert!(agenda.is_due());
    assert_eq!(agenda.take().unwrap().keys, [b"d".as_slice().into()]);
}

#[test]
fn damaged_cells_are_told() {
    let mut agenda = Agenda::new(b"a/", Span(10));
    for (cell, value) in [
        (&b"a/T"[..], Some(&b"\x02\x01"[..])),
        (b"a/D", Some(b"\x09")),
        (b"a/P\0\0", Some(b"\x02\0")),
        (b"a/P\0\0\0\0\0\0\0\0\0\0\0\0", None),
        (b"b/T", None),
    ] {
        assert!(agenda.supply(cell, value).is_err(), "{cell:?}");
    }
}

/// Which key goes to which page depends on what is in memory; a replay must find them in the same order all the same.
#[test]
fn keys_come_in_the_same_portions_wherever_pages_were() {
    let portions = |mut draw: Option<Draw>| {
        let (mut cells, mut n, resolution) = (Cells::default(), 0, Span(1_000));
        let mut agenda = cells.open(resolution);
        let mut disturb = |agenda: &mut Agenda, cells: &mut Cells| {
            let disturbance = draw.as_mut().map_or(9, |draw| draw.below(20));
            if disturbance < 3 {
                n += 1;
                cells.seal(agenda, n);
            }
            match disturbance {
                1 => agenda.evict(),
                2 => *agenda = cells.open(resolution),
                _ => {}
            }
        };
        for key in 0..1_500_u64 {
            let mut listed = NOT_LISTED;
            let name = key.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
            agenda.list(&name, &mut listed, Timestamp(5));
            disturb(&mut agenda, &mut cells);
        }
        agenda.set_clock(Timestamp(2_000));
        let mut portions = Vec::new();
        while agenda.is_due() {
            let mut missing = Vec::new();
            if agenda.page(&mut missing).is_none() {
                cells.supply(&mut agenda, missing);
                continue;
            }
            portions.push(agenda.take().unwrap().keys);
            disturb(&mut agenda, &mut cells);
        }
        portions
    };
    let whole = portions(None);
    assert_eq!(whole.iter().map(Vec::len).sum::<usize>(), 1_500);
    for seed in 1..30 {
        assert_eq!(portions(Some(Draw(seed))), whole, "seed {seed}");
    }
}
