//! The configuration: `granary.toml`, the environment, `--set`; the later wins.
//!
//! | module | holds |
//! |---|---|
//! | [`keys`] | every key there is, and what may stand there |
//! | [`layers`] | where values come from |
//! | [`mistakes`] | what is wrong, where it was set, and what is allowed |
//! | [`settings`] | the values as types, and how they are shown |
//!
//! All mistakes are found before anything starts. Secrets are never shown: not in mistakes, not in the effective
//! configuration, not by `Debug`.

pub mod keys;
pub mod layers;
pub mod mistakes;
pub mod settings;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use ::config::{Config, Value, ValueKind};

use layers::Layer;
pub use layers::environment;
pub use mistakes::{Mistake, Mistakes};
pub use settings::{Alerts, Http, LogKind, Setting, Settings, StoreDurability, StoreKind, port_range};

/// Reads the file, if there is one, then `environment`, then the `--set` arguments.
///
/// Paths that stand in the file are meant from the file's directory, others from the working directory.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    set: &[String],
) -> Result<Settings, Mistakes> {
    let mut mistakes = Mistakes::default();
    let layers = [
        file.map(|path| Layer::file(path, &mut mistakes)),
        Some(Layer::environment(environment, &mut mistakes)),
        Some(Layer::set(set, &mut mistakes)),
    ];
    let mut builder = Config::builder();
    for layer in layers.into_iter().flatten() {
        keys::check(&layer, &mut mistakes);
        builder = builder.add_source(layer);
    }
    let config = match builder.build() {
        Ok(config) if mistakes.is_empty() => config,
        Ok(_) => return Err(mistakes),
        Err(error) => return Err(mistakes.and("", "", error.to_string())),
    };
    let origins = keys::origins(&config.cache);
    let mut settings = match config.try_deserialize::<Settings>() {
        Ok(settings) => settings,
        Err(error) => return Err(mistakes.and("", "", error.to_string())),
    };
    settings.origins = origins;
    if let Some(directory) = file.and_then(Path::parent) {
        settings.resolve(directory);
    }
    settings.check(&mut mistakes);
    if mistakes.is_empty() { Ok(settings) } else { Err(mistakes) }
}

/// What kind of value stands there, in the words of a mistake.
fn found(value: &Value) -> &'static str {
    match value.kind {
        ValueKind::Nil => "nothing",
        ValueKind::Boolean(_) => "true or false",
        ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => "a whole number",
        ValueKind::Float(_) => "a fraction",
        ValueKind::String(_) => "text",
        ValueKind::Table(_) => "a section",
        ValueKind::Array(_) => "a list",
    }
}

/// `path` as seen from `directory`.
fn from_directory(directory: &Path, path: &str) -> String {
    let whole: PathBuf = directory.join(path);
    whole.to_string_lossy().into_owned()
}
