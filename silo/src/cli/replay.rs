//! Records that were set aside, again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use granary_cluster::Log;
use granary_core::{Error, ErrorKind, KindInfo, Result, Timestamp};
use granary_kafka::KafkaLog;
use granary_streams::plan::SET_ASIDE;

use crate::assembly::Assembly;
use crate::backing::kafka_settings;
use crate::config::{LogKind, Settings};
use crate::replay::{self, Options, Report};
use crate::silo::Silo;

use super::online::ConfigArguments;
use super::{NO, YES};

#[derive(Args)]
pub(crate) struct ReplayArguments {
    /// late, rejected or poisoned
    #[arg(value_parser = SET_ASIDE)]
    stream: String,
    /// Only what was set aside then or later: ms since 1970, or such as 2026-01-31T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Only what lies behind this offset of a partition of the set-aside stream; once for each partition
    #[arg(long, value_name = "PARTITION:OFFSET", value_parser = after)]
    after: Vec<(u32, u64)>,
    /// End after so many records
    #[arg(long)]
    most: Option<u64>,
    /// Only late records with this reason
    #[arg(long, value_parser = ["late", "forgotten", "future", "unassigned"])]
    reason: Option<String>,
    /// Append nothing, only say what would be
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    config: ConfigArguments,
}

pub(crate) fn replay(arguments: ReplayArguments, kinds: Vec<&'static KindInfo>, json: bool) -> Result<u8> {
    let ReplayArguments { stream, since, after, most, reason, dry_run, config } = arguments;
    if reason.is_some() && stream != "late" {
        return Err(Error::invalid(format!(
            "--reason is for late records; {stream} ones have no such reason"
        )));
    }
    let settings = config.load()?;
    let silo = kinds.into_iter().fold(Silo::from_settings(settings)?, Silo::host_kind);
    let (settings, assembly) = silo.assemble()?;
    let topic = assembly.topic_of(&stream).ok_or_else(|| {
        let message = format!("without a pipeline nothing is set aside as {stream}: `pipelines` names none");
        Error::new(ErrorKind::NotFound, message)
    })?;
    let log = open(&settings, &assembly)?;
    let options = Options {
        topic,
        reason,
        since,
        after: after.into_iter().collect(),
        most: most.unwrap_or(u64::MAX),
        is_dry_run: dry_run,
    };
    let mut report = Report::default();
    let done = replay::replay(&*log, &options, &mut report, &mut |place| {
        let replay::Place { topic, partition, offset } = place;
        if json {
            let gone = serde_json::json!({"topic": topic, "partition": partition, "offset": offset});
            say!("{}", serde_json::json!({"gone": gone}));
        } else {
            say!("gone: offset {offset} of topic {topic} partition {partition}");
        }
    });
    tell(&report, dry_run, json); // what was done before an error is done
    done.map(|()| if report.gone > 0 { NO } else { YES })
}

fn tell(report: &Report, is_dry_run: bool, json: bool) {
    let Report { replayed, of_rows, gone, passed_over, after } = report;
    let after: BTreeMap<u32, u64> = after.clone();
    let after: Vec<String> =
        after.iter().map(|(partition, offset)| format!("{partition}:{offset}")).collect();
    if json {
        let answer = serde_json::json!({
            "replayed": replayed,
            "of_rows": of_rows,
            "gone": gone,
            "passed_over": passed_over,
            "dry_run": is_dry_run,
            "after": after,
        });
        return say!("{answer}");
    }
    let what = if is_dry_run { "would be replayed" } else { "replayed" };
    let mut more = String::new();
    for (n, of) in [(of_rows, "of them from their rows"), (gone, "gone"), (passed_over, "passed over")] {
        if *n > 0 {
            more += &format!(", {n} {of}");
        }
    }
    say!("{replayed} records {what}{more}");
    if !after.is_empty() {
        say!("to go on from here next time: --after {}", after.join(" --after "));
    }
}

/// The log: Kafka while silos run, or the embedded one of a silo that is stopped.
fn open(settings: &Settings, assembly: &Assembly) -> Result<Arc<dyn Log>> {
    Ok(match settings.log.kind {
        LogKind::Kafka => Arc::new(KafkaLog::new(kafka_settings(settings)?)?),
        LogKind::Embedded => assembly.open_store(Path::new(&settings.store.path))?,
    })
}

pub(super) fn time(text: &str) -> std::result::Result<Timestamp, String> {
    let ms = text.parse().ok().map(Timestamp);
    ms.or_else(|| granary_streams::file::rfc3339(text))
        .ok_or_else(|| "ms since 1970 expected, or a time such as 2026-01-31T00:00:00Z".to_string())
}

fn after(text: &str) -> std::result::Result<(u32, u64), String> {
    let parts = text.split_once(':');
    let numbers = parts.and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
    numbers.ok_or_else(|| "PARTITION:OFFSET expected, such as 0:17".to_string())
}
