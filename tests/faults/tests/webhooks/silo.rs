//! A silo that tells endpoints, as a process: nothing lost, nothing to whom it may not go.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use granary::client::{Client, NewRecord, Start};
use granary_alerts::sign::{Headers, Verifier, verify};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::kit::{self, PATIENCE, Silo, granary, root, said};
use granary_harness::{Answering, Receiver, Request};

/// A silo that runs the example with one simple rule, and may tell servers on loopback.
pub struct World {
    pub directory: tempfile::TempDir,
    pub configuration: PathBuf,
    pub silo: Option<Silo>,
    pub runtime: Runtime,
}

/// Every payment over 900 is an alert.
pub const RULES: &str = "
schema: fraud-rules/v1
stream: transactions
event: {id: transaction_id, time: ts, amount: {type: money, scale: 2, unit: USD}, fields: {customer_id: text}}
defaults: {mode: live, severity: high, cooldown: 0s, lateness: 60s, judge: on_arrival}
rules:
  - {id: big, kind: threshold, title: More than 900, per: customer_id, when: amount > 900.00}
";

impl World {
    pub fn new() -> World {
        World::with(RULES)
    }

    /// One with these rules.
    pub fn with(rules: &str) -> World {
        let directory = tempfile::tempdir().unwrap();
        let path = root().join("deploy/examples/fraud/pipeline.yaml");
        let pipeline = std::fs::read_to_string(path).unwrap();
        std::fs::write(directory.path().join("rules.yaml"), rules).unwrap();
        let configuration = kit::configuration(directory.path(), Some(&pipeline));
        let mut text = std::fs::read_to_string(&configuration).unwrap();
        text +=
            "[alerts]\nhttp = \"allowed\"\nports = [\"443\", \"1024-65535\"]\nallowed = [\"127.0.0.1/32\"]\n";
        std::fs::write(&configuration, text).unwrap();
        let silo = Some(Silo::start(&configuration));
        let runtime = Runtime::new().unwrap();
        World { directory, configuration, silo, runtime }
    }

    pub fn address(&self) -> &str {
        &self.silo.as_ref().unwrap().address
    }

    pub fn kill(&mut self) {
        self.silo.take().unwrap().kill();
    }

    pub fn begin(&mut self) {
        self.silo = Some(Silo::start(&self.configuration));
    }

    pub fn endpoints(&self, arguments: &[&str]) -> Output {
        let mut command = granary();
        command.args(["endpoints", "--json", "--silo", self.address()]).args(arguments);
        kit::run_to_end(&mut command)
    }

    /// Adds one; what verifies its webhooks.
    pub fn add(&self, name: &str, url: &str, more: &[&str]) -> String {
        let output = self.endpoints(&[&["add", name, url], more].concat());
        assert!(output.status.success(), "{}", said(&output));
        let told: Value =
            serde_json::from_slice(output.stdout.split(|b| *b == b'\n').next().unwrap()).unwrap();
        told["verifies_with"].as_str().unwrap().to_owned()
    }

    /// Every endpoint by its name.
    pub fn list(&self) -> BTreeMap<String, Value> {
        let output = self.endpoints(&["list"]);
        assert!(output.status.success(), "{}", said(&output));
        let rows = output.stdout.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let rows = rows.map(|line| serde_json::from_slice::<Value>(line).unwrap());
        rows.map(|row| (row["endpoint"].as_str().unwrap().to_owned(), row)).collect()
    }

