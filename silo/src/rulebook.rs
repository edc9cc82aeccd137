//! Rules that change while silos run: a grain for each stream keeps the newest revision, every silo follows it, and a silo that
//! is asked checks a file before it becomes one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use granary_core::cloud::{HIGH, Head};
use granary_core::cx::ALERTS;
use granary_core::{Cx, Error, ErrorKind, Grain, Ran, Result, Span, Timestamp};
use granary_engine::Handle;
use granary_macros::grain;
use granary_streams::Plan;
use granary_streams::plan::{Bundle, Fill, Wanted};
use granary_streams::rules::Mode;
use granary_streams::rules::mutes::Mute;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::backfill;
use crate::backing::Backing;
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
    let head = Head {
        kind: "fraud.rule.tripped",
        id: &format!("rt_{rule}_{revision}"),
        source: format!("/fraud/rules/{rule}"),
        subject: format!("rule/{rule}"),
        time: now,
        key: Some(rule),
        gravity: Some(HIGH),
    };
    head.with(json!({
        "rule": {"id": rule, "revision": revision},
        "mode": Mode::Shadow.name(),
        "reason": format!(
            "rule {rule} has raised {alerts} alerts within {per}, and {count} are its limit: it is in shadow until somebody \
             promotes it"
        ),
    }))
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
    /// Tell nobody of a key's alerts for a while.
    Mute {
        /// The stream the rules are on; may be left out where there is one only.
        stream: Option<String>,
        /// The rule; none: all that have such a key.
        rule: Option<String>,
        /// Fields of its key and their values.
        key: BTreeMap<String, String>,
        /// From now on for so long.
        length: Span,
        /// Why.
        reason: String,
    },
    /// Tell of a key's alerts again.
    Unmute {
        /// As above.
        stream: Option<String>,
        /// The rule, as it was said to mute it.
        rule: Option<String>,
        /// The key, as it was said to mute it.
        key: BTreeMap<String, String>,
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
                    if plan.is_filling(stream) {
                        lanes.look(); // a slot that has come here may have told of it first
                    }
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
            lanes.look(); // there may be something to be read again
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
pub(crate) async fn answer(
    ask: Ask,
    plan: Option<Arc<Plan>>,
    current: &Current,
    now: Timestamp,
) -> Result<Value> {
    let plan = plan.filter(|plan| !plan.rules_streams().is_empty()).ok_or_else(|| {
        refused(ErrorKind::NotFound, "this silo's pipeline has no step with rules".to_owned())
    })?;
    match ask {
        Ask::Status => Ok(
            json!({"streams": plan.rules_streams().iter().map(|stream| status(&plan, stream)).collect::<Vec<_>>()}),
        ),
        Ask::Reload(mut bundle) => {
            let rules = bundle.rules().map_err(|wrong| refused(ErrorKind::Invalid, wrong.join("\n")))?;
            let page = Page::open(&plan, current, Some(rules.stream().to_owned()), now).await?;
            let forgotten: Vec<&String> = page.bundle.modes.keys().collect();
            let dropped = bundle.keep_mutes(page.bundle.mutes.clone(), &rules);
            let dropped: Vec<String> = dropped.iter().map(ToString::to_string).collect();
            let mut answer = page.turn(&plan, bundle).await?;
            answer["modes_forgotten"] = json!(forgotten);
            answer["mutes_dropped"] = json!(dropped);
            Ok(answer)
        }
        Ask::Mode { stream, rule, mode } => {
            let page = Page::open(&plan, current, stream, now).await?;
            let mut bundle = page.bundle.clone();
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
            let mut answer = page.turn(&plan, bundle).await?;
            answer["said"] = json!(format!("rule {rule} of stream {}: {mode} instead of {was}", page.stream));
            (answer["rule"], answer["was"], answer["mode"]) = (json!(rule), json!(was), json!(mode));
            Ok(answer)
        }
        Ask::Mute { stream, rule, key, length, reason } => {
            let page = Page::open(&plan, current, stream, now).await?;
            let mut bundle = page.bundle.clone();
            let mute = Mute { rule, key, until: (now + length).to_rfc3339(), reason };
            bundle.mute(mute.clone(), now);
            let mut answer = page.turn(&plan, bundle).await?;
            let until = &mute.until;
            answer["said"] = json!(format!("{mute}: alerts of events before {until} are muted"));
            answer["mute"] = json!(mute);
            Ok(answer)
        }
        Ask::Unmute { stream, rule, key } => {
            let page = Page::open(&plan, current, stream, now).await?;
            let mut bundle = page.bundle.clone();
            let wanted = Mute { rule, key, until: String::new(), reason: String::new() };
            let Some(place) = bundle.mutes.iter().position(|mute| mute.is_on(&wanted)) else {
                let known: Vec<String> = bundle.mutes.iter().map(ToString::to_string).collect();
                let known = if known.is_empty() { "there are none".to_owned() } else { known.join("; ") };
                return Err(refused(ErrorKind::NotFound, format!("{wanted}: not muted; muted: {known}")));
            };
            bundle.mutes.remove(place);
            let mut answer = page.turn(&plan, bundle).await?;
            answer["said"] = json!(format!("{wanted}: not muted any more"));
            Ok(answer)
        }
    }
}

/// The newest revision of the rules on a stream, to be followed by another.
struct Page {
    stream: String,
    book: <Rulebook as Grain>::Ref<Handle>,
    revision: u64,
    /// What it is made of; of the pipeline's file, should there be no revision yet.
    bundle: Bundle,
    /// What a back-fill is found with.
    backing: Backing,
    slots: u16,
    now: Timestamp,
}

impl Page {
    async fn open(plan: &Plan, current: &Current, stream: Option<String>, now: Timestamp) -> Result<Page> {
        let (lanes, backing) = (current.lanes()?, current.backing()?);
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
        let step = plan.rules_of(&stream);
        let step = step.ok_or_else(|| {
            let known = streams.join(", ");
            let message = format!("no step judges the stream `{stream}`; there are rules on: {known}");
            refused(ErrorKind::NotFound, message)
        })?;
        let book = lanes.grain::<Rulebook>(stream.as_str());
        let (revision, mut bundle) = book.newest().await?;
        if revision == 0 {
            bundle = step.bundle.clone();
        }
        Ok(Page { stream, book, revision, bundle, backing, slots: lanes.slots(), now })
    }

    /// Makes these rules the next revision, if they fit.
    async fn turn(&self, plan: &Plan, mut bundle: Bundle) -> Result<Value> {
        let invalid = |wrong: Vec<String>| refused(ErrorKind::Invalid, wrong.join("\n"));
        bundle.fill.clone_from(&self.bundle.fill); // it goes on, unless there is another one
        plan.revise(&self.stream, self.revision + 1, &bundle).map_err(invalid)?;
        let wanted = plan.wants_fill(&self.stream, &self.bundle, &bundle, self.now).map_err(invalid)?;
        let mut answer = json!({"stream": self.stream});
        if let Some(wanted) = wanted {
            let (fill, notices) = self.find(wanted).await?;
            (answer["backfill"], answer["notices"]) = (said_of(&fill), json!(notices));
            if !fill.from.is_empty() {
                bundle.fill = Some(fill);
            }
        }
        answer["revision"] = json!(self.book.publish(bundle, self.revision).await?);
        Ok(answer)
    }

    /// Finds where a back-fill begins: brokers are asked about every partition.
    async fn find(&self, wanted: Wanted) -> Result<(Fill, Vec<String>)> {
        let (backing, slots, number, now) = (self.backing.clone(), self.slots, self.revision + 1, self.now);
        let found = tokio::task::spawn_blocking(move || backfill::find(&backing, slots, wanted, number, now));
        found.await.map_err(|error| refused(ErrorKind::Closed, error.to_string()))?
    }
}

fn status(plan: &Plan, stream: &str) -> Value {
    let Some(step) = plan.rules_of(stream) else { return Value::Null };
    let muted = plan.muted(stream);
    let rules = step.rules.infos().iter().enumerate().map(|(i, info)| {
        json!({
            "id": info.id, "mode": info.mode.name(), "kind": info.kind, "hash": info.hash, "title": info.title,
            "suppressed": muted.get(i).copied().unwrap_or(0),
        })
    });
    let (rules, mutes): (Vec<Value>, Vec<&Mute>) = (rules.collect(), step.rules.mutes().collect());
    let mut status = json!({"stream": stream, "revision": step.revision, "rules": rules, "mutes": mutes});
    if let Some(fill) = &step.bundle.fill {
        status["backfill"] = said_of(fill);
        status["backfill"]["slots_filled"] = json!(plan.slots_filled(stream, fill.number));
    }
    status
}

/// A back-fill, for a person.
fn said_of(fill: &Fill) -> Value {
    let rules: Vec<&str> =
        fill.rules.iter().map(|rule| rule.split_once('@').map_or(&**rule, |(id, _)| id)).collect();
    json!({
        "revision": fill.number, "rules": rules, "looks_back": backfill::in_words(Span(fill.length_ms)),
        "steps": fill.from.keys().collect::<Vec<_>>(), "short": fill.short,
    })
}

fn refused(kind: ErrorKind, message: String) -> Error {
    Error::new(kind, message).ran(Ran::No)
}
