//! One client and several silos: who is asked, what is sent again and what is not.

mod kit;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use granary_client::{Client, SiloEntry, SlotTable};
use granary_core::call::{Chain, Options};
use granary_core::time::{Span, millis, secs};
use granary_core::{Context, Error, ErrorKind, GrainId, Ran, Result, codec};
use kit::{Cluster, SLOTS, in_slot, lock, until};

async fn call(client: &Client, slot: u16, method: &str) -> Result<Vec<u8>> {
    within(client, slot, method, secs(10)).await
}

async fn within(client: &Client, slot: u16, method: &str, timeout: Span) -> Result<Vec<u8>> {
    let options = Options { timeout: Some(timeout), ..Options::default() };
    client.call(&in_slot(slot), method, &[], options).await
}

async fn who(client: &Client, slot: u16) -> u16 {
    codec::from_bytes(&call(client, slot, "who").await.expect("an answer")).expect("a number")
}

#[tokio::test]
async fn a_call_goes_straight_to_the_owner() {
    let cluster = Cluster::start(3);
    let client = Client::connect(cluster.seed()).await.unwrap();
    for slot in 0..SLOTS {
        assert_eq!(who(&client, slot).await, slot % 3);
    }
    assert_eq!(cluster.world.moved.load(Ordering::SeqCst), 0, "nobody was asked in vain");
    let connections = client.connections().borrow().clone();
    assert_eq!(connections.len(), 3, "one connection for each silo: {connections:?}");
    assert!(connections.iter().all(|silo| silo.is_connected && !silo.silo.is_empty()));
    assert_eq!(client.slots().unwrap().version, 1);
}

#[tokio::test]
async fn a_move_is_followed_without_an_error_and_one_question_serves_all() {
    let cluster = Cluster::start(3);
    let client = Client::connect(cluster.seed()).await.unwrap();
    assert_eq!(who(&client, 4).await, 1);
    let before = cluster.world.asked_for_slots.load(Ordering::SeqCst);
    cluster.world.give(4, Some(2));
    let calls: Vec<_> = (0..64)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { who(&client, 4).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), 2);
    }
    let asked = cluster.world.asked_for_slots.load(Ordering::SeqCst) - before;
    assert!((1..=2).contains(&asked), "{asked} questions");
    assert_eq!(client.slots().unwrap().version, 2);
}

#[tokio::test]
async fn who_had_a_slot_is_asked_until_it_has_given_it() {
    let cluster = Cluster::start(3);
    let client = Client::connect(cluster.seed()).await.unwrap();
    assert_eq!((who(&client, 1).await, who(&client, 4).await), (1, 1));
    cluster.world.begin_to_give(1, 2);
    cluster.world.give(4, Some(2));
    assert_eq!(who(&client, 4).await, 2, "refused by who had it, asked of whom it belongs to");
    assert_eq!(client.slots().unwrap().version, 3, "so the client knows where slot 1 is to be");

    let moved = cluster.world.moved.swap(0, Ordering::SeqCst);
    assert_eq!(moved, 1);
    assert_eq!(who(&client, 1).await, 1, "and goes on with who has it");
    cluster.world.let_go(1);
    let asked = cluster.world.asked_for_slots.load(Ordering::SeqCst);
    assert_eq!(who(&client, 1).await, 2);
    assert_eq!(who(&client, 1).await, 2);
    assert_eq!(cluster.world.moved.load(Ordering::SeqCst), 1, "the one refusal by who gave it");
    assert_eq!(cluster.world.asked_for_slots.load(Ordering::SeqCst), asked, "nothing had to be asked");
}

