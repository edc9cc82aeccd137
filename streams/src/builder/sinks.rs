//! Where the rows of a built pipeline go.

use super::name_of;
use crate::file::Mistakes;
use crate::plan::{Delivery, From, SET_ASIDE, Sink, Target, VERDICTS};

/// The sinks of a plan's last step, in the order in which they were said.
#[derive(Debug, Default)]
pub(super) struct Sinks(Vec<(Box<str>, Target, Delivery)>);

impl Sinks {
    /// A topic, named after itself.
    pub fn topic(&mut self, topic: &str, delivery: Delivery) {
        self.0.push((name_of(topic), Target::Topic(topic.into()), delivery));
    }

    /// Grains that are called.
    pub fn grain(&mut self, to: Target) {
        let name = format!("grain-{}", self.0.len() + 1).into();
        self.0.push((name, to, Delivery::ExactlyOnce));
    }

    /// Everything that is wrong with them.
    pub fn check(&self, mistakes: &mut Mistakes) {
        if self.0.is_empty() {
            mistakes.add(None, "the pipeline has no sink: say `to_topic` or `to_grain`".to_owned());
        }
        for (i, (name, ..)) in self.0.iter().enumerate() {
            if self.0[..i].iter().any(|(other, ..)| other == name) {
                mistakes.add(None, format!("sink `{name}` stands twice"));
            }
            if SET_ASIDE.contains(&&**name) || **name == *VERDICTS {
                let message = format!("`{name}` names a stream every pipeline has: choose another topic");
                mistakes.add(None, message);
            }
        }
    }

    /// The sinks, of a step.
    pub fn reading(self, from: From) -> Vec<Sink> {
        self.0.into_iter().map(|(name, to, delivery)| Sink { name, from, to, delivery }).collect()
    }
}
