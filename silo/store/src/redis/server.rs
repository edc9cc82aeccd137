//! What a connection learns first: which run of the server this is, and whether it keeps what was agreed.

use granary_cluster::RunId;
use granary_core::{Error, ErrorKind, Result};
use redis::{Pipeline, Value};
use xxhash_rust::xxh3::xxh3_64;

use super::encode::unreadable;
use super::keys::Keys;
use super::options::RedisOptions;
use crate::options::Durability;

/// The script on the server.
pub const SCRIPTS: &str = include_str!("scripts.lua");

/// Layout of rows and cells: another one takes another number.
const SCHEMA: u64 = 1;

/// The oldest server that has every command used here.
const VERSION_MIN: (u32, u32) = (6, 2);

/// A server as a new connection found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// This run of it.
    pub run: RunId,
    /// The id of its history: it is another after a time as a replica.
    pub history: String,
    /// The script's name.
    pub sha: String,
    /// The cluster's record: name, slots, schema.
    pub record: Option<[String; 3]>,
}

/// The first commands of every connection.
pub fn hello(keys: &Keys) -> Pipeline {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("INFO");
    for name in ["appendonly", "appendfsync", "maxmemory-policy"] {
        pipeline.cmd("CONFIG").arg("GET").arg(name);
    }
    pipeline.cmd("SCRIPT").arg("LOAD").arg(SCRIPTS);
    pipeline.cmd("HMGET").arg(keys.cluster()).arg(&["cluster", "slots", "schema"]);
    pipeline
}

impl Server {
    /// Reads the answers to [`hello`] and checks them.
    pub fn read(answers: Vec<Value>, options: &RedisOptions) -> Result<Server> {
        let [info, appendonly, appendfsync, policy, sha, record] =
            <[Value; 6]>::try_from(answers).map_err(|_| unreadable())?;
        let info: String = text("INFO", info)?;
        let (run, history) = check_info(&info)?;
        let settings = [setting(appendonly)?, setting(appendfsync)?, setting(policy)?];
        check_settings([&settings[0], &settings[1], &settings[2]], options.durability)?;
        let sha = text("SCRIPT LOAD", sha)?;
        let record: [Option<String>; 3] =
            redis::from_redis_value(record).map_err(|e| refused("HMGET", &e))?;
        let record = match record {
            [Some(cluster), Some(slots), Some(schema)] => Some([cluster, slots, schema]),
            _ => None,
        };
        Ok(Server { run, history, sha, record })
    }

    /// Whether it is still what it was, by an `INFO replication` that was answered after the commands it speaks for. A
    /// master that became a replica and a master again keeps its connections and its `run_id`, not its last writes.
    pub fn is_still(&self, replication: &Value) -> bool {
        let Value::BulkString(info) = replication else { return false };
        let info = String::from_utf8_lossy(info);
        field(&info, "role") == Some("master") && field(&info, "master_replid") == Some(&self.history)
    }

    /// Checks the cluster's record.
    pub fn check_record(&self, options: &RedisOptions) -> Result<()> {
        let Some([cluster, slots, schema]) = &self.record else {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "the record of cluster `{}` is gone: were the server's data deleted, or is it another server? \
                     restore them, or start this silo again to begin anew",
                    options.cluster
                ),
            ));
        };
        if *schema != SCHEMA.to_string() {
            return Err(Error::invalid(format!(
                "cluster `{cluster}` is stored in schema {schema}, this version of granary reads schema {SCHEMA}: \
                 run the version that wrote it, or choose another cluster name"
            )));
        }
        if *slots != options.slots.to_string() {
            return Err(Error::invalid(format!(
                "cluster `{cluster}` was created with {slots} slots, {} are configured: set slots = {slots} (the \
                 number is fixed), or choose another cluster name",
                options.slots
            )));
        }
        Ok(())
    }
}

/// Creates the cluster's record unless there is one.
pub fn create_record(keys: &Keys, options: &RedisOptions, run: RunId) -> Pipeline {
    const CREATE: &str = "if redis.call('EXISTS', KEYS[1]) == 0 then \
        redis.call('HSET', KEYS[1], 'cluster', ARGV[1], 'slots', ARGV[2], 'schema', ARGV[3], \
        'incarnation', '0', 'run', ARGV[4]) end return 'D'";
    let mut pipeline = Pipeline::new();
    pipeline.cmd("EVAL").arg(CREATE).arg(1).arg(keys.cluster());
    pipeline.arg(&options.cluster).arg(options.slots).arg(SCHEMA).arg(run.0.to_string());
    pipeline
}

