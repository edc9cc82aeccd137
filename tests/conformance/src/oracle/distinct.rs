//! De-duplication without a window.

use serde_json::json;

use super::{Event, Oracle};

impl Oracle {
    pub(super) fn distinct_event(&mut self, key: &str, event: &Event) {
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
    pub(super) fn pass(&mut self, event: &Event, op: &str) {
        let mut row = json!({"at": self.at, "id": event.id});
        if self.spec["dedup"]["keep"] == "last" {
            row["op"] = json!(op);
        }
        self.seen.results.push(row);
    }

    pub(super) fn distinct_time(&mut self) {
        self.forget();
        for i in 0..self.holders.len() {
            let (key, _, event, passed) = self.holders[i].clone();
            if !passed && self.w_of(&key) >= event.ts {
                self.pass(&event, "+");
                self.holders[i].3 = true;
            }
        }
    }

    pub(super) fn forget(&mut self) {
        let Some(horizon) = self.spec["dedup"]["horizon"].as_i64() else { return };
        let holders = std::mem::take(&mut self.holders);
        self.holders = holders.into_iter().filter(|(key, _, e, _)| self.w_of(key) < e.ts + horizon).collect();
    }
}
