//! `granary rules reload`, `promote`, `mute`, `unmute` and `status`: rules of silos that run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use granary_client::Client;
use granary_core::{Error, Result, Span, codec};
use granary_streams::plan::Bundle;
use granary_streams::rules::mutes::Mute;
use serde_json::{Value, json};

use super::super::online::At;
use super::super::{NO, YES, block_on};
use crate::files;
use crate::rulebook::Ask;

/// How long silos get to hear of a revision before that is worth a word.
const HEAR_MAX: Duration = Duration::from_secs(10);
/// How long one silo's answer is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Args)]
pub(crate) struct ReloadArguments {
    /// The rules file
    file: PathBuf,
    #[command(flatten)]
    at: At,
}

#[derive(Args)]
pub(crate) struct PromoteArguments {
    /// The rule
    rule: String,
    /// Where its alerts go
    #[arg(long, value_parser = ["live", "shadow", "off"], default_value = "live")]
    to: String,
    /// The stream its file is on, where there are several
    #[arg(long)]
    stream: Option<String>,
    #[command(flatten)]
    at: At,
}

/// Alerts: of which rule and key.
#[derive(Args)]
struct Which {
    /// The rule, or `all` that have such a key
    rule: String,
    /// A field of its key and its value; several for several fields
    #[arg(long = "key", value_name = "FIELD=VALUE", required = true, value_parser = pair)]
    keys: Vec<(String, String)>,
    /// The stream its file is on, where there are several
    #[arg(long)]
    stream: Option<String>,
}

impl Which {
    fn rule(&self) -> Option<String> {
        (self.rule != "all").then(|| self.rule.clone())
    }

    fn key(&self) -> BTreeMap<String, String> {
        self.keys.iter().cloned().collect()
    }
}

#[derive(Args)]
pub(crate) struct MuteArguments {
    #[command(flatten)]
    which: Which,
    /// For so long from now on: 12h, 7d. What counts is the time of events
    #[arg(long = "for", value_name = "LENGTH", value_parser = length)]
    length: Span,
    /// Why, for those who wonder
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    at: At,
}

#[derive(Args)]
pub(crate) struct UnmuteArguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    at: At,
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(field, _)| !field.is_empty());
    let pair = pair.ok_or_else(|| format!("`{text}` is not like customer_id=4711"))?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

fn length(text: &str) -> std::result::Result<Span, String> {
    let length = granary_streams::file::parse_span(text).filter(|length| *length > Span::ZERO);
    length.ok_or_else(|| format!("`{text}` is no length of time: write 12h, 30m or 7d"))
}

#[derive(Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    at: At,
}

pub(crate) fn reload(arguments: ReloadArguments, json: bool) -> Result<u8> {
    let ReloadArguments { file, at } = arguments;
    let text = std::fs::read_to_string(&file).map_err(|error| super::cannot_read(&file, &error))?;
    let (bundle, _) = Bundle::collect(text, &files::beside(&file)).map_err(|wrong| {
        Error::invalid(format!("{}: the rules in force stay\n{}", file.display(), wrong.join("\n")))
    })?;
    block_on(async {
        let client = at.connect().await?;
        let answer = ask(&client, None, &Ask::Reload(bundle)).await?;
        tell(&client, &answer, json).await
    })
}

pub(crate) fn promote(arguments: PromoteArguments, json: bool) -> Result<u8> {
    let PromoteArguments { rule, to: mode, stream, at } = arguments;
    block_on(async {
        let client = at.connect().await?;
        let answer = ask(&client, None, &Ask::Mode { stream, rule, mode }).await?;
        tell(&client, &answer, json).await
    })
}

pub(crate) fn mute(arguments: MuteArguments, json: bool) -> Result<u8> {
    let MuteArguments { which, length, reason, at } = arguments;
    let (rule, key, stream) = (which.rule(), which.key(), which.stream);
    block_on(async {
        let client = at.connect().await?;
        let answer = ask(&client, None, &Ask::Mute { stream, rule, key, length, reason }).await?;
        tell(&client, &answer, json).await
    })
}

pub(crate) fn unmute(arguments: UnmuteArguments, json: bool) -> Result<u8> {
    let UnmuteArguments { which, at } = arguments;
    let (rule, key, stream) = (which.rule(), which.key(), which.stream);
    block_on(async {
        let client = at.connect().await?;
        let answer = ask(&client, None, &Ask::Unmute { stream, rule, key }).await?;
        tell(&client, &answer, json).await
    })
}

