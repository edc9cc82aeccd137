//! What must come out of a case, straight from the page: every window is a list of its events, every value is computed
//! anew, every step looks at every window. It shares no code with the operator.

mod distinct;
mod windows;

use std::collections::BTreeMap;

use granary_window::cases::Observed;
use serde_json::{Map, Value as Json, json};

const NEVER: i64 = i64::MAX;

/// Runs a case.
pub fn run(case: &Json) -> Observed {
    let mut oracle = Oracle { spec: case["spec"].clone(), ..Oracle::default() };
    oracle.partitions =
        vec![(i64::MIN, false); oracle.spec["watermark"]["partitions"].as_u64().unwrap_or(1) as usize];
    oracle.w = i64::MIN;
    oracle.clock = i64::MIN;
    for (at, step) in case["events"].as_array().expect("events are a list").iter().enumerate() {
        oracle.at = at;
        oracle.step(step);
    }
    oracle.seen
}

#[derive(Clone, Debug)]
struct Event {
    json: Json,
    id: String,
    ts: i64,
    /// The wall clock at its arrival.
    clock: i64,
}

#[derive(Clone, Debug)]
struct Window {
    key: String,
    start: i64,
    end: i64,
    events: Vec<Event>,
    since: Vec<Event>,
    former: Option<Json>,
    published: bool,
    alarm: Option<i64>,
    fired: bool,
    ids: Vec<Json>,
}

#[derive(Default)]
struct Oracle {
    spec: Json,
    at: usize,
    w: i64,
    key_w: BTreeMap<String, i64>,
    ended: bool,
    partitions: Vec<(i64, bool)>,
    clock: i64,
    windows: Vec<Window>,
    /// All accepted events by key, for sliding and count windows.
    accepted: BTreeMap<String, Vec<Event>>,
    /// Ids remembered for a length of time: id, key, forgotten at.
    remembered: Vec<(Json, String, i64)>,
    /// Of de-duplication alone: key and id, its holder, and whether that passed.
    holders: Vec<(String, Json, Event, bool)>,
    seen: Observed,
}

impl Oracle {
    fn per_key(&self) -> bool {
        self.spec["watermark"]["per"] == "key" && !self.processing()
    }

    fn processing(&self) -> bool {
        self.spec["time"] == "processing"
    }

    fn kind(&self) -> &str {
        self.spec["window"]["type"].as_str().unwrap_or("")
    }

    fn number(&self, field: &str) -> i64 {
        self.spec["window"][field].as_i64().unwrap_or(0)
    }

    /// The watermark that counts for a key. By the wall clock a window fires when the clock reaches its end.
    fn w_of(&self, key: &str) -> i64 {
        if self.processing() {
            self.clock.saturating_sub(1)
        } else if self.ended {
            NEVER
        } else if self.per_key() {
            self.key_w.get(key).copied().unwrap_or(i64::MIN)
        } else {
            self.w
        }
    }

    fn lateness(&self) -> Option<i64> {
        match &self.spec["allowed_lateness"] {
            _ if self.processing() => Some(0),
            Json::String(_) => None,
            value => Some(value.as_i64().unwrap_or(0)),
        }
    }

    fn due(&self, end: i64) -> i64 {
        let inclusive = self.spec["window"]["gap_inclusive"] == true && !self.processing();
        if inclusive { end } else { end - 1 }
    }

    fn is_closed(&self, key: &str, end: i64) -> bool {
        match self.lateness() {
            _ if self.kind() == "global" => self.ended,
            None => self.ended,
            Some(lateness) => self.w_of(key) >= self.due(end) + lateness,
        }
    }

    fn step(&mut self, step: &Json) {
        let before: Vec<(String, i64)> = self.all_w();
        let before_of_new = self.w_of("");
        if let Some(id) = step["id"].as_str() {
            let ts = if self.processing() { self.clock } else { step["ts"].as_i64().expect("ts") };
            let event = Event { json: step.clone(), id: id.to_owned(), ts, clock: self.clock };
            let key = step["key"].as_str().unwrap_or("*").to_owned();
            self.key_w.entry(key.clone()).or_insert(i64::MIN);
            self.event(&key, &event);
            if self.spec["watermark"]["type"] == "bounded" {
                let to = step["ts"].as_i64().expect("ts")
                    - self.spec["watermark"]["bound"].as_i64().unwrap_or(0)
                    - 1;
                self.move_w(step, Some(&key), to);
            }
        } else if let Some(to) = step["watermark"].as_i64() {
            let key = step["key"].as_str();
            self.move_w(step, key, to);
        } else if let Some(p) = step["idle"].as_u64() {
            self.partitions[p as usize].1 = true;
        } else if let Some(p) = step["active"].as_u64() {
            self.partitions[p as usize].1 = false;
        } else if let Some(now) = step["processing_time"].as_i64() {
            self.clock = self.clock.max(now);
        } else if step["end"] == true {
            self.ended = true;
            self.partitions.iter_mut().for_each(|p| p.0 = NEVER);
            self.key_w.values_mut().for_each(|w| *w = NEVER);
        }
        self.combine();
        let moved: Vec<String> = self
            .all_w()
            .into_iter()
            .filter(|(key, w)| before.iter().find(|(k, _)| k == key).map_or(before_of_new, |(_, w)| *w) < *w)
            .map(|(key, _)| key)
            .collect();
        self.time_passed(&moved);
        if step["processing_time"].is_i64() {
            self.delays();
        }
    }

