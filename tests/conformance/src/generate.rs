//! Random cases from a seed: small numbers, so that edges meet often.

use serde_json::{Map, Value as Json, json};

/// A generator of numbers: the same seed, the same numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both possible.
    pub fn range(&mut self, low: i64, high: i64) -> i64 {
        low + (self.number() % (high - low + 1) as u64) as i64
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: i64) -> bool {
        self.range(1, n) == 1
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.range(0, items.len() as i64 - 1) as usize]
    }
}

/// A case: `spec` and `events`, without `expect`.
pub fn case(random: &mut Random) -> Json {
    let spec = spec(random);
    let events = events(random, &spec);
    json!({"name": "random", "spec": spec, "events": events})
}

fn spec(random: &mut Random) -> Json {
    let mut spec = Map::new();
    let kind = *random.pick(&[
        "tumbling", "tumbling", "hopping", "hopping", "cumulate", "session", "session", "session", "sliding",
        "sliding", "count", "global", "none", "distinct",
    ]);
    let watermark = watermark(random);
    if kind == "none" {
        spec.insert("watermark".into(), watermark);
        return Json::Object(spec);
    }
    if kind == "distinct" {
        spec.insert("watermark".into(), watermark);
        spec.insert("dedup".into(), distinct(random));
        lateness(random, &mut spec);
        return Json::Object(spec);
    }
    spec.insert("window".into(), window(random, kind));
    spec.insert("aggregate".into(), aggregate(random));
    let is_bounded = kind != "count" && kind != "global";
    let processing = is_bounded && random.one_in(6);
    if processing {
        spec.insert("time".into(), json!("processing"));
    }
    if !processing || random.one_in(3) {
        spec.insert("watermark".into(), watermark);
    }
    lateness(random, &mut spec);
    let emit = *random.pick(&["watermark", "watermark", "watermark", "final", "every_update"]);
    if emit != "watermark" || random.one_in(2) {
        spec.insert("emit".into(), json!(emit));
    }
    let accumulation = *random.pick(&["accumulating", "accumulating", "discarding", "retracting"]);
    if accumulation != "accumulating" || random.one_in(2) {
        spec.insert("accumulation".into(), json!(accumulation));
    }
    if emit == "watermark" && random.one_in(2) {
        let early = match random.range(0, 2) {
            0 => json!({"count": random.range(1, 4)}),
            1 if !processing => json!({"event_time_every": random.range(1, 7)}),
            _ => json!({"processing_time_delay": random.range(0, 6)}),
        };
        spec.insert("early".into(), early);
    }
    if is_bounded && kind != "sliding" && random.one_in(2) {
        let horizon = if processing || random.one_in(2) { json!("pane") } else { json!(random.range(0, 20)) };
        spec.insert("dedup".into(), json!({"by": "msg", "horizon": horizon}));
    }
    Json::Object(spec)
}

fn watermark(random: &mut Random) -> Json {
    let mut fields = Map::new();
    if random.one_in(3) {
        fields.insert("type".into(), json!("explicit"));
    } else {
        fields.insert("type".into(), json!("bounded"));
        fields.insert("bound".into(), json!(random.range(0, 8)));
    }
    match random.range(0, 3) {
        0 => drop(fields.insert("partitions".into(), json!(random.range(1, 3)))),
        1 | 2 => drop(fields.insert("per".into(), json!("key"))),
        _ => {}
    }
    Json::Object(fields)
}

fn distinct(random: &mut Random) -> Json {
    match random.range(0, 2) {
        0 => json!({"by": ["key", "msg"], "horizon": random.range(0, 20)}),
        1 => json!({"by": ["key", "msg"], "keep": "last"}),
        _ => json!({"by": ["key", "msg"], "keep": "first_by_time"}),
    }
}

fn lateness(random: &mut Random, spec: &mut Map<String, Json>) {
    match random.range(0, 4) {
        0 => drop(spec.insert("allowed_lateness".into(), json!("forever"))),
        1 | 2 => drop(spec.insert("allowed_lateness".into(), json!(random.range(0, 15)))),
        _ => {}
    }
}

