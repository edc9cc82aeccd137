//! The search for an order of one key's operations.
//!
//! A configuration is what was placed so far and the state after it. Which answered operations are placed is kept as
//! the first one, by end, that is not, and those that are though they end later: all of these are open when the first
//! one ends, so there are at most as many as calls run at once. A complete order places every answered operation.
//!
//! Let the distance of a configuration be the length of the shortest sequence that completes it, infinite without one.
//! These rules leave something out, and each leaves a configuration of finite distance a way to one of smaller distance:
//!
//! 1. An answered operation that fits and never changes anything is placed at once and nothing else is tried: in a
//!    completion it can be moved to the front, since it may come next and no other operation notices. Never, not only
//!    in this state: a second write of the same value may be needed later.
//! 2. An unknown operation is not placed where it changes nothing: a shortest completion has none there.
//! 3. Of unknown operations with the same input the one that began first is placed first: they can be exchanged.
//! 4. A configuration is not looked at if one with the same answered operations, the same state and some of the same
//!    unknown operations was: what completes the one completes the other.
//! 5. A configuration is hopeless if an answered operation that is not placed can never fit again: its model says so,
//!    or it needs a state that was left and that nothing leads to any more (module `needs`).
//!
//! So if the search ends without success every configuration it saw had an infinite distance: of those with a finite
//! one, that with the smallest would have had a way to a smaller one, which was then seen itself or replaced by one
//! that is no farther. The order of the search decides nothing but the time it takes.

use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};

use crate::config::Config;
use crate::model::Model;
use crate::needs::Needs;
use crate::timeline::Timeline;

/// A configuration whose last placed operations are unknown ones waits, for each of them, behind those that have
/// placed so many answered operations less. Without it the search would try all sets of unknown operations at the
/// place where it is stuck before it looks at the places before.
const UNKNOWN_COSTS: i64 = 4;

/// So many looks at an unknown operation, or at a set of them, count as a visited state.
const LOOKS: u64 = 64;

/// At most so many states are told of a history that has no order.
const STATES_TOLD: usize = 8;

/// What the search found.
pub(crate) enum Found<S> {
    /// An order.
    Order,
    /// None: no order of the answered operations that ended before this one has room for it. They led to these states,
    /// some of them if there are many.
    Refused { first: usize, states: Vec<S> },
    /// Neither, after so many states.
    Undecided { visited: usize },
}

/// Looks for an order, in at most about `limit` states.
///
/// If that is not enough, and the more lenient question whether there is one in which unknown operations happen any
/// number of times has the answer no, there is none either. It has far fewer configurations: which unknown operations
/// happened is no part of them.
pub(crate) fn search<M: Model>(timeline: &Timeline<'_, M>, limit: usize) -> Found<M::State> {
    let exact = Search::new(timeline, false).run(limit);
    if !matches!(exact, Found::Undecided { .. }) || timeline.classes.is_empty() {
        return exact;
    }
    match Search::new(timeline, true).run(limit) {
        refused @ Found::Refused { .. } => refused,
        Found::Order | Found::Undecided { .. } => exact,
    }
}

/// A configuration to go on from.
struct Waiting<S> {
    config: Config<S>,
    /// Its answered operations were tried; its unknown ones are next.
    is_tried: bool,
    score: i64,
    /// Of equal ones the newest is first.
    age: usize,
}

impl<S> Ord for Waiting<S> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.score, self.age).cmp(&(other.score, other.age))
    }
}

impl<S> PartialOrd for Waiting<S> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<S> PartialEq for Waiting<S> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<S> Eq for Waiting<S> {}

#[derive(PartialEq, Eq, Hash)]
struct Key<S> {
    first: usize,
    ahead: Box<[u32]>,
    state: S,
}

struct Search<'t, 'h, M: Model> {
    timeline: &'t Timeline<'h, M>,
    needs: Needs<M::State>,
    /// Unknown operations may happen any number of times.
    is_lenient: bool,
    /// The smallest sets of unknown operations each was seen with. No set at all stands for the empty one, which is a
    /// part of all others.
    seen: HashMap<Key<M::State>, Vec<Box<[u64]>>>,
    waiting: BinaryHeap<Waiting<M::State>>,
    visited: usize,
    looks: u64,
    /// The farthest `first`, and the states there: what is told of a history that has no order.
    farthest: usize,
    states: Vec<M::State>,
    is_complete: bool,
}

impl<'t, 'h, M: Model> Search<'t, 'h, M> {
    fn new(timeline: &'t Timeline<'h, M>, is_lenient: bool) -> Self {
        let mut search = Self {
            timeline,
            needs: Needs::new(timeline),
            is_lenient,
            seen: HashMap::new(),
            waiting: BinaryHeap::new(),
            visited: 0,
            looks: 0,
            farthest: 0,
            states: Vec::new(),
            is_complete: false,
        };
        search.visit(Config::start(M::init()));
        search
    }