    /// Writes payments with these numbers, each of which is an alert, of ten customers.
    pub fn pay(&self, numbers: std::ops::Range<u64>) {
        let payments: Vec<(String, String)> = numbers
            .map(|n| {
                let customer = format!("c-{}", n % 10);
                let payment = json!({
                    "transaction_id": format!("t-{n}"), "customer_id": customer, "vendor_id": "v-1",
                    "amount": 950, "ts": 1_700_000_000_000u64 + n, "lat": 50, "lon": 4, "category": "food",
                });
                (customer, payment.to_string())
            })
            .collect();
        let records = payments
            .iter()
            .map(|(key, value)| NewRecord { key: Some(key.as_bytes()), value: value.as_bytes() });
        let records: Vec<NewRecord<'_>> = records.collect();
        self.runtime.block_on(async {
            let client = Client::connect(self.address()).await.unwrap();
            client.produce("transactions", &records).await.unwrap();
        });
    }

    /// The ids on the topic of alerts, at least so many of them.
    pub fn alerts(&self, least: usize) -> BTreeSet<String> {
        let read = async {
            let client = Client::connect(self.address()).await.unwrap();
            let mut tail = client.tail("alerts", Start::Earliest).await.unwrap();
            let mut ids = BTreeSet::new();
            while ids.len() < least {
                let record = tail.next().await.unwrap().unwrap();
                let alert: Value = serde_json::from_slice(&record.value).unwrap();
                ids.insert(alert["id"].as_str().unwrap().to_owned());
            }
            ids
        };
        let within = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, read).await });
        within.expect("the alerts come")
    }

    /// How many there are, when nothing has come for a while.
    pub fn alerts_in_all(&self) -> usize {
        self.runtime.block_on(async {
            let client = Client::connect(self.address()).await.unwrap();
            let mut tail = client.tail("alerts", Start::Earliest).await.unwrap();
            let mut count = 0;
            while tokio::time::timeout(Duration::from_secs(1), tail.next()).await.is_ok() {
                count += 1;
            }
            count
        })
    }
}

#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "it never came true that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn ids(requests: &[Request]) -> BTreeSet<String> {
    requests.iter().map(|request| request.id().to_owned()).collect()
}

