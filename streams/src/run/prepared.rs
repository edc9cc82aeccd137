//! What is prepared once for all slots of a lane: fixed parts of rows, who takes what.

use std::sync::Arc;

use granary_cluster::{Record, StreamId};
use granary_core::{SlotId, Timestamp};

use super::found::Frame;
use super::rolled::{Rolled, homes, rolling};
use super::rows::{Origin, Template};
use crate::plan::{From, Plan, Rows, Source, Step, WindowStep};

/// What is prepared once for all slots of a lane.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub plan: Arc<Plan>,
    /// The window steps: place in the plan, fixed parts of the rows, and the sinks that take them.
    pub windows: Vec<Window>,
    /// The steps of rules.
    pub rules: Vec<usize>,
    /// Those that may read their sources again: the place among the steps of rules, and in the plan.
    again: Vec<(usize, usize)>,
    /// The patterns and joins.
    pub follows: Vec<Follow>,
    /// The roll-ups.
    pub rolled: Vec<Rolled>,
    /// With roll-ups: for each slot a key that belongs to it.
    pub homes: Vec<Box<[u8]>>,
    /// How many slots the cluster has.
    pub slots: u16,
    /// What ends when the slot is told that its inputs have: windows, and roll-ups up to this level.
    pub ending_level: u16,
    /// The streams of their alerts: of live rules, of those in shadow. As results they are counted after the sinks.
    pub alerts: [Option<StreamId>; 2],
    pub rejected: StreamId,
    pub late: StreamId,
    pub poisoned: StreamId,
    pub verdicts: Option<StreamId>,
    /// The topic of the strays of each source, where there are any.
    pub strays: Vec<String>,
    /// The topic in which rows come to each roll-up.
    pub rolled_topics: Vec<String>,
    /// The partitions of each source, and whether each of them feeds only the slots congruent to it. None where nobody has said.
    pub fed_by: Vec<(u32, bool)>,
}

/// A window step, prepared.
#[derive(Debug)]
pub(crate) struct Window {
    pub step: usize,
    pub template: Template,
    pub sinks: Vec<usize>,
    /// What its rows hold.
    pub rows: Rows,
    /// The steps of rules that judge its rows.
    pub judged_by: Vec<usize>,
    /// The roll-ups that read its rows.
    pub rolled_by: Vec<usize>,
    /// Whether another window step reads the same source: then late rows name their step.
    pub has_siblings: bool,
}

/// A pattern or a join, prepared.
#[derive(Debug)]
pub(crate) struct Follow {
    pub step: usize,
    /// Its source, or those of its sides, and what is read from.
    pub sides: Vec<(usize, From)>,
    pub frame: Frame,
    pub sinks: Vec<usize>,
}

impl Follow {
    /// Whether it reads this source.
    pub fn reads(&self, source: usize) -> bool {
        self.sides.iter().any(|(of, _)| *of == source)
    }

    fn of(plan: &Plan, place: usize, step: &Step) -> Option<Follow> {
        let sides = match (step.pattern(), step.join()) {
            (Some(_), _) => vec![(step.source, step.from)],
            (_, Some(join)) => join.sides.iter().map(|side| (side.source, side.from)).collect(),
            _ => return None,
        };
        let (frame, sinks) = (Frame::new(plan, step), sinks_of(plan, From::Step(place)));
        Some(Follow { step: place, sides, frame, sinks })
    }
}

