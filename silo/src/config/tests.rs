use std::path::PathBuf;

use super::*;

/// A file that lives as long as the test.
struct TestFile(tempfile::TempDir);

impl TestFile {
    fn new(text: &str) -> TestFile {
        let directory = tempfile::tempdir().expect("a directory for the test");
        std::fs::write(directory.path().join("granary.toml"), text).expect("it can be written");
        TestFile(directory)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("granary.toml")
    }

    fn load(&self, environment: &[(&str, &str)], set: &[&str]) -> Result<Settings, Mistakes> {
        let environment = environment.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let set: Vec<String> = set.iter().map(|argument| argument.to_string()).collect();
        load(Some(&self.path()), environment, &set)
    }
}

/// The mistakes as `key: problem`, their places checked to be `place`.
fn problems(loaded: Result<Settings, Mistakes>) -> Vec<String> {
    let mistakes = loaded.expect_err("a configuration with mistakes").0;
    mistakes.into_iter().map(|mistake| format!("{}: {}", mistake.key, mistake.problem)).collect()
}

#[test]
fn nothing_at_all_is_a_configuration() {
    let settings = load(None, [], &[]).unwrap();
    assert_eq!(settings, Settings::default());
    assert_eq!((settings.cluster.slots, &*settings.silo.listen), (96, "127.0.0.1:7400"));
    assert!(settings.effective().iter().all(|setting| setting.place == "default"));
}

#[test]
fn the_argument_wins_over_the_variable_and_that_over_the_file() {
    let file = TestFile::new("[cluster]\nname = \"file\"\nslots = 12\n[silo]\nlanes = 1\n");
    let environment = [("GRANARY__CLUSTER__SLOTS", "24"), ("GRANARY__SILO__LANES", "2"), ("PATH", "/bin")];
    let settings = file.load(&environment, &["silo.lanes=3"]).unwrap();
    let Settings { cluster, silo, .. } = &settings;
    assert_eq!((&*cluster.name, cluster.slots, silo.lanes), ("file", 24, Some(3)));
    let place = |key: &str| {
        let effective = settings.effective();
        effective.into_iter().find(|setting| setting.key == key).expect("a known key").place
    };
    assert_eq!(place("cluster.name"), file.path().display().to_string());
    assert_eq!(place("cluster.slots"), "the variable GRANARY__CLUSTER__SLOTS");
    assert_eq!((place("silo.lanes"), place("silo.listen")), ("--set silo.lanes".into(), "default".into()));
}

#[test]
fn all_mistakes_come_at_once() {
    let file = TestFile::new(
        r#"
        pipelines = "one.yaml"
        [cluster]
        nme = "dev"
        slots = 0
        [silo]
        listen = 7400
        lanes = 2.5
        [sotre]
        kind = "embedded"
        [log]
        kind = "kafak"
        durability = "fsync"
        [commit]
        interval_min_ms = "ten"
        "#,
    );
    let loaded = file.load(&[("GRANARY__SILO__GATEWAY", "nowhere")], &["store.wait_replicas=-1", "oops"]);
    assert_eq!(
        problems(loaded),
        [
            ": section.key=value expected, an argument without `=` found",
            "cluster.nme: unknown key; did you mean `cluster.name`?",
            "cluster.slots: 0 is not between 1 and 4096",
            "commit.interval_min_ms: a whole number from 0 to 60000 expected, text found",
            "log.durability: unknown key; did you mean `store.durability`?",
            "log.kind: `kafak` is not one of embedded, kafka; did you mean `kafka`?",
            "pipelines: a list of texts expected, text found",
            "silo.lanes: a whole number from 1 to 1024 expected, a fraction found",
            "silo.listen: \"host:port\" expected, a whole number found",
            "sotre: unknown section; did you mean `store`?",
            "silo.gateway: `nowhere` is not \"host:port\"",
            "store.wait_replicas: a whole number from 0 to 16 expected, text found",
        ]
    );
}

#[test]
fn a_mistake_names_its_place() {
    let file = TestFile::new("[store]\nkind = \"embeded\"\n");
    let mistakes = file.load(&[("GRANARY__STORE__PTH", "x")], &["store.kind="]).unwrap_err();
    let text = mistakes.to_string();
    assert!(text.starts_with("3 mistakes in the configuration:\n  store.kind: `embeded` is not"), "{text}");
    assert!(text.contains(&format!("(set in {})", file.path().display())), "{text}");
    assert!(text.contains("`store.path`? (set in the variable GRANARY__STORE__PTH)"), "{text}");
    assert!(text.contains("(set in --set store.kind)"), "{text}");
}

