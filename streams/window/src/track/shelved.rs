//! The state of one key by itself, and the cells that it goes into and comes from: what cases and tests disturb.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Machine;
use crate::encode::Reader;
use crate::shelf::Shelf;

/// One key's state and its stored chunks.
pub(crate) struct Shelved<M: Machine> {
    pub machine: M,
    of: Arc<M::Of>,
    chunks: BTreeMap<u64, Vec<u8>>,
}

impl<M: Machine> Shelved<M> {
    pub fn new(machine: M, of: Arc<M::Of>) -> Shelved<M> {
        Shelved { machine, of, chunks: BTreeMap::new() }
    }

    /// Stores it and reads it again.
    pub fn restore(&mut self) {
        let chunks = &mut self.chunks;
        self.machine.shelf_mut().seal(|base, value| {
            match value {
                Some(value) => chunks.insert(base, value.to_vec()),
                None => chunks.remove(&base),
            };
        });
        let mut head = Vec::new();
        self.machine.put(&mut head);
        self.machine.shelf().put(&mut head);
        let mut reader = Reader::new(&head);
        let sound = "what was just written can be read";
        let mut machine = M::read(&self.of, &mut reader).expect(sound);
        *machine.shelf_mut() = Shelf::read(&mut reader).expect(sound);
        reader.finish().expect(sound);
        for base in machine.shelf().absent().collect::<Vec<_>>() {
            machine.shelf_mut().supply(base, &self.chunks[&base]).expect(sound);
        }
        machine.settle().expect(sound);
        self.machine = machine;
    }
}
