//! `granary endpoints`: webhooks, for those who run them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use granary_alerts::endpoint::{About, Endpoint, EndpointRef, Ping, in_words};
use granary_alerts::endpoints::{ALL, Endpoints, EndpointsRef};
use granary_alerts::queue::Manner;
use granary_alerts::retry::Answer;
use granary_alerts::settings::{JSON, Settings, check_name};
use granary_alerts::sign::Secret;
use granary_client::Client;
use granary_core::cx::ALERTS;
use granary_core::{Error, ErrorKind, Result, Span, codec};
use granary_streams::rules::Severity;
use serde_json::{Value, json};

use super::online::At;
use super::{NO, YES, block_on};
use crate::webhooks::{new_secret, random};

mod replay;

/// How long the answer to a ping is waited for: an attempt, and the way there and back.
const PING_WAIT: Duration = Duration::from_secs(45);
/// How often it is asked for.
const PING_LOOK: Duration = Duration::from_millis(100);

#[derive(Args)]
pub(crate) struct EndpointsArguments {
    #[command(subcommand)]
    command: EndpointsCommand,
    #[command(flatten)]
    at: At,
}

#[derive(Subcommand)]
enum EndpointsCommand {
    /// Tell a server of alerts from now on. Its secret is printed once; a signed ping has to be answered first
    Add(Box<AddArguments>),
    /// Print the endpoints and how they stand
    List,
    /// Send a signed ping and say what was answered
    Test(NameArguments),
    /// Sign with another secret, which is printed once; the old one signs too for a while
    Rotate(RotateArguments),
    /// Tell an endpoint again: one alert by its id, or its dead letters of a time
    Replay(replay::ReplayArguments),
    /// Tell an endpoint nothing any more; alerts wait until it is enabled
    Disable(NameArguments),
    /// Tell a disabled endpoint again: first what has waited
    Enable(EnableArguments),
    /// Forget an endpoint and all that waits for it
    Remove(NameArguments),
}

#[derive(Args)]
struct NameArguments {
    /// The endpoint
    name: String,
}

#[derive(Args)]
struct AddArguments {
    /// Its name: letters, digits, `-`, `_` and `.`
    name: String,
    /// Where it is: https://...
    url: String,
    /// Only alerts of these types, such as fraud.alert.raised or webhook.*
    #[arg(long, value_delimiter = ',')]
    types: Vec<String>,
    /// Only alerts of these rules
    #[arg(long, value_delimiter = ',')]
    rules: Vec<String>,
    /// Only alerts at least as severe
    #[arg(long, value_parser = ["info", "low", "medium", "high", "critical"], default_value = "info")]
    min_severity: String,
    /// Attempts a second
    #[arg(long, default_value_t = Manner::default().rate)]
    rate: u32,
    /// Attempts at once after a silence
    #[arg(long, default_value_t = Manner::default().burst)]
    burst: u32,
    /// Attempts under way at the same time
    #[arg(long, default_value_t = Manner::default().concurrency)]
    concurrency: usize,
    /// strict: alerts of a key one after the other, a failed one before the next
    #[arg(long, value_parser = ["none", "strict"], default_value = "none")]
    ordering: String,
    /// How long an attempt may take, in seconds
    #[arg(long, default_value_t = 15)]
    timeout_s: u64,
    /// What the body is called
    #[arg(long, default_value = JSON)]
    content_type: String,
    /// A header of your own; once for each
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Sign with this secret (whsec_... or whsk_...) instead of a new one
    #[arg(long, env = "GRANARY_ENDPOINT_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// Sign with a key pair of which the server knows the public half only
    #[arg(long, conflicts_with = "secret")]
    ed25519: bool,
    /// Begin with the first alert that is kept, not with the next one
    #[arg(long)]
    from_start: bool,
}

#[derive(Args)]
struct RotateArguments {
    /// The endpoint
    name: String,
    /// How long the old secret signs too, in hours
    #[arg(long, default_value_t = 24)]
    overlap_h: u64,
    /// Sign with this secret (whsec_... or whsk_...) instead of a new one
    #[arg(long, env = "GRANARY_ENDPOINT_SECRET", hide_env_values = true)]
    secret: Option<String>,
}

#[derive(Args)]
struct EnableArguments {
    /// The endpoint
    name: String,
    /// Leave out what came while it was disabled
    #[arg(long)]
    from_now: bool,
}

