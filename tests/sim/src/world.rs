//! The world of one run: store, log, network, silos, and how they hear of each other.

use std::collections::BTreeSet;

use granary_core::SlotId;
use granary_core::error::Ran;

use granary_cluster::retry::Retry;
use granary_cluster::slot::{Do, Dropped, Heard, Outlet, Why};
use granary_cluster::{CommitNo, Defect, Epoch, Incarnation, Marker, Program, Reply, Script, TxId};

use crate::check::{Check, Checks};
use crate::log::Log;
use crate::paths::{MARKER_MISSING, path};
use crate::random::Random;
use crate::reads::Floor;
use crate::scenario::{Mistake, Scenario};
use crate::silo::{Answer, Asked, Life, Silo, What};
use crate::store::{LeftOut, Row, Store};
use crate::truth::Truth;

/// A script on its way to the store.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its sender.
    pub silo: usize,
    /// The script.
    pub script: Script,
    /// Whether the sender still waits for the answer.
    pub awaited: bool,
}

/// Everything there is.
#[derive(Debug)]
pub struct World {
    /// The kind of run.
    pub scenario: Scenario,
    /// Chance.
    pub random: Random,
    /// The store.
    pub store: Store,
    /// The log.
    pub log: Log,
    /// Scripts on their way.
    pub network: Vec<Message>,
    /// Answers on their way.
    pub replies: Vec<(usize, Reply)>,
    /// All silos there have been.
    pub silos: Vec<Silo>,
    /// What must hold, by slot.
    pub checks: Vec<Checks>,
    /// How many calls were made.
    pub calls: u64,
    /// How often the store lost writes.
    pub rollbacks: u32,
    /// The less common paths of the protocol that were walked.
    pub walked: BTreeSet<&'static str>,
    /// Slots that were opened, for the kind of run that has time.
    pub opened: Vec<(usize, usize)>,
    /// Slots that were dropped, for the same.
    pub dropped: Vec<(usize, usize, Why)>,
}

impl World {
    /// A new cluster.
    pub fn new(scenario: Scenario, mut random: Random) -> World {
        let left_out = LeftOut {
            epoch: scenario.mistake == Some(Mistake::SkipEpochCheck),
            run: scenario.mistake == Some(Mistake::SkipRunCheck),
        };
        let slots = usize::from(scenario.slots);
        let checks = (0..slots)
            .map(|slot| {
                let poison = scenario.poison.then(|| random.below(scenario.records));
                Checks::new(slot, Truth::new(slot as u32, scenario.records, poison))
            })
            .collect();
        let mut log = Log::new(slots);
        for marker in &mut log.markers {
            // the marker is written when the slot is created; a silo that ended just before that finds none
            let creator = TxId { incarnation: Incarnation(0), lane: 0 };
            let at = Marker { n: CommitNo(0), epoch: Epoch(0), txid: creator, positions: Vec::new() };
            *marker = (!random.once_in(8)).then_some(at);
        }
        let store = Store::new(slots, scenario.outlet == Outlet::Store, left_out);
        let mut world = World {
            scenario,
            random,
            store,
            log,
            network: Vec::new(),
            replies: Vec::new(),
            silos: Vec::new(),
            checks,
            calls: 0,
            rollbacks: 0,
            walked: BTreeSet::new(),
            opened: Vec::new(),
            dropped: Vec::new(),
        };
        for _ in 0..scenario.silos {
            world.start_silo();
        }
        world
    }

    /// One more incarnation.
    pub fn start_silo(&mut self) {
        self.start_silo_of(Program::default());
    }

    /// The same, of a program.
    pub fn start_silo_of(&mut self, program: Program) {
        let me = Incarnation(self.silos.len() as u64 + 1);
        let txid = TxId { incarnation: me, lane: 0 };
        let generation = self.log.init(txid);
        self.log.register(txid, generation);
        let mut silo = Silo::new(me, self.scenario.slots, self.scenario.outlet, generation, program);
        let defect = match self.scenario.mistake {
            Some(Mistake::Slot(defect)) => Some(defect),
            Some(Mistake::SkipRunCheck) => Some(Defect::IgnoreServerRun),
            _ => None,
        };
        if let Some(defect) = defect {
            silo.seats.iter_mut().for_each(|seat| seat.slot.plant(defect));
        }
        self.silos.push(silo);
    }

