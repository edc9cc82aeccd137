//! The second part of the demo: card payments, rules, alerts, and a webhook that somebody else verifies.
//!
//! What is fraud follows from the simulator, which knows no rules.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use granary_alerts::settings::Settings as Wanted;
use granary_alerts::sign::{Headers, Verifier, verify};
use granary_cluster::{Batch, SourceId};
use granary_core::{Error, ErrorKind, Result, Timestamp, id};
use granary_streams::plan::alerts_topic;
use serde_json::{Value, json};

use super::{SETTLED_AFTER, WAIT_MAX};
use crate::assembly::ALERTS;
use crate::config;
use crate::inbox::{Inbox, Webhook};
use crate::silo::{RunningSilo, Silo};

const PIPELINE: &str = include_str!("../../../deploy/examples/demo/payments.yaml");
const RULES: &str = include_str!("../../../deploy/examples/demo/rules.yaml");
/// Verifies a webhook with nothing but what comes with Python.
const VERIFIER: &str = "import base64, hashlib, hmac, json, sys
w = json.load(sys.stdin)
key = base64.b64decode(w['secret'][6:])
signed = f\"{w['id']}.{w['timestamp']}.{w['body']}\".encode()
expected = 'v1,' + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
sys.exit(0 if expected in w['signature'].split() else 1)";

/// Cards, payments of each, and cards of which somebody else has the number.
const CARDS: u64 = 500;
const PAYMENTS: u64 = 40;
const STOLEN: u64 = 60;
/// Beginning of their time, and between two payments of a card, in the mean.
const BEGIN_MS: u64 = 1_700_000_000_000;
const GAP_MS: u64 = 18 * 3_600_000;

/// A simulated payment.
struct Payment {
    at_ms: u64,
    id: String,
    card: u64,
    shop: u64,
    cents: u64,
    lat: f64,
    lon: f64,
    is_fraud: bool,
}

/// Numbers that follow from a seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

/// People pay near their homes, at times a large sum, and at times a few cents; who has stolen a number tries it with a coin and
/// then takes what there is, somewhere else.
fn payments(seed: u64) -> Vec<Payment> {
    let mut draw = Draw(seed);
    let mut payments = Vec::new();
    for card in 0..CARDS {
        let (lat, lon) = (40.0 + (card % 20) as f64 / 2.0, -3.0 + (card % 30) as f64 / 3.0);
        let mut add = |at_ms, shop, cents, (lat, lon): (f64, f64), is_fraud| {
            let id = format!("p{}", payments.len());
            payments.push(Payment { at_ms, id, card, shop, cents, lat, lon, is_fraud });
        };
        let mut at_ms = BEGIN_MS + draw.below(GAP_MS);
        for _ in 0..PAYMENTS {
            let cents = match draw.below(100) {
                0 => 20_000 + draw.below(60_000),
                1..=5 => 50 + draw.below(150),
                _ => 300 + draw.below(12_000),
            };
            let near = (lat + draw.below(10) as f64 / 100.0, lon + draw.below(10) as f64 / 100.0);
            add(at_ms, draw.below(40), cents, near, false);
            at_ms += GAP_MS / 2 + draw.below(GAP_MS);
        }
        if card < STOLEN {
            let mut at_ms = BEGIN_MS + draw.below(PAYMENTS / 2) * GAP_MS + draw.below(GAP_MS);
            let elsewhere = if draw.below(2) == 0 { (lat + 12.0, lon + 15.0) } else { (lat, lon) };
            add(at_ms, 40, 50 + draw.below(140), elsewhere, true);
            for _ in 0..1 + draw.below(3) {
                at_ms += 60_000 * (2 + draw.below(20));
                add(at_ms, 41 + draw.below(5), 28_000 + draw.below(50_000), elsewhere, true);
            }
        }
    }
    payments.sort_by_key(|payment| payment.at_ms);
    payments
}