#[track_caller]
fn verified(request: &Request, key: &str) {
    let header = |name: &str| request.headers[name].as_str();
    let (id, timestamp, signature) =
        (header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"));
    let now: i64 = timestamp.parse().unwrap();
    let key = Verifier::parse(key).unwrap();
    assert_eq!(verify(&[key], Headers { id, timestamp, signature }, &request.body, now), Ok(()));
}

#[test]
fn every_alert_reaches_every_endpoint_that_wants_it_signed_and_in_order() {
    let world = World::new();
    let receiver = Receiver::start(|_, _| Answering::Status(200));
    let fast = ["--rate", "1000", "--burst", "1000", "--ordering", "strict"];
    let all = world.add("all", &receiver.url("/all"), &fast);
    let pair = world.add("pair", &receiver.url("/pair"), &["--ed25519", "--rate", "1000", "--burst", "1000"]);
    world.add("none", &receiver.url("/none"), &["--rules", "small,large"]);
    world.add("grave", &receiver.url("/grave"), &["--min-severity", "critical"]);
    world.pay(0..300);
    let alerts = world.alerts(300);
    until("all are there", || receiver.alerts("/all").len() >= 300 && receiver.alerts("/pair").len() >= 300);
    for (path, key) in [("/all", &all), ("/pair", &pair)] {
        let requests = receiver.alerts(path);
        assert_eq!((ids(&requests), requests.len()), (alerts.clone(), 300), "each once");
        requests.iter().for_each(|request| verified(request, key));
    }
    // in order for each customer, as the endpoint wished
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    for request in receiver.alerts("/all") {
        let event = request.event();
        let text = |name: &str| event[name].as_str().unwrap().to_owned();
        let before = last.insert(text("partitionkey"), text("sequence"));
        assert!(before.is_none_or(|before| before < text("sequence")), "{event}");
    }
    assert!(receiver.alerts("/none").is_empty() && receiver.alerts("/grave").is_empty());
    let listed = world.list();
    assert_eq!((&listed["all"]["state"], &listed["all"]["delivered"]), (&json!("on"), &json!(300)));
    assert_eq!(listed["none"]["delivered"], json!(0));
}

#[test]
fn servers_of_every_sort_get_what_they_ask_for_and_hold_nobody_up() {
    let world = World::new();
    let receiver = Receiver::start(|request, before| match (request.path.as_str(), before) {
        (_, 0) => Answering::Status(200), // the ping
        ("/500", 1) => Answering::Status(500),
        ("/410", _) => Answering::Status(410),
        ("/429", _) => Answering::With(429, "Retry-After", "3600".into()),
        ("/301", _) => Answering::With(301, "Location", "http://169.254.169.254/".into()),
        ("/hang", _) => Answering::Hang,
        ("/drip", _) => Answering::Drip,
        ("/flood", _) => Answering::Flood,
        _ => Answering::Status(200),
    });
    let names = ["good", "500", "410", "429", "301", "hang", "drip", "flood"];
    for name in names {
        world.add(name, &receiver.url(&format!("/{name}")), &["--timeout-s", "2"]);
    }
    world.pay(0..1);
    let alert = world.alerts(1);
    let of = |name: &str| receiver.alerts(&format!("/{name}"));
    until("the good one is told", || of("good").iter().any(|request| alert.contains(request.id())));
    until("500 is told again", || {
        of("500").iter().filter(|request| alert.contains(request.id())).count() == 2
    });
    let twice: Vec<Request> = of("500").into_iter().filter(|request| alert.contains(request.id())).collect();
    let wait = twice[1].at - twice[0].at;
    assert!(wait >= Duration::from_secs(4), "by the schedule: {wait:?}");
    assert_ne!(twice[0].headers["webhook-timestamp"], twice[1].headers["webhook-timestamp"]);
    assert_eq!(twice[0].body, twice[1].body);
    until("the one that is gone is disabled", || world.list()["410"]["state"] == "disabled");
    until("the others hear of it", || {
        of("good").iter().any(|request| request.event()["data"]["endpoint"] == "410")
    });
    until("timeouts are noted", || {
        ["hang", "drip"]
            .iter()
            .all(|name| world.list()[*name]["last_failure"]["what"] == "no answer in time: nothing within 2s")
    });
    let listed = world.list();
    assert_eq!(of("410").len(), 1, "it is not asked again");
    assert_eq!(listed["410"]["waiting"], json!(1), "and what it has not taken waits");
    let failed = |name: &str| listed[name]["last_failure"]["what"].as_str().unwrap().to_owned();
    assert!(failed("429").starts_with("status 429") && failed("301").starts_with("status 301"));
    assert!(listed["flood"]["delivered"].as_u64() >= Some(1) && receiver.flooded() < 400 << 20);
    let ids_of: BTreeSet<_> = of("429").iter().map(|request| request.id().to_owned()).collect();
    assert_eq!(of("429").len(), ids_of.len(), "who asks to be left alone for an hour is, for that alert");
}

#[test]
fn nothing_is_lost_over_kill_9_and_what_is_sent_twice_has_one_id() {
    let mut world = World::new();
    let receiver = Receiver::start(|_, _| {
        std::thread::sleep(Duration::from_millis(5));
        Answering::Status(200)
    });
    let key =
        world.add("siem", &receiver.url("/"), &["--rate", "400", "--burst", "50", "--concurrency", "8"]);
    let mut paid = 0;
    for round in 1..=4 {
        world.pay(paid..paid + 200);
        paid += 200;
        let before = receiver.alerts("/").len();
        until("some are delivered", || receiver.alerts("/").len() > before + 20 * round);
        world.kill();
        world.begin();
    }
    let alerts = world.alerts(800);
    until("all are delivered", || ids(&receiver.alerts("/")).len() >= 800);
    let requests = receiver.alerts("/");
    assert_eq!(ids(&requests), alerts);
    let mut bodies: BTreeMap<&str, &[u8]> = BTreeMap::new();
    for request in &requests {
        verified(request, &key);
        let first = bodies.entry(request.id()).or_insert(&request.body);
        assert_eq!(*first, request.body, "one id, one body");
    }
    let repeated = requests.len() - 800;
    // for each kill: what was under way, and what was answered and not stored yet
    assert!(repeated <= 4 * 2 * 8, "little is sent again: {repeated}");
}

#[test]
fn ten_dead_endpoints_do_not_slow_a_hundred_healthy_ones() {
    let world = World::new();
    let receiver = Receiver::start(|request, before| {
        if before > 0 && request.path.starts_with("/dead") { Answering::Hang } else { Answering::Status(200) }
    });
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (world, receiver) = (&world, &receiver);
            scope.spawn(move || {
                for n in (part..110).step_by(4) {
                    let name = if n < 10 { format!("dead-{n}") } else { format!("healthy-{n}") };
                    world.add(&name, &receiver.url(&format!("/{name}")), &["--timeout-s", "30"]);
                }
            });
        }
    });
    world.pay(0..20);
    let alerts = world.alerts(20);
    let (began, healthy) = (Instant::now(), 10..110);
    let told = |n: u64| ids(&receiver.alerts(&format!("/healthy-{n}"))) == alerts;
    until("all healthy ones are told", || healthy.clone().all(told));
    // not one attempt at a dead one has ended by then
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    println!("100 endpoints were told of 20 alerts in {:?}", began.elapsed());
    let dead = &world.list()["dead-3"];
    assert_eq!((&dead["delivered"], &dead["waiting"]), (&json!(0), &json!(20)));
}

