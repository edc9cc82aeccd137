//! Slots placed by hand.

use granary_cluster_tests::kit::rig::{Rig, SLOTS};
use granary_cluster_tests::kit::several::Several;
use granary_cluster_tests::kit::silo::granary;
use granary_cluster_tests::kit::until;
use granary_core::{SlotId, id};
use serde_json::Value;

use super::calls::{NOTHING, call, client_of, within};
use super::several::survive;

/// Its exit code, what it printed and what it complained of.
fn slots(silos: &Several<'_>, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = granary()
        .arg("slots")
        .args(arguments)
        .args(["--silo", &silos.place(0).listen])
        .output()
        .expect("the command runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn table(silos: &Several<'_>) -> Value {
    let (code, out, error) = slots(silos, &["--json"]);
    assert_eq!(code, Some(0), "{out}{error}");
    serde_json::from_str(&out).unwrap_or_else(|_| panic!("no JSON: {out}"))
}

/// The name of the silo that the slot belongs to.
fn owner(table: &Value, slot: usize) -> String {
    let at = table["owners"][slot].as_u64().expect("every slot has an owner");
    table["silos"][at as usize]["name"].as_str().expect("a name").to_owned()
}

/// Whether a grain of the slot is in the process of that silo.
fn answers(silos: &Several<'_>, no: usize, slot: u16) -> bool {
    let keys = (0..).map(|n| format!("k-{n}"));
    let key = keys.into_iter().find(|key| id::slot_of(key.as_bytes(), SLOTS) == SlotId(slot)).expect("a key");
    let (runtime, client) = client_of(silos);
    let grain = format!("Cold/{key}");
    let activation = runtime.block_on(call::<u64>(&client, &grain, "activation", NOTHING, within(20_000)));
    activation.expect("it answers") >> 32 == u64::from(silos.silo(no).id())
}

fn must_be_refused(silos: &Several<'_>, arguments: &[&str], why: &str) {
    let (code, out, error) = slots(silos, arguments);
    assert!(code == Some(2) && error.contains(why), "{code:?} {out} {error}");
}

/// `granary slots move`: the slots run where they were sent, under records and calls of which none fails; then they are left
/// to the rule again. `granary slots` tells how busy each silo is.
#[test]
fn slots_moved_by_hand_run_where_they_were_sent() {
    let rig = Rig::new();
    let silos = Several::start(&rig, 3);
    silos.until_agreed();
    let before = table(&silos);
    let sent: Vec<usize> = (0..96).filter(|slot| owner(&before, *slot) != "silo-2").take(3).collect();
    let words: Vec<String> = sent.iter().map(usize::to_string).collect();
    let command = |rest: &[&'static str]| -> Vec<String> {
        let rest = rest.iter().map(|word| (*word).to_owned());
        ["move".to_owned()].into_iter().chain(words.iter().cloned()).chain(rest).collect()
    };
    let ask = |silos: &Several<'_>, rest: &[&'static str]| {
        let words = command(rest);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (code, out, error) = slots(silos, &words);
        assert_eq!(code, Some(0), "{out}{error}");
    };
    let between = |step, silos: &mut Several<'_>| match step {
        2 => {
            must_be_refused(silos, &["move", "96", "--to", "silo-2"], "0 to 95");
            must_be_refused(silos, &["move", "1", "--to", "silo-9"], "silo-0, silo-1, silo-2");
            must_be_refused(silos, &["move", "1"], "--to");
        }
        3 => {
            ask(silos, &["--to", "silo-2"]);
            for slot in &sent {
                until("the slot runs where it was sent", || answers(silos, 2, *slot as u16));
            }
            until("the silo that is asked has heard of all", || {
                table(silos)["moves"].as_array().map(Vec::len) == Some(sent.len())
            });
            let now = table(silos);
            let moved: Vec<usize> =
                (0..96).filter(|slot| owner(&now, *slot) != owner(&before, *slot)).collect();
            assert_eq!(moved, sent, "no other slot moved");
        }
        8 => {
            let members = table(silos)["members"].clone();
            let turns = |member: &Value| member["turns_per_s"].as_u64().expect("a figure");
            let all = members.as_array().expect("members");
            assert!(all.len() == 3 && all.iter().map(turns).sum::<u64>() > 0, "{members}");
            assert!(all.iter().any(|member| member["busiest"][0]["slot"].is_u64()), "{members}");
            let (_, words, _) = slots(silos, &[]);
            assert!(words.contains("turns/s") && words.contains("is placed on silo-2 by hand"), "{words}");
            ask(silos, &["--back"]);
            for slot in &sent {
                let home = owner(&before, *slot);
                let no = (0..3).find(|no| silos.place(*no).name == home).expect("a silo");
                until("the slot is back", || answers(silos, no, *slot as u16));
            }
        }
        _ => {}
    };
    survive(&rig, silos, between, |silos, calls| {
        calls.must_not_have_failed();
        until("no slot is placed by hand", || table(silos)["moves"].as_array().map(Vec::len) == Some(0));
        let now = table(silos);
        assert_eq!(now["owners"], before["owners"], "{now}");
    });
}