/// Judges the payments and shows what became of them; true when all went as it must.
pub(super) async fn show(seed: u64, data: &Path, tell: &mut impl FnMut(&str)) -> Result<bool> {
    let mut inbox = Inbox::open().await?;
    let silo = start(data, &inbox).await?;
    let secret = crate::webhooks::new_secret(false)?;
    // one that hears of grave alerts
    let rules = vec!["test-then-cash".to_owned()];
    inbox.add(&silo, "demo", &secret, |wanted| Wanted { rules, ..wanted }).await?;
    let secret = secret.reveal();
    let payments = payments(seed);
    let fraud: BTreeSet<&str> = payments.iter().filter(|p| p.is_fraud).map(|p| &*p.id).collect();
    send(&silo, &payments)?;
    tell(&format!(
        "{} card payments, {} of them by thieves with {STOLEN} stolen numbers",
        payments.len(),
        fraud.len()
    ));
    let alerts = standing(&silo, payments.len() as u64).await?;
    let right = tell_found(&payments, &fraud, &alerts, tell);
    let webhook = tokio::time::timeout(WAIT_MAX, async {
        while let Some(webhook) = inbox.next().await {
            if alerts.contains_key(&webhook.id) {
                return Some(webhook);
            }
        }
        None
    });
    let webhook = webhook.await.ok().flatten();
    let webhook = webhook.ok_or_else(|| Error::new(ErrorKind::Timeout, "no webhook has arrived"))?;
    let reason = alerts[&webhook.id]["data"]["reason"].as_str().unwrap_or_default();
    tell(&format!("webhook {}: {reason}", webhook.id));
    let is_verified = tell_verified(&webhook, &secret, tell);
    silo.stop().await;
    Ok(right && is_verified)
}

async fn start(data: &Path, inbox: &Inbox) -> Result<RunningSilo> {
    let mut settings = config::Settings::default();
    settings.cluster.name = "demo-payments".into();
    settings.silo.name = Some("demo-silo".into());
    (settings.silo.listen, settings.silo.gateway) = ("127.0.0.1:0".into(), "127.0.0.1:0".into());
    settings.store.path = data.display().to_string();
    inbox.allow(&mut settings.alerts);
    let plan = granary_streams::file::parse_beside(PIPELINE, &|_| Ok(RULES.to_owned()));
    let plan = plan.map_err(|mistakes| Error::invalid(mistakes.to_string()))?;
    Silo::from_settings(settings)?.pipeline(plan).start().await
}

fn send(silo: &RunningSilo, payments: &[Payment]) -> Result<()> {
    let log = silo.backing()?.log;
    let partitions = log.partitions("payments")?.unwrap_or(1);
    let mut batches = vec![Batch::default(); partitions as usize];
    for Payment { at_ms, id, card, shop, cents, lat, lon, .. } in payments {
        let card = format!("card-{card}");
        let value = format!(
            r#"{{"id":"{id}","card":"{card}","shop":"shop-{shop}","amount":{}.{:02},"ts":{at_ms},"lat":{lat:.2},"lon":{lon:.2}}}"#,
            cents / 100,
            cents % 100
        );
        let partition = id::positive_murmur2(card.as_bytes()) % partitions;
        let at = Timestamp(i64::try_from(*at_ms).unwrap_or(i64::MAX));
        batches[partition as usize].push(0, at, Some(card.as_bytes()), value.as_bytes());
    }
    for (partition, batch) in batches.iter().enumerate().filter(|(_, batch)| !batch.is_empty()) {
        log.append("payments", partition as u32, batch)?;
    }
    Ok(())
}

