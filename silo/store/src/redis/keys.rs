//! Where a slot lies in Redis: a few keys with one hash tag, so that all of a slot is on one server.

use granary_core::SlotId;

/// The names of the keys of one cluster.
#[derive(Clone, Debug)]
pub struct Keys {
    cluster: String,
}

/// The hash that holds a cell. A hash has no order, so cells whose key starts with a lower-case letter and `/` have a
/// hash for each such letter: what is scanned by such a prefix (reminders, counts) is read without reading the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shelf(Option<u8>);

impl Shelf {
    /// Of a cell.
    pub fn of(cell: &[u8]) -> Shelf {
        match cell {
            [letter @ b'a'..=b'z', b'/', ..] => Shelf(Some(*letter)),
            _ => Shelf(None),
        }
    }

    /// Every hash that may hold cells with this prefix.
    pub fn with_prefix(prefix: &[u8]) -> Vec<Shelf> {
        let letters = match prefix {
            [] => b'a'..=b'z',
            [letter @ b'a'..=b'z'] => *letter..=*letter,
            _ => return vec![Shelf::of(prefix)],
        };
        std::iter::once(Shelf(None)).chain(letters.map(|letter| Shelf(Some(letter)))).collect()
    }
}

impl Keys {
    /// Of this cluster.
    pub fn new(cluster: &str) -> Keys {
        Keys { cluster: cluster.to_owned() }
    }

    /// The record of the cluster: name, slots, schema, the last incarnation.
    pub fn cluster(&self) -> String {
        format!("{{granary.{}}}", self.cluster)
    }

    /// The member table.
    pub fn members(&self) -> String {
        format!("{{granary.{}}}:members", self.cluster)
    }

    /// The slot's row.
    pub fn row(&self, slot: SlotId) -> String {
        self.of(slot, "row")
    }

    /// The slot's outbox: a list of commit number, outputs, commit number, outputs, ...
    pub fn outbox(&self, slot: SlotId) -> String {
        self.of(slot, "out")
    }

    /// A hash of the slot's cells.
    pub fn cells(&self, slot: SlotId, shelf: Shelf) -> String {
        match shelf.0 {
            Some(letter) => self.of(slot, &format!("cells:{}", char::from(letter))),
            None => self.of(slot, "cells"),
        }
    }

    fn of(&self, slot: SlotId, part: &str) -> String {
        format!("{{granary.{}.{slot}}}:{part}", self.cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_found_on_every_shelf_its_prefixes_name() {
        for cell in [&b"r/x"[..], b"r", b"r/", b"", b"/", b"R/x", b"rr/x", b"w\xff"] {
            for end in 0..=cell.len() {
                assert!(Shelf::with_prefix(&cell[..end]).contains(&Shelf::of(cell)), "{cell:?} {end}");
            }
        }
        let keys = Keys::new("shop");
        assert_eq!(keys.cells(SlotId(3), Shelf::of(b"r/x")), "{granary.shop.3}:cells:r");
        assert_eq!(keys.cells(SlotId(3), Shelf::of(b"w")), "{granary.shop.3}:cells");
        assert_eq!(keys.cluster(), "{granary.shop}");
    }
}