    fn all_w(&self) -> Vec<(String, i64)> {
        let mut all: Vec<_> = self.key_w.keys().map(|key| (key.clone(), self.w_of(key))).collect();
        if self.kind().is_empty() && self.spec["dedup"].is_null() {
            let lone = if self.per_key() && self.ended { NEVER } else { self.w };
            all.push(("the stream".to_owned(), lone));
        }
        all
    }

    fn move_w(&mut self, step: &Json, key: Option<&str>, to: i64) {
        match key {
            Some(key) if self.per_key() => {
                let w = self.key_w.entry(key.to_owned()).or_insert(i64::MIN);
                *w = to.max(*w);
            }
            _ => {
                let p = &mut self.partitions[step["partition"].as_u64().unwrap_or(0) as usize];
                *p = (to.max(p.0), false);
            }
        }
    }

    fn combine(&mut self) {
        if self.per_key() {
            return;
        }
        let active = self.partitions.iter().filter(|p| !p.1).map(|p| p.0).min();
        let value = active.or(self.partitions.iter().map(|p| p.0).max()).expect("a partition");
        self.w = self.w.max(value);
    }

    fn event(&mut self, key: &str, event: &Event) {
        match self.kind() {
            "" if !self.spec["dedup"].is_null() => self.distinct_event(key, event),
            "" => {}
            "count" => self.count(key, event),
            "sliding" => self.sliding(key, event),
            "session" => self.session(key, event),
            _ => self.fixed(key, event),
        }
    }

    fn result(&mut self, i: usize, pane: &str) {
        let mode = self.spec["accumulation"].as_str().unwrap_or("accumulating").to_owned();
        let window = self.windows[i].clone();
        if mode == "discarding" && window.since.is_empty() {
            return;
        }
        let value = self.value(if mode == "discarding" { &window.since } else { &window.events });
        let retracts = mode == "retracting" && self.kind() != "global";
        if retracts && window.published {
            self.row(&window, window.former.clone().expect("published"), pane, Some("-"));
        }
        self.row(&window, value.clone(), pane, retracts.then_some("+"));
        let window = &mut self.windows[i];
        window.former = Some(value);
        window.published = true;
        window.since.clear();
    }

    fn row(&mut self, window: &Window, value: Json, pane: &str, op: Option<&str>) {
        let mut row = Map::new();
        row.insert("at".into(), json!(self.at));
        row.insert("key".into(), json!(window.key));
        row.insert("value".into(), value);
        if self.kind() != "global" {
            row.insert("start".into(), json!(window.start));
            row.insert("end".into(), json!(window.end));
            row.insert("pane".into(), json!(pane));
            if let Some(op) = op {
                row.insert("op".into(), json!(op));
            }
        }
        self.seen.results.push(Json::Object(row));
    }

    fn time_passed(&mut self, moved: &[String]) {
        if self.kind().is_empty() && self.spec["dedup"].is_null() {
            if let Some(key) = moved.iter().max() {
                let w = if key == "the stream" { self.all_w().pop().expect("it").1 } else { self.w_of(key) };
                let shown = if w == NEVER { json!("max") } else { json!(w) };
                self.seen.results.push(json!({"at": self.at, "watermark": shown}));
            }
            return;
        }
        if self.kind().is_empty() {
            return self.distinct_time();
        }
        let emit = self.spec["emit"].as_str().unwrap_or("watermark").to_owned();
        let every = self.spec["early"]["event_time_every"].as_i64();
        for i in 0..self.windows.len() {
            let (key, end) = (self.windows[i].key.clone(), self.windows[i].end);
            if !moved.contains(&key) {
                continue;
            }
            let w = self.w_of(&key);
            let closed = self.is_closed(&key, end);
            if self.kind() == "global" {
                if closed && !self.processing() {
                    self.windows[i].since = self.windows[i].events.clone();
                    self.result(i, "final");
                }
            } else if emit == "final" {
                if closed {
                    self.result(i, "final");
                }
            } else if emit == "watermark" && !self.windows[i].fired {
                if w >= self.due(end) {
                    self.windows[i].fired = true;
                    self.result(i, "on_time");
                } else if let (Some(d), Some(alarm)) = (every, self.windows[i].alarm)
                    && w >= alarm
                {
                    if !self.windows[i].since.is_empty() {
                        self.result(i, "early");
                    }
                    self.windows[i].alarm = Some(multiple_after(w, d));
                }
            }
        }
        let windows = std::mem::take(&mut self.windows);
        self.windows = windows.into_iter().filter(|w| !self.is_closed(&w.key, w.end)).collect();
    }

    fn delays(&mut self) {
        let Some(delay) = self.spec["early"]["processing_time_delay"].as_i64() else { return };
        for i in 0..self.windows.len() {
            if self.kind() == "global" {
                return;
            }
            let window = &self.windows[i];
            let waits = window.since.iter().map(|e| e.clock).min().is_some_and(|c| self.clock >= c + delay);
            if waits && self.w_of(&window.key) < self.due(window.end) {
                self.result(i, "early");
            }
        }
    }
}

fn multiple_after(ts: i64, d: i64) -> i64 {
    let mut n = ts - 2 * d;
    while n % d != 0 || n <= ts {
        n += 1;
    }
    n
}
