//! What must come out of a case, straight from the page: every window is a list of its events, every value is computed
//! anew, every step looks at every window. It shares no code with the operator.

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

    /// The windows of an event, by trying every start near it.
    fn windows_of(&self, ts: i64) -> Vec<(i64, i64)> {
        let (size, offset) = (self.number("size"), self.number("offset"));
        let slide = if self.kind() == "hopping" { self.number("slide") } else { size };
        let mut found = Vec::new();
        if self.kind() == "global" {
            return vec![(0, NEVER)];
        }
        for n in -200..200 {
            let start = offset + n * slide;
            if start <= ts && ts < start + size {
                if self.kind() == "cumulate" {
                    let step = self.number("step");
                    found.extend(
                        (1..=size / step).map(|i| (start, start + i * step)).filter(|(_, end)| *end > ts),
                    );
                } else {
                    found.push((start, start + size));
                }
            }
        }
        found
    }

    /// Whether a copy of the event is remembered; if not, it is from now on (`windows` do it themselves).
    fn is_copy(&mut self, key: &str, event: &Event, remembered_by_windows: bool) -> bool {
        let dedup = self.spec["dedup"].clone();
        if dedup.is_null() {
            return false;
        }
        if dedup["horizon"] == "pane" {
            return remembered_by_windows;
        }
        let msg = event.json["msg"].clone();
        let w = self.w_of(key);
        if self.remembered.iter().any(|(id, k, until)| *id == msg && k == key && w < *until) {
            return true;
        }
        let horizon = dedup["horizon"].as_i64().expect("a length");
        self.remembered.push((msg, key.to_owned(), event.ts + horizon));
        false
    }

    fn fixed(&mut self, key: &str, event: &Event) {
        let all = self.windows_of(event.ts);
        let open: Vec<_> = all.iter().copied().filter(|(_, end)| !self.is_closed(key, *end)).collect();
        if open.is_empty() && !all.is_empty() {
            return self.seen.late.push(json!(event.id));
        }
        let known = self.windows.iter().any(|window| {
            window.key == key
                && open.contains(&(window.start, window.end))
                && window.ids.contains(&event.json["msg"])
        });
        if self.is_copy(key, event, known) {
            return self.seen.duplicates.push(json!(event.id));
        }
        if all.is_empty() {
            return self.seen.unassigned.push(json!(event.id));
        }
        if open.len() < all.len() {
            self.seen.partially_late.push(json!(event.id));
        }
        for (start, end) in open {
            let i = self.find_or_make(key, start, end);
            self.enter(i, event);
            self.after_event(i);
        }
    }

    fn find_or_make(&mut self, key: &str, start: i64, end: i64) -> usize {
        let at = self.windows.iter().position(|w| w.key == key && (w.start, w.end) == (start, end));
        at.unwrap_or_else(|| {
            self.windows.push(new_window(key, start, end));
            self.windows.len() - 1
        })
    }

    fn enter(&mut self, i: usize, event: &Event) {
        let every = self.spec["early"]["event_time_every"].as_i64();
        let window = &mut self.windows[i];
        if window.alarm.is_none() {
            window.alarm = every.map(|d| multiple_after(event.ts, d));
        }
        window.events.push(event.clone());
        window.since.push(event.clone());
        window.ids.push(event.json["msg"].clone());
    }

    fn after_event(&mut self, i: usize) {
        let is_due = self.w_of(&self.windows[i].key) >= self.due(self.windows[i].end);
        match self.spec["emit"].as_str().unwrap_or("watermark") {
            _ if self.kind() == "global" => {}
            "every_update" => self.result(i, "update"),
            "watermark" if is_due => {
                self.windows[i].fired = true;
                self.result(i, "late");
            }
            "watermark" => {
                if let Some(n) = self.spec["early"]["count"].as_u64()
                    && self.windows[i].since.len() as u64 >= n
                {
                    self.result(i, "early");
                }
            }
            _ => {}
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

    fn session(&mut self, key: &str, event: &Event) {
        let gap = event.json["gap"].as_i64().unwrap_or(self.number("gap"));
        let (start, end) = (event.ts, event.ts + gap);
        let inclusive = self.spec["window"]["gap_inclusive"] == true;
        let meets = |w: &Window| {
            if inclusive { w.start <= end && start <= w.end } else { w.start < end && start < w.end }
        };
        let (mut parts, mut others) = (Vec::new(), Vec::new());
        for window in self.windows.clone() {
            if window.key == key && meets(&window) && !self.is_closed(key, window.end) {
                parts.push(window);
            } else {
                others.push(window);
            }
        }
        let from = parts.iter().map(|p| p.start).min().unwrap_or(start).min(start);
        let to = parts.iter().map(|p| p.end).max().unwrap_or(end).max(end);
        if self.is_closed(key, to) {
            return self.seen.late.push(json!(event.id));
        }
        let known = parts.iter().any(|p| p.ids.contains(&event.json["msg"]));
        if self.is_copy(key, event, known) {
            return self.seen.duplicates.push(json!(event.id));
        }
        if let [only] = &parts[..]
            && (only.start, only.end) == (from, to)
        {
            let i = self.windows.iter().position(|w| w.key == key && w.start == from).expect("it is there");
            self.enter(i, event);
            return self.after_event(i);
        }
        let retracts = self.spec["accumulation"] == "retracting";
        let mut whole = new_window(key, from, to);
        for part in parts {
            if part.published && (retracts || self.spec["emit"] == "every_update") {
                let value = if retracts { part.former.clone().expect("published") } else { Json::Null };
                self.row(&part, value, "delete", retracts.then_some("-"));
            }
            whole.events.extend(part.events);
            whole.since.extend(part.since);
            whole.ids.extend(part.ids);
            whole.alarm = whole.alarm.into_iter().chain(part.alarm).min();
        }
        self.windows = others;
        self.windows.push(whole);
        let i = self.windows.len() - 1;
        self.enter(i, event);
        self.after_event(i);
    }

    /// All windows that the accepted events define, from scratch.
    fn sliding_windows(&self, key: &str) -> Vec<(i64, i64)> {
        let d = self.number("difference");
        let events = self.accepted.get(key).cloned().unwrap_or_default();
        let mut found = Vec::new();
        for event in &events {
            found.push((event.ts - d, event.ts + 1));
            if events.iter().any(|other| event.ts < other.ts && other.ts <= event.ts + 1 + d) {
                found.push((event.ts + 1, event.ts + d + 2));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    fn sliding(&mut self, key: &str, event: &Event) {
        let d = self.number("difference");
        if self.is_closed(key, event.ts + d + 1) {
            return self.seen.late.push(json!(event.id));
        }
        if self.is_closed(key, event.ts + 1) {
            self.seen.partially_late.push(json!(event.id));
        }
        let before = self.sliding_windows(key);
        self.accepted.entry(key.to_owned()).or_default().push(event.clone());
        for (start, end) in self.sliding_windows(key) {
            if self.is_closed(key, end) {
                continue;
            }
            if before.contains(&(start, end)) {
                if start <= event.ts && event.ts < end {
                    let i = self.find_or_make(key, start, end);
                    self.enter(i, event);
                    self.after_event(i);
                }
                continue;
            }
            let i = self.find_or_make(key, start, end);
            for other in self.accepted[key].clone() {
                if start <= other.ts && other.ts < end {
                    self.enter(i, &other);
                }
            }
            self.after_event(i);
        }
    }

    fn count(&mut self, key: &str, event: &Event) {
        let size = self.number("size") as usize;
        let slide = self.spec["window"]["slide"].as_u64().unwrap_or(size as u64) as usize;
        let events = self.accepted.entry(key.to_owned()).or_default();
        events.push(event.clone());
        if events.len() % slide == 0 {
            let last = events[events.len().saturating_sub(size)..].to_vec();
            let value = self.value(&last);
            self.seen.results.push(json!({"at": self.at, "key": key, "value": value}));
        }
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
        self.windows =
            windows.into_iter().filter(|w| !self.is_closed(&w.key, w.end)).collect();
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

    fn distinct_event(&mut self, key: &str, event: &Event) {
        let w = self.w_of(key);
        if self.lateness().is_some_and(|lateness| event.ts + lateness <= w) {
            return self.seen.late.push(json!(event.id));
        }
        let msg = event.json["msg"].clone();
        let keep = self.spec["dedup"]["keep"].as_str().unwrap_or("first").to_owned();
        let at = self.holders.iter().position(|(k, id, ..)| k == key && *id == msg);
        let Some(at) = at else {
            let passes = keep != "first_by_time" || w >= event.ts;
            if passes {
                self.pass(event, "+");
            }
            self.holders.push((key.to_owned(), msg, event.clone(), passes));
            return self.forget();
        };
        let held = self.holders[at].clone();
        let displaces = match keep.as_str() {
            "first" => false,
            "last" => event.ts >= held.2.ts,
            _ => !held.3 && event.ts < held.2.ts,
        };
        if !displaces {
            return self.seen.duplicates.push(json!(event.id));
        }
        if keep == "last" {
            self.pass(&held.2, "-");
            self.pass(event, "+");
            self.holders[at].2 = event.clone();
        } else {
            self.seen.duplicates.push(json!(held.2.id));
            let passes = w >= event.ts;
            if passes {
                self.pass(event, "+");
            }
            self.holders[at] = (held.0, held.1, event.clone(), passes);
        }
    }

    fn pass(&mut self, event: &Event, op: &str) {
        let mut row = json!({"at": self.at, "id": event.id});
        if self.spec["dedup"]["keep"] == "last" {
            row["op"] = json!(op);
        }
        self.seen.results.push(row);
    }

    fn distinct_time(&mut self) {
        self.forget();
        for i in 0..self.holders.len() {
            let (key, _, event, passed) = self.holders[i].clone();
            if !passed && self.w_of(&key) >= event.ts {
                self.pass(&event, "+");
                self.holders[i].3 = true;
            }
        }
    }

    fn forget(&mut self) {
        let Some(horizon) = self.spec["dedup"]["horizon"].as_i64() else { return };
        let holders = std::mem::take(&mut self.holders);
        self.holders =
            holders.into_iter().filter(|(key, _, e, _)| self.w_of(key) < e.ts + horizon).collect();
    }

    fn value(&self, events: &[Event]) -> Json {
        let aggregate = &self.spec["aggregate"];
        let numbers: Vec<f64> = events.iter().filter_map(|e| e.json["value"].as_f64()).collect();
        let sorted = |numbers: &[f64]| {
            let mut sorted = numbers.to_vec();
            sorted.sort_by(f64::total_cmp);
            sorted
        };
        // Parts of a merged session do not stand in the order of arrival: names do, they end in the arrival's number.
        let arrival = |e: &Event| e.id[1..].parse::<u64>().expect("ids are e0, e1, ...");
        match aggregate["fn"].as_str().unwrap_or("count") {
            "sum" => json!(numbers.iter().sum::<f64>()),
            "avg" => json!(numbers.iter().sum::<f64>() / numbers.len() as f64),
            "min" => json!(sorted(&numbers)[0]),
            "max" => json!(sorted(&numbers)[numbers.len() - 1]),
            "distinct" => {
                let mut sorted = sorted(&numbers);
                sorted.dedup();
                json!(sorted.len())
            }
            "first" => events.iter().min_by_key(|e| (e.ts, arrival(e))).expect("an event").json["value"].clone(),
            "last" => events.iter().max_by_key(|e| (e.ts, arrival(e))).expect("an event").json["value"].clone(),
            "top" => {
                let n = aggregate["n"].as_u64().expect("n") as usize;
                sorted(&numbers).into_iter().rev().take(n).collect()
            }
            "ids" => {
                let mut ids: Vec<&str> = events.iter().map(|e| e.id.as_str()).collect();
                ids.sort_unstable();
                json!(ids)
            }
            _ => json!(events.len()),
        }
    }
}

fn new_window(key: &str, start: i64, end: i64) -> Window {
    Window {
        key: key.to_owned(),
        start,
        end,
        events: Vec::new(),
        since: Vec::new(),
        former: None,
        published: false,
        alarm: None,
        fired: false,
        ids: Vec::new(),
    }
}

fn multiple_after(ts: i64, d: i64) -> i64 {
    let mut n = ts - 2 * d;
    while n % d != 0 || n <= ts {
        n += 1;
    }
    n
}
