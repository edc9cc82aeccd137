//! One connection: opened, used until it breaks, opened again.

use std::time::Duration;

use granary_cluster::Reply;
use granary_core::{Error, ErrorKind, Ran, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisError, Value};

use super::encode::{Encoded, unreadable};
use super::job::{Job, Read};
use super::server::{SCRIPTS, Server, hello};
use super::shared::Shared;

/// An open connection and the server behind it.
#[derive(Clone)]
pub struct Link {
    connection: MultiplexedConnection,
    pub server: Server,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It was answered, if only with a refusal.
    Good,
    /// The connection is of no more use.
    Broken,
}

impl Link {
    /// Connects and checks the server; the cluster's record is not looked at yet.
    pub async fn open(shared: &Shared) -> Result<Link> {
        let options = &shared.options;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(options.connect_max))
            .set_response_timeout(Some(options.reply_max));
        let opening = shared.client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = opening.await.map_err(|e| away(shared, &e))?;
        let hello = hello(&shared.keys);
        let answers = connection.send_packed_commands(&hello, 0, hello.len());
        let answers = tokio::time::timeout(options.connect_max, answers).await;
        let answers =
            answers.map_err(|_| silent(shared, options.connect_max))?.map_err(|e| away(shared, &e))?;
        if let Some(Value::ServerError(error)) = answers.first() {
            return Err(away(shared, &RedisError::from(error.clone())));
        }
        let server = Server::read(answers, options)?;
        Ok(Link { connection, server })
    }

    /// Sends one pipeline that is not for a slot.
    pub async fn ask(&self, shared: &Shared, pipeline: &Pipeline) -> Result<Vec<Value>> {
        let mut connection = self.connection.clone();
        let answers = connection.send_packed_commands(pipeline, 0, pipeline.len()).await;
        let answers = answers.map_err(|e| away(shared, &e))?;
        answers.into_iter().map(|answer| answer.extract_error().map_err(|e| away(shared, &e))).collect()
    }

    /// Carries a request out and answers it.
    pub async fn carry_out(self, shared: &Shared, job: Job) -> Health {
        match job {
            Job::Scripts(scripts, answer) => {
                let (replies, health) = self.scripts(shared, &scripts).await;
                answer.give(replies);
                health
            }
            Job::Read(pipeline, tell) => {
                let run = self.server.run;
                let longest = shared.options.read_max;
                let (values, health) = match tokio::time::timeout(longest, self.send(pipeline)).await {
                    Ok(Ok(Some(values))) => (Ok(Read { values, run }), Health::Good),
                    Ok(Ok(None)) => (Err(replaced(shared)), Health::Broken),
                    Ok(Err(error)) => (Err(away(shared, &error)), health_after(&error)),
                    // Whoever asks next must not wait as long.
                    Err(_) => (Err(silent(shared, longest)), Health::Broken),
                };
                // The reader may have given up.
                drop(tell.send(values));
                health
            }
        }
    }

    /// Sends a pipeline; `None` when the server that answered was no longer the one this connection was opened to.
    async fn send(&self, mut pipeline: Pipeline) -> std::result::Result<Option<Vec<Value>>, RedisError> {
        pipeline.cmd("INFO").arg("replication");
        let mut connection = self.connection.clone();
        let mut answers = connection.send_packed_commands(&pipeline, 0, pipeline.len()).await?;
        drop(pipeline);
        if !answers.pop().is_some_and(|info| self.server.is_still(&info)) {
            return Ok(None);
        }
        answers.into_iter().map(Value::extract_error).collect::<std::result::Result<_, _>>().map(Some)
    }

    /// Runs scripts; the script is loaded again where a server has forgotten it, then nothing of the call had run.
    async fn scripts(&self, shared: &Shared, scripts: &Encoded) -> (Result<Vec<Reply>>, Health) {
        let mut replies = Vec::with_capacity(scripts.calls().len());
        let mut sent = self.call(shared, scripts, &mut replies).await;
        if matches!(&sent, Err(error) if error.code() == Some("NOSCRIPT")) {
            replies.clear();
            let mut load = Cmd::new();
            load.arg("SCRIPT").arg("LOAD").arg(SCRIPTS);
            let loaded = self.connection.clone().send_packed_command(&load).await;
            sent = match loaded.and_then(Value::extract_error) {
                Ok(_) => self.call(shared, scripts, &mut replies).await,
                Err(error) => Err(error),
            };
        }
        match sent {
            Ok(Some(Ok(()))) => (Ok(replies), Health::Good),
            Ok(Some(Err(error))) => (Err(error), Health::Good),
            Ok(None) => (Err(replaced(shared).ran(Ran::Unknown)), Health::Broken),
            Err(error) => (Err(away(shared, &error).ran(Ran::Unknown)), health_after(&error)),
        }
    }

    async fn call(
        &self,
        shared: &Shared,
        scripts: &Encoded,
        replies: &mut Vec<Reply>,
    ) -> std::result::Result<Option<Result<()>>, RedisError> {
        let calls = scripts.calls();
        let run = self.server.run.0.to_string();
        let mut pipeline = Pipeline::with_capacity(calls.len() + 2);
        for call in calls {
            pipeline.add_command(call.command(&self.server.sha, &run));
        }
        let wanted = shared.options.wait_replicas;
        if wanted > 0 {
            pipeline.cmd("WAIT").arg(wanted).arg(shared.options.wait_max.as_millis() as u64);
        }
        let Some(mut answers) = self.send(pipeline).await? else { return Ok(None) };
        if wanted > 0
            && let Err(error) = replicated(answers.pop(), wanted)
        {
            return Ok(Some(Err(error)));
        }
        if answers.len() != calls.len() {
            return Ok(Some(Err(unreadable())));
        }
        Ok(Some(calls.iter().zip(answers).try_for_each(|(call, answer)| call.read(answer, replies))))
    }
}

