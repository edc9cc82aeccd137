//! What an event does to windows, and the value of a list of events.

use serde_json::{Value as Json, json};

use super::{Event, NEVER, Oracle, Window, multiple_after};

impl Oracle {
    /// The windows of an event, by trying every start near it.
    pub(super) fn windows_of(&self, ts: i64) -> Vec<(i64, i64)> {
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
    pub(super) fn is_copy(&mut self, key: &str, event: &Event, remembered_by_windows: bool) -> bool {
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

    pub(super) fn fixed(&mut self, key: &str, event: &Event) {
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

    pub(super) fn find_or_make(&mut self, key: &str, start: i64, end: i64) -> usize {
        let at = self.windows.iter().position(|w| w.key == key && (w.start, w.end) == (start, end));
        at.unwrap_or_else(|| {
            self.windows.push(new_window(key, start, end));
            self.windows.len() - 1
        })
    }

    pub(super) fn enter(&mut self, i: usize, event: &Event) {
        let every = self.spec["early"]["event_time_every"].as_i64();
        let window = &mut self.windows[i];
        if window.alarm.is_none() {
            window.alarm = every.map(|d| multiple_after(event.ts, d));
        }
        window.events.push(event.clone());
        window.since.push(event.clone());
        window.ids.push(event.json["msg"].clone());
    }

    pub(super) fn after_event(&mut self, i: usize) {
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

    pub(super) fn session(&mut self, key: &str, event: &Event) {
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
    pub(super) fn sliding_windows(&self, key: &str) -> Vec<(i64, i64)> {
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

    pub(super) fn sliding(&mut self, key: &str, event: &Event) {
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

    pub(super) fn count(&mut self, key: &str, event: &Event) {
        let size = self.number("size") as usize;
        let slide = self.spec["window"]["slide"].as_u64().unwrap_or(size as u64) as usize;
        let events = self.accepted.entry(key.to_owned()).or_default();
        events.push(event.clone());
        if events.len().is_multiple_of(slide) {
            let last = events[events.len().saturating_sub(size)..].to_vec();
            let value = self.value(&last);
            self.seen.results.push(json!({"at": self.at, "key": key, "value": value}));
        }
    }

    pub(super) fn value(&self, events: &[Event]) -> Json {
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
            // Few values: exact.
            "distinct" | "approx_distinct" => {
                let mut sorted = sorted(&numbers);
                sorted.dedup();
                json!(sorted.len())
            }
            "quantile" => {
                let twentieths = (aggregate["q"].as_f64().expect("q") * 20.0).round() as usize;
                json!(sorted(&numbers)[(numbers.len() - 1) * twentieths / 20])
            }
            "first" => {
                events.iter().min_by_key(|e| (e.ts, arrival(e))).expect("an event").json["value"].clone()
            }
            "last" => {
                events.iter().max_by_key(|e| (e.ts, arrival(e))).expect("an event").json["value"].clone()
            }
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
