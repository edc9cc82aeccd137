//! Which silo is asked: the table of slots, the silos it names, and the one connection to each.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use granary_core::{Error, SlotId};
use granary_wire::{SiloEntry, SlotTable};

use crate::link::Link;
use crate::outgoing::lock;

/// A silo and whether the client has a connection to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Where the silo listens.
    pub address: String,
    /// What it calls itself; empty before the first connection.
    pub silo: String,
    /// Whether requests can be sent to it now.
    pub is_connected: bool,
}

/// Why a client knows a silo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// It was told so when it was set up.
    Seed,
    /// The table names it.
    Table,
    /// It was told to ask there: known as long as the connection lasts.
    Guest,
}

/// A silo, as far as a client knows it.
pub(crate) struct Silo {
    pub(crate) address: String,
    why: Why,
    /// Held by who opens the connection, so that one attempt serves all who wait.
    pub(crate) opening: tokio::sync::Mutex<()>,
    failures: AtomicU64,
    failure: Mutex<Option<Error>>,
}

impl Silo {
    fn new(address: &str, why: Why) -> Arc<Silo> {
        Arc::new(Silo {
            address: address.to_owned(),
            why,
            opening: tokio::sync::Mutex::new(()),
            failures: AtomicU64::new(0),
            failure: Mutex::default(),
        })
    }

    /// How many attempts to open a connection have failed.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Acquire)
    }

    pub(crate) fn failed(&self, error: &Error) {
        *lock(&self.failure) = Some(error.clone());
        self.failures.fetch_add(1, Ordering::Release);
    }

    /// The failure of an attempt that was made after the first `seen`.
    pub(crate) fn failure_after(&self, seen: u64) -> Option<Error> {
        if self.failures() > seen { lock(&self.failure).clone() } else { None }
    }
}

struct Known {
    silo: Arc<Silo>,
    link: Option<Arc<Link>>,
}