#[tokio::test]
async fn a_slot_without_an_owner_is_waited_for_until_the_deadline() {
    let cluster = Cluster::start(2);
    cluster.world.give(5, None);
    let client = Client::connect(cluster.seed()).await.unwrap();
    let begun = Instant::now();
    let error = within(&client, 5, "who", millis(200)).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Timeout, Some(Ran::No)));
    assert!(error.message().contains("slot 5 has no owner"), "{error}");
    assert!(error.message().contains("tried "), "{error}");
    let took = begun.elapsed();
    assert!((Duration::from_millis(150)..Duration::from_secs(5)).contains(&took), "{took:?}");

    let world = cluster.world.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.give(5, Some(0));
    });
    assert_eq!(who(&client, 5).await, 0);
    let timeouts = lock(&cluster.world.timeouts).clone();
    assert!(timeouts[0] < secs(10), "the timeout sent is the time that is left: {timeouts:?}");
}

#[tokio::test]
async fn a_dead_silo_costs_no_call_that_did_not_run() {
    let mut cluster = Cluster::start(3);
    let client = Client::connect(cluster.seeds()).await.unwrap();
    assert_eq!((who(&client, 1).await, who(&client, 2).await), (1, 2));
    cluster.silos[1].kill();
    let watch = client.connections();
    let gone = || watch.borrow().iter().any(|silo| silo.silo == "silo-1" && !silo.is_connected);
    until(gone, "the loss is told").await;
    let calls: Vec<_> = cluster
        .slots_of(1)
        .into_iter()
        .map(|slot| {
            let client = client.clone();
            tokio::spawn(async move { who(&client, slot).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.give_all(1, 2);
    for call in calls {
        assert_eq!(call.await.unwrap(), 2);
    }
    assert_eq!(who(&client, 0).await, 0);

    // It comes back, and so does the connection.
    cluster.restart(1);
    cluster.world.give(1, Some(1));
    assert_eq!(who(&client, 1).await, 1);
    let back = |silo: &granary_client::Connection| silo.silo == "silo-1" && silo.is_connected;
    assert!(client.connections().borrow().iter().any(back));
}

#[tokio::test]
async fn no_call_fails_while_silos_leave_in_order() {
    let mut cluster = Cluster::start(3);
    let client = Client::connect(cluster.seeds()).await.unwrap();
    let callers: Vec<_> = (0..32_u16)
        .map(|i| {
            let client = client.clone();
            tokio::spawn(async move {
                for n in 0..200_u16 {
                    call(&client, (i + n) % SLOTS, "echo").await.unwrap();
                    tokio::time::sleep(Duration::from_micros(500)).await;
                }
            })
        })
        .collect();
    for silo in [2_u16, 1] {
        tokio::time::sleep(Duration::from_millis(50)).await;
        cluster.give_all(silo, 0);
        cluster.silos[usize::from(silo)].stop();
    }
    for caller in callers {
        caller.await.unwrap();
    }
}

#[tokio::test]
async fn what_has_perhaps_run_is_not_repeated_without_a_key() {
    let cluster = Cluster::start(2);
    let client = Client::connect(cluster.seed()).await.unwrap();
    let error = call(&client, 3, "drop").await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Closed, Some(Ran::Unknown)));
    assert_eq!(cluster.world.count("drop"), 1);

    let keyed = |timeout| Options {
        idempotency_key: Some("k-1".into()),
        timeout: Some(timeout),
        ..Options::default()
    };
    let answer = client.call(&in_slot(3), "twice", &[], keyed(secs(10))).await.unwrap();
    assert_eq!(codec::from_bytes::<String>(&answer), Ok("k-1".to_owned()));
    assert_eq!(cluster.world.count("twice"), 3, "with a key it is repeated");

    let error = client.call(&in_slot(3), "drop", &[], keyed(millis(120))).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Timeout, Some(Ran::Unknown)));
    assert!(error.message().contains("closed: the call was dropped"), "the last reason: {error}");
    assert!(cluster.world.count("drop") > 3);
}

