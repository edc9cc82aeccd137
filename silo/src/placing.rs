//! What a silo tells of its cluster's members, and slots that a person places.

use granary_cluster::members::{Change, MOVES_MAX, Member, Standing, Table};
use granary_core::{Error, ErrorKind, Ran, Result, SlotId};
use granary_store::Redis;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Slots to be placed, all on one silo.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Moves {
    /// Which.
    pub slots: Vec<u16>,
    /// The silo's name; `None`: wherever the rule puts them.
    pub to: Option<String>,
}

/// What each member tells of itself, and which slots are placed by hand.
pub(crate) fn members(table: &Table) -> Value {
    let silo = |member: &Member| {
        let load = &member.report.load;
        let of_slot = |(slot, turns): &(SlotId, u64)| json!({"slot": slot, "turns_per_s": turns});
        json!({
            "name": member.name,
            "incarnation": member.incarnation.0,
            "standing": standing(member.standing),
            "reaches_log": member.report.reaches_log,
            "slots_running": load.slots,
            "turns_per_s": load.turns_per_s,
            "busiest": load.busiest.iter().map(of_slot).collect::<Vec<_>>(),
        })
    };
    let placed = |(slot, name): (&SlotId, &String)| json!({"slot": slot, "silo": name});
    json!({
        "silos": table.members.iter().map(silo).collect::<Vec<_>>(),
        "moves": table.moves.iter().map(placed).collect::<Vec<_>>(),
    })
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Up => "up",
        Standing::Unfit => "unfit",
        Standing::Leaving => "leaving",
    }
}

/// Places slots of a cluster of so many, as far as that is possible; the member table after it.
pub(crate) fn carry_out(moves: &Moves, slots: u16, table: &Table, redis: &Redis) -> Result<Table> {
    check(moves, slots, table)?;
    let mut after = table.clone();
    for slot in &moves.slots {
        let (done, table) =
            redis.change_members(&Change::Move { slot: SlotId(*slot), to: moves.to.clone() })?;
        after = table;
        if !done {
            check(moves, slots, &after)?; // the silo has gone meanwhile
            let message = format!(
                "slot {slot} is not moved: {MOVES_MAX} slots are placed by hand already, and more cannot be; \
                 `granary slots move SLOT --back` leaves one to the rule again"
            );
            return Err(Error::new(ErrorKind::Overloaded, message).ran(Ran::No));
        }
    }
    Ok(after)
}

/// Nothing is moved when a part of it could not be.
fn check(moves: &Moves, slots: u16, table: &Table) -> Result<()> {
    if let Some(slot) = moves.slots.iter().find(|slot| **slot >= slots) {
        let message = format!("there is no slot {slot}: the cluster has 0 to {}", slots - 1);
        return Err(Error::invalid(message).ran(Ran::No));
    }
    let unknown = moves.to.as_ref().filter(|name| table.named(name).is_none());
    match unknown {
        Some(name) => {
            let mut known: Vec<&str> = table.members.iter().map(|member| member.name.as_str()).collect();
            known.sort_unstable();
            let message = format!("there is no silo `{name}`; there are: {}", known.join(", "));
            Err(Error::invalid(message).ran(Ran::No))
        }
        None => Ok(()),
    }
}