/// Takes the next incarnation. A server that lost its last writes may have lost an incarnation that was given; under
/// another run the number leaps, differently for each run, so that none is given twice.
pub fn incarnate(keys: &Keys, run: RunId) -> Pipeline {
    const NEXT: &str = "local step = 1 \
        if redis.call('HGET', KEYS[1], 'run') ~= ARGV[1] then step = ARGV[2] end \
        redis.call('HSET', KEYS[1], 'run', ARGV[1]) \
        return redis.call('HINCRBY', KEYS[1], 'incarnation', step)";
    const LIVES_OF_A_RUN: u64 = 1_000;
    let leap = LIVES_OF_A_RUN * (1 + run.0 % 1_000_000);
    let mut pipeline = Pipeline::new();
    pipeline.cmd("EVAL").arg(NEXT).arg(1).arg(keys.cluster()).arg(run.0.to_string()).arg(leap);
    pipeline
}

/// Prefix of what is noted about a cluster, in its record.
const NOTED: &str = "noted/";

/// Asks what was noted about the cluster under this name.
pub fn noted(keys: &Keys, name: &str) -> Pipeline {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("HGET").arg(keys.cluster()).arg(format!("{NOTED}{name}"));
    pipeline
}

/// Notes something about the cluster, once.
pub fn note(keys: &Keys, name: &str, text: &str) -> Pipeline {
    const NOTE: &str =
        "redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) return redis.call('HGET', KEYS[1], ARGV[1])";
    let mut pipeline = Pipeline::new();
    pipeline.cmd("EVAL").arg(NOTE).arg(1).arg(keys.cluster()).arg(format!("{NOTED}{name}")).arg(text);
    pipeline
}

/// Notes something else about the cluster, if what was noted before is still there.
pub fn replace_note(keys: &Keys, name: &str, before: Option<&str>, text: &str) -> Pipeline {
    const REPLACE: &str = "if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end \
        redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) return 1";
    let mut pipeline = Pipeline::new();
    let command = pipeline.cmd("EVAL").arg(REPLACE).arg(1).arg(keys.cluster());
    command.arg(format!("{NOTED}{name}")).arg(before.unwrap_or_default()).arg(text);
    pipeline
}

/// A field of what `INFO` answers.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines().filter_map(|line| line.trim_end().split_once(':'));
    lines.find(|(found, _)| *found == name).map(|(_, value)| value)
}

/// The run and the history, if this server can be used.
fn check_info(info: &str) -> Result<(RunId, String)> {
    let field = |name| field(info, name);
    if field("loading").is_some_and(|loading| loading != "0") {
        return Err(Error::new(
            ErrorKind::Unavailable,
            "the Redis server is still loading its data: wait for it",
        ));
    }
    let version = field("redis_version").ok_or_else(unreadable)?;
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < VERSION_MIN {
        let (major, minor) = VERSION_MIN;
        return Err(Error::invalid(format!(
            "the Redis server has version {version}, {major}.{minor} or later is needed: upgrade it"
        )));
    }
    if field("cluster_enabled") == Some("1") {
        return Err(Error::invalid(
            "the Redis server runs in cluster mode, which is not supported: start it with cluster-enabled no",
        ));
    }
    if field("role") != Some("master") {
        return Err(Error::new(
            ErrorKind::Unavailable,
            "the Redis server is a replica: give the address of its master, or promote it",
        ));
    }
    let run = field("run_id").ok_or_else(unreadable)?;
    let history = field("master_replid").ok_or_else(unreadable)?;
    Ok((RunId(xxh3_64(format!("{run} {history}").as_bytes())), history.to_owned()))
}

