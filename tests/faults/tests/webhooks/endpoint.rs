//! Endpoints as grains, on a clock that is moved by hand and silos that die.

use std::collections::{BTreeMap, BTreeSet};

use granary_alerts::endpoint::{Attempt, DEAD, Endpoint, Offer, Outcome, Plan, Step};
use granary_alerts::queue::Place;
use granary_alerts::retry::{Answer, SCHEDULE};
use granary_alerts::settings::Settings;
use granary_core::time::{days, hours, mins, secs};
use granary_core::{ErrorKind, Result};
use granary_testkit::TestCluster;
use serde_json::Value;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

async fn cluster(silos: usize) -> TestCluster {
    // days pass here: leases that are renewed four times a second would make them long
    let built = TestCluster::builder().silos(silos).lease(mins(4)).host::<Endpoint>().stream(DEAD);
    built.start().await.unwrap()
}

fn offer(n: u64) -> Offer {
    Offer { id: format!("al_{n}").into(), key: "c-1".into(), at: Place { partition: 0, offset: n } }
}

fn outcome(n: u64, answer: Answer) -> Outcome {
    let alert = Some(format!(r#"{{"id":"al_{n}"}}"#));
    Outcome { id: format!("al_{n}").into(), answer, words: "words".into(), alert }
}

/// One that somebody has answered a ping of.
macro_rules! verified {
    ($cluster:expr) => {{
        let endpoint = $cluster.grain::<Endpoint>("siem");
        let settings = Settings::to("https://example.com/");
        endpoint.create(settings, SECRET.into(), BTreeMap::from([(0, 1)])).await.unwrap();
        endpoint.ping("wp_1".into()).await.unwrap();
        let pong = Some(("wp_1".into(), Answer::Status(200, None), String::new()));
        let plan = endpoint.step(Step { pong, ..Step::default() }).await.unwrap();
        assert!(plan.room > 0 && plan.ping.is_none());
        endpoint
    }};
}

fn offers(numbers: impl IntoIterator<Item = u64>) -> Step {
    Step { offers: numbers.into_iter().map(offer).collect(), ..Step::default() }
}

fn answers(outcomes: impl IntoIterator<Item = Outcome>) -> Step {
    Step { outcomes: outcomes.into_iter().collect(), ..Step::default() }
}

fn attempts(plan: &Plan) -> Vec<(u64, u32)> {
    plan.attempts.iter().map(|Attempt { at, attempt, .. }| (at.offset, *attempt)).collect()
}

const OK: Answer = Answer::Status(200, None);
const FAILED: Answer = Answer::Status(500, None);

#[tokio::test]
async fn nothing_is_sent_before_a_ping_is_answered() -> Result<()> {
    let cluster = cluster(1).await;
    let endpoint = cluster.grain::<Endpoint>("siem");
    assert_eq!(endpoint.about().await.unwrap_err().kind(), ErrorKind::NotFound);
    endpoint.create(Settings::to("https://example.com/"), SECRET.into(), BTreeMap::new()).await?;
    let again = endpoint.create(Settings::to("https://x.com/"), SECRET.into(), BTreeMap::new()).await;
    assert!(again.unwrap_err().message().contains("already"));
    endpoint.ping("wp_1".into()).await?;
    let plan = endpoint.step(Step::default()).await?;
    assert_eq!((plan.ping.as_deref(), plan.room, plan.attempts.len()), (Some("wp_1"), 0, 0));
    let pong = Some(("wp_1".to_owned(), Answer::Status(404, None), String::new()));
    let plan = endpoint.step(Step { pong, ..Step::default() }).await?;
    assert_eq!((plan.ping, plan.room, plan.standing.is_verified), (None, 0, false));
    let late = Some(("wp_0".to_owned(), OK, String::new()));
    assert!(
        !endpoint.step(Step { pong: late, ..Step::default() }).await?.standing.is_verified,
        "of another ping"
    );
    Ok(())
}

#[tokio::test]
async fn what_was_taken_is_taken_once_whoever_offers_it_and_survives_a_kill() -> Result<()> {
    let cluster = cluster(2).await;
    let endpoint = verified!(cluster);
    let plan = endpoint.step(offers([1, 2, 3])).await?;
    assert_eq!(attempts(&plan), [(1, 1), (2, 1), (3, 1)]);
    assert_eq!(plan.taken[&0], 4);
    let plan = endpoint.step(answers([outcome(1, OK), outcome(2, FAILED)])).await?;
    assert_eq!((plan.standing.delivered, plan.standing.waiting), (1, 2));
    // another courier, that is behind
    let plan = endpoint.step(offers([1, 2, 3, 4])).await?;
    assert_eq!(attempts(&plan), [(4, 1)], "1 was delivered, 2 waits for its time, 3 is under way");
    let silo = cluster.silo_of::<Endpoint>("siem").unwrap();
    cluster.kill(&silo).await?;
    cluster.settle().await?;
    let plan = endpoint.step(offers([1])).await?;
    assert_eq!(plan.standing.waiting, 3);
    let mut again = attempts(&plan);
    if !again.iter().any(|(n, _)| *n == 2) {
        cluster.advance(secs(10)).await?;
        again.extend(attempts(&endpoint.step(Step::default()).await?));
    }
    again.sort_unstable();
    assert_eq!(again, [(2, 2), (3, 2), (4, 2)], "what was under way is sent again, under the same id");
    Ok(())
}

#[tokio::test]
async fn an_attempt_nobody_answers_for_is_made_again() -> Result<()> {
    let cluster = cluster(1).await;
    let endpoint = verified!(cluster);
    assert_eq!(attempts(&endpoint.step(offers([1])).await?), [(1, 1)]);
    cluster.advance(secs(59)).await?;
    let plan = endpoint.step(Step::default()).await?;
    assert!(plan.attempts.is_empty() && plan.wakes_at.is_some());
    cluster.advance(secs(2)).await?;
    assert_eq!(attempts(&endpoint.step(Step::default()).await?), [(1, 2)]);
    Ok(())
}

#[tokio::test]
async fn an_alert_that_was_tried_often_enough_is_a_dead_letter_and_can_be_replayed() -> Result<()> {
    let cluster = cluster(1).await;
    let endpoint = verified!(cluster);
    let mut plan = endpoint.step(offers([1, 2])).await?;
    for (i, wait) in SCHEDULE.iter().enumerate() {
        let made: Vec<Attempt> =
            plan.attempts.iter().filter(|attempt| attempt.at.offset == 1).cloned().collect();
        let [Attempt { attempt, .. }] = &made[..] else { panic!("attempt {i}: {plan:?}") };
        assert_eq!(*attempt, i as u32 + 1);
        // the other one is taken at once: it is not the endpoint that fails
        endpoint.step(answers([outcome(1, FAILED), outcome(2, OK)])).await?;
        cluster.advance(*wait).await?;
        cluster.advance(granary_core::Span(wait.ms() / 4)).await?;
        plan = endpoint.step(offers([3 + i as u64])).await?;
        endpoint.step(answers([outcome(3 + i as u64, OK)])).await?;
    }
    endpoint.step(answers([outcome(1, FAILED)])).await?;
    cluster.settle().await?;
    let letters = cluster.records(DEAD)?;
    let [letter] = &letters[..] else { panic!("{} letters", letters.len()) };
    let letter: Value = serde_json::from_slice(&letter.value).unwrap();
    let shown =
        (&letter["endpoint"], &letter["id"], &letter["attempts"], &letter["reason"], &letter["answer"]);
    assert_eq!(shown, (&"siem".into(), &"al_1".into(), &10.into(), &"status 500".into(), &"words".into()));
    assert_eq!((&letter["alert"]["id"], &letter["offset"]), (&"al_1".into(), &1.into()));
    let about = endpoint.about().await?;
    assert_eq!((about.standing.buried, about.standing.waiting), (1, 0));
    assert_eq!(endpoint.again(vec![offer(1)]).await?, 1);
    assert_eq!(attempts(&endpoint.step(Step::default()).await?), [(1, 1)]);
    Ok(())
}

#[tokio::test]
async fn an_alert_that_left_its_topic_is_a_dead_letter_at_once() -> Result<()> {
    let cluster = cluster(1).await;
    let endpoint = verified!(cluster);
    endpoint.step(offers([1])).await?;
    let lost = Outcome { alert: None, ..outcome(1, Answer::Lost) };
    endpoint.step(answers([lost])).await?;
    cluster.settle().await?;
    let letter: Value = serde_json::from_slice(&cluster.records(DEAD)?[0].value).unwrap();
    assert_eq!((&letter["alert"], &letter["id"]), (&Value::Null, &"al_1".into()));
    Ok(())
}

#[tokio::test]
async fn who_is_gone_or_fails_for_days_is_disabled_and_the_others_hear_of_it() -> Result<()> {
    let cluster = cluster(1).await;
    let endpoint = verified!(cluster);
    endpoint.step(offers([1, 2])).await?;
    let plan = endpoint.step(answers([outcome(1, Answer::Status(410, None))])).await?;
    assert!(plan.disabled.is_some() && plan.room == 0);
    cluster.settle().await?;
    let events = cluster.records("alerts")?;
    let [event] = &events[..] else { panic!("{} events", events.len()) };
    let event: Value = serde_json::from_slice(&event.value).unwrap();
    assert_eq!(
        (&event["type"], &event["data"]["endpoint"]),
        (&"webhook.endpoint.disabled".into(), &"siem".into())
    );
    assert_eq!(event["data"]["reason"], "it answered 410: gone");
    assert!(!event["id"].as_str().unwrap().contains('.'));
    // what it had waits, and goes on when it is enabled
    endpoint.enable(None).await?;
    let mut again = attempts(&endpoint.step(Step::default()).await?);
    if again.len() < 2 {
        cluster.advance(mins(2)).await?;
        again.extend(attempts(&endpoint.step(Step::default()).await?));
    }
    let again: BTreeSet<u64> = again.into_iter().map(|(n, _)| n).collect();
    assert_eq!(again, BTreeSet::from([1, 2]));
    let outcomes = [outcome(1, Answer::Timeout), outcome(2, Answer::Timeout)];
    assert!(endpoint.step(answers(outcomes)).await?.disabled.is_none());
    cluster.advance(days(5)).await?;
    cluster.advance(hours(1)).await?;
    let plan = endpoint.step(Step::default()).await?;
    let first = plan.attempts.first().expect("an attempt is due").at.offset;
    let plan = endpoint.step(answers([outcome(first, Answer::Timeout)])).await?;
    assert!(plan.disabled.is_some(), "nothing but failures for five days");
    Ok(())
}

#[tokio::test]
async fn secrets_overlap_for_a_while() -> Result<()> {
    let cluster = cluster(1).await;
    let endpoint = verified!(cluster);
    let held = async || -> Result<Vec<String>> {
        let secrets = endpoint.order().await?.secrets;
        Ok(secrets.into_iter().map(|signing| signing.secret).collect())
    };
    endpoint.rotate(OTHER.into(), hours(24)).await?;
    assert_eq!(held().await?, [OTHER, SECRET]);
    cluster.advance(hours(23)).await?;
    endpoint.step(Step::default()).await?;
    assert_eq!(held().await?, [OTHER, SECRET]);
    cluster.advance(hours(2)).await?;
    endpoint.step(Step::default()).await?;
    assert_eq!(held().await?, [OTHER]);
    let too_long = endpoint.rotate(SECRET.into(), days(8)).await.unwrap_err();
    assert_eq!(too_long.kind(), ErrorKind::Invalid);
    let bad = endpoint.rotate("hunter2".into(), hours(1)).await.unwrap_err();
    assert!(!bad.message().contains("hunter2"), "{bad}");
    Ok(())
}
