//! Commands of those who operate silos.

use clap::{Args, Subcommand};
use granary_client::SlotTable;
use granary_core::{Error, ErrorKind, Result, SlotId, codec};
use serde_json::Value;

use crate::placing::Moves;

use super::online::At;
use super::{NO, YES, block_on};

#[derive(Args)]
pub(crate) struct StatusArguments {
    /// Exit with 1 when the silo is not ready, and print why
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    at: At,
}

pub(crate) fn status(arguments: StatusArguments) -> Result<u8> {
    let status: serde_json::Value = block_on(async { arguments.at.connect().await?.status().await })?;
    if arguments.ready {
        let is_ready = status["ready"] == true;
        for reason in status["reasons"].as_array().into_iter().flatten() {
            say!("{}", reason.as_str().unwrap_or_default());
        }
        return Ok(if is_ready { YES } else { NO });
    }
    let text =
        serde_json::to_string_pretty(&status).map_err(|e| Error::new(ErrorKind::Codec, e.to_string()))?;
    say!("{text}");
    Ok(YES)
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SlotsArguments {
    #[command(subcommand)]
    command: Option<SlotsCommand>,
    #[command(flatten)]
    at: At,
}

#[derive(Subcommand)]
enum SlotsCommand {
    /// Place slots on a silo by hand: they are there while it takes slots; or leave them to the rule again
    Move(MoveArguments),
}

#[derive(Args)]
struct MoveArguments {
    /// The slots, by number
    #[arg(required = true)]
    slots: Vec<u16>,
    /// The silo's name, as `granary slots` shows it
    #[arg(long, value_name = "NAME", required_unless_present = "back")]
    to: Option<String>,
    /// Leave them to the rule again
    #[arg(long, conflicts_with = "to")]
    back: bool,
    #[command(flatten)]
    at: At,
}

pub(crate) fn slots(arguments: SlotsArguments, json: bool) -> Result<u8> {
    if let Some(SlotsCommand::Move(arguments)) = arguments.command {
        return move_slots(arguments, json);
    }
    let bytes = block_on(async {
        let client = arguments.at.connect().await?;
        Ok((client.ask("slots", &[]).await?, client.ask("members", &[]).await?))
    });
    let (table, members) = match bytes {
        Ok((table, members)) => (SlotTable::from_bytes(&table)?, codec::from_bytes::<Value>(&members)?),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            say!("{}", error.message());
            return Ok(YES);
        }
        Err(error) => return Err(error),
    };
    if json {
        let mut whole = serde_json::json!(table);
        whole["members"] = members["silos"].clone();
        whole["moves"] = members["moves"].clone();
        say!("{whole}");
        return Ok(YES);
    }
    say!("slots {}, version {}", table.slots, table.version);
    for (no, silo) in table.silos.iter().enumerate() {
        let owned =
            |slot: &u16| table.owners[usize::from(*slot)].is_some_and(|owner| usize::from(owner) == no);
        let slots: Vec<SlotId> = (0..table.slots).filter(owned).map(SlotId).collect();
        say!(
            "{} at {}, life {}: {} slots: {}",
            silo.name,
            silo.address,
            silo.incarnation,
            slots.len(),
            ranges(&slots)
        );
        let told = members["silos"].as_array().into_iter().flatten();
        if let Some(member) = told.clone().find(|member| member["name"] == silo.name.as_str()) {
            say!("    {}", in_words(member));
        }
    }
    for placed in members["moves"].as_array().into_iter().flatten() {
        say!("slot {} is placed on {} by hand", placed["slot"], text(&placed["silo"]));
    }
    Ok(YES)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What a silo tells of itself: `1200 turns/s; busiest slots: 17 (800/s), 3 (90/s)`.
fn in_words(member: &Value) -> String {
    let mut words = format!("{} turns/s", member["turns_per_s"]);
    let of_slot = |slot: &Value| format!("{} ({}/s)", slot["slot"], slot["turns_per_s"]);
    let busiest: Vec<String> = member["busiest"].as_array().into_iter().flatten().map(of_slot).collect();
    if !busiest.is_empty() {
        words += &format!("; busiest slots: {}", busiest.join(", "));
    }
    match text(&member["standing"]) {
        "unfit" => words += "; stands aside: it does not reach Kafka, and others do",
        "leaving" => words += "; leaves",
        _ if member["reaches_log"] == false => words += "; does not reach Kafka",
        _ => {}
    }
    words
}

fn move_slots(arguments: MoveArguments, json: bool) -> Result<u8> {
    let moves = Moves { slots: arguments.slots, to: arguments.to };
    let asked = codec::to_bytes(&moves)?;
    let answer = block_on(async { arguments.at.connect().await?.ask("move", &asked).await })?;
    let members: Value = codec::from_bytes(&answer)?;
    if json {
        say!("{members}");
        return Ok(YES);
    }
    let slots: Vec<String> = moves.slots.iter().map(u16::to_string).collect();
    let slots = slots.join(", ");
    let Some(name) = &moves.to else {
        say!("slots {slots}: placed by the rule again");
        return Ok(YES);
    };
    let mut silos = members["silos"].as_array().into_iter().flatten();
    let is_up = silos.any(|silo| silo["name"] == name.as_str() && silo["standing"] == "up");
    if is_up {
        say!("slots {slots}: placed on {name}");
    } else {
        say!("slots {slots}: placed on {name}, which takes no slots at present: they go there when it does");
    }
    Ok(YES)
}

/// Ascending slots as a person writes them: `0-3, 7`.
fn ranges(slots: &[SlotId]) -> String {
    let of_run = |run: &[SlotId]| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    };
    let runs = slots.chunk_by(|a, b| b.0 == a.0 + 1).map(of_run);
    runs.collect::<Vec<_>>().join(", ")
}

#[derive(Args)]
pub(crate) struct DrainArguments {
    #[command(flatten)]
    at: At,
}

pub(crate) fn drain(arguments: DrainArguments) -> Result<u8> {
    let left = block_on(async { arguments.at.connect_to_one().await?.ask("drain", &[]).await })?;
    let left: u64 = codec::from_bytes(&left)?;
    if left > 0 {
        say!("{left} slots are still there: is another silo running? See its log");
        return Ok(NO);
    }
    say!("all slots are given: the silo can be stopped");
    Ok(YES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_side_by_side_are_a_range() {
        let slots = [0, 1, 2, 5, 7, 8].map(SlotId);
        assert_eq!(ranges(&slots), "0-2, 5, 7-8");
        assert_eq!(ranges(&[]), "");
    }
}