    /// The silo of an incarnation.
    pub fn life_of(&self, of: Incarnation) -> Life {
        self.silos.iter().find(|silo| silo.me == of).map_or(Life::Dead, |silo| silo.life)
    }

    /// A slot's row.
    pub fn row(&self, slot: usize) -> &Row {
        &self.store.rows[slot]
    }

    /// The row as a silo may load cells from it: under another run of the server it gets none.
    pub fn loadable(&self, silo: usize, slot: usize) -> Option<&Row> {
        let same_run = self.silos[silo].seats[slot].slot.run() == self.store.run;
        (same_run || self.scenario.mistake == Some(Mistake::SkipRunCheck)).then(|| self.row(slot))
    }

    /// Tells a slot something and carries out what it asks for.
    pub fn tell(&mut self, silo: usize, slot: usize, heard: Heard) -> Check {
        let mut out = Vec::new();
        self.silos[silo].seats[slot].slot.hear(heard, &mut out);
        self.carry_out(silo, slot, out)
    }

    /// Tells all slots of a silo's lane.
    pub fn tell_all(&mut self, silo: usize, heard: &Heard) -> Check {
        (0..usize::from(self.scenario.slots)).try_for_each(|slot| self.tell(silo, slot, heard.clone()))
    }

    /// Carries out what a slot asks for, as an engine would.
    pub fn carry_out(&mut self, silo: usize, slot: usize, todo: Vec<Do>) -> Check {
        for each in todo {
            self.walked.extend(path(&each));
            match each {
                Do::Script(script) => self.network.push(Message { silo, script, awaited: true }),
                Do::Fence(ask, txids) => {
                    let registered = if txids.everyone { self.log.registered() } else { Vec::new() };
                    let mut ids = txids.ids;
                    ids.extend(registered.iter().map(|(id, _)| *id));
                    ids.sort_unstable();
                    ids.dedup();
                    if self.scenario.mistake == Some(Mistake::ForgetUnfenced) {
                        self.log.forget(&registered);
                    }
                    self.silos[silo].asked.push(Asked { slot, ask, what: What::Fence(ids, registered) });
                }
                Do::ReadRecord(ask) => self.silos[silo].asked.push(Asked { slot, ask, what: What::Record }),
                Do::ReadMarker(ask) => self.silos[silo].asked.push(Asked { slot, ask, what: What::Marker }),
                Do::InitProducer => self.silos[silo].must_init = true,
                Do::Opened(opened) => {
                    // one that was taken over and does not know it yet may open again where it stood
                    let record = &self.store.rows[slot].record;
                    let owns = (record.owner, record.epoch) == (self.silos[silo].me, opened.epoch);
                    self.opened.extend(self.scenario.timed.then_some((silo, slot)));
                    let seat = &mut self.silos[silo].seats[slot];
                    seat.openings += 1;
                    let (known, named) = (seat.acknowledged, seat.named);
                    (seat.acknowledged, seat.named) = (opened.n, CommitNo(0));
                    seat.memory.open(&opened);
                    if !seat.slot.may_seal() && seat.slot.wants_to_publish() {
                        self.walked.insert(MARKER_MISSING);
                    }
                    if self.rollbacks == 0 && owns {
                        self.checks[slot].open(opened.n)?;
                    } else if owns && known > opened.n.max(named) {
                        return Err(format!("slot {slot}: commit {known} is lost, and nobody says so"));
                    }
                }
                Do::Noted(at) => self.silos[silo].seats[slot].memory.noted = Some(at),
                Do::Release(n) => self.release(silo, slot, n)?,
                Do::Drop(dropped) => self.drop_memory(silo, slot, dropped),
                Do::Lost { to, .. } => self.silos[silo].seats[slot].named = to,
                Do::Stop(why) => return Err(format!("slot {slot} stops: {why:?}")),
            }
        }
        Ok(())
    }