#[test]
fn a_secret_is_rotated_without_a_single_refusal() {
    let world = World::new();
    let known: std::sync::Arc<std::sync::Mutex<Vec<String>>> = std::sync::Arc::default();
    let keys = known.clone();
    let receiver = Receiver::start(move |request, before| {
        let keys: Vec<Verifier> =
            keys.lock().unwrap().iter().map(|key| Verifier::parse(key).unwrap()).collect();
        let header = |name: &str| request.headers[name].as_str();
        let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
        let headers = Headers { id, timestamp, signature: header("webhook-signature") };
        let is_known = verify(&keys, headers, &request.body, timestamp.parse().unwrap()).is_ok();
        Answering::Status(if before == 0 || is_known { 200 } else { 401 })
    });
    let first = world.add("siem", &receiver.url("/"), &["--rate", "1000", "--burst", "1000"]);
    *known.lock().unwrap() = vec![first];
    for step in 0..10 {
        world.pay(step * 20..step * 20 + 20);
        if step == 3 {
            let output = world.endpoints(&["rotate", "siem"]);
            let told: Value = serde_json::from_slice(&output.stdout).unwrap();
            // its server learns of it a while later, and forgets the old one
            std::thread::sleep(Duration::from_millis(700));
            *known.lock().unwrap() = vec![told["verifies_with"].as_str().unwrap().to_owned()];
        }
    }
    let alerts = world.alerts(200);
    until("all are delivered", || ids(&receiver.alerts("/")) == alerts);
    until("and noted", || world.list()["siem"]["delivered"] == json!(200));
    assert_eq!(world.list()["siem"]["last_failure"], Value::Null, "not one was refused");
    assert_eq!(world.list()["siem"]["secrets"], json!(2));
}