impl Prepared {
    pub fn new(plan: Arc<Plan>, slots: u16) -> Prepared {
        let windows: Vec<(usize, &Step, &WindowStep)> =
            plan.steps.iter().enumerate().filter_map(|(i, step)| Some((i, step, step.window()?))).collect();
        let windows: Vec<Window> = windows
            .iter()
            .map(|(i, step, window)| {
                let rows = Rows::of(&plan.sources, &plan.steps, *i).expect("windows have rows");
                let names_end = matches!(window.spec.window, granary_window::Window::Cumulate { .. });
                Window {
                    step: *i,
                    template: Template::new(&step.name, &rows, names_end),
                    rows,
                    sinks: sinks_of(&plan, From::Step(*i)),
                    judged_by: judging(&plan, *i),
                    rolled_by: rolling(&plan, *i),
                    has_siblings: windows.iter().any(|(j, other, _)| i != j && other.source == step.source),
                }
            })
            .collect();
        let rolled = Rolled::all(&plan, &windows.iter().map(|window| window.step).collect::<Vec<_>>());
        let of = |name| plan.stream(name);
        let always = "every plan has the set-aside streams";
        let rules = plan.steps.iter().enumerate().filter(|(_, step)| step.rules().is_some());
        let rules: Vec<usize> = rules.map(|(i, _)| i).collect();
        let reads_events = |step: &usize| plan.steps[*step].rules().is_some_and(|rules| !rules.reads_rows());
        let again = rules.iter().copied().enumerate().filter(|(_, step)| reads_events(step)).collect();
        Prepared {
            windows,
            rules,
            again,
            follows: plan
                .steps
                .iter()
                .enumerate()
                .filter_map(|(i, step)| Follow::of(&plan, i, step))
                .collect(),
            homes: if rolled.is_empty() { Vec::new() } else { homes(slots) },
            rolled,
            slots,
            ending_level: 0,
            alerts: crate::plan::ALERTS.map(of),
            rejected: of("rejected").expect(always),
            late: of("late").expect(always),
            poisoned: of("poisoned").expect(always),
            verdicts: of(crate::plan::VERDICTS),
            strays: Vec::new(),
            rolled_topics: Vec::new(),
            fed_by: vec![(0, false); plan.sources.len()],
            plan,
        }
    }

    /// Whether there are rules that judge rows.
    pub fn judges_rows(&self) -> bool {
        let of_windows = self.windows.iter().map(|window| &window.judged_by);
        of_windows.chain(self.rolled.iter().map(|rolled| &rolled.judged_by)).any(|judges| !judges.is_empty())
    }

    /// The source of the plan that a record is of.
    #[inline]
    pub fn source(&self, record: &Record<'_>) -> &Source {
        &self.plan.sources[self.plan.source_of(record.source)]
    }

    /// Whether a record's event is further ahead of the log's clock than its source allows.
    pub fn is_future(&self, record: &Record<'_>, time: Timestamp) -> bool {
        let guard = self.source(record).watermark.future_guard;
        guard.is_some_and(|guard| time > record.appended_at + guard)
    }

    /// The step of rules that reads this record a second time: its place among them, and in the plan.
    #[inline]
    pub fn again(&self, record: &Record<'_>) -> Option<(usize, usize)> {
        let place = usize::from(record.source.0).checked_sub(2 * self.plan.sources.len())?;
        self.again.get(place).copied()
    }

    /// The partition that a record is of; strays come in partitions of another topic.
    pub fn partition_of(&self, record: &Record<'_>) -> u64 {
        let is_stray = usize::from(record.source.0) >= self.plan.sources.len();
        u64::from(record.partition) << 1 | u64::from(is_stray)
    }

    /// The partitions of a source that a slot reads, as [`Prepared::partition_of`] numbers them; those of strays are not among
    /// them, since there may never be any.
    pub fn partitions_read(&self, source: usize, slot: SlotId) -> Vec<u64> {
        let (partitions, in_place) = self.fed_by[source];
        let is_read = |partition: &u32| !in_place || u32::from(slot.0) % partitions == *partition;
        (0..partitions).filter(is_read).map(|partition| u64::from(partition) << 1).collect()
    }

    /// Where a record came from.
    pub fn origin(&self, record: &Record<'_>) -> Origin<'_> {
        let place = self.plan.source_of(record.source);
        let source = &self.plan.sources[place];
        let is_stray = usize::from(record.source.0) != place;
        let strays = self.strays.get(place).filter(|_| is_stray);
        Origin { source: &source.name, topic: strays.map_or(&source.topic, |topic| topic), is_stray }
    }
}

/// The steps of rules that judge the rows of a step.
pub(crate) fn judging(plan: &Plan, place: usize) -> Vec<usize> {
    let steps = plan.steps.iter().enumerate();
    let judging = steps.filter(|(_, step)| step.from == From::Step(place) && step.rules().is_some());
    judging.map(|(i, _)| i).collect()
}

/// The sinks that take what comes out there.
pub(crate) fn sinks_of(plan: &Plan, from: From) -> Vec<usize> {
    plan.sinks.iter().enumerate().filter(|(_, sink)| sink.from == from).map(|(i, _)| i).collect()
}