    fn release(&mut self, silo: usize, slot: usize, n: CommitNo) -> Check {
        let seat = &mut self.silos[silo].seats[slot];
        seat.acknowledged = seat.acknowledged.max(n);
        if seat.slot.n() == n {
            seat.memory.stored();
            seat.culprit.passed(seat.slot.positions());
        }
        let leaving: Vec<Answer> = seat.held.release(n).collect();
        self.checks[slot].acknowledge(n)?;
        leaving.iter().try_for_each(|answer| self.leave(silo, slot, answer))
    }

    /// An answer leaves. Where silos have leases it is the answer of one silo that owned the slot all the time.
    pub fn leave(&mut self, silo: usize, slot: usize, answer: &Answer) -> Check {
        let checks = &mut self.checks[slot];
        checks.answer(answer.call, &answer.seen)?;
        if !self.scenario.timed {
            return Ok(());
        }
        let knows_run = self.silos[silo].seats[slot].slot.run() == self.store.run;
        checks.order(answer, &self.store.rows[slot], knows_run)
    }

    fn drop_memory(&mut self, silo: usize, slot: usize, dropped: Dropped) {
        self.dropped.extend(self.scenario.timed.then_some((silo, slot, dropped.why)));
        let seat = &mut self.silos[silo].seats[slot];
        seat.memory.drop_all();
        if dropped.why != Why::Rollback {
            seat.culprit = Default::default();
        }
        for (answer, ran) in seat.held.dropped(&dropped) {
            if ran == Ran::No {
                self.checks[slot].refuse(answer.call);
            }
        }
    }

    /// A call: it changes the slot, or only looks.
    pub fn call(&mut self, silo: usize, slot: usize, writes: bool) -> Check {
        self.calls += 1;
        let call = self.calls;
        let row = self.loadable(silo, slot).cloned();
        let seat = &mut self.silos[silo].seats[slot];
        let seen = if writes { seat.memory.call(row.as_ref(), call) } else { seat.memory.seen(row.as_ref()) };
        let Ok(seen) = seen else { return self.give_up(silo, slot) };
        let (call, n) = match (writes, seat.memory.is_dirty()) {
            (true, _) => (Some(call), seat.slot.open_commit()),
            (false, true) => (None, seat.slot.open_commit()),
            (false, false) => (None, seat.slot.sealed()),
        };
        if n <= seat.slot.n() {
            return self.checks[slot].answer(call, &seen);
        }
        seat.held
            .hold(n, false, Answer { call, seen, floor: Floor::default() })
            .map_err(|_| "a slot holds too many replies".to_owned())
    }

    /// Applies the next record, or sets it aside, or fails on it.
    pub fn apply(&mut self, silo: usize, slot: usize) -> Check {
        let row = self.loadable(silo, slot).cloned();
        let poison = self.checks[slot].truth().poison;
        let seat = &mut self.silos[silo].seats[slot];
        let at = seat.memory.at(seat.memory.next);
        match seat.memory.verdict() {
            Retry::Park => return Err(format!("slot {slot} is parked")),
            Retry::Poison if poison != Some(at.offset) => {
                return Err(format!("slot {slot}: record {} is set aside, and it is innocent", at.offset));
            }
            Retry::Poison => seat.memory.poison(),
            Retry::Retry if seat.culprit.is_poison(at) => seat.memory.poison(),
            Retry::Retry if poison == Some(at.offset) => {
                if seat.culprit.failed(at) == Retry::Park {
                    return Err(format!("slot {slot} is parked"));
                }
                return self.roll_memory_back(silo, slot);
            }
            Retry::Retry => {
                if seat.memory.apply(row.as_ref()).is_err() {
                    return self.give_up(silo, slot);
                }
            }
        }
        Ok(())
    }