#[test]
fn what_is_not_allowed_is_refused_when_it_is_added_and_says_why() {
    let world = World::new();
    for (url, why) in [
        ("https://10.1.1.1/", "10.1.1.1 is not a public address; [alerts] allowed lists exceptions"),
        ("https://0x0a010101/", "10.1.1.1 is not a public address"),
        ("https://example.com:80/", "port 80 is not allowed; [alerts] ports lists those that are"),
        ("ftp://example.com/", "begins with https://"),
        ("https://u:p@example.com/", "no user and no password"),
        ("nonsense", "not a URL"),
    ] {
        let output = world.endpoints(&["add", "bad", url]);
        assert_eq!(output.status.code(), Some(2), "{url}: {}", said(&output));
        assert!(said(&output).contains(why), "{url}: {}", said(&output));
    }
    assert!(world.list().is_empty());
    let output = world.endpoints(&["add", "bad", "https://example.com/", "--header", "Webhook-Id: 7"]);
    assert!(said(&output).contains("is set by Granary"), "{}", said(&output));
    for command in ["test", "disable", "enable", "remove", "rotate"] {
        let output = world.endpoints(&[command, "nobody"]);
        assert_eq!(output.status.code(), Some(1), "{command}: {}", said(&output));
        assert!(
            said(&output).contains("endpoint nobody: there is no endpoint of this name"),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn a_disabled_endpoint_goes_on_where_it_was_and_replays_what_is_asked_for() {
    let world = World::new();
    let receiver = Receiver::start(|_, _| Answering::Status(200));
    world.add("siem", &receiver.url("/"), &["--rate", "1000", "--burst", "1000"]);
    world.pay(0..10);
    until("ten are delivered", || world.list()["siem"]["delivered"] == json!(10));
    assert!(world.endpoints(&["disable", "siem"]).status.success());
    world.pay(10..20);
    let alerts = world.alerts(20);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(receiver.alerts("/").len(), 10, "it is told nothing");
    assert!(world.endpoints(&["enable", "siem"]).status.success());
    until("the rest is delivered", || ids(&receiver.alerts("/")) == alerts);
    let one = alerts.first().unwrap();
    let output = world.endpoints(&["replay", "siem", "--id", one]);
    assert!(output.status.success(), "{}", said(&output));
    until("one is sent again", || {
        receiver.alerts("/").iter().filter(|request| request.id() == one).count() == 2
    });
    let output =
        world.endpoints(&["replay", "siem", "--since", "1700000000000", "--until", "1700000000005", "--all"]);
    assert!(said(&output).contains("\"replayed\":5"), "{}", said(&output));
    until("five are sent again", || receiver.alerts("/").len() == 26);
    let output = world.endpoints(&["replay", "siem", "--since", "2020-01-01T00:00:00Z"]);
    assert_eq!(output.status.code(), Some(1), "no dead letters: {}", said(&output));
    assert!(world.endpoints(&["remove", "siem"]).status.success());
    assert!(world.list().is_empty());
    let _: &Path = world.directory.path();
}

#[test]
fn a_rule_with_too_many_alerts_goes_into_shadow_and_says_so() {
    let world = World::with(&RULES.replace("per: customer_id,", "per: customer_id, max_alert_rate: 100/h,"));
    let receiver = Receiver::start(|_, _| Answering::Status(200));
    world.add("siem", &receiver.url("/"), &["--types", "fraud.rule.*"]);
    let rules = |arguments: &[&str]| {
        let mut command = granary();
        command.args(["rules", "--json"]).args(arguments).args(["--silo", world.address()]);
        said(&kit::run_to_end(&mut command))
    };
    world.pay(0..90);
    world.alerts(90);
    std::thread::sleep(Duration::from_secs(1));
    assert!(rules(&["status"]).contains("\"mode\":\"live\""), "90 are not too many");
    world.pay(90..120);
    until("somebody is told", || !receiver.alerts("/").is_empty());
    let told = receiver.alerts("/")[0].event();
    assert_eq!((&told["type"], &told["data"]["rule"]["id"]), (&json!("fraud.rule.tripped"), &json!("big")));
    until("it is in shadow", || rules(&["status"]).contains("\"mode\":\"shadow\""));
    world.pay(120..200);
    // 120 alerts, and the one that says that there are no more
    assert_eq!(world.alerts_in_all(), 121);
    assert!(rules(&["promote", "big"]).contains("\"was\":\"shadow\""));
    world.pay(200..210);
    assert_eq!(world.alerts_in_all(), 131, "and back again");
}
