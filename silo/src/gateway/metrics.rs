//! Prometheus' text: what lanes have counted, where sources stand, what was put out.

use std::fmt::Write;

use granary_alerts::endpoint::Standing;
use granary_cluster::Log;
use granary_engine::Handle;
use granary_engine::lengths::BOUNDS_MS;

use super::{Gateway, State};
use crate::webhooks::Totals;

/// What lanes have counted, by its name there, with the name and kind it has for Prometheus.
const OF_LANES: &[(&str, &str, &str)] = &[
    ("turns", "granary_turns_total", "counter"),
    ("records", "granary_records_total", "counter"),
    ("skipped", "granary_records_skipped_total", "counter"),
    ("poisoned", "granary_poisoned_total", "counter"),
    ("commits", "granary_commits_total", "counter"),
    ("cells", "granary_cells_written_total", "counter"),
    ("loads", "granary_cells_loaded_total", "counter"),
    ("load_trips", "granary_load_trips_total", "counter"),
    ("outputs", "granary_outputs_sealed_total", "counter"),
    ("outbox_bytes", "granary_outbox_bytes", "gauge"),
    ("memory_bytes", "granary_memory_bytes", "gauge"),
    ("transactions", "granary_transactions_total", "counter"),
    ("transactions_aborted", "granary_transactions_aborted_total", "counter"),
    ("transactions_lost", "granary_transactions_lost_total", "counter"),
    ("activated", "granary_activations_total", "counter"),
    ("active", "granary_activations", "gauge"),
    ("overloaded", "granary_calls_overloaded_total", "counter"),
    ("timed_out", "granary_calls_timed_out_total", "counter"),
    ("rollbacks", "granary_rollbacks_total", "counter"),
    ("parked", "granary_slots_parked", "gauge"),
    ("slots_running", "granary_slots_running", "gauge"),
    ("slots_held", "granary_slots_held", "gauge"),
    ("slots_waiting", "granary_slots_waiting", "gauge"),
    ("slots_outdated", "granary_slots_outdated", "gauge"),
    ("invariants_broken", "granary_invariants_broken_total", "counter"),
    ("reminders", "granary_reminders_total", "counter"),
    ("store_away", "granary_store_away", "gauge"),
    ("log_away", "granary_log_away", "gauge"),
    ("log_ready", "granary_log_ready", "gauge"),
];

/// The same for lengths of time: what they are counted in, for a second.
const TIMES: &[(&str, &str, &str, f64)] = &[
    ("seal_ns", "granary_seal_seconds_total", "counter", 1e9),
    ("clock_delay_ms", "granary_clock_delay_seconds", "gauge", 1e3),
];

/// The stages of a commit's way, by their names there.
const STAGES: &[(&str, &str)] = &[
    ("commit_wait", "granary_commit_wait_seconds"),
    ("commit", "granary_commit_seconds"),
    ("publish_wait", "granary_publish_wait_seconds"),
    ("transaction", "granary_transaction_seconds"),
];

impl Gateway {
    /// Everything, as text.
    pub(super) fn metrics(&self) -> String {
        let mut out = String::with_capacity(8_192);
        let (handle, told) = match &*self.state() {
            State::Starting(_) => return out,
            State::Running(handle, told) => (handle.clone(), told.clone()),
        };
        let lanes = handle.lane_stats();
        let silo = escape(&self.silo);
        for (of, name, kind, scale) in scaled() {
            line(&mut out, format_args!("# TYPE {name} {kind}"));
            for (lane, stats) in lanes.iter().enumerate() {
                let value = stats.named().iter().find(|(n, _)| *n == of).map_or(0, |(_, value)| *value);
                let labels = format!("{{silo=\"{silo}\",lane=\"{lane}\"}}");
                match scale {
                    Some(scale) => line(&mut out, format_args!("{name}{labels} {}", value as f64 / scale)),
                    None => line(&mut out, format_args!("{name}{labels} {value}")),
                }
            }
        }
        stages(&mut out, &silo, &handle);
        for (name, value) in
            [("revision", told.program.revision.0), ("generation", told.program.generation.0)]
        {
            line(&mut out, format_args!("# TYPE granary_{name} gauge"));
            line(&mut out, format_args!("granary_{name}{{silo=\"{silo}\"}} {value}"));
        }
        outputs(&mut out, &silo, &told.streams, &handle);
        sources(&mut out, &silo, &handle, &*told.log);
        webhooks(&mut out, &silo, &self.webhooks);
        out
    }
}