fn window(random: &mut Random, kind: &str) -> Json {
    let mut fields = Map::new();
    fields.insert("type".into(), json!(kind));
    let mut set = |name: &str, value: Json| fields.insert(name.into(), value);
    match kind {
        "tumbling" => drop(set("size", json!(random.range(1, 12)))),
        "hopping" => {
            set("size", json!(random.range(1, 12)));
            set("slide", json!(random.range(1, 14)));
        }
        "cumulate" => {
            let step = random.range(1, 5);
            set("step", json!(step));
            set("size", json!(step * random.range(1, 4)));
        }
        "session" => {
            if random.one_in(4) {
                set("gap_field", json!(true));
            } else {
                set("gap", json!(random.range(1, 8)));
            }
            if random.one_in(2) {
                set("gap_inclusive", json!(true));
            }
        }
        "sliding" => drop(set("difference", json!(random.range(0, 8)))),
        "count" => {
            set("size", json!(random.range(1, 5)));
            if random.one_in(2) {
                set("slide", json!(random.range(1, 6)));
            }
        }
        _ => {}
    }
    if matches!(kind, "tumbling" | "hopping" | "cumulate") && random.one_in(2) {
        fields.insert("offset".into(), json!(random.range(-5, 20)));
    }
    Json::Object(fields)
}

fn aggregate(random: &mut Random) -> Json {
    match *random.pick(&[
        "count",
        "sum",
        "min",
        "max",
        "avg",
        "distinct",
        "first",
        "last",
        "top",
        "ids",
        "ids",
        "approx_distinct",
        "quantile",
    ]) {
        "quantile" => json!({"fn": "quantile", "field": "value", "q": random.range(0, 20) as f64 / 20.0}),
        "top" => json!({"fn": "top", "field": "value", "n": random.range(1, 3)}),
        "count" => json!({"fn": "count"}),
        "ids" => json!({"fn": "ids"}),
        name => json!({"fn": name, "field": "value"}),
    }
}

fn events(random: &mut Random, spec: &Json) -> Vec<Json> {
    let mut events = Vec::new();
    let per_key = spec["watermark"]["per"] == "key";
    let partitions = spec["watermark"]["partitions"].as_i64().unwrap_or(1);
    let own_gap = spec["window"]["gap_field"] == true;
    let needs_clock = spec["time"] == "processing" || !spec["early"]["processing_time_delay"].is_null();
    let keys = random.range(1, 3);
    let (mut time, mut clock) = (random.range(-20, 5), random.range(-10, 10));
    if needs_clock {
        events.push(json!({"processing_time": clock}));
    }
    for n in 0..random.range(4, 40) {
        let key = format!("k{}", random.range(1, keys));
        match random.range(0, 11) {
            0 if !per_key => {
                let p = random.range(0, partitions - 1);
                events.push(json!({"watermark": time + random.range(-8, 4), "partition": p}));
            }
            0 => events.push(json!({"watermark": time + random.range(-8, 4), "key": key})),
            1 if partitions > 1 => events.push(json!({"idle": random.range(0, partitions - 1)})),
            2 if partitions > 1 => events.push(json!({"active": random.range(0, partitions - 1)})),
            3 | 4 if needs_clock => {
                clock += random.range(0, 5);
                events.push(json!({"processing_time": clock}));
            }
            _ => {
                time += random.range(-1, 3);
                let mut event = json!({
                    "id": format!("e{n}"), "key": key, "ts": time - random.range(0, 4) * random.range(0, 4),
                    "value": value(random), "msg": format!("m{}", random.range(0, 9)),
                });
                if partitions > 1 {
                    event["partition"] = json!(random.range(0, partitions - 1));
                }
                if own_gap {
                    event["gap"] = json!(random.range(1, 8));
                }
                events.push(event);
            }
        }
    }
    if !random.one_in(4) {
        events.push(json!({"end": true}));
    }
    events
}

/// Whole numbers and halves: sums of them are exact however they are added.
fn value(random: &mut Random) -> Json {
    if random.one_in(5) { json!(random.range(-9, 9) as f64 / 2.0) } else { json!(random.range(-5, 9)) }
}