fn check_settings([appendonly, appendfsync, policy]: [&str; 3], durability: Durability) -> Result<()> {
    let name = durability.name();
    let wrong = |setting: &str, found: &str, wanted: &str| {
        Err(Error::invalid(format!(
            "durability `{name}` needs `{setting} {wanted}`, the Redis server has `{setting} {found}`: run \
             `redis-cli CONFIG SET {setting} {wanted}` and set it in redis.conf"
        )))
    };
    if policy != "noeviction" {
        return wrong("maxmemory-policy", policy, "noeviction");
    }
    if durability != Durability::None && appendonly != "yes" {
        return wrong("appendonly", appendonly, "yes");
    }
    match (durability, appendfsync) {
        (Durability::Fsync, "always") | (Durability::None, _) => Ok(()),
        (Durability::Everysec, "always" | "everysec") => Ok(()),
        (Durability::Everysec, _) => wrong("appendfsync", appendfsync, "everysec"),
        (Durability::Fsync, _) => Err(Error::invalid(format!(
            "durability `fsync` needs `appendfsync always`, the Redis server has `appendfsync {appendfsync}`: run \
             `redis-cli CONFIG SET appendfsync always` and set it in redis.conf, or choose durability = everysec \
             (may lose up to 2 s of acknowledged calls)"
        ))),
    }
}

fn setting(answer: Value) -> Result<String> {
    let pair: Vec<String> = redis::from_redis_value(answer).map_err(|e| refused("CONFIG GET", &e))?;
    pair.into_iter().nth(1).ok_or_else(unreadable)
}

fn text(command: &str, answer: Value) -> Result<String> {
    redis::from_redis_value(answer).map_err(|e| refused(command, &e))
}

fn refused(command: &str, why: &redis::ParsingError) -> Error {
    Error::invalid(format!(
        "the Redis server refuses {command} ({why}): the user in the address needs INFO, CONFIG GET, SCRIPT LOAD, \
         EVAL and reads and writes of keys {{granary.*"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str =
        "redis_version:7.0.15\r\nrun_id:aa\r\nloading:0\r\nrole:master\r\nmaster_replid:bb\r\n";

    #[test]
    fn the_run_is_another_after_a_restart_and_after_a_demotion() {
        let (run, history) = check_info(INFO).unwrap();
        let other = |from: &str, to: &str| check_info(&INFO.replace(from, to)).unwrap().0;
        assert_eq!(other("aa", "aa"), run);
        assert_ne!(other("run_id:aa", "run_id:ab"), run);
        assert_ne!(other("replid:bb", "replid:bc"), run);
        let server = Server { run, history, sha: String::new(), record: None };
        let still = |from: &str, to: &str| server.is_still(&Value::BulkString(INFO.replace(from, to).into()));
        assert!(still("aa", "aa"));
        assert!(
            !still("replid:bb", "replid:bc") && !still("master", "slave") && !server.is_still(&Value::Nil)
        );
    }

    #[test]
    fn an_unfit_server_is_refused_with_the_remedy() {
        for (from, to, word) in [
            ("loading:0", "loading:1", "wait"),
            ("7.0.15", "6.0.9", "6.2 or later"),
            ("role:master", "role:slave", "master"),
            ("role:master", "role:master\r\ncluster_enabled:1", "cluster-enabled no"),
        ] {
            let error = check_info(&INFO.replace(from, to)).unwrap_err();
            assert!(error.message().contains(word), "{error}");
        }
    }

    #[test]
    fn each_durability_asks_for_its_settings() {
        use Durability::{Everysec, Fsync, None};
        let keep = "noeviction";
        for (settings, durability, word) in [
            (["yes", "always", keep], Fsync, ""),
            (["yes", "always", keep], Everysec, ""),
            (["yes", "everysec", keep], Everysec, ""),
            (["no", "no", keep], None, ""),
            (["yes", "everysec", keep], Fsync, "may lose up to 2 s"),
            (["no", "always", keep], Fsync, "CONFIG SET appendonly yes"),
            (["no", "everysec", keep], Everysec, "CONFIG SET appendonly yes"),
            (["yes", "no", keep], Everysec, "CONFIG SET appendfsync everysec"),
            (["yes", "always", "allkeys-lru"], Fsync, "CONFIG SET maxmemory-policy noeviction"),
            (["no", "no", "allkeys-lru"], None, "noeviction"),
        ] {
            match check_settings(settings, durability) {
                Ok(()) => assert_eq!(word, "", "{settings:?} {durability:?}"),
                Err(error) => assert!(!word.is_empty() && error.message().contains(word), "{error}"),
            }
        }
    }
}
