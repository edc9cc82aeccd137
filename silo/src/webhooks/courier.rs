//! Does for one endpoint what its grain says: offers it alerts, makes attempts, tells what came of them.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_alerts::endpoint::{Attempt, Endpoint, EndpointRef, Offer, Order, Outcome, Plan, Step};
use granary_alerts::queue::{Place, QUEUE_MAX};
use granary_alerts::retry::Answer;
use granary_alerts::send::{Sender, Told, Webhook};
use granary_core::cloud::Head;
use granary_core::{ErrorKind, Result, Timestamp};
use granary_engine::Handle;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Shared;
use super::topic::{Alert, Topic};

/// How often a courier asks whether somebody has changed the endpoint.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long it rests after something did not work.
const REST: Duration = Duration::from_millis(500);
/// Alerts looked at that are not for the endpoint are noted when there are so many of them: until then a crash has them
/// looked at again.
const LOOKED_MAX: u64 = 1_000;
/// How long answers under way are waited for when it stops.
const LAST_MAX: Duration = Duration::from_secs(1);

/// One endpoint's courier.
pub(super) struct Courier {
    name: Arc<str>,
    shared: Shared,
    topic: Arc<Topic>,
    stopped: watch::Receiver<bool>,
    news: watch::Receiver<u64>,
    order: Option<Arc<Order>>,
    plan: Plan,
    /// Where it goes on reading, which is beyond what the endpoint has noted.
    next: BTreeMap<u32, u64>,
    /// Alerts that were offered and may be asked for.
    held: HashMap<Place, Arc<Alert>>,
    under_way: JoinSet<Done>,
    pings: Option<String>,
    step: Step,
}

/// What came of something under way.
enum Done {
    Attempt(Outcome),
    Ping(String, Told),
}

impl Courier {
    pub(super) fn new(
        name: &str,
        shared: Shared,
        topic: Arc<Topic>,
        stopped: watch::Receiver<bool>,
    ) -> Courier {
        let news = topic.news();
        Courier {
            name: name.into(),
            shared,
            topic,
            stopped,
            news,
            order: None,
            plan: Plan::default(),
            next: BTreeMap::new(),
            held: HashMap::new(),
            under_way: JoinSet::new(),
            pings: None,
            step: Step::default(),
        }
    }