    fn run(mut self, limit: usize) -> Found<M::State> {
        while !self.is_complete {
            if self.visited > limit || self.looks / LOOKS > limit as u64 {
                return Found::Undecided { visited: self.visited };
            }
            let Some(next) = self.waiting.pop() else {
                return Found::Refused { first: self.farthest, states: self.states };
            };
            if next.is_tried {
                self.place_unknown(&next.config);
            } else {
                self.place_answered(&next.config);
                self.wait(next.config, true);
            }
        }
        Found::Order
    }

    fn place_answered(&mut self, config: &Config<M::State>) {
        let timeline = self.timeline;
        // The newest is tried first, so the one that ends first goes in last.
        for &i in timeline.open(config.first).iter().rev().filter(|&&i| !config.is_placed(i)) {
            let operation = &timeline.answered[i as usize];
            let (state, output) = M::step(&config.state, operation.input);
            if output == *operation.output {
                let mut next = Config { state, unknown_in_a_row: 0, ..config.clone() };
                next.place(i);
                self.go(config, next);
            }
        }
    }

    fn place_unknown(&mut self, config: &Config<M::State>) {
        let timeline = self.timeline;
        let begun = timeline.begun(config.first);
        for class in timeline.classes.iter().take_while(|class| class[0] < begun) {
            self.looks += 1;
            // Rule 3: those that are placed come first.
            let next = class.partition_point(|&u| config.is_used(u));
            let Some(&u) = class.get(next).filter(|&&u| u < begun) else { continue };
            let unknown = &timeline.unknown[u];
            let (state, _) = M::step(&config.state, unknown.input);
            if state != config.state {
                let unknown_in_a_row = config.unknown_in_a_row + 1;
                let mut next = Config { state, unknown_in_a_row, ..config.clone() };
                if !self.is_lenient {
                    next.use_unknown(u);
                }
                self.go(config, next);
            }
        }
    }

    fn go(&mut self, from: &Config<M::State>, to: Config<M::State>) {
        if to.state == from.state || !self.needs.is_gone(&from.state, &to) {
            self.visit(to);
        }
    }

    /// Goes on from a configuration unless it is complete, hopeless or was seen.
    fn visit(&mut self, mut config: Config<M::State>) {
        self.place_unnoticed(&mut config);
        if config.first == self.timeline.answered.len() {
            self.is_complete = true;
            return;
        }
        self.note_farthest(&config);
        if !self.is_hopeless(&config) && self.is_new(&config) {
            self.visited += 1;
            self.wait(config, false);
        }
    }

    /// Rule 1.
    fn place_unnoticed(&self, config: &mut Config<M::State>) {
        let is_unnoticed = |config: &Config<M::State>, i: u32| {
            let operation = &self.timeline.answered[i as usize];
            operation.is_read && M::step(&config.state, operation.input).1 == *operation.output
        };
        while config.first < self.timeline.answered.len() {
            let mut open = self.timeline.open(config.first).iter().copied();
            let Some(i) = open.find(|&i| !config.is_placed(i) && is_unnoticed(config, i)) else { break };
            config.place(i);
        }
    }

    /// Rule 5, as the model has it.
    fn is_hopeless(&self, config: &Config<M::State>) -> bool {
        let mut open = self.timeline.open(config.first).iter();
        open.any(|&i| {
            let operation = &self.timeline.answered[i as usize];
            !config.is_placed(i) && M::is_past(&config.state, operation.input, operation.output)
        })
    }

    /// Rule 4; notes the configuration.
    fn is_new(&mut self, config: &Config<M::State>) -> bool {
        let ahead = config.ahead.clone().into_boxed_slice();
        let key = Key { first: config.first, ahead, state: config.state.clone() };
        match self.seen.entry(key) {
            Entry::Vacant(entry) => {
                let is_empty = config.used.is_empty();
                let sets = if is_empty { Vec::new() } else { vec![config.used.clone().into_boxed_slice()] };
                entry.insert(sets);
                true
            }
            Entry::Occupied(mut entry) => {
                let sets = entry.get_mut();
                self.looks += sets.len() as u64;
                if sets.is_empty() || sets.iter().any(|set| is_part(set, &config.used)) {
                    return false;
                }
                if config.used.is_empty() {
                    sets.clear();
                } else {
                    sets.push(config.used.clone().into_boxed_slice());
                }
                true
            }
        }
    }

    fn wait(&mut self, config: Config<M::State>, is_tried: bool) {
        if is_tried && self.timeline.begun(config.first) == 0 {
            return;
        }
        let placed = (config.first + config.ahead.len()) as i64;
        let unknown = i64::from(config.unknown_in_a_row) + i64::from(is_tried);
        let score = placed - UNKNOWN_COSTS * unknown;
        self.waiting.push(Waiting { config, is_tried, score, age: self.visited });
    }

    fn note_farthest(&mut self, config: &Config<M::State>) {
        if config.first > self.farthest {
            self.farthest = config.first;
            self.states.clear();
        }
        let is_told = config.first == self.farthest && self.states.len() < STATES_TOLD;
        if is_told && !self.states.contains(&config.state) {
            self.states.push(config.state.clone());
        }
    }
}

/// Whether all of `part` is in `whole`.
fn is_part(part: &[u64], whole: &[u64]) -> bool {
    part.len() <= whole.len() && part.iter().zip(whole).all(|(part, whole)| part & !whole == 0)
}
