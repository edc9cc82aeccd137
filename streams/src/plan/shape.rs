//! The shape of a step: what its state depends on. A step of the same name and another shape may not read that state.

use std::fmt::Write;

use granary_window as window;

use super::{Column, Plan, Step, WindowStep};

impl Plan {
    /// The plan as a text for people, equal for equal plans. What a closure of the Rust builder does is not in it.
    pub fn text(&self) -> String {
        let Plan { name, sources, steps, sinks, streams: _, rolled_from: _ } = self;
        let mut text = format!("pipeline {name}\n");
        let mut part = |what: &str, of: &dyn std::fmt::Debug| {
            writeln!(text, "{what} {of:?}").expect("writing to a string cannot fail");
        };
        sources.iter().for_each(|source| part("source", source));
        steps.iter().for_each(|step| part("step", step));
        sinks.iter().for_each(|sink| part("sink", sink));
        text
    }

    /// How often the state of each step that has some was dropped.
    pub fn drops(&self) -> impl Iterator<Item = (&str, u32)> {
        self.steps.iter().filter_map(|step| {
            let drops = step.window().map(|window| window.drops).or(step.state().map(|state| state.drops));
            Some((&*step.name, drops.or(step.rules().map(|_| 0))?))
        })
    }

    /// Name and shape of each step that has state. Two plans agree on a step's state exactly if its shape is equal.
    pub fn shapes(&self) -> Vec<(&str, String)> {
        let shape = |step: &Step| match (step.window(), step.rules()) {
            (Some(window), _) => Some(shape(self, step, window)),
            // Rules of another kind read what others have stored: only the key has to be the same.
            (_, Some(_)) => Some(format!("1 rules key={}", key_name(self, step))),
            _ => self.shape_of(step),
        };
        self.steps.iter().filter_map(|step| Some((&*step.name, shape(step)?))).collect()
    }

    fn shape_of(&self, step: &Step) -> Option<String> {
        let pattern = step
            .pattern()
            .map(|pattern| format!("1 pattern key={} {}", key_name(self, step), pattern.shape()));
        let rollup = || step.rollup().map(|rollup| rollup.shape(&self.steps[rollup.of].name));
        pattern.or_else(rollup).or_else(|| {
            let join = step.join()?;
            let [left, right] = join.sides.each_ref().map(|side| source_key_name(self, side.source));
            Some(format!("1 join key={left},{right} {}", join.shape()))
        })
    }
}

fn shape(plan: &Plan, step: &Step, of: &WindowStep) -> String {
    let columns = input_columns(plan, step);
    let named = |index: usize| columns.iter().find(|c| c.index == index).map_or("?", |c| &*c.name);
    let key = key_name(plan, step);
    let spec = &of.spec;
    let mut shape = format!("1 key={key}");
    let mut part = |name: &str, value: String| {
        write!(shape, " {name}={value}").expect("writing to a string cannot fail");
    };
    part("by", of.by.iter().map(|c| &*c.name).collect::<Vec<_>>().join(","));
    part("window", format!("{:?}", spec.window).replace(' ', ""));
    part("time", format!("{:?}", spec.time));
    part("per", format!("{:?}", spec.watermark.per).replace(' ', ""));
    part("accumulation", format!("{:?}", spec.accumulation));
    part("emit", format!("{:?}", spec.emit));
    part("early", format!("{:?}", spec.early).replace(' ', ""));
    part("dedup", of.id.iter().map(|i| named(*i)).collect::<Vec<_>>().join(","));
    let aggregate = |a: &window::Aggregate| {
        let field = of.inputs.get(a.field).map_or("", |index| named(*index));
        format!("{}:{:?}({field})", a.name, a.function).replace(' ', "")
    };
    part("aggregates", spec.aggregates.iter().map(aggregate).collect::<Vec<_>>().join(","));
    shape
}

fn key_name<'p>(plan: &'p Plan, step: &Step) -> &'p str {
    source_key_name(plan, step.source)
}

fn source_key_name(plan: &Plan, source: usize) -> &str {
    let source = &plan.sources[source];
    source.columns.iter().find(|c| c.index == source.key).map_or("?", |c| &*c.name)
}

fn input_columns<'p>(plan: &'p Plan, step: &Step) -> &'p [Column] {
    match step.from {
        super::From::Source(i) => &plan.sources[i].columns,
        super::From::Step(i) => &plan.steps[i].columns,
    }
}
