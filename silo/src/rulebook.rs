//! Rules that change while silos run: a grain for each stream keeps the newest revision, every silo follows it, and a silo that
//! is asked checks a file before it becomes one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use granary_core::cx::ALERTS;
use granary_core::{Cx, Error, ErrorKind, Ran, Result, Span, Timestamp};
use granary_engine::Handle;
use granary_macros::grain;
use granary_streams::Plan;
use granary_streams::plan::Bundle;
use granary_streams::rules::Mode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::life::Current;

/// How often a silo asks whether there is a later revision.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The newest revision of the rules on a stream, `Rules/<stream>`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Rulebook {
    revision: u64,
    bundle: Bundle,
    /// For rules with a limit the alerts of a while ago, by when they were heard of.
    recent: BTreeMap<String, VecDeque<(Timestamp, u64)>>,
}

/// Alerts of a rule that has a limit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Raised {
    rule: String,
    alerts: u64,
    /// The limit.
    count: u64,
    per: Span,
}

/// In so many parts of a rule's time its alerts are counted.
const PARTS: u64 = 60;

#[grain(crate = granary_core, name = "Rules")]
impl Rulebook {
    /// Makes these rules the next revision; refused when `after` is not the present one.
    fn publish(&mut self, bundle: Bundle, after: u64) -> Result<u64> {
        if after != self.revision {
            let message = format!(
                "somebody else has changed the rules meanwhile: revision {} is there, this was made for {after}",
                self.revision
            );
            return Err(Error::new(ErrorKind::Rejected, message).ran(Ran::No));
        }
        self.revision += 1;
        self.bundle = bundle;
        self.recent.clear();
        Ok(self.revision)
    }

    /// Hears of alerts that a silo has raised by this revision; a rule with too many of them goes into shadow, by a revision of
    /// its own, and that is an alert. `bundle` is what the revision is made of, should it be the pipeline's file.
    fn raised(&mut self, of: u64, raised: Vec<Raised>, bundle: Option<Bundle>, cx: &mut Cx) -> Result<()> {
        if of != self.revision {
            return Ok(()); // it is over: what it raised is counted no more
        }
        let now = cx.now();
        for Raised { rule, alerts, count, per } in raised {
            let recent = self.recent.entry(rule.clone()).or_default();
            let part = Span(per.ms() / PARTS);
            match recent.back_mut().filter(|(at, _)| now.since(*at) < part) {
                Some((_, known)) => *known += alerts,
                None => recent.push_back((now, alerts)),
            }
            while recent.front().is_some_and(|(at, _)| now.since(*at) >= per) {
                recent.pop_front();
            }
            let sum: u64 = recent.iter().map(|(_, alerts)| alerts).sum();
            if sum > count {
                let event = tripped(&rule, self.revision + 1, sum, count, per, now);
                cx.emit_as(ALERTS, event["id"].as_str().unwrap_or_default(), event.to_string().as_bytes())?;
                if let Some(bundle) = bundle.filter(|_| self.revision == 0) {
                    self.bundle = bundle;
                }
                self.bundle.modes.insert(rule, Mode::Shadow.name().to_owned());
                self.revision += 1;
                self.recent.clear();
                return Ok(());
            }
        }
        Ok(())
    }

    /// Its number; 0 when there was none beside the file that the pipeline names.
    fn revision(&self) -> u64 {
        self.revision
    }

    /// Its number, and what it is made of.
    fn newest(&self) -> (u64, Bundle) {
        (self.revision, self.bundle.clone())
    }
}