pub(crate) fn endpoints(arguments: EndpointsArguments, json: bool) -> Result<u8> {
    let EndpointsArguments { command, at } = arguments;
    block_on(async {
        let client = at.connect().await?;
        let say = Say { client, json };
        match command {
            EndpointsCommand::Add(add) => say.add(*add).await,
            EndpointsCommand::List => say.list().await,
            EndpointsCommand::Test(of) => say.test(&of.name).await,
            EndpointsCommand::Rotate(rotate) => say.rotate(rotate).await,
            EndpointsCommand::Replay(replay) => say.replay(replay).await,
            EndpointsCommand::Disable(of) => say.done(&of.name, "disabled", say.of(&of.name).disable().await),
            EndpointsCommand::Enable(enable) => say.enable(enable).await,
            EndpointsCommand::Remove(of) => say.remove(&of.name).await,
        }
    })
}

/// The commands, with a way to the cluster.
struct Say {
    client: Client,
    json: bool,
}

impl Say {
    fn of(&self, name: &str) -> EndpointRef<Client> {
        self.client.grain::<Endpoint>(name)
    }

    fn all(&self) -> EndpointsRef<Client> {
        self.client.grain::<Endpoints>(ALL)
    }

    fn done(&self, name: &str, what: &str, done: Result<()>) -> Result<u8> {
        done.map_err(|error| named(name, error))?;
        if self.json {
            say!("{}", json!({"endpoint": name, "done": what}));
        } else {
            say!("endpoint {name}: {what}");
        }
        Ok(YES)
    }

    async fn add(&self, add: AddArguments) -> Result<u8> {
        check_name(&add.name).map_err(Error::invalid)?;
        let secret = match (&add.secret, add.ed25519) {
            (Some(secret), _) => Secret::parse(secret).map_err(|error| Error::invalid(error.to_string()))?,
            (None, is_pair) => new_secret(is_pair)?,
        };
        let settings = settings(&add);
        settings.check().map_err(Error::invalid)?;
        let from = if add.from_start { BTreeMap::new() } else { self.ends(ALERTS).await? };
        let made = self.of(&add.name).create(settings, secret.reveal(), from).await;
        made.map_err(|error| named(&add.name, error))?;
        self.all().add(add.name.clone()).await?;
        let (id, answer) = self.ping(&add.name).await?;
        if let Some((Answer::Refused, why)) = answer {
            // nothing can ever be sent there: it is not kept
            self.of(&add.name).remove().await?;
            self.all().remove(add.name.clone()).await?;
            return Err(Error::invalid(format!("endpoint {} is not added: {why}", add.name)));
        }
        if self.json {
            say!(
                "{}",
                json!({"endpoint": add.name, "secret": secret.reveal(), "verifies_with": secret.verifies_with()})
            );
        } else {
            say!("endpoint {} is added. Give its server this, it is shown only now:", add.name);
            say!("  {}", secret.verifies_with());
        }
        Ok(self.tell_ping(&add.name, &id, answer))
    }

    /// The end of each partition of a stream.
    async fn ends(&self, stream: &str) -> Result<BTreeMap<u32, u64>> {
        let stream = codec::to_bytes(&stream)?;
        codec::from_bytes(&self.client.ask("ends", &stream).await?)
    }

    async fn test(&self, name: &str) -> Result<u8> {
        let (id, answer) = self.ping(name).await?;
        Ok(self.tell_ping(name, &id, answer))
    }

    /// Sends a ping; its id, and the answer to it if one came in time.
    async fn ping(&self, name: &str) -> Result<(String, Option<(Answer, String)>)> {
        let id = format!("wp_{}", random_text()?);
        self.of(name).ping(id.clone()).await.map_err(|error| named(name, error))?;
        let began = Instant::now();
        loop {
            match self.of(name).about().await?.ping {
                Some(Ping { id: of, answer: Some(answer) }) if of == id => return Ok((id, Some(answer))),
                _ if began.elapsed() > PING_WAIT => return Ok((id, None)),
                _ => tokio::time::sleep(PING_LOOK).await,
            }
        }
    }

    fn tell_ping(&self, name: &str, id: &str, answer: Option<(Answer, String)>) -> u8 {
        let is_taken = answer.as_ref().is_some_and(|(answer, _)| answer.is_taken());
        let words = match answer {
            Some((answer, words)) => in_words(answer, &words),
            None => format!("no silo has sent it within {} s: does one run?", PING_WAIT.as_secs()),
        };
        if self.json {
            say!("{}", json!({"endpoint": name, "ping": id, "taken": is_taken, "answer": words}));
        } else if is_taken {
            say!("endpoint {name}: the ping {id} was answered with {words}");
        } else {
            say!("endpoint {name}: the ping {id} was not taken: {words}");
            say!("  no alert is sent there before one is: mend it, then `granary endpoints test {name}`");
        }
        if is_taken { YES } else { NO }
    }

