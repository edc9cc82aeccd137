//! Looking at what the next records will need. A key of which nothing is in the processor's caches costs a chain of
//! waits: record, table, key, slice, pane, accumulators. Walking the chains of several records link by link lets the
//! processor wait for all of them at once.

use granary_cluster::Record;
use granary_core::SlotId;
use granary_window::LINKS;

use super::prepared::Prepared;
use super::route::Chunk;
use super::slot::Slot;

/// Looks; what is found is of no account, and a key that is not there yet is nothing special.
pub(crate) fn look(
    prepared: &Prepared,
    slots: &[Option<Box<Slot>>],
    chunk: &Chunk,
    next: &[(SlotId, usize, Record<'_>)],
) {
    let mut seen = 0;
    for (_, place, _) in next {
        seen ^= chunk.at(*place).time().ms() as usize;
    }
    for (_, place, _) in next {
        let items = chunk.at(*place).fields.items;
        seen ^= usize::from(items.first() == items.last());
    }
    for (i, window) in prepared.windows.iter().enumerate() {
        let source = prepared.plan.steps[window.step].source;
        let of_source = |record: &Record<'_>| prepared.plan.source_of(record.source) == source;
        let mut chains = Vec::with_capacity(next.len());
        for (slot, place, record) in next.iter().filter(|(.., record)| of_source(record)) {
            let Some(Some(slot)) = slots.get(usize::from(slot.0)) else { continue };
            let routed = chunk.at(*place);
            if routed.is_refused() {
                continue;
            }
            let key = routed.key(record.value);
            if let Some(at) = slot.operators[i].likely_place(key) {
                chains.push((&slot.operators[i], at));
            }
        }
        for link in 0..LINKS {
            for (operator, at) in &chains {
                seen ^= operator.look_at(*at, link);
            }
        }
    }
    std::hint::black_box(seen);
}
