//! Cases of rankings: the rows of one step and window become one row.

use std::cmp::Ordering;

use serde_json::{Value as Json, json};

use super::parse::Fields;
use super::pattern::order;
use super::run::Observed;
use crate::rank::{Ties, best};

/// How many of the keys of a window are shown.
#[derive(Clone, Copy, Debug)]
pub struct RankCase {
    n: usize,
    ties: Ties,
}

impl RankCase {
    pub(super) fn read(json: &Json) -> Result<RankCase, String> {
        let mut fields = Fields::of(json, "spec.rank")?;
        let n = fields.take("n").and_then(|n| n.as_u64()).and_then(|n| usize::try_from(n).ok());
        let ties = match fields.word("ties")?.as_deref() {
            None | Some("key") => Ties::Key,
            Some("all") => Ties::All,
            Some(other) => return Err(format!("spec.rank.ties: key or all expected, not {other}")),
        };
        fields.finish()?;
        Ok(RankCase { n: n.ok_or("spec.rank.n: a number expected")?, ties })
    }

    pub(super) fn rank(self, observed: &mut Observed) {
        let mut ranked: Vec<(Json, Vec<(String, Json)>)> = Vec::new();
        for row in std::mem::take(&mut observed.results) {
            let window = json!({"at": row["at"], "start": row["start"], "end": row["end"]});
            let key = row["key"].as_str().unwrap_or_default().to_owned();
            let entry = (key, row["value"].clone());
            match ranked.iter_mut().find(|(of, _)| *of == window) {
                Some((_, rows)) => rows.push(entry),
                None => ranked.push((window, vec![entry])),
            }
        }
        for (mut window, mut rows) in ranked {
            best(&mut rows, self.n, self.ties, |a, b| order(a, b).unwrap_or(Ordering::Equal));
            window["top"] = json!(rows);
            observed.results.push(window);
        }
    }
}