/// As histograms.
fn stages(out: &mut String, silo: &str, handle: &Handle) {
    let lanes = handle.lane_stages();
    for (of, name) in STAGES {
        line(out, format_args!("# TYPE {name} histogram"));
        for (lane, stages) in lanes.iter().enumerate() {
            let Some((_, distribution)) = stages.iter().find(|(n, _)| n == of) else { continue };
            let (labels, mut count) = (format!("silo=\"{silo}\",lane=\"{lane}\""), 0);
            let bounds = BOUNDS_MS.iter().map(|ms| (*ms as f64 / 1e3).to_string());
            for (bound, in_bucket) in bounds.chain(["+Inf".to_owned()]).zip(distribution.buckets) {
                count += in_bucket;
                line(out, format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {count}"));
            }
            line(out, format_args!("{name}_sum{{{labels}}} {}", distribution.ns as f64 / 1e9));
            line(out, format_args!("{name}_count{{{labels}}} {count}"));
        }
    }
}

fn outputs(out: &mut String, silo: &str, streams: &[String], handle: &Handle) {
    line(out, format_args!("# TYPE granary_outputs_total counter"));
    for (topic, count) in streams.iter().zip(handle.outputs()) {
        let topic = escape(topic);
        line(out, format_args!("granary_outputs_total{{silo=\"{silo}\",topic=\"{topic}\"}} {count}"));
    }
}

fn sources(out: &mut String, silo: &str, handle: &Handle, log: &dyn Log) {
    let sources = handle.sources();
    line(out, format_args!("# TYPE granary_source_path gauge"));
    for source in &sources {
        let path = if source.in_place { "in_place" } else { "rekey" };
        let topic = escape(&source.topic);
        line(out, format_args!("granary_source_path{{silo=\"{silo}\",topic=\"{topic}\",path=\"{path}\"}} 1"));
    }
    line(out, format_args!("# TYPE granary_source_lag_records gauge"));
    for source in &sources {
        for (partition, next) in &source.next {
            let Ok((_, end)) = log.bounds(&source.topic, *partition) else { continue };
            let (topic, lag) = (escape(&source.topic), end.saturating_sub(*next));
            line(
                out,
                format_args!(
                    "granary_source_lag_records{{silo=\"{silo}\",topic=\"{topic}\",partition=\"{partition}\"}} {lag}"
                ),
            );
        }
    }
}

/// What an endpoint's figure is called, its kind, and the figure.
type OfEndpoint = (&'static str, &'static str, fn(&Standing) -> f64);

const OF_ENDPOINTS: &[OfEndpoint] = &[
    ("granary_webhook_waiting", "gauge", |standing| standing.waiting as f64),
    ("granary_webhook_oldest_timestamp_seconds", "gauge", |standing| {
        standing.oldest.map_or(0.0, |at| at.ms() as f64 / 1e3)
    }),
    ("granary_webhook_delivered_total", "counter", |standing| standing.delivered as f64),
    ("granary_webhook_dead_letters_total", "counter", |standing| standing.buried as f64),
    ("granary_webhook_breaker_open", "gauge", |standing| f64::from(u8::from(standing.is_open))),
    ("granary_webhook_verified", "gauge", |standing| f64::from(u8::from(standing.is_verified))),
    ("granary_webhook_disabled", "gauge", |standing| f64::from(u8::from(standing.disabled.is_some()))),
];

fn webhooks(out: &mut String, silo: &str, totals: &Totals) {
    line(out, format_args!("# TYPE granary_webhook_attempts_total counter"));
    for (result, count) in totals.attempts() {
        line(
            out,
            format_args!("granary_webhook_attempts_total{{silo=\"{silo}\",result=\"{result}\"}} {count}"),
        );
    }
    line(out, format_args!("# TYPE granary_webhook_unreadable_total counter"));
    line(out, format_args!("granary_webhook_unreadable_total{{silo=\"{silo}\"}} {}", totals.unreadable()));
    let standings = totals.standings();
    for (name, kind, of) in OF_ENDPOINTS {
        line(out, format_args!("# TYPE {name} {kind}"));
        for (endpoint, standing) in &standings {
            let (endpoint, value) = (escape(endpoint), of(standing));
            line(out, format_args!("{name}{{silo=\"{silo}\",endpoint=\"{endpoint}\"}} {value}"));
        }
    }
}

fn scaled() -> impl Iterator<Item = (&'static str, &'static str, &'static str, Option<f64>)> {
    let counts = OF_LANES.iter().map(|(of, name, kind)| (*of, *name, *kind, None));
    counts.chain(TIMES.iter().map(|(of, name, kind, scale)| (*of, *name, *kind, Some(*scale))))
}

fn line(out: &mut String, line: std::fmt::Arguments<'_>) {
    out.write_fmt(line).expect("a string takes everything");
    out.push('\n');
}

/// A label's value.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use granary_engine::Stats;
    use granary_engine::lengths::Stages;

    use super::*;

    #[test]
    fn what_is_shown_is_counted() {
        let counted: Vec<&str> = Stats::default().named().iter().map(|(name, _)| *name).collect();
        for (of, ..) in scaled() {
            assert!(counted.contains(&of), "{of} is shown, but no lane counts it");
        }
        for name in counted {
            let is_shown = scaled().any(|(of, ..)| of == name) || name == "deactivated";
            assert!(is_shown, "{name} is counted, but not shown");
        }
    }

    #[test]
    fn every_stage_is_shown() {
        let timed = Stages::default().named();
        assert!(timed.iter().map(|(name, _)| *name).eq(STAGES.iter().map(|(of, _)| *of)));
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
