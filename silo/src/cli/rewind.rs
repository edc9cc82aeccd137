//! Going on further ahead where records are gone.

use clap::Args;
use granary_core::{KindInfo, Result};

use crate::rewind::{self, Rewind, Rewound};
use crate::silo::Silo;

use super::online::ConfigArguments;
use super::{YES, block_on};

#[derive(Args)]
pub(crate) struct RewindArguments {
    /// The topic, as the silo's message names it
    #[arg(long)]
    topic: String,
    /// Its partition
    #[arg(long)]
    partition: u32,
    /// The first offset that is still read; the records between are skipped
    #[arg(long, value_name = "OFFSET")]
    to: u64,
    #[command(flatten)]
    config: ConfigArguments,
}

pub(crate) fn rewind(arguments: RewindArguments, kinds: Vec<&'static KindInfo>, json: bool) -> Result<u8> {
    let RewindArguments { topic, partition, to, config } = arguments;
    let silo = kinds.into_iter().fold(Silo::from_settings(config.load()?)?, Silo::host_kind);
    let wanted = Rewind { topic, partition, to };
    let Rewound { slots, moved } = block_on(rewind::rewind(silo, wanted.clone()))?;
    let Rewind { topic, .. } = wanted;
    let from = moved.iter().map(|(_, from)| *from).min();
    if json {
        let moves: Vec<_> =
            moved.iter().map(|(slot, from)| serde_json::json!({"slot": slot.0, "from": from})).collect();
        let answer = serde_json::json!({
            "topic": topic,
            "partition": partition,
            "to": to,
            "from": from,
            "slots": slots,
            "moved": moves,
        });
        say!("{answer}");
        return Ok(YES);
    }
    let Some(from) = from else {
        say!("topic {topic} partition {partition}: all {slots} slots that read it go on at {to} already");
        return Ok(YES);
    };
    for (slot, from) in &moved {
        say!("slot {slot}: from {from} to {to}");
    }
    say!("topic {topic}: offsets {from}..{to} of partition {partition} are skipped");
    let (moved, stay) = (moved.len(), slots - moved.len());
    say!("{moved} of the {slots} slots that read it moved, {stay} had gone on as far before");
    Ok(YES)
}