    /// A handler failed.
    pub fn roll_memory_back(&mut self, silo: usize, slot: usize) -> Check {
        let mut out = Vec::new();
        self.silos[silo].seats[slot].slot.rollback(&mut out);
        self.carry_out(silo, slot, out)
    }

    /// A silo lets a slot go at once.
    pub fn give_up(&mut self, silo: usize, slot: usize) -> Check {
        let mut out = Vec::new();
        self.silos[silo].seats[slot].slot.give_up(&mut out);
        self.carry_out(silo, slot, out)
    }

    /// Seals what is not sealed.
    pub fn seal(&mut self, silo: usize, slot: usize) -> Check {
        let seat = &mut self.silos[silo].seats[slot];
        let (cells, positions, outbox) = seat.memory.seal();
        let mut out = Vec::new();
        seat.slot.seal(cells, positions, outbox, &mut out);
        self.carry_out(silo, slot, out)
    }

    /// The script arrives at the store; its answer goes back if anybody waits.
    pub fn arrive(&mut self, i: usize) -> Check {
        let Message { silo, script, awaited } = self.network.swap_remove(i);
        let slot = script.slot();
        let may_acquire = self.scenario.timed || self.silos[silo].life == Life::Up;
        let ran = self.store.execute(&script, may_acquire);
        let at = usize::from(slot.0);
        let published = self.store.publishes().then(|| self.row(at).record.n);
        if awaited {
            self.replies.push((silo, Reply { slot, verdict: ran.verdict, record: ran.record, published }));
        }
        if let Some((before, commit)) = ran.written {
            self.checks[at].written(&before, &commit, &self.store.rows[at])?;
            self.checks[at].see(&self.store.rows[at].visible)?;
        }
        Ok(())
    }

    /// The answer arrives at the silo.
    pub fn answer(&mut self, i: usize) -> Check {
        let (silo, reply) = self.replies.swap_remove(i);
        if !self.silos[silo].runs() {
            return Ok(());
        }
        self.tell(silo, usize::from(reply.slot.0), Heard::Scripted(reply))
    }

    /// The silo gives up waiting for a script and sends it again. Planted: with other content.
    pub fn unknown(&mut self, silo: usize, slot: SlotId) -> Check {
        if !self.silos[silo].runs() {
            return Ok(());
        }
        let sent = self.network.len();
        let at = usize::from(slot.0);
        self.tell(silo, at, Heard::ScriptUnknown)?;
        if self.scenario.mistake != Some(Mistake::RebuildCommit) || self.network.len() == sent {
            return Ok(());
        }
        let may_grow = self.can_apply(silo, at);
        if let (true, Script::Commit(commit)) = (may_grow, self.network[sent].script.clone()) {
            self.apply(silo, at)?;
            let (cells, positions, outbox) = self.silos[silo].seats[at].memory.seal();
            let grown = granary_cluster::Commit { cells, positions, outbox, ..(*commit).clone() };
            if let Some(message) = self.network.get_mut(sent) {
                message.script = Script::Commit(grown.into());
            }
        }
        Ok(())
    }

    /// Whether the next record may be applied now.
    pub fn can_apply(&self, silo: usize, slot: usize) -> bool {
        let seat = &self.silos[silo].seats[slot];
        let mode = seat.memory.mode(&seat.culprit);
        let at = seat.memory.at(seat.memory.next);
        seat.slot.may_apply()
            && at.offset < self.checks[slot].truth().records
            && seat.memory.unsealed < mode.records_max()
            && (!mode.must_note() || seat.memory.noted == Some(at))
    }

    /// Whether all input is applied, published and let go of.
    pub fn is_done(&self) -> bool {
        self.checks.iter().zip(&self.store.rows).all(|(check, row)| check.is_done(row))
    }

    /// What must hold at the end.
    pub fn end(&self) -> Check {
        self.checks.iter().zip(&self.store.rows).try_for_each(|(check, row)| check.end(row))
    }
}