impl Known {
    fn open(&self) -> Option<&Arc<Link>> {
        self.link.as_ref().filter(|link| link.is_open())
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum To<'a> {
    /// To the owner of this key's slot.
    Key(&'a str),
    /// To any silo.
    Any,
    /// To the silo that listens there.
    Address(&'a str),
}

/// What is known of the way.
pub(crate) enum Way {
    Open(Arc<Link>),
    /// To be opened: the first of these that can be.
    Closed(Vec<Arc<Silo>>),
    /// Nobody owns the slot at present.
    Unowned(SlotId),
}

/// The silos a client knows.
#[derive(Default)]
pub(crate) struct Routes {
    table: Option<Arc<SlotTable>>,
    /// For each slot who is asked for it, as the table's owners are: whom it belongs to, or, while slots move, who had it
    /// before. A silo goes on with a slot until it gives it, and then says so.
    asked: Vec<Option<u16>>,
    /// The silo that this is the client of, if it is one's: it knows by itself what it has given.
    own: Option<String>,
    /// Refusals are not followed: whoever uses the client says by the table where to ask.
    sends_once: bool,
    known: Vec<Known>,
    /// For each silo of the table its place in `known`.
    places: Vec<usize>,
    turn: usize,
}

impl Routes {
    pub(crate) fn of_seeds(seeds: &[String], own: Option<String>, sends_once: bool) -> Routes {
        let known = seeds.iter().map(|seed| Known { silo: Silo::new(seed, Why::Seed), link: None }).collect();
        Routes { known, own, sends_once, ..Routes::default() }
    }

    pub(crate) fn table(&self) -> Option<&Arc<SlotTable>> {
        self.table.as_ref()
    }

    pub(crate) fn version(&self) -> Option<u64> {
        self.table.as_ref().map(|table| table.version)
    }

    /// The way there.
    pub(crate) fn way(&mut self, to: To<'_>) -> Way {
        let place = match (to, &self.table) {
            (To::Key(key), Some(table)) => {
                let slot = table.slot_of(key);
                match self.asked[usize::from(slot.0)] {
                    Some(owner) => self.places[usize::from(owner)],
                    None => return Way::Unowned(slot),
                }
            }
            (To::Address(address), _) => {
                match self.known.iter().position(|known| known.silo.address == address) {
                    Some(place) => place,
                    None => return Way::Closed(vec![Silo::new(address, Why::Guest)]),
                }
            }
            // Without a table the cluster is one silo.
            (To::Any, _) | (To::Key(_), None) => return self.any(),
        };
        match self.known[place].open() {
            Some(link) => Way::Open(link.clone()),
            None => Way::Closed(vec![self.known[place].silo.clone()]),
        }
    }

    /// Each in turn of those that are connected, else all of those known.
    fn any(&mut self) -> Way {
        let open = self.known.iter().filter_map(Known::open);
        let count = open.clone().count();
        if count == 0 {
            return Way::Closed(self.all());
        }
        self.turn = self.turn.wrapping_add(1);
        let mut open = open;
        open.nth(self.turn % count).map_or_else(|| Way::Closed(Vec::new()), |link| Way::Open(link.clone()))
    }

    /// All silos, another first each time.
    pub(crate) fn all(&mut self) -> Vec<Arc<Silo>> {
        self.turn = self.turn.wrapping_add(1);
        let mut all: Vec<_> = self.known.iter().map(|known| known.silo.clone()).collect();
        let count = all.len().max(1);
        all.rotate_left(self.turn % count);
        all
    }

    fn place_of(&mut self, address: &str, why: Why) -> usize {
        let place = self.known.iter().position(|known| known.silo.address == address);
        place.unwrap_or_else(|| {
            self.known.push(Known { silo: Silo::new(address, why), link: None });
            self.known.len() - 1
        })
    }

    /// The open connection to this silo.
    pub(crate) fn link(&self, silo: &Silo) -> Option<Arc<Link>> {
        self.known.iter().find(|known| known.silo.address == silo.address)?.open().cloned()
    }

    /// A connection to `silo` has been opened.
    pub(crate) fn opened(&mut self, silo: &Silo, link: &Arc<Link>) {
        let place = self.place_of(&silo.address, silo.why);
        if let Some(other) = self.known[place].link.replace(link.clone()) {
            other.close(); // lost before, or opened by somebody else at the same time
        }
        self.settle();
    }

    /// Takes the table if it is later than the present one; whether it was.
    pub(crate) fn learn(&mut self, table: SlotTable) -> bool {
        if self.version().is_some_and(|version| version >= table.version) {
            return false;
        }
        self.asked = self.asked_by(&table);
        self.table = Some(Arc::new(table));
        self.settle();
        true
    }

    /// Whom to ask by this table: who was asked before, as long as it is one of the silos.
    fn asked_by(&self, table: &SlotTable) -> Vec<Option<u16>> {
        let before = self.table.as_ref().filter(|before| before.slots == table.slots && !self.sends_once);
        let Some(before) = before else { return table.owners.clone() };
        let stays: Vec<Option<u16>> = before
            .silos
            .iter()
            .map(|silo| {
                let is_it = |other: &SiloEntry| other.incarnation == silo.incarnation;
                let place =
                    table.silos.iter().position(is_it).filter(|_| self.own.as_ref() != Some(&silo.name));
                place.and_then(|place| u16::try_from(place).ok())
            })
            .collect();
        let asked = self.asked.iter().map(|silo| silo.and_then(|place| stays[usize::from(place)]));
        asked.zip(&table.owners).map(|(stays, owner)| stays.or(*owner)).collect()
    }

    /// The silo at `address` has given slots, it did not say which: it is asked for none that belongs to another.
    pub(crate) fn follow_all(&mut self, address: &str) {
        let Some(table) = self.table.clone() else { return };
        for (slot, owner) in table.owners.iter().enumerate() {
            if self.asked[slot].is_some_and(|silo| self.address_of(silo) == address) {
                self.asked[slot] = *owner;
            }
        }
    }

    /// Where the silo at this place of the table is asked.
    fn address_of(&self, silo: u16) -> &str {
        &self.known[self.places[usize::from(silo)]].silo.address
    }

    /// A request for this key was refused by the silo at `address`, or reached none. From now on the slot's owner is asked;
    /// whether that is another silo.
    pub(crate) fn follow(&mut self, to: To<'_>, address: Option<&str>) -> bool {
        let (To::Key(key), Some(table)) = (to, &self.table) else { return false };
        let slot = usize::from(table.slot_of(key).0);
        let was = std::mem::replace(&mut self.asked[slot], table.owners[slot]);
        match (self.asked[slot], address) {
            (None, _) => false,
            (Some(now), Some(address)) => self.address_of(now) != address,
            (now, None) => now != was,
        }
    }

    /// Finds the silos of the table among those known, and forgets silos that have left.
    pub(crate) fn settle(&mut self) {
        let table = self.table.clone().unwrap_or_default();
        let stays = |known: &Known| match known.silo.why {
            Why::Seed => true,
            Why::Guest if known.open().is_some() => true,
            Why::Guest | Why::Table => table.silos.iter().any(|silo| silo.address == known.silo.address),
        };
        for gone in self.known.extract_if(.., |known| !stays(known)) {
            if let Some(link) = gone.link {
                link.retire();
            }
        }
        self.places.clear();
        for entry in &table.silos {
            let place = match self.by_seed(&entry.address, &entry.name) {
                Some(place) => place,
                None => self.place_of(&entry.address, Why::Table),
            };
            self.places.push(place);
        }
        // A seed that is none of them has left. Without a table it may be all there is.
        for (place, known) in self.known.iter().enumerate() {
            if known.silo.why == Why::Seed && !table.silos.is_empty() && !self.places.contains(&place) {
                known.link.iter().for_each(|link| link.retire());
            }
        }
    }

    /// A silo may be reached at a seed only, because its own address holds in another network. Its name tells.
    fn by_seed(&self, address: &str, name: &str) -> Option<usize> {
        if self.known.iter().any(|known| known.silo.address == address && known.open().is_some()) {
            return None;
        }
        let is_it =
            |known: &Known| known.silo.why == Why::Seed && known.open().is_some_and(|link| link.silo == name);
        self.known.iter().position(is_it)
    }

    /// Every silo and whether there is a connection.
    pub(crate) fn connections(&self) -> Vec<Connection> {
        let of = |known: &Known| Connection {
            address: known.silo.address.clone(),
            silo: known.link.as_ref().map(|link| link.silo.clone()).unwrap_or_default(),
            is_connected: known.open().is_some(),
        };
        self.known.iter().map(of).collect()
    }

    /// Closes all connections.
    pub(crate) fn close(&mut self) {
        for known in &self.known {
            if let Some(link) = &known.link {
                link.close();
            }
        }
    }
}
