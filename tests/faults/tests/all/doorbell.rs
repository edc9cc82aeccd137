//! A grain of a few lines: called from a program, from a shell, and there again with its state after a restart.

use granary::client::Client;
use granary_faults::kinds::Doorbell;
use serde_json::json;

use crate::kit::{self, Silo};

#[tokio::test]
async fn a_small_grain_is_called_and_survives_a_restart_and_a_kill() {
    let directory = tempfile::tempdir().expect("a directory");
    let configuration = kit::configuration(directory.path(), None);
    let silo = Silo::start(&configuration);
    let client = Client::connect(&silo.address).await.expect("a connection");
    let door = client.grain::<Doorbell>("front");
    assert_eq!(door.ring("Ada".into()).await.expect("an answer"), 1);
    assert_eq!(silo.call(&["Doorbell/front", "ring", "{\"who\": \"Grace\"}"]), json!(2));
    assert_eq!(door.last().await.expect("an answer"), "Grace");
    drop(client);
    assert_eq!(silo.stop(), Some(0), "a silo that is asked to stop ends well");

    let silo = Silo::start(&configuration);
    assert_eq!(silo.call(&["Doorbell/front", "last"]), json!("Grace"));
    assert_eq!(silo.call(&["Doorbell/front", "ring", "\"Linus\""]), json!(3));
    silo.kill();
    let silo = Silo::start(&configuration);
    let client = Client::connect(&silo.address).await.expect("a connection");
    assert_eq!(client.grain::<Doorbell>("front").last().await.expect("an answer"), "Linus");
    assert_eq!(client.grain::<Doorbell>("back").last().await.expect("an answer"), "", "another grain");
}