fn replicated(answer: Option<Value>, wanted: u32) -> Result<()> {
    match answer {
        Some(Value::Int(have)) if have >= i64::from(wanted) => Ok(()),
        Some(Value::Int(have)) => Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "{have} of {wanted} replicas have the commit: bring replicas of the Redis server back, or lower \
                 wait_replicas"
            ),
        )
        .ran(Ran::Unknown)),
        _ => Err(unreadable()),
    }
}

/// Whether a connection can be used after this.
fn health_after(error: &RedisError) -> Health {
    let is_readonly = matches!(error.code(), Some("READONLY" | "MASTERDOWN"));
    let is_broken = error.is_unrecoverable_error() || error.is_timeout() || error.is_io_error();
    if is_broken || is_readonly { Health::Broken } else { Health::Good }
}

/// What a failure means, with what to do.
fn away(shared: &Shared, error: &RedisError) -> Error {
    let address = &shared.address;
    let remedy = match error.code() {
        Some("OOM") => "it is out of memory: raise its maxmemory, or let pipelines keep less",
        Some("MISCONF") => "it cannot write to its disk: make room there",
        Some("READONLY" | "MASTERDOWN") => "it is a replica now: give the address of its master",
        Some("LOADING") => "it is still loading its data: wait for it",
        Some("NOAUTH" | "WRONGPASS" | "NOPERM") => {
            "name a user and a password in the address that may do this"
        }
        Some("NOREPLICAS") => "too few replicas are connected: bring them back",
        Some("BUSY") => "a script holds it: end that with SCRIPT KILL",
        _ if error.is_timeout() => "it did not answer in time: is it overloaded or stopped?",
        _ => "start it, or check address and network",
    };
    Error::new(ErrorKind::Unavailable, format!("the Redis server at {address}: {error}; {remedy}"))
}

fn replaced(shared: &Shared) -> Error {
    let message = format!(
        "the Redis server at {} was made a replica, or has another history than before: give the address of the master",
        shared.address
    );
    Error::new(ErrorKind::Unavailable, message)
}

fn silent(shared: &Shared, longest: Duration) -> Error {
    let address = &shared.address;
    let message = format!(
        "the Redis server at {address} did not answer within {longest:?}: is it overloaded or stopped?"
    );
    Error::new(ErrorKind::Unavailable, message)
}