#[tokio::test]
async fn who_is_late_hears_what_held_it_up() {
    let cluster = Cluster::start(1);
    let client = Client::connect(cluster.seed()).await.unwrap();
    let late = tokio::spawn(async move { call(&client, 0, "keep").await });
    let answers =
        [(ErrorKind::Unavailable, "the store is away"), (ErrorKind::Timeout, "it came after its deadline")];
    for (kind, why) in answers {
        until(|| !lock(&cluster.world.kept).is_empty(), "the call is there").await;
        let answer = lock(&cluster.world.kept).pop().unwrap();
        answer.send(Err(Error::new(kind, why).ran(Ran::No))).unwrap();
    }
    let error = late.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Timeout, Some(Ran::No)));
    let whole = "it came after its deadline (attempt 2); before that: unavailable: the store is away";
    assert_eq!(error.message(), whole);
}

#[tokio::test]
async fn a_silo_that_hangs_is_left_once_the_table_does_not_name_it_any_more() {
    let cluster = Cluster::start(2);
    let client = Client::connect(cluster.seeds()).await.unwrap();
    let calling = client.clone();
    let keyed = tokio::spawn(async move {
        let options = Options { idempotency_key: Some("k".into()), ..Options::default() };
        calling.call(&in_slot(1), "keep", &[], options).await
    });
    let calling = client.clone();
    let bare = tokio::spawn(async move { call(&calling, 1, "keep").await });
    until(|| lock(&cluster.world.kept).len() == 2, "the calls are there").await;
    cluster.give_all(1, 0);
    lock(&cluster.world.table).silos.truncate(1);
    until(|| lock(&cluster.world.kept).len() == 3, "the one with a key is sent again").await;
    let answer = lock(&cluster.world.kept).pop().unwrap();
    answer.send(Ok(vec![5])).unwrap();
    assert_eq!(keyed.await.unwrap(), Ok(vec![5]));
    let error = bare.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Closed, Some(Ran::Unknown)));
}

#[tokio::test]
async fn a_full_queue_is_the_callers_business() {
    let cluster = Cluster::start(2);
    let client = Client::connect(cluster.seed()).await.unwrap();
    let error = call(&client, 3, "full").await.unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Overloaded, Some(millis(7))));
    assert_eq!((error.message(), cluster.world.count("full")), ("full", 1));
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled() {
    let cluster = Cluster::start(1);
    let client = Client::connect(cluster.seed()).await.unwrap();
    let world = &cluster.world;
    let calling = client.clone();
    let waiting = tokio::spawn(async move { call(&calling, 0, "keep").await });
    until(|| lock(&world.kept).len() == 1, "the call has arrived").await;
    assert!(!lock(&world.kept)[0].is_closed(), "somebody waits");
    waiting.abort();
    until(|| lock(&world.kept)[0].is_closed(), "the silo learns that nobody waits").await;
    assert!(call(&client, 0, "echo").await.is_ok(), "and the connection still serves");

    // An answered call cancels nothing; a lost client cancels all.
    let other = Client::connect(cluster.seed()).await.unwrap();
    let calling = other.clone();
    let waiting = tokio::spawn(async move { call(&calling, 0, "keep").await });
    until(|| lock(&world.kept).len() == 2, "the call has arrived").await;
    let answer = lock(&world.kept).pop().unwrap();
    answer.send(Ok(vec![1])).unwrap();
    assert_eq!(waiting.await.unwrap(), Ok(vec![1]));
}

#[tokio::test]
async fn chain_and_context_travel() {
    let cluster = Cluster::start(1);
    let client = Client::connect(cluster.seed()).await.unwrap();
    let outer = Chain::link(GrainId::new("A", "1"), "go", None);
    let chain = Some(Chain::link(GrainId::new("B", "2"), "on".to_owned(), Some(outer)));
    let context = Some(Arc::new(Context::new([("tenant", "acme")]).unwrap()));
    let options = Options { chain, context, ..Options::default() };
    let answer = client.call(&in_slot(0), "context", &[], options).await.unwrap();
    let seen: (Option<String>, Option<String>) = codec::from_bytes(&answer).unwrap();
    assert_eq!(seen, (Some("A/1.go -> B/2.on".into()), Some("acme".into())));
}

