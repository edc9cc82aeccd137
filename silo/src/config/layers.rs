//! Where values come from. Each value remembers its place, so that a mistake can name it.

use std::path::Path;

use ::config::{ConfigError, File, FileFormat, Map, Source, Value, ValueKind};

use super::keys;
use super::mistakes::Mistakes;

/// What the name of every variable of ours begins with.
pub const PREFIX: &str = "GRANARY__";

/// The section whose keys are those of librdkafka, with dots in them.
const KAFKA: [&str; 2] = ["log", "kafka"];

/// The variables of the environment that are ours. What is not Unicode is read with replacement characters, and then
/// refused like any other wrong value.
pub fn environment() -> Vec<(String, String)> {
    let ours = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let name = name.to_string_lossy().into_owned();
        name.starts_with(PREFIX).then(|| (name, value.to_string_lossy().into_owned()))
    };
    let mut variables: Vec<_> = std::env::vars_os().filter_map(ours).collect();
    variables.sort();
    variables
}

/// The values of one place.
#[derive(Clone, Debug)]
pub struct Layer {
    pub(super) values: Map<String, Value>,
    /// Where numbers and lists are written as text.
    pub(super) is_text: bool,
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.values.clone())
    }
}

impl Layer {
    pub(super) fn file(path: &Path, mistakes: &mut Mistakes) -> Layer {
        let place = path.display().to_string();
        let read = match path.try_exists() {
            Ok(true) => File::from(path).format(FileFormat::Toml).collect(),
            Ok(false) => Err(ConfigError::Message("there is no such file".into())),
            Err(error) => Err(ConfigError::Message(error.to_string())),
        };
        let mut values = read.unwrap_or_else(|error| {
            let problem = match error {
                ConfigError::FileParse { cause, .. } => cause.to_string().trim_end().to_owned(),
                other => other.to_string(),
            };
            mistakes.note("", &place, problem);
            Map::new()
        });
        for value in values.values_mut() {
            *value = placed(value, &place);
        }
        Layer { values, is_text: false }
    }

    /// `GRANARY__SECTION__KEY`; in `[log.kafka]` a `_` stands for `.`.
    pub(super) fn environment(
        variables: impl IntoIterator<Item = (String, String)>,
        mistakes: &mut Mistakes,
    ) -> Layer {
        let mut values = Map::new();
        for (name, text) in variables {
            let Some(path) = name.strip_prefix(PREFIX) else { continue };
            let mut path: Vec<String> = path.split("__").map(str::to_lowercase).collect();
            if let [section, table, key] = &mut path[..]
                && [section.as_str(), table.as_str()] == KAFKA
            {
                *key = key.replace('_', ".");
            }
            let place = format!("the variable {name}");
            put(&mut values, &path, &text, &place, mistakes);
        }
        Layer { values, is_text: true }
    }

    /// `section.key=value`.
    pub(super) fn set(arguments: &[String], mistakes: &mut Mistakes) -> Layer {
        let mut values = Map::new();
        for argument in arguments {
            let Some((key, text)) = argument.split_once('=') else {
                // It may be a secret without its key: not repeated here.
                mistakes.note("", "--set", "section.key=value expected, an argument without `=` found");
                continue;
            };
            let key = key.trim();
            let path: Vec<String> = match key.strip_prefix(&format!("{}.", KAFKA.join("."))) {
                Some(name) => KAFKA.iter().copied().chain([name]).map(str::to_owned).collect(),
                None => key.split('.').map(str::to_owned).collect(),
            };
            put(&mut values, &path, text, &format!("--set {key}"), mistakes);
        }
        Layer { values, is_text: true }
    }
}

/// The same value, its place known to all its parts.
fn placed(value: &Value, place: &str) -> Value {
    let kind = match &value.kind {
        ValueKind::Table(table) => {
            ValueKind::Table(table.iter().map(|(key, value)| (key.clone(), placed(value, place))).collect())
        }
        ValueKind::Array(list) => ValueKind::Array(list.iter().map(|value| placed(value, place)).collect()),
        other => other.clone(),
    };
    Value::new(Some(&place.to_owned()), kind)
}

/// Puts a text at `path`, as what its key wants.
fn put(values: &mut Map<String, Value>, path: &[String], text: &str, place: &str, mistakes: &mut Mistakes) {
    let origin = place.to_owned();
    let value = Value::new(Some(&origin), keys::parse(&path.join("."), text));
    let Some((last, sections)) = path.split_last() else { return };
    let mut table = values;
    for section in sections {
        let entry = table
            .entry(section.clone())
            .or_insert_with(|| Value::new(Some(&origin), ValueKind::Table(Map::new())));
        match &mut entry.kind {
            ValueKind::Table(inner) => table = inner,
            _ => return mistakes.note(&path.join("."), place, format!("`{section}` has a value already")),
        }
    }
    table.insert(last.clone(), value);
}