/// That a rule has gone into shadow.
fn tripped(rule: &str, revision: u64, alerts: u64, count: u64, per: Span, now: Timestamp) -> Value {
    json!({
        "specversion": "1.0",
        "type": "fraud.rule.tripped",
        "id": format!("rt_{rule}_{revision}"),
        "source": format!("/fraud/rules/{rule}"),
        "subject": format!("rule/{rule}"),
        "time": now.to_rfc3339(),
        "datacontenttype": "application/json",
        "partitionkey": rule,
        "severitytext": "HIGH",
        "severitynumber": 17,
        "data": {
            "rule": {"id": rule, "revision": revision},
            "mode": Mode::Shadow.name(),
            "reason": format!(
                "rule {rule} has raised {alerts} alerts within {per}, and {count} are its limit: it is in shadow until somebody \
                 promotes it"
            ),
        },
    })
}

/// What a silo is asked about its rules.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Which revisions it judges by.
    Status,
    /// Judge by this file from now on.
    Reload(Bundle),
    /// Give a rule this mode from now on.
    Mode {
        /// The stream its file is on; may be left out where there is one only.
        stream: Option<String>,
        /// The rule.
        rule: String,
        /// `live`, `shadow` or `off`.
        mode: String,
    },
}

/// Follows the revisions of a plan's rules until it is dropped.
pub(crate) struct Follower(JoinHandle<()>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Follower {
    /// Begins; a plan without rules needs none.
    pub fn start(plan: Option<Arc<Plan>>, current: Arc<Current>) -> Option<Follower> {
        let plan = plan.filter(|plan| !plan.rules_streams().is_empty())?;
        Some(Follower(tokio::spawn(async move {
            let mut refused: BTreeMap<String, u64> = BTreeMap::new();
            let mut counted: BTreeMap<String, Counted> = BTreeMap::new();
            loop {
                for stream in plan.rules_streams() {
                    let Ok(lanes) = current.lanes() else { continue };
                    if let Err(error) = follow(&plan, stream, &lanes, &mut refused).await {
                        tracing::debug!(stream, %error, "the revision of rules cannot be asked for at present");
                    }
                    let counted = counted.entry(stream.to_owned()).or_default();
                    if let Err(error) = count(&plan, stream, &lanes, counted).await {
                        tracing::debug!(stream, %error, "alerts cannot be counted together at present");
                    }
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })))
    }
}

async fn follow(
    plan: &Plan,
    stream: &str,
    lanes: &Handle,
    refused: &mut BTreeMap<String, u64>,
) -> Result<()> {
    let known = plan.revision_of(stream);
    let book = lanes.grain::<Rulebook>(stream);
    let newest = book.revision().await?;
    if newest <= known || refused.get(stream) == Some(&newest) {
        return Ok(());
    }
    let (revision, bundle) = book.newest().await?;
    match plan.revise(stream, revision, &bundle) {
        Ok(revised) => {
            plan.announce(&revised);
            tracing::info!(
                stream,
                revision,
                "rules are judged by another revision from the next record of each slot on"
            );
        }
        Err(wrong) => {
            let wrong = wrong.join("; ");
            tracing::error!(
                stream,
                revision,
                wrong,
                "a revision of rules does not fit this silo's pipeline: it goes on with the one before"
            );
            refused.insert(stream.to_owned(), revision);
        }
    }
    Ok(())
}

/// How many alerts were told of.
#[derive(Default)]
struct Counted {
    revision: u64,
    raised: Vec<u64>,
}

/// Tells how many alerts there were by rules that have a limit.
async fn count(plan: &Plan, stream: &str, lanes: &Handle, counted: &mut Counted) -> Result<()> {
    let Some(step) = plan.rules_of(stream) else { return Ok(()) };
    let raised = plan.raised(stream);
    if counted.revision != step.revision || counted.raised.len() != raised.len() {
        *counted = Counted { revision: step.revision, raised: vec![0; raised.len()] };
    }
    let news = step.rules.infos().iter().zip(raised.iter().zip(&counted.raised));
    let news: Vec<Raised> = news
        .filter_map(|(info, (now, before))| {
            let (limit, alerts) = (info.alerts_max?, now.saturating_sub(*before));
            let (rule, count, per) = (info.id.to_string(), limit.count, limit.per);
            (alerts > 0).then_some(Raised { rule, alerts, count, per })
        })
        .collect();
    if !news.is_empty() {
        let bundle = (step.revision == 0).then(|| step.bundle.clone());
        lanes.grain::<Rulebook>(stream).raised(step.revision, news, bundle).await?;
    }
    counted.raised = raised;
    Ok(())
}

/// Answers; the answer is for a program.
pub(crate) async fn answer(ask: Ask, plan: Option<Arc<Plan>>, lanes: Result<Handle>) -> Result<Value> {
    let plan = plan.filter(|plan| !plan.rules_streams().is_empty()).ok_or_else(|| {
        refused(ErrorKind::NotFound, "this silo's pipeline has no step with rules".to_owned())
    })?;
    match ask {
        Ask::Status => Ok(
            json!({"streams": plan.rules_streams().iter().map(|stream| status(&plan, stream)).collect::<Vec<_>>()}),
        ),
        Ask::Reload(bundle) => {
            let rules = bundle.rules().map_err(|wrong| refused(ErrorKind::Invalid, wrong.join("\n")))?;
            let stream = rules.stream().to_owned();
            let book = lanes?.grain::<Rulebook>(stream.as_str());
            let (before, known) = book.newest().await?;
            let forgotten: Vec<&String> = known.modes.keys().collect();
            check(&plan, &stream, &bundle, before + 1)?;
            let revision = book.publish(bundle, before).await?;
            Ok(json!({"stream": stream, "revision": revision, "modes_forgotten": forgotten}))
        }
        Ask::Mode { stream, rule, mode } => {
            let streams = plan.rules_streams();
            let stream = match (stream, streams.as_slice()) {
                (Some(stream), _) => stream,
                (None, [only]) => (*only).to_owned(),
                (None, several) => {
                    let message =
                        format!("there are rules on several streams, say which: {}", several.join(", "));
                    return Err(refused(ErrorKind::Invalid, message));
                }
            };
            let step = plan.rules_of(&stream).ok_or_else(|| {
                refused(ErrorKind::NotFound, format!("no step judges the stream `{stream}`"))
            })?;
            let book = lanes?.grain::<Rulebook>(stream.as_str());
            let (before, mut bundle) = book.newest().await?;
            if before == 0 {
                bundle = step.bundle.clone();
            }
            let known = bundle.rules().map_err(|wrong| refused(ErrorKind::Invalid, wrong.join("\n")))?;
            let info = known.infos().iter().find(|info| *info.id == *rule).ok_or_else(|| {
                let known: Vec<&str> = known.infos().iter().map(|info| &*info.id).collect();
                refused(
                    ErrorKind::NotFound,
                    format!("there is no rule `{rule}`; there are: {}", known.join(", ")),
                )
            })?;
            let was = info.mode.name();
            bundle.modes.insert(rule.clone(), mode.clone());
            check(&plan, &stream, &bundle, before + 1)?;
            let revision = book.publish(bundle, before).await?;
            Ok(json!({"stream": stream, "revision": revision, "rule": rule, "was": was, "mode": mode}))
        }
    }
}

/// Whether the rules fit this silo's pipeline.
fn check(plan: &Plan, stream: &str, bundle: &Bundle, revision: u64) -> Result<()> {
    let fits = plan.revise(stream, revision, bundle);
    fits.map(|_| ()).map_err(|wrong| refused(ErrorKind::Invalid, wrong.join("\n")))
}

fn status(plan: &Plan, stream: &str) -> Value {
    let Some(step) = plan.rules_of(stream) else { return Value::Null };
    let rules = step.rules.infos().iter().map(|info| {
        json!({"id": info.id, "mode": info.mode.name(), "kind": info.kind, "hash": info.hash, "title": info.title})
    });
    json!({"stream": stream, "revision": step.revision, "rules": rules.collect::<Vec<_>>()})
}

fn refused(kind: ErrorKind, message: String) -> Error {
    Error::new(kind, message).ran(Ran::No)
}
