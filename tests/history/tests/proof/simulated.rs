//! Clients, a network and one object for each key, in one thread. Requests and answers take their time and get lost; the
//! object does each request at the instant it arrives, so what the clients see is linearizable, but for the defect that
//! was planted.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use granary_history::{History, Model, Operation, Outcome};

use crate::dice::Dice;
use crate::objects::Played;

/// What an object does wrong, once in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A read is answered with a state that was gone when it began.
    StaleRead,
    /// A change is acknowledged and not kept.
    LostWrite,
    /// A change that was acknowledged is done again some time later.
    DoubleApply,
    /// A key moves; for some time the former owner answers reads with what it knew.
    FormerOwner,
    /// A change of unknown outcome is done, and again some time later.
    UnknownTwice,
}

pub const DEFECTS: [Defect; 5] =
    [Defect::StaleRead, Defect::LostWrite, Defect::DoubleApply, Defect::FormerOwner, Defect::UnknownTwice];

/// The size of a run and what happens in it.
#[derive(Clone, Debug)]
pub struct Plan {
    pub clients: u64,
    pub keys: u64,
    pub operations: usize,
    /// The longest time between two operations of a client, in microseconds.
    pub think: u64,
    /// The longest way of a request or an answer, in microseconds.
    pub travel: u64,
    /// Of a thousand operations, how many have an unknown outcome.
    pub unknown: u64,
    /// Of a thousand operations, how many are refused.
    pub refused: u64,
    pub defect: Option<Defect>,
}

impl Plan {
    /// A small run of any kind.
    pub fn draw(dice: &mut Dice) -> Self {
        Self {
            clients: dice.between(2, 16),
            keys: dice.between(1, 4),
            operations: dice.between(20, 200) as usize,
            think: dice.between(1, 3000),
            travel: dice.between(1, 1000),
            unknown: dice.below(150),
            refused: dice.below(100),
            defect: None,
        }
    }
}

/// What will become of an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Refused,
    RequestLost,
    AnswerLost,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Invoke { client: u64 },
    Arrive { operation: usize },
    ArriveAgain { operation: usize },
    Return { operation: usize },
}

struct Object<M: Model> {
    state: M::State,
    /// States before, each with the time it was gone.
    gone: Vec<(u64, M::State)>,
    /// What the former owner knows, and until when it is asked.
    former: Option<(M::State, u64)>,
}

pub struct Run<M: Model> {
    plan: Plan,
    dice: Dice,
    now: u64,
    events: BinaryHeap<Reverse<(u64, usize, Event)>>,
    scheduled: usize,
    objects: Vec<Object<M>>,
    operations: Vec<Operation<u64, M::Input, M::Output>>,
    fates: Vec<Fate>,
    /// From this operation on the defect shows when it can.
    defect_from: usize,
    /// The defect has shown.
    pub is_defect_shown: bool,
}

impl<M: Played> Run<M> {
    /// Runs a plan to its end.
    pub fn new(plan: Plan, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let defect_from = dice.below(plan.operations as u64 / 2) as usize;
        let object = |_| Object { state: M::init(), gone: Vec::new(), former: None };
        let objects = (0..plan.keys).map(object).collect();
        let mut run = Self {
            plan,
            dice,
            now: 0,
            events: BinaryHeap::new(),
            scheduled: 0,
            objects,
            operations: Vec::new(),
            fates: Vec::new(),
            defect_from,
            is_defect_shown: false,
        };
        for client in 0..run.plan.clients {
            run.schedule(0, Event::Invoke { client });
        }
        while let Some(Reverse((at, _, event))) = run.events.pop() {
            run.now = at;
            run.happen(event);
        }
        run
    }

    pub fn history(&self) -> History<u64, M::Input, M::Output> {
        self.operations.iter().cloned().collect()
    }

