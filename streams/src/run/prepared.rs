//! What is prepared once for all slots of a lane: fixed parts of rows, who takes what.

use std::sync::Arc;

use granary_cluster::StreamId;

use super::rows::Template;
use crate::plan::{From, Plan, Step, WindowStep};

/// What is prepared once for all slots of a lane.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub plan: Arc<Plan>,
    /// The window steps: place in the plan, fixed parts of the rows, and the sinks that take them.
    pub windows: Vec<Window>,
    pub rejected: StreamId,
    pub late: StreamId,
    pub poisoned: StreamId,
    pub verdicts: Option<StreamId>,
}

/// A window step, prepared.
#[derive(Debug)]
pub(crate) struct Window {
    pub step: usize,
    pub template: Template,
    pub sinks: Vec<usize>,
    /// Whether another window step reads the same source: then late rows name their step.
    pub has_siblings: bool,
}

impl Prepared {
    pub fn new(plan: Arc<Plan>) -> Prepared {
        let windows: Vec<(usize, &Step, &WindowStep)> =
            plan.steps.iter().enumerate().filter_map(|(i, step)| Some((i, step, step.window()?))).collect();
        let windows = windows
            .iter()
            .map(|(i, step, window)| Window {
                step: *i,
                template: Template::new(&plan, step, window),
                sinks: sinks_of(&plan, From::Step(*i)),
                has_siblings: windows.iter().any(|(j, other, _)| i != j && other.source == step.source),
            })
            .collect();
        let of = |name| plan.stream(name);
        let always = "every plan has the set-aside streams";
        Prepared {
            windows,
            rejected: of("rejected").expect(always),
            late: of("late").expect(always),
            poisoned: of("poisoned").expect(always),
            verdicts: of(crate::plan::VERDICTS),
            plan,
        }
    }
}

fn sinks_of(plan: &Plan, from: From) -> Vec<usize> {
    plan.sinks.iter().enumerate().filter(|(_, sink)| sink.from == from).map(|(i, _)| i).collect()
}
