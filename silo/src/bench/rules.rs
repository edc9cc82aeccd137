//! Rules on a stream: how many events a second a silo judges by a hundred of them, and how long one event of a hot key takes.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use granary_cluster::{Batch, Log as _};
use granary_core::{Error, Result, Timestamp, id};
use granary_engine::SourceSpec;
use granary_store::{Durability, Embedded, Options as StoreOptions};
use granary_streams::rules::{Event, Judges, Reader};
use granary_streams::{Plan, file};

use crate::assembly::{Assembly, Running};
use crate::backing::Backing;

use super::streams::{PARTITIONS, source};
use super::{Figure, Scratch, Watch, resident_bytes};

const PIPELINE: &str = "
pipeline: bench
sources:
  payments:
    topic: measurements
    read: in_place
    decode:
      format: json
      fields:
        id:       {type: text, chars: 1..64}
        card:     {type: text, chars: 1..64}
        shop:     {type: text, chars: 1..64}
        amount:   {type: double, range: 0..1e9}
        ts:       {type: time_ms, digits: 1..15}
        lat:      {type: double, range: -90..90}
        lon:      {type: double, range: -180..180}
    id: id
    key: card
    event_time: ts
    watermark: {per: key, out_of_orderness: 60s, idle_after: none, future_guard: none}
steps:
  judged: {from: payments, rules: rules.yaml}
";

const HEAD: &str = "
schema: fraud-rules/v1
stream: payments
event:
  id: id
  time: ts
  amount: {type: money, scale: 2}
  fields: {card: text, shop: text, lat: float, lon: float}
defaults: {mode: live, cooldown: 1h, lateness: 60s, judge: on_arrival}
rules:
";

/// Beginning of the payments' time.
const BEGIN_MS: u64 = 1_700_000_000_000;
/// Between two payments of a card, in the mean.
const GAP_US: u64 = 2 * 3_600_000_000;
/// Payments appended together.
const APPENDED: u64 = 10_000;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Payments.
    pub events: u64,
    /// Cards; payments are spread evenly.
    pub cards: u64,
    /// Lanes; one per core when 0.
    pub lanes: u16,
}

/// A hundred rules of all kinds; few of them ever alert.
pub(super) fn hundred() -> String {
    let mut text = HEAD.to_owned();
    let mut rule =
        |line: String| writeln!(text, "  - {{per: card, {line}}}").expect("a string takes everything");
    for n in 0..20 {
        rule(format!("id: threshold{n}, kind: threshold, when: amount > {}.00", 9_000 + n * 50));
    }
    for (n, window) in ["10m", "30m", "1h", "2h", "3h", "6h", "12h", "18h", "24h", "2d"].iter().enumerate() {
        rule(format!(
            "id: count{n}, kind: velocity, window: {window}, measure: count, limit: \"> {}\"",
            30 + n
        ));
        rule(format!(
            "id: sum{n}, kind: velocity, window: {window}, measure: sum(amount), limit: \"> {}.00\"",
            15_000 + n
        ));
        rule(format!(
            "id: max{n}, kind: velocity, window: {window}, measure: max(amount), limit: \"> 9999.00\""
        ));
        rule(format!(
            "id: shops{n}, kind: velocity, window: {window}, measure: distinct(shop), limit: \"> {}\"",
            20 + n
        ));
    }
    for n in 0..12 {
        rule(format!(
            "id: times{n}, kind: deviation, of: amount, last: 20, min_events: 10, limit: \"> {}x\"",
            40 + n
        ));
        rule(format!(
            "id: sigma{n}, kind: zscore, of: amount, last: 20, min_events: 10, limit: \"> {}\"",
            60 + n
        ));
    }
    for n in 0..4 {
        rule(format!(
            "id: travel{n}, kind: geo_velocity, limit: \"> {} km/h\", min_distance: 50 km, max_gap: 24h",
            2_000 + n
        ));
    }
    for n in 0..8 {
        rule(format!(
            "id: steps{n}, kind: sequence, within: {}h, steps: [{{name: small, when: amount < 5.00}}, {{name: large, when: amount > {}.00}}]",
            1 + n,
            9_000 + n
        ));
    }
    for n in 0..4 {
        rule(format!("id: silent{n}, kind: silence, gap: {}d, alert: return", 30 + n));
    }
    text
}

/// A two-step pattern per key.
fn pattern() -> String {
    format!(
        "{HEAD}  - {{id: small_then_large, per: card, kind: sequence, within: 6h, cooldown: 0s, steps: [{{name: small, when: amount < 5.00}}, {{name: large, when: amount > 400.00}}]}}\n"
    )
}

/// The `n`-th payment, of so many cards with so much time between two payments of each.
fn payment(n: u64, cards: u64, gap_us: u64, out: &mut String) -> (String, u64) {
    let draw = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
    let (card, at) = (n % cards, BEGIN_MS + n * gap_us / cards / 1_000);
    let cents = if draw.is_multiple_of(50) { draw / 64 % 100_000 } else { draw / 64 % 9_000 };
    out.clear();
    let key = format!("card-{card}");
    write!(
        out,
        r#"{{"id":"p{n}","card":"{key}","shop":"shop-{}","amount":{}.{:02},"ts":{at},"lat":{}.{},"lon":{}.5}}"#,
        draw % 300,
        cents / 100,
        cents % 100,
        card % 50,
        draw % 10,
        card % 90
    )
    .expect("a string takes everything");
    (key, at)
}