pub(crate) fn status(arguments: StatusArguments, json: bool) -> Result<u8> {
    block_on(async {
        let client = arguments.at.connect().await?;
        for (silo, status) in statuses(&client).await? {
            if let (Some(error), false) = (status["error"].as_str(), json) {
                say!("{silo}: does not answer: {error}");
            }
            for stream in status["streams"].as_array().into_iter().flatten() {
                if json {
                    say!("{}", json!({"silo": silo, "status": stream}));
                    continue;
                }
                say!(
                    "{silo}: stream {} is judged by revision {}",
                    text(&stream["stream"]),
                    stream["revision"]
                );
                for rule in stream["rules"].as_array().into_iter().flatten() {
                    let of = |name: &str| text(&rule[name]).to_owned();
                    let suppressed = match rule["suppressed"].as_u64() {
                        None | Some(0) => String::new(),
                        Some(count) => format!(", {count} alerts muted"),
                    };
                    let (mode, hash, id, kind, title) =
                        (of("mode"), of("hash"), of("id"), of("kind"), of("title"));
                    say!("  {mode:<7} {hash}  {id}  {kind}  {title}{suppressed}");
                }
                if let Some(fill) = stream["backfill"].as_object() {
                    let rules: Vec<&str> = fill["rules"].as_array().into_iter().flatten().map(text).collect();
                    let is_short = fill["short"].as_array().is_some_and(|short| !short.is_empty());
                    say!(
                        "  backfill of revision {}, over {}: {}; {} slots of this silo have done{}",
                        fill["revision"],
                        text(&fill["looks_back"]),
                        rules.join(", "),
                        fill["slots_filled"],
                        if is_short { ", but the topic does not reach back as far" } else { "" }
                    );
                }
                for mute in stream["mutes"].as_array().into_iter().flatten() {
                    let Ok(mute) = serde_json::from_value::<Mute>(mute.clone()) else { continue };
                    say!("  muted   {mute} until {}: {}", mute.until, mute.reason);
                }
            }
        }
        Ok(YES)
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

async fn ask(client: &Client, address: Option<&str>, ask: &Ask) -> Result<Value> {
    let arguments = codec::to_bytes(ask)?;
    let answer = match address {
        Some(address) => client.ask_silo(address, "rules", &arguments).await?,
        None => client.ask("rules", &arguments).await?,
    };
    codec::from_bytes(&answer)
}

/// What each silo says of its rules.
async fn statuses(client: &Client) -> Result<Vec<(String, Value)>> {
    let Some(table) = client.refresh().await.filter(|table| !table.silos.is_empty()) else {
        return Ok(vec![("silo".to_owned(), ask(client, None, &Ask::Status).await?)]);
    };
    let mut statuses = Vec::new();
    for silo in &table.silos {
        // one that has just died says nothing, and is no member for long
        let asked = ask(client, Some(&silo.address), &Ask::Status);
        let status = match tokio::time::timeout(ANSWER_MAX, asked).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => json!({"error": error.message()}),
            Err(_) => json!({"error": format!("no answer within {} s", ANSWER_MAX.as_secs())}),
        };
        statuses.push((silo.name.clone(), status));
    }
    Ok(statuses)
}

/// Says which revision there is now, when all silos have heard of it.
async fn tell(client: &Client, answer: &Value, json: bool) -> Result<u8> {
    let (stream, revision) = (text(&answer["stream"]), answer["revision"].as_u64().unwrap_or_default());
    let began = Instant::now();
    let behind = loop {
        let has_heard = |status: &Value| {
            let streams = status["streams"].as_array().into_iter().flatten();
            streams.into_iter().any(|of| of["stream"] == stream && of["revision"].as_u64() >= Some(revision))
        };
        let statuses = statuses(client).await?;
        let behind: Vec<String> =
            statuses.iter().filter(|(_, status)| !has_heard(status)).map(|(silo, _)| silo.clone()).collect();
        if behind.is_empty() || began.elapsed() > HEAR_MAX {
            break behind;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    if json {
        let mut answer = answer.clone();
        answer["behind"] = json!(behind);
        say!("{answer}");
    } else {
        match answer["said"].as_str() {
            Some(said) => say!("{said}, revision {revision}"),
            None => {
                say!("stream {stream}: judged by revision {revision} from the next record of each slot on")
            }
        }
        if let Some(fill) = answer["backfill"].as_object() {
            let rules: Vec<&str> = fill["rules"].as_array().into_iter().flatten().map(text).collect();
            say!("read again over {}: {}", text(&fill["looks_back"]), rules.join(", "));
        }
        for notice in answer["notices"].as_array().into_iter().flatten() {
            say!("notice: {}", text(notice));
        }
        for rule in answer["modes_forgotten"].as_array().into_iter().flatten() {
            say!("rule {} has the mode that the file says again: it had been set by hand", text(rule));
        }
        for mute in answer["mutes_dropped"].as_array().into_iter().flatten() {
            say!("{}: not muted any more, the file has no such rule or key", text(mute));
        }
        if !behind.is_empty() {
            say!("not heard of it after {} s: {}; see their logs", HEAR_MAX.as_secs(), behind.join(", "));
        }
    }
    Ok(if behind.is_empty() { YES } else { NO })
}
