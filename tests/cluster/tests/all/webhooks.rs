//! Webhooks of three silos: whoever has an endpoint tells it, and when that silo is killed another one goes on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use granary_cluster_tests::kit::published::Published;
use granary_cluster_tests::kit::rig::Rig;
use granary_cluster_tests::kit::several::Several;
use granary_cluster_tests::kit::silo::granary;
use granary_cluster_tests::kit::{PATIENCE, until};
use granary_core::id;
use granary_harness::{Answering, Receiver, Request};
use serde_json::Value;

use super::rules;

const SILOS: usize = 3;
/// The first payments of the sample.
const PAYMENTS: usize = 12_000;
/// Attempts under way at a time, at most.
const CONCURRENCY: usize = 8;

fn add(silos: &Several<'_>, name: &str, url: &str) {
    let mut command = granary();
    command.args(["endpoints", "--silo", &silos.addresses(), "add", name, url]);
    command.args(["--rate", "2000", "--burst", "100", "--concurrency", &CONCURRENCY.to_string()]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The ids on the topic of alerts.
fn alerts(rig: &Rig) -> BTreeSet<String> {
    let topic = format!("granary.{}.alerts", rig.cluster);
    let rows = Published::read(rig.kafka.brokers(), &topic).rows;
    let id =
        |value: &[u8]| serde_json::from_slice::<Value>(value).unwrap()["id"].as_str().unwrap().to_owned();
    rows.iter().map(|row| id(&row.value)).collect()
}

fn ids(requests: &[Request]) -> BTreeSet<String> {
    requests.iter().map(|request| request.id().to_owned()).collect()
}

/// Which silo has an endpoint.
fn owner(silos: &Several<'_>, name: &str) -> Option<usize> {
    let asked = (0..SILOS).find(|no| silos.runs(*no))?;
    let table = silos.table_of(asked)?;
    let slot = id::slot_of(name.as_bytes(), table.slots);
    let at = table.owners.get(usize::from(slot.0)).copied().flatten()?;
    let owner = &table.silos.get(usize::from(at))?.name;
    (0..SILOS).find(|no| silos.place(*no).name == *owner)
}

#[test]
fn webhooks_go_on_when_the_silo_that_sends_them_is_killed() {
    let rig = rules::rig(4, "60s");
    let receiver = Receiver::start(|_, _| {
        std::thread::sleep(Duration::from_millis(4));
        Answering::Status(200)
    });
    let allowed = [("HTTP", "allowed"), ("PORTS", "1024-65535"), ("ALLOWED", "127.0.0.1/32")];
    let mut silos = Several::start_by(&rig, SILOS, |_, place| {
        let variables = allowed.iter();
        place.variables = variables
            .map(|(name, value)| (format!("GRANARY__ALERTS__{name}"), (*value).to_owned()))
            .collect();
    });
    silos.until_settled();
    add(&silos, "siem", &receiver.url("/"));
    let payments = rules::payments(0);
    rules::write(&rig, &payments[..PAYMENTS], |_| {});
    for round in 1..=2 {
        let before = receiver.alerts("/").len();
        until("some are delivered", || receiver.alerts("/").len() > before + 50);
        let sends = owner(&silos, "siem").expect("somebody has it");
        silos.kill(sends);
        let after = receiver.alerts("/").len();
        if round == 1 {
            until("another silo goes on", || receiver.alerts("/").len() > after + CONCURRENCY);
        }
        silos.begin(sends);
        silos.until_settled();
    }
    let began = Instant::now();
    let (mut expected, mut told) = (alerts(&rig), ids(&receiver.alerts("/")));
    while (expected.len() < 400 || told != expected) && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(500));
        (expected, told) = (alerts(&rig), ids(&receiver.alerts("/")));
    }
    assert_eq!(told.len(), expected.len(), "delivered, of those on the topic");
    assert_eq!(told, expected);
    let requests = receiver.alerts("/");
    println!("{} alerts, {} webhooks", told.len(), requests.len());
    // for each kill: what was under way, and what was answered and not stored yet
    assert!(requests.len() - told.len() <= 2 * 2 * CONCURRENCY, "little is sent again");
    silos.stop_all();
    assert_eq!(ids(&receiver.alerts("/")), alerts(&rig));
}