    async fn rotate(&self, rotate: RotateArguments) -> Result<u8> {
        let secret = match &rotate.secret {
            Some(secret) => Secret::parse(secret).map_err(|error| Error::invalid(error.to_string()))?,
            None => new_secret(false)?,
        };
        let overlap = granary_core::time::hours(rotate.overlap_h);
        let rotated = self.of(&rotate.name).rotate(secret.reveal(), overlap).await;
        rotated.map_err(|error| named(&rotate.name, error))?;
        if self.json {
            let known = secret.verifies_with();
            say!("{}", json!({"endpoint": rotate.name, "secret": secret.reveal(), "verifies_with": known}));
        } else {
            say!(
                "endpoint {} signs with another secret. Give its server this, it is shown only now:",
                rotate.name
            );
            say!("  {}", secret.verifies_with());
            say!("the old one signs, too, for {} h", rotate.overlap_h);
        }
        Ok(YES)
    }

    async fn enable(&self, enable: EnableArguments) -> Result<u8> {
        let from = if enable.from_now { Some(self.ends(ALERTS).await?) } else { None };
        let enabled = self.of(&enable.name).enable(from).await;
        self.done(&enable.name, "enabled", enabled)
    }

    async fn remove(&self, name: &str) -> Result<u8> {
        let removed = self.of(name).remove().await;
        let was_listed = self.all().remove(name.to_owned()).await?;
        // one that was made and never listed, or the other way round, is gone as well
        let removed = removed.or_else(|error| if was_listed { Ok(()) } else { Err(error) });
        self.done(name, "removed", removed)
    }

    async fn list(&self) -> Result<u8> {
        for name in self.all().names().await? {
            match self.of(&name).about().await {
                Ok(about) if self.json => say!("{}", row(&name, &about)),
                Ok(about) => tell(&name, &about),
                Err(error) if error.kind() == ErrorKind::NotFound => {} // it is being removed
                Err(error) => return Err(error),
            }
        }
        Ok(YES)
    }
}

fn settings(add: &AddArguments) -> Settings {
    let manner = Manner {
        rate: add.rate,
        burst: add.burst,
        concurrency: add.concurrency,
        is_strict: add.ordering == "strict",
    };
    // what has no severity is for everybody who does not ask for more than the least
    let least = Severity::named(&add.min_severity).filter(|severity| *severity != Severity::Info);
    let severity_min = least.map_or(0, |severity| u64::from(severity.number()));
    Settings {
        types: add.types.clone(),
        rules: add.rules.clone(),
        severity_min,
        manner,
        timeout: Span(add.timeout_s.saturating_mul(1_000)),
        content_type: add.content_type.clone(),
        headers: add.header.iter().cloned().collect(),
        ..Settings::to(&add.url)
    }
}

/// In one word.
fn state(about: &About) -> &'static str {
    let standing = &about.standing;
    match (standing.disabled, standing.is_verified, standing.is_open) {
        (Some(_), ..) => "disabled",
        (None, false, _) => "unverified",
        (None, true, true) => "failing",
        (None, true, false) => "on",
    }
}

fn row(name: &str, about: &About) -> Value {
    let standing = &about.standing;
    json!({
        "endpoint": name,
        "url": about.settings.url,
        "state": state(about),
        "disabled": standing.disabled.map(|why| why.to_string()),
        "waiting": standing.waiting,
        "oldest": standing.oldest.map(|at| at.ms()),
        "delivered": standing.delivered,
        "dead": standing.buried,
        "secrets": about.secrets,
        "last_failure": about.last_failure.as_ref().map(|failure| json!({"at": failure.at.ms(), "what": failure.what})),
    })
}

fn tell(name: &str, about: &About) {
    let standing = &about.standing;
    say!(
        "{name}  {}  {} delivered, {} waiting, {} dead  {}",
        state(about),
        standing.delivered,
        standing.waiting,
        standing.buried,
        about.settings.url
    );
    if let Some(why) = standing.disabled {
        say!("  {why}; `granary endpoints enable {name}` when it is mended");
    }
    if let Some(failure) = &about.last_failure {
        say!("  last failure {}: {}", failure.at.to_rfc3339(), failure.what);
    }
}

fn random_text() -> Result<String> {
    Ok(random()?[..13].iter().map(|byte| format!("{byte:02x}")).collect())
}

fn named(name: &str, error: Error) -> Error {
    let ran = error.did_run();
    let error_of = Error::new(error.kind(), format!("endpoint {name}: {}", error.message()));
    ran.map_or(error_of.clone(), |ran| error_of.ran(ran))
}

fn header(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("NAME: VALUE expected, such as `x-team: fraud`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