/// Measures, telling figures.
pub async fn run(options: Options, mut tell: impl FnMut(&Figure)) -> Result<()> {
    let scratch = Scratch::make("rules")?;
    let input = write_input(&scratch, options)?;
    for (name, rules) in
        [("100 rules, log to log", hundred()), ("a pattern of two steps, log to log", pattern())]
    {
        let plan = plan(&rules)?;
        judge(name, plan, &input, &scratch, options, &mut tell).await?;
    }
    tell_hot_key(&mut tell)
}

fn plan(rules: &str) -> Result<Arc<Plan>> {
    let read = |_: &str| Ok(rules.to_owned());
    Ok(Arc::new(file::parse_beside(PIPELINE, &read).map_err(|m| Error::invalid(m.to_string()))?))
}

fn write_input(scratch: &Scratch, options: Options) -> Result<Arc<Embedded>> {
    let store = Embedded::open(scratch.0.join("input"), StoreOptions::new(96).durability(Durability::None))?;
    store.create("measurements", PARTITIONS)?;
    let mut batches = vec![Batch::default(); PARTITIONS as usize];
    let mut text = String::new();
    for n in 0..options.events {
        let (key, at) = payment(n, options.cards, GAP_US, &mut text);
        let partition = id::positive_murmur2(key.as_bytes()) % PARTITIONS;
        let at = Timestamp(i64::try_from(at).unwrap_or(i64::MAX));
        batches[partition as usize].push(0, at, Some(key.as_bytes()), text.as_bytes());
        if (n + 1) % APPENDED == 0 || n + 1 == options.events {
            for (partition, batch) in batches.iter_mut().enumerate().filter(|(_, batch)| !batch.is_empty()) {
                store.append("measurements", partition as u32, batch)?;
                batch.clear();
            }
        }
    }
    Ok(store)
}

async fn judge(
    name: &str,
    plan: Arc<Plan>,
    input: &Arc<Embedded>,
    scratch: &Scratch,
    options: Options,
    tell: &mut impl FnMut(&Figure),
) -> Result<()> {
    let lanes = if options.lanes > 0 { options.lanes } else { crate::assembly::cores() };
    let assembly = Assembly {
        cluster: "bench".into(),
        lanes,
        plan: Some(plan),
        sink_partitions: PARTITIONS,
        durability: Durability::Fsync,
        memory_bytes_max: 8 << 30,
        ..Assembly::default()
    };
    let store = assembly.open_store(&scratch.0.join(name.replace(' ', "-")))?;
    let backing = Backing::embedded(store, assembly.slots)?;
    let mut config = assembly.config(&backing)?;
    config.finite = true;
    let spec: SourceSpec = source(input);
    config.sources = vec![spec];
    let watch = Watch::start();
    let running = Running::start(assembly, config, backing)?;
    running.handle().finished().await;
    let stats = running.handle().stats();
    let note = format!(
        "{} payments of {} cards, {} alerts, {} commits, fsync, {lanes} lanes, {} MiB",
        options.events,
        options.cards,
        stats.outputs,
        stats.commits,
        resident_bytes() >> 20
    );
    tell(&watch.rate(name, options.events, note));
    let counts = running.counts()?;
    running.stop().await;
    if counts.accepted != options.events {
        return Err(Error::invalid(format!("not all payments were judged: {counts:?}")));
    }
    Ok(())
}

/// A card with a million payments in its window of 24 hours.
fn tell_hot_key(tell: &mut impl FnMut(&Figure)) -> Result<()> {
    const EVENTS: u64 = 1_400_000;
    const WINDOW: u64 = 1_000_000;
    let rules = format!(
        "{HEAD}  - {{id: sum, per: card, kind: velocity, window: 24h, measure: sum(amount), limit: \"> 1000000000.00\"}}
  - {{id: shops, per: card, kind: velocity, window: 24h, measure: distinct(shop), limit: \"> 1000\"}}
  - {{id: largest, per: card, kind: velocity, window: 24h, measure: max(amount), limit: \"> 9999.00\"}}
  - {{id: sigma, per: card, kind: zscore, of: amount, last: 20, min_events: 10, limit: \"> 60\"}}
"
    );
    let plan = plan(&rules)?;
    let step = plan.rules_of("payments").ok_or_else(|| Error::invalid("the bench has rules"))?;
    let (reader, mut judges) = (Reader::new(step.rules.spec()), Judges::new(step.rules.clone()));
    let (mut text, mut event, mut took) =
        (String::new(), Event::default(), Vec::with_capacity(EVENTS as usize));
    for n in 0..EVENTS {
        payment(n, 1, 86_400_000_000 / WINDOW, &mut text);
        let unfit = |error: granary_streams::rules::UnfitEvent| Error::invalid(error.to_string());
        reader.json(text.as_bytes(), &mut event).map_err(unfit)?;
        let began = Instant::now();
        judges.event(&event, &mut |_| {});
        took.push(began.elapsed().as_nanos() as u64);
    }
    let full = &mut took[WINDOW as usize..];
    full.sort_unstable();
    let note = format!("4 rules, {} MiB of state", judges.memory_bytes() >> 20);
    for (name, share) in [("hot key, median", 0.5), ("hot key, 99 %", 0.99), ("hot key, longest", 1.0)] {
        let at = ((full.len() as f64 * share) as usize).min(full.len() - 1);
        tell(&Figure { name: name.into(), value: full[at] as f64, unit: "ns", note: note.clone() });
    }
    Ok(())
}