#[test]
fn what_does_not_fit_together_is_said() {
    let file = TestFile::new(
        r#"
        [store]
        kind = "redis"
        [log]
        kind = "kafka"
        [log.kafka]
        "security.protocol" = "SASL_SSL"
        "isolation.level" = "read_uncommitted"
        [commit]
        interval_min_ms = 50
        interval_max_ms = 20
        "#,
    );
    assert_eq!(
        problems(file.load(&[], &[])),
        [
            "store.url: it is not set; Redis is at an address such as redis://127.0.0.1:6379/0",
            "log.brokers: it is not set; brokers are given as \"host:port,host:port\"",
            "log.kafka.isolation.level: cannot be set: only committed records are read",
            "commit.interval_min_ms: 50 is more than interval_max_ms, which is 20",
        ]
    );
    let right = [
        "log.kafka.isolation.level=",
        "store.kind=embedded",
        "log.kind=embedded",
        "commit.interval_min_ms=5",
    ];
    assert!(file.load(&[], &right).is_ok());
    let half = ["store.kind=embedded", "log.brokers=b:9092", "commit.interval_min_ms=5"];
    let mistakes = problems(file.load(&[], &half));
    assert!(
        mistakes.contains(&"store.kind: `embedded` goes with log.kind = \"embedded\": choose `redis`".into()),
        "{mistakes:?}"
    );
}

#[test]
fn names_of_librdkafka_keep_their_dots() {
    let file = TestFile::new("[log.kafka]\n\"ssl.ca.location\" = \"ca.pem\"\n");
    let environment = [("GRANARY__LOG__KAFKA__SECURITY_PROTOCOL", "SASL_SSL")];
    let settings = file.load(&environment, &["log.kafka.sasl.password=hush=hush"]).unwrap();
    let kafka: Vec<_> = settings.log.kafka.iter().map(|(k, v)| (k.as_str(), v.reveal())).collect();
    assert_eq!(
        kafka,
        [("sasl.password", "hush=hush"), ("security.protocol", "SASL_SSL"), ("ssl.ca.location", "ca.pem")]
    );
}

#[test]
fn secrets_are_not_shown() {
    let file = TestFile::new("[store]\nurl = \"redis://me:hush@db:6379/0\"\n");
    let settings = file.load(&[], &["log.kafka.sasl.password=hush"]).unwrap();
    assert_eq!(settings.store.url.as_ref().unwrap().reveal(), "redis://me:hush@db:6379/0");
    let shown: Vec<String> = settings.effective().iter().map(Setting::to_string).collect();
    assert!(
        shown.iter().any(|line| line.starts_with(r#"store.url = "redis://***@db:6379/0"  # "#)),
        "{shown:#?}"
    );
    assert!(!format!("{settings:?} {shown:?}").contains("hush"));
    let text = file.load(&[], &["log.kafka.sasl.password=hush", "log.kid=1"]).unwrap_err().to_string();
    assert!(!text.contains("hush"), "{text}");
}

#[test]
fn paths_are_meant_from_where_they_stand() {
    let file = TestFile::new("pipelines = [\"one.yaml\", \"/two.yaml\"]\n[store]\npath = \"state\"\n");
    let settings = file.load(&[], &[]).unwrap();
    let beside = |name: &str| file.0.path().join(name).to_string_lossy().into_owned();
    assert_eq!(settings.pipelines, [beside("one.yaml"), "/two.yaml".to_owned()]);
    assert_eq!(settings.store.path, beside("state"));
    let settings = file.load(&[("GRANARY__PIPELINES", "a.yaml, b.yaml")], &["store.path=here"]).unwrap();
    assert_eq!((settings.pipelines, &*settings.store.path), (vec!["a.yaml".into(), "b.yaml".into()], "here"));
}

#[test]
fn a_file_that_is_none_is_one_mistake() {
    let file = TestFile::new("[store\nkind = 1");
    let mistakes = file.load(&[], &[]).unwrap_err();
    assert_eq!(mistakes.0.len(), 1);
    assert!(mistakes.0[0].problem.contains("line 1"), "{mistakes}");
    let nowhere = load(Some(Path::new("/nowhere/granary.toml")), [], &[]).unwrap_err();
    assert!(nowhere.to_string().contains("there is no such file"), "{nowhere}");
}

#[test]
fn the_list_of_keys_and_the_types_agree() {
    let mut shown: Vec<String> = Settings::default().effective().into_iter().map(|s| s.key).collect();
    let mut keys: Vec<String> = keys::KEYS.iter().map(|(key, _)| key.to_string()).collect();
    keys.retain(|key| key != "log.kafka"); // a map: nothing of it is there by default
    shown.sort();
    keys.sort();
    assert_eq!(shown, keys);
}
