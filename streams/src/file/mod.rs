//! The pipeline file: YAML in, a plan or all its mistakes out.
//!
//! What this version does not do is a mistake, never ignored.

mod join;
pub(crate) mod mistake;
mod pattern;
pub(crate) mod read;
mod rollup;
mod sink;
mod source;
mod step;
mod window;
pub(crate) mod yaml;

pub use mistake::{Mistake, Mistakes, Place};
pub(crate) use read::is_name;
pub use read::parse_span;
pub use source::rfc3339;

use crate::plan::Plan;
use read::Map;

/// Sources, steps and sinks of one pipeline, at most of each.
pub const PARTS_MAX: usize = 1_000;

/// Reads a pipeline file.
///
/// ```
/// let mistakes = granary_streams::file::parse("pipeline: demo\nsuorces: {}\n").unwrap_err();
/// assert!(mistakes.to_string().contains("line 2, column 1: unknown name `suorces`; did you mean `sources`?"));
/// ```
pub fn parse(text: &str) -> Result<Plan, Mistakes> {
    parse_beside(text, &|_| Err("there are no files beside this pipeline".to_owned()))
}

/// Reads a pipeline file that may name others, which `read` reads.
pub fn parse_beside(text: &str, read: &dyn Fn(&str) -> Result<String, String>) -> Result<Plan, Mistakes> {
    let mut mistakes = Mistakes::default();
    let plan = yaml::parse(text, &mut mistakes).and_then(|root| pipeline(&root, read, &mut mistakes));
    match plan {
        Some(plan) if mistakes.is_empty() => Ok(plan),
        _ => {
            mistakes.sort();
            Err(mistakes)
        }
    }
}

fn pipeline(
    root: &yaml::Node,
    read_file: &dyn Fn(&str) -> Result<String, String>,
    mistakes: &mut Mistakes,
) -> Option<Plan> {
    let mut map = Map::new(root, "a pipeline", mistakes);
    let name = map.need("pipeline", mistakes).and_then(|node| {
        let name = read::text(node, "a name", mistakes)?;
        if !read::is_name(name) {
            let message = format!("pipeline `{name}`: a letter, then letters, digits, `_` or `-` expected");
            mistakes.add(node.place, message);
        }
        Some(name)
    });
    let mut sources = Vec::new();
    let mut steps = Vec::new();
    let mut sinks = Vec::new();
    if let Some(node) = map.need("sources", mistakes) {
        for (name, node) in parts(node, "sources", mistakes) {
            sources.extend(source::read(read::name(name, "source", mistakes), node, mistakes));
        }
    }
    let sources_are_whole = mistakes.is_empty();
    if let Some(node) = map.get("steps") {
        for (name, node) in parts(node, "steps", mistakes) {
            let scope = step::Scope { sources: &sources, steps: &steps, sources_are_whole, read: read_file };
            if scope.is_taken(&name.text) {
                mistakes.add(name.place, format!("`{}` is the name of a source too", name.text));
            }
            let step = step::read(read::name(name, "step", mistakes), node, &scope, mistakes);
            steps.extend(step);
        }
    }
    step::check_rules(&steps, mistakes);
    // Alerts have streams of their own.
    let has_rules = steps.iter().any(|step| step.rules().is_some());
    if let Some(node) = if has_rules { map.get("sinks") } else { map.need("sinks", mistakes) } {
        for (name, node) in parts(node, "sinks", mistakes) {
            let scope = step::Scope {
                sources: &sources,
                steps: &steps,
                sources_are_whole: mistakes.is_empty(),
                read: read_file,
            };
            sinks.extend(sink::read(name, node, &scope, mistakes));
        }
    }
    map.finish(mistakes);
    Some(Plan::assemble(name?, sources, steps, sinks))
}

/// The named parts of a section, in the order of the file.
fn parts<'n>(
    node: &'n yaml::Node,
    what: &'static str,
    mistakes: &mut Mistakes,
) -> Vec<(&'n yaml::Name, &'n yaml::Node)> {
    let mut parts = Map::new(node, what, mistakes).entries();
    if parts.is_empty() {
        mistakes.add(node.place, format!("{what}: at least one is needed"));
    }
    if parts.len() > PARTS_MAX {
        mistakes.add(node.place, format!("{what}: {PARTS_MAX} at most"));
        parts.truncate(PARTS_MAX);
    }
    parts
}

#[cfg(test)]
mod tests;