#[tokio::test]
async fn who_passes_requests_on_gets_every_error() {
    let cluster = Cluster::start(2);
    let table = lock(&cluster.world.table).clone();
    let client = Client::builder("").as_silo("silo-9").send_once().build();
    client.learn(table.clone()).unwrap();
    assert_eq!(who(&client, 1).await, 1);
    cluster.world.give(1, Some(0));
    let error = call(&client, 1, "who").await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Moved, Some(Ran::No)));
    assert_eq!(cluster.world.moved.load(Ordering::SeqCst), 1);
    client.learn(lock(&cluster.world.table).clone()).unwrap();
    assert_eq!(who(&client, 1).await, 0);
    client.learn(table).unwrap();
    assert_eq!(client.slots().unwrap().version, 2, "an older table is not taken");
    assert!(client.learn(SlotTable::default()).is_err());
}

#[tokio::test]
async fn questions_go_to_any_silo_or_to_one() {
    let cluster = Cluster::start(3);
    let client = Client::connect(cluster.seed()).await.unwrap();
    let asked = client.ask_silo(&cluster.silos[2].address, "status", &[]).await.unwrap();
    let status: std::collections::BTreeMap<String, usize> = codec::from_bytes(&asked).unwrap();
    assert_eq!(status["silo"], 2);
    let status: std::collections::BTreeMap<String, usize> = client.status().await.unwrap();
    assert!(status["silo"] < 3);
    assert_eq!(client.ask("weather", &[]).await.unwrap_err().kind(), ErrorKind::NotFound);

    // A silo that the table does not name stays connected as long as it lasts.
    let other = Cluster::start(1);
    client.ask_silo(&other.seed(), "status", &[]).await.unwrap();
    client.ask_silo(&other.seed(), "status", &[]).await.unwrap();
    assert_eq!(client.connections().borrow().iter().filter(|silo| silo.is_connected).count(), 3);
}

#[tokio::test]
async fn a_silo_whose_own_address_holds_elsewhere_is_reached_at_its_seed() {
    let cluster = Cluster::start(1);
    lock(&cluster.world.table).silos[0].address = "127.0.0.1:1".into();
    let client = Client::connect(cluster.seed()).await.unwrap();
    for slot in 0..SLOTS {
        assert_eq!(who(&client, slot).await, 0);
    }
}

#[tokio::test]
async fn a_cluster_of_one_gets_everything() {
    let cluster = Cluster::start(1);
    cluster.world.is_one.store(true, Ordering::SeqCst);
    let client = Client::connect(format!("127.0.0.1:1,{}", cluster.seed())).await.unwrap();
    assert_eq!(who(&client, 7).await, 0);
    assert!(client.slots().is_none());
}

#[tokio::test]
async fn one_way_calls_go_to_the_owner() {
    let cluster = Cluster::start(3);
    let client = Client::connect(cluster.seed()).await.unwrap();
    for slot in 0..SLOTS {
        let options = Options { one_way: true, ..Options::default() };
        client.call(&in_slot(slot), "note", &[], options).await.unwrap();
    }
    until(|| cluster.world.count("note") == usize::from(SLOTS), "all have arrived").await;
    assert_eq!(cluster.world.moved.load(Ordering::SeqCst), 0);
}

#[test]
fn a_table_with_a_silo_nobody_knows_is_refused() {
    let silo = SiloEntry { incarnation: 1, name: "a".into(), address: "a:1".into() };
    let table = SlotTable { version: 1, slots: 1, silos: vec![silo], owners: vec![Some(1)] };
    let client = Client::builder("").build();
    assert_eq!(client.learn(table).unwrap_err().kind(), ErrorKind::Codec);
}
