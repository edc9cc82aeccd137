//! Commands of those who operate silos.

use clap::Args;
use granary_client::SlotTable;
use granary_core::{Error, ErrorKind, Result, SlotId, codec};

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
pub(crate) struct SlotsArguments {
    #[command(flatten)]
    at: At,
}

pub(crate) fn slots(arguments: SlotsArguments, json: bool) -> Result<u8> {
    let bytes = block_on(async { arguments.at.connect().await?.ask("slots", &[]).await });
    let table = match bytes {
        Ok(bytes) => SlotTable::from_bytes(&bytes)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            say!("{}", error.message());
            return Ok(YES);
        }
        Err(error) => return Err(error),
    };
    if json {
        say!("{}", serde_json::json!(table));
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
