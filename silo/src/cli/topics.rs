//! The topics of a silo in Kafka: what is missing is created.

use clap::Args;
use granary_core::{Error, KindInfo, Result};
use granary_kafka::KafkaLog;

use crate::backing::topics::{self, Present};
use crate::silo::Silo;

use super::YES;
use super::online::ConfigArguments;

#[derive(Args)]
pub(crate) struct TopicsArguments {
    #[command(flatten)]
    config: ConfigArguments,
}

pub(crate) fn topics(arguments: TopicsArguments, kinds: Vec<&'static KindInfo>, json: bool) -> Result<u8> {
    let settings = arguments.config.load()?;
    let Some(kafka) = arguments.config.kafka(None)? else {
        return Err(Error::invalid(
            "log.kind is `embedded`: a silo creates the topics of its own log by itself",
        ));
    };
    let log = KafkaLog::new(kafka)?;
    let slots = settings.cluster.slots;
    let (_, assembly) = kinds.into_iter().fold(Silo::from_settings(settings)?, Silo::host_kind).assemble()?;
    log.create_internal(slots)?;
    for Present { topic, partitions, is_new } in topics::create(&log, &assembly.needed_topics())? {
        if json {
            say!("{}", serde_json::json!({"topic": topic, "partitions": partitions, "created": is_new}));
        } else {
            let was = if is_new { "created" } else { "there" };
            say!("{topic}: {partitions} partitions, {was}");
        }
    }
    Ok(YES)
}