    /// Schedules an event in up to `within` microseconds; more often than not rather soon.
    fn schedule(&mut self, within: u64, event: Event) {
        let longest = self.dice.between(1, within.max(1)) * 1000;
        let at = self.now + self.dice.below(longest);
        self.scheduled += 1;
        self.events.push(Reverse((at, self.scheduled, event)));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Invoke { client } if self.operations.len() < self.plan.operations => self.invoke(client),
            Event::Invoke { .. } => {}
            Event::Arrive { operation } => self.arrive(operation),
            Event::ArriveAgain { operation } => {
                let key = self.operations[operation].key as usize;
                let (next, _) = M::step(&self.objects[key].state, &self.operations[operation].input);
                self.is_defect_shown |= next != self.objects[key].state;
                self.keep(key, next);
            }
            Event::Return { operation } => {
                self.operations[operation].returned_at = self.now;
                let client = self.operations[operation].process;
                self.schedule(self.plan.think, Event::Invoke { client });
            }
        }
    }

    fn invoke(&mut self, client: u64) {
        let operation = self.operations.len();
        let fate = match (self.dice.below(1000), self.dice.one_in(2)) {
            (n, true) if n < self.plan.unknown => Fate::RequestLost,
            (n, false) if n < self.plan.unknown => Fate::AnswerLost,
            (n, _) if n < self.plan.unknown + self.plan.refused => Fate::Refused,
            _ => Fate::Answered,
        };
        // Half of the operations go to the first key.
        let key = if self.dice.one_in(2) { 0 } else { self.dice.below(self.plan.keys) };
        let input = M::draw(&mut self.dice, operation as u64);
        let (invoked_at, outcome) = (self.now, Outcome::Unknown);
        self.operations.push(Operation { process: client, key, input, outcome, invoked_at, returned_at: 0 });
        self.fates.push(fate);
        match fate {
            Fate::Answered => self.schedule(self.plan.travel, Event::Arrive { operation }),
            Fate::Refused => {
                self.operations[operation].outcome = Outcome::NotRun;
                self.schedule(self.plan.travel, Event::Return { operation });
            }
            Fate::RequestLost | Fate::AnswerLost => {
                // The client gives up; the request may come long after that.
                self.schedule(self.plan.travel * 2, Event::Return { operation });
                if fate == Fate::AnswerLost {
                    let late = if self.dice.one_in(3) { 40 } else { 1 };
                    self.schedule(self.plan.travel * late, Event::Arrive { operation });
                }
            }
        }
    }

    /// A request arrives: the object does it.
    fn arrive(&mut self, operation: usize) {
        let key = self.operations[operation].key as usize;
        let (mut next, mut output) = M::step(&self.objects[key].state, &self.operations[operation].input);
        let is_read = next == self.objects[key].state;
        let is_answered = self.fates[operation] == Fate::Answered;
        if operation >= self.defect_from && !self.is_defect_shown {
            self.move_owner(key);
            match self.plan.defect {
                Some(Defect::StaleRead) if is_read && is_answered => {
                    output = self.stale(operation).unwrap_or(output);
                }
                Some(Defect::LostWrite) if !is_read && is_answered => {
                    next = self.objects[key].state.clone();
                    self.is_defect_shown = true;
                }
                Some(Defect::DoubleApply) if !is_read && is_answered => {
                    self.is_defect_shown = true;
                    self.schedule(self.plan.travel * 2, Event::ArriveAgain { operation });
                }
                Some(Defect::UnknownTwice) if !is_read && !is_answered => {
                    self.is_defect_shown = true;
                    self.schedule(self.plan.travel * 8, Event::ArriveAgain { operation });
                }
                _ => {}
            }
        }
        if is_read && is_answered {
            output = self.ask_former_owner(operation).unwrap_or(output);
        }
        self.keep(key, next);
        if is_answered {
            self.operations[operation].outcome = Outcome::Answered(output);
            self.schedule(self.plan.travel, Event::Return { operation });
        }
    }

    fn keep(&mut self, key: usize, next: M::State) {
        let object = &mut self.objects[key];
        if next != object.state {
            let before = std::mem::replace(&mut object.state, next);
            object.gone.push((self.now, before));
        }
    }

    /// The answer from the last state that was gone before the operation began, if it differs.
    fn stale(&mut self, operation: usize) -> Option<M::Output> {
        let Operation { key, input, invoked_at, .. } = &self.operations[operation];
        let object = &self.objects[*key as usize];
        let (_, state) = object.gone.iter().rev().find(|(at, _)| at < invoked_at)?;
        let (right, stale) = (M::step(&object.state, input).1, M::step(state, input).1);
        self.is_defect_shown |= right != stale;
        (right != stale).then_some(stale)
    }

    fn move_owner(&mut self, key: usize) {
        let lease = self.plan.travel * 10_000;
        let object = &mut self.objects[key];
        if self.plan.defect == Some(Defect::FormerOwner) && object.former.is_none() {
            object.former = Some((object.state.clone(), self.now + lease));
        }
    }

    /// The answer of a former owner that does not know that it is one.
    fn ask_former_owner(&mut self, operation: usize) -> Option<M::Output> {
        let Operation { key, input, .. } = &self.operations[operation];
        let object = &self.objects[*key as usize];
        let (state, until) = object.former.as_ref()?;
        if self.now > *until || !self.dice.one_in(2) {
            return None;
        }
        let (right, former) = (M::step(&object.state, input).1, M::step(state, input).1);
        self.is_defect_shown |= right != former;
        Some(former)
    }
}
