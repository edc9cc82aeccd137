//! A key that is muted: nobody is told of its alerts, through a restart and through other rules, until that is taken back.

use std::process::Output;

use granary_harness::{Answering, Receiver};
use serde_json::Value;

use super::kit::{self, granary, said};
use super::silo::{RULES, World, until};

fn rules(world: &World, arguments: &[&str]) -> Output {
    let mut command = granary();
    command.args(["rules", "--json"]).args(arguments).args(["--silo", world.address()]);
    kit::run_to_end(&mut command)
}

#[track_caller]
fn done(output: &Output) -> Value {
    assert!(output.status.success(), "{}", said(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn nobody_is_told_of_a_muted_customer_until_that_is_taken_back() {
    let mut world = World::new();
    let receiver = Receiver::start(|_, _| Answering::Status(200));
    world.add("siem", &receiver.url("/"), &["--rate", "1000", "--burst", "1000"]);
    let mute = |rule, customer| {
        ["mute", rule, "--key", customer, "--for", "7d", "--reason", "moving house"].map(str::to_owned)
    };
    let muted = |world: &World, rule, customer| {
        let arguments = mute(rule, customer);
        rules(world, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert_eq!(done(&muted(&world, "all", "customer_id=c-3"))["revision"], 1);
    for (rule, customer, why) in [
        ("small", "customer_id=c-3", "there is no rule `small`; there are: big"),
        ("big", "city=c-3", "events have no field `city`"),
        ("big", "customer_id", "is not like customer_id=4711"),
    ] {
        let output = muted(&world, rule, customer);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(why), "{}", said(&output));
    }
    // one of ten customers
    world.pay(0..20);
    until("the others' are told", || receiver.alerts("/").len() == 18);
    assert_eq!(world.alerts_in_all(), 18);
    let status = done(&rules(&world, &["status"]));
    let stream = &status["status"];
    assert_eq!(stream["rules"][0]["suppressed"], 2, "{status}");
    assert_eq!(
        (&stream["mutes"][0]["key"]["customer_id"], &stream["mutes"][0]["rule"]),
        (&"c-3".into(), &Value::Null)
    );
    world.kill();
    world.begin();
    world.pay(20..30);
    assert_eq!(world.alerts_in_all(), 27, "the mute is remembered");
    assert_eq!(done(&muted(&world, "big", "customer_id=c-4"))["revision"], 2);
    world.pay(30..40);
    assert_eq!(world.alerts_in_all(), 35);
    // other rules: the mute of a rule that is no more is dropped, and that is said
    let file = world.directory.path().join("next.yaml");
    std::fs::write(&file, RULES.replace("id: big", "id: huge")).unwrap();
    let answer = done(&rules(&world, &["reload", file.to_str().unwrap()]));
    assert_eq!(answer["mutes_dropped"], serde_json::json!(["rule big, customer_id=c-4"]), "{answer}");
    world.pay(40..50);
    assert_eq!(world.alerts_in_all(), 44);
    assert_eq!(done(&rules(&world, &["unmute", "all", "--key", "customer_id=c-3"]))["revision"], 4);
    world.pay(50..60);
    assert_eq!(world.alerts_in_all(), 54);
    let output = rules(&world, &["unmute", "all", "--key", "customer_id=c-3"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("not muted; muted: there are none"), "{}", said(&output));
    until("and webhooks, too", || receiver.alerts("/").len() == 54);
}
