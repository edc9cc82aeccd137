//! `granary endpoints replay`: alerts that an endpoint was not told of, or has lost, again.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use granary_alerts::endpoint::{DEAD, Offer};
use granary_alerts::queue::{Place, QUEUE_MAX};
use granary_alerts::settings::Head;
use granary_client::Start;
use granary_core::{Result, Timestamp};
use serde::Deserialize;
use serde_json::json;

use super::super::replay::time;
use super::super::{NO, YES};
use super::{Say, named};

/// A stream that says nothing for so long before its end says nothing more: what is left there are marks of transactions.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// Alerts offered in one call.
const OFFERS_MAX: usize = 500;

#[derive(Args)]
pub(super) struct ReplayArguments {
    /// The endpoint
    name: String,
    /// The alert of this id, whatever became of it
    #[arg(long, conflicts_with_all = ["since", "until", "all"])]
    id: Option<String>,
    /// Only its dead letters from then on, else all of them: ms since 1970, or such as 2026-01-31T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Up to then
    #[arg(long, value_name = "TIME", value_parser = time, requires = "since")]
    until: Option<Timestamp>,
    /// Every alert of that time that is for it, not only its dead letters
    #[arg(long)]
    all: bool,
}

/// What a dead letter says of its alert.
#[derive(Deserialize)]
struct Letter {
    endpoint: String,
    id: Box<str>,
    at: i64,
    partition: u32,
    offset: u64,
}

impl Say {
    pub(super) async fn replay(&self, replay: ReplayArguments) -> Result<u8> {
        let ReplayArguments { name, id, since, until, all } = replay;
        let about = self.of(&name).about().await.map_err(|error| named(&name, error))?;
        let (since, until) = (since.unwrap_or(Timestamp::MIN), until.unwrap_or(Timestamp::MAX));
        let mut found: BTreeMap<Place, Offer> = BTreeMap::new();
        if all || id.is_some() {
            self.read(granary_core::cx::ALERTS, |at, value| {
                let Some(head) = Head::read(value) else { return };
                let is_asked_for = match &id {
                    Some(id) => **id == *head.id,
                    None => about.settings.wants(&head) && is_within(value, since, until),
                };
                if is_asked_for {
                    found.insert(at, Offer { id: head.id, key: head.key, at });
                }
            })
            .await?;
        } else {
            self.read(DEAD, |_, value| {
                let Ok(letter) = serde_json::from_slice::<Letter>(value) else { return };
                let when = Timestamp(letter.at);
                if letter.endpoint == name && when >= since && when < until {
                    let at = Place { partition: letter.partition, offset: letter.offset };
                    found.insert(at, Offer { id: letter.id, key: "".into(), at });
                }
            })
            .await?;
        }
        let offers: Vec<Offer> = found.into_values().collect();
        let mut taken = 0;
        for some in offers.chunks(OFFERS_MAX) {
            let now = self.of(&name).again(some.to_vec()).await.map_err(|error| named(&name, error))?;
            taken += now;
            if now < some.len() as u64 {
                break;
            }
        }
        self.tell_replayed(&name, taken, offers.len() as u64)
    }

    fn tell_replayed(&self, name: &str, taken: u64, found: u64) -> Result<u8> {
        if self.json {
            say!("{}", json!({"endpoint": name, "found": found, "replayed": taken}));
        } else if found == 0 {
            say!("endpoint {name}: there is nothing to replay");
        } else if taken < found {
            say!(
                "endpoint {name}: {taken} of {found} alerts are sent again; no more than {QUEUE_MAX} may wait: \
                 say it again when they are delivered"
            );
        } else {
            say!("endpoint {name}: {taken} alerts are sent again, under their ids");
        }
        Ok(if found > 0 && taken == found { YES } else { NO })
    }

    /// The records of a stream that are there now.
    async fn read(&self, stream: &str, mut each: impl FnMut(Place, &[u8])) -> Result<()> {
        let ends = self.ends(stream).await?;
        let mut left: BTreeMap<u32, u64> = ends.into_iter().filter(|(_, end)| *end > 0).collect();
        let mut tail = self.client.tail(stream, Start::Earliest).await?;
        while !left.is_empty() {
            let Ok(next) = tokio::time::timeout(SILENCE_MAX, tail.next()).await else { break };
            let Some(record) = next else { break };
            let record = record?;
            let at = Place { partition: record.partition, offset: record.offset };
            match left.get(&at.partition) {
                Some(end) if at.offset + 1 >= *end => drop(left.remove(&at.partition)),
                Some(_) => {}
                None => continue, // it came after we had asked
            }
            each(at, &record.value);
        }
        Ok(())
    }
}

/// Whether an alert is of that time: of its event, as the alert says.
fn is_within(value: &[u8], since: Timestamp, until: Timestamp) -> bool {
    #[derive(Deserialize)]
    struct Event {
        time: String,
    }
    let time =
        serde_json::from_slice::<Event>(value).ok().and_then(|e| granary_streams::file::rfc3339(&e.time));
    time.is_some_and(|time| time >= since && time < until)
}