    /// Goes on until it is stopped or the endpoint is removed.
    pub(super) async fn run(mut self) {
        while !*self.stopped.borrow() {
            match self.round().await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => return,
                Err(error) => {
                    tracing::warn!(endpoint = &*self.name, %error, "the endpoint cannot be served at present");
                    self.order = None; // ask anew: somebody else may have done something
                    tokio::time::sleep(REST).await;
                }
            }
        }
        // what is answered now need not be sent again
        let last = async {
            while let Some(done) = self.under_way.join_next().await {
                self.hear(done);
            }
        };
        drop(tokio::time::timeout(LAST_MAX, last).await);
        if !self.step.outcomes.is_empty() {
            drop(self.tell().await);
        }
    }

    async fn round(&mut self) -> Result<()> {
        if self.order.is_none() {
            self.ask_for_order().await?;
            self.step.offers.clear();
            self.step.looked.clear();
            self.tell().await?;
        }
        self.hear_all();
        self.read().await?;
        if self.has_something_to_tell() {
            self.tell().await?;
            return Ok(());
        }
        self.wait().await
    }

    fn endpoint(&self) -> Result<EndpointRef<Handle>> {
        Ok(self.shared.current.lanes()?.grain::<Endpoint>(&*self.name))
    }

    async fn ask_for_order(&mut self) -> Result<()> {
        self.order = Some(Arc::new(self.endpoint()?.order().await?));
        self.next.clear(); // filters may be others now
        Ok(())
    }

    /// Reads on, as far as there is room, and keeps what is for the endpoint.
    async fn read(&mut self) -> Result<()> {
        let Some(order) = self.order.clone() else { return Ok(()) };
        self.news.mark_unchanged();
        for partition in 0..self.topic.partitions() {
            if self.step.offers.len() >= self.plan.room {
                return Ok(());
            }
            let from = self.next.get(&partition).or(self.plan.taken.get(&partition)).copied().unwrap_or(0);
            let (alerts, next) = self.topic.read(partition, from).await?;
            let mut reached = next;
            for alert in alerts {
                if !order.settings.wants(&alert.head) {
                    continue;
                }
                if self.step.offers.len() >= self.plan.room {
                    reached = alert.at.offset; // it stays on the topic
                    break;
                }
                let (id, key) = (alert.head.id.clone(), alert.head.key.clone());
                self.step.offers.push(Offer { id, key, at: alert.at });
                self.held.insert(alert.at, alert);
            }
            self.next.insert(partition, reached);
            self.step.looked.insert(partition, reached);
        }
        Ok(())
    }

    fn has_something_to_tell(&self) -> bool {
        let Step { offers, looked, outcomes, pong, .. } = &self.step;
        let noted = |partition: &u32| self.plan.taken.get(partition).copied().unwrap_or(0);
        let has_looked_far = looked.iter().any(|(p, next)| next.saturating_sub(noted(p)) >= LOOKED_MAX);
        let is_due = self.plan.wakes_at.is_some_and(|at| at <= self.shared.clock.now());
        !offers.is_empty() || !outcomes.is_empty() || pong.is_some() || has_looked_far || is_due
    }

    /// Waits until there may be something to do, and finds out what.
    async fn wait(&mut self) -> Result<()> {
        let now = self.shared.clock.now();
        let due = self.plan.wakes_at.map_or(LOOK_EVERY, |at| Duration::from_millis(at.since(now).ms()));
        let has_room = self.plan.room > 0;
        let mut is_late = false;
        let done = tokio::select! {
            biased;
            _ = self.stopped.changed() => None,
            Some(done) = self.under_way.join_next() => Some(done),
            _ = self.news.changed(), if has_room => None,
            () = tokio::time::sleep(due.min(LOOK_EVERY)) => {
                is_late = true;
                None
            }
        };
        if let Some(done) = done {
            self.hear(done);
        }
        if is_late {
            let changes = self.endpoint()?.changes().await?;
            self.order.take_if(|order| order.changes != changes);
        }
        Ok(())
    }

    /// Hears of everything that has ended.
    fn hear_all(&mut self) {
        while let Some(done) = self.under_way.try_join_next() {
            self.hear(done);
        }
    }

    fn hear(&mut self, done: std::result::Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Attempt(outcome)) => self.step.outcomes.push(outcome),
            Ok(Done::Ping(id, told)) => {
                self.pings = None;
                self.step.pong = Some((id, told.answer, told.words));
            }
            Err(error) => tracing::error!(endpoint = &*self.name, %error, "an attempt ended with a panic"),
        }
    }

    /// Tells the endpoint what there is to tell, and does what it says.
    async fn tell(&mut self) -> Result<()> {
        self.step.chance = RandomState::new().hash_one(());
        let plan = self.endpoint()?.step(self.step.clone()).await?;
        self.step = Step::default();
        self.shared.totals.stands(&self.name, plan.standing);
        if let Some(why) = plan.disabled {
            tracing::warn!(endpoint = &*self.name, %why, "the endpoint is disabled: alerts wait on their topic until it is enabled");
        }
        // somebody may have rotated a secret since: what is sent now is signed by those of now
        if self.order.as_ref().is_some_and(|order| order.changes != plan.changes) {
            self.ask_for_order().await?;
        }
        for attempt in &plan.attempts {
            self.begin(attempt);
        }
        if let Some(id) = plan.ping.clone().filter(|id| self.pings.as_ref() != Some(id)) {
            self.begin_ping(id);
        }
        if plan.room == 0 {
            self.next.clear(); // it goes on where the endpoint has got to
        }
        if self.held.len() > QUEUE_MAX {
            self.held.clear(); // another courier was asked for them; what is not here is read from the topic
        }
        self.plan = plan;
        Ok(())
    }

    fn begin(&mut self, attempt: &Attempt) {
        let Some(order) = self.order.clone() else { return };
        let (topic, shared, held) = (self.topic.clone(), self.shared.clone(), self.held.remove(&attempt.at));
        let Attempt { id, at, .. } = attempt.clone();
        self.under_way.spawn(async move {
            let alert = match held {
                Some(alert) => Ok(Some(alert)),
                None => topic.fetch(at).await,
            };
            let (told, alert) = match alert {
                Ok(Some(alert)) => {
                    let webhook = Webhook { id: id.clone(), body: alert.body.clone() };
                    (send(&shared, &order, &webhook).await, Some(alert))
                }
                Ok(None) => {
                    (Told { answer: Answer::Lost, words: "its topic is kept too short".into() }, None)
                }
                Err(error) => (Told { answer: Answer::Broken, words: error.to_string() }, None),
            };
            shared.totals.note(told.answer);
            let alert = alert.filter(|_| !told.answer.is_taken());
            let alert = alert.map(|alert| String::from_utf8_lossy(&alert.body).into_owned());
            Done::Attempt(Outcome { id, answer: told.answer, words: told.words, alert })
        });
    }

    fn begin_ping(&mut self, id: String) {
        let Some(order) = self.order.clone() else { return };
        self.pings = Some(id.clone());
        let (shared, name) = (self.shared.clone(), self.name.clone());
        self.under_way.spawn(async move {
            let body = ping(&name, &id, shared.clock.now());
            let webhook = Webhook { id: id.as_str().into(), body };
            let told = send(&shared, &order, &webhook).await;
            shared.totals.note(told.answer);
            Done::Ping(id, told)
        });
    }
}

async fn send(shared: &Shared, order: &Order, webhook: &Webhook) -> Told {
    let Shared { sender, clock, .. } = shared;
    Sender::send(sender, webhook, &order.settings, &order.secrets, clock.now()).await
}

/// A question whether somebody is there.
fn ping(name: &str, id: &str, now: Timestamp) -> Bytes {
    let head = Head {
        kind: "webhook.ping",
        id,
        source: format!("/webhooks/endpoints/{name}"),
        subject: format!("endpoint/{name}"),
        time: now,
        key: None,
        gravity: None,
    };
    Bytes::from(head.with(json!({"endpoint": name})).to_string())
}