/// The alerts that stand when all payments are judged, by their ids.
async fn standing(silo: &RunningSilo, payments: u64) -> Result<BTreeMap<String, Value>> {
    let (began, mut judged_at) = (Instant::now(), None);
    while judged_at.is_none_or(|at: Instant| at.elapsed() < SETTLED_AFTER / 7) {
        if judged_at.is_none() && silo.counts()?.records >= payments {
            judged_at = Some(Instant::now());
        }
        if began.elapsed() > WAIT_MAX {
            return Err(Error::new(
                ErrorKind::Timeout,
                "the payments are not judged: this machine is too slow",
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (log, topic) = (silo.backing()?.log, alerts_topic(ALERTS, &silo.assembly().cluster));
    let mut alerts = BTreeMap::new();
    for partition in 0..log.partitions(&topic)?.unwrap_or(0) {
        let (mut next, end) = log.bounds(&topic, partition)?;
        while next < end {
            let mut batch = Batch::default();
            log.read(&topic, partition, next, 1 << 20, &mut batch)?;
            for record in batch.iter(SourceId(0), partition) {
                next = record.offset + 1;
                let alert: Value = serde_json::from_slice(record.value)
                    .map_err(|error| Error::new(ErrorKind::Codec, error.to_string()))?;
                let withdrawn = alert["data"]["alert_id"].as_str().map(str::to_owned);
                match withdrawn {
                    Some(withdrawn) => drop(alerts.remove(&withdrawn)),
                    None => drop(alerts.insert(alert["id"].as_str().unwrap_or_default().to_owned(), alert)),
                }
            }
        }
    }
    Ok(alerts)
}

/// What was found of what there was: alerts that were right, stolen numbers that were noticed. True when there is something to show.
fn tell_found(
    payments: &[Payment],
    fraud: &BTreeSet<&str>,
    alerts: &BTreeMap<String, Value>,
    tell: &mut impl FnMut(&str),
) -> bool {
    let card_of: BTreeMap<&str, u64> = payments.iter().map(|p| (&*p.id, p.card)).collect();
    let mut by_rule: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut noticed: BTreeSet<u64> = BTreeSet::new();
    for alert in alerts.values() {
        let payment = alert["causationid"].as_str().unwrap_or_default();
        let (all, right) =
            by_rule.entry(alert["data"]["rule"]["id"].as_str().unwrap_or_default()).or_default();
        *all += 1;
        if fraud.contains(payment) {
            *right += 1;
            noticed.extend(card_of.get(payment));
        }
    }
    for (rule, (all, right)) in &by_rule {
        tell(&format!("  {rule:<16} {all:>4} alerts, {right} of them right"));
    }
    let right: u64 = by_rule.values().map(|(_, right)| right).sum();
    let percent = |part: u64, of: usize| part as f64 * 100.0 / of.max(1) as f64;
    tell(&format!(
        "rules: precision {:.1} % ({right} of {} alerts), recall {:.1} % ({} of {STOLEN} stolen numbers)",
        percent(right, alerts.len()),
        alerts.len(),
        percent(noticed.len() as u64, STOLEN as usize),
        noticed.len()
    ));
    !noticed.is_empty()
}

/// Has the signature verified, by another program where there is one; whether it holds.
fn tell_verified(webhook: &Webhook, secret: &str, tell: &mut impl FnMut(&str)) -> bool {
    let Webhook { id, timestamp, signature, body, .. } = webhook;
    let body_text = String::from_utf8_lossy(body);
    let shown = json!({"secret": secret, "id": id, "timestamp": timestamp, "signature": signature, "body": body_text});
    match by_python(&shown.to_string()) {
        Some(holds) => {
            tell(&format!("its signature, by Python's hmac: {}", if holds { "verified" } else { "WRONG" }));
            holds
        }
        None => {
            let keys = Verifier::parse(secret).map(|key| vec![key]).unwrap_or_default();
            let now_s = timestamp.parse().unwrap_or(0);
            let holds = verify(&keys, Headers { id, timestamp, signature }, body, now_s).is_ok();
            let word = if holds { "verified" } else { "WRONG" };
            tell(&format!("its signature, by our own verifier (there is no python3 here): {word}"));
            holds
        }
    }
}

/// Whether Python finds the signature right; `None` when there is no Python.
fn by_python(webhook: &str) -> Option<bool> {
    let mut python = Command::new("python3")
        .args(["-c", VERIFIER])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    python.stdin.take()?.write_all(webhook.as_bytes()).ok()?;
    Some(python.wait().ok()?.success())
}
