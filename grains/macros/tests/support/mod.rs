//! The smallest host a turn can run on: one grain, turns polled to their end.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use granary_core::call::Options;
use granary_core::envelope::Ended;
use granary_core::grain::MethodEntry;
use granary_core::host::{Begun, Emitted, Host, Later, LocalCall, Place};
use granary_core::shared::AnyGrain;
use granary_core::turn::TurnPool;
use granary_core::{Cx, Error, ErrorKind, Grain, Key, KindId, KindInfo, Result, SlotId, Timestamp, codec};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One activation and what its turns told.
pub struct Desk {
    kind: &'static KindInfo,
    key: Key,
    grain: Rc<dyn AnyGrain>,
    host: Rc<Ledger>,
}

#[derive(Default)]
struct Ledger(RefCell<Vec<String>>);

impl Desk {
    /// The time of every turn.
    pub const NOW: i64 = 1_000;

    /// A new grain.
    pub fn new<G: Grain>(key: &str) -> Desk {
        let grain = (G::info().wake)(None).expect("a new grain wakes");
        Desk { kind: G::info(), key: key.into(), grain, host: Rc::default() }
    }

    /// The grain with this stored state.
    pub fn waking<G: Grain>(key: &str, image: &[u8]) -> Desk {
        let grain = (G::info().wake)(Some(image)).expect("the image is of this kind");
        Desk { grain, ..Desk::new::<G>(key) }
    }

    /// The streams that were told something.
    pub fn emitted(&self) -> Vec<String> {
        self.host.0.borrow().clone()
    }

    fn cx(&self) -> Cx {
        let place = Place { slot: SlotId(0), activation: 0, turn: Place::PLAIN, generation: 0 };
        Cx::new(self.host.clone(), place, self.kind.name, self.key.clone(), Timestamp(Desk::NOW))
    }
}

/// Calls a method by its name.
pub fn ask<R: DeserializeOwned>(desk: &Desk, method: &str, arguments: &impl Serialize) -> Result<R> {
    let entry = desk.kind.method(method).unwrap_or_else(|| panic!("no method {method}"));
    run(desk, entry, arguments)
}

/// Runs a row of the table.
pub fn run<R: DeserializeOwned>(desk: &Desk, entry: &MethodEntry, arguments: &impl Serialize) -> Result<R> {
    let (to, mut reply) = tokio::sync::oneshot::channel();
    let envelope = (entry.open)(&codec::to_bytes(arguments)?, Options::default(), to)?;
    let mut leave_at_once = |_: Option<&Error>| false;
    let ended = if entry.info.is_async {
        let mut turn = envelope.start(desk.grain.clone(), desk.cx(), &mut TurnPool::default());
        let polled = turn.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(polled, Poll::Ready(()), "nothing here waits");
        turn.as_mut().end(&mut leave_at_once)
    } else {
        envelope.run(&*desk.grain, &mut desk.cx(), &mut leave_at_once)
    };
    assert!(matches!(ended, Ended::Left));
    codec::from_bytes(&reply.try_recv().expect("the turn has answered")?)
}

impl Host for Ledger {
    fn now(&self) -> Timestamp {
        Timestamp(Desk::NOW)
    }

    fn call(&self, _: Place, _: KindId, key: &Key, _: &mut dyn LocalCall) -> Result<Begun> {
        Err(Error::new(ErrorKind::NotFound, format!("{key}: there is one grain only")))
    }

    fn whereabouts(&self, _: &'static str, _: &Key) -> String {
        String::new()
    }

    fn wake_at(&self, _: Timestamp, _: Waker) {}

    fn emit(&self, _: Place, stream: &str, _: Emitted) -> Result<()> {
        self.0.borrow_mut().push(stream.to_owned());
        Ok(())
    }

    fn set_timer(&self, _: Place, _: Later<'_>) -> Result<()> {
        Ok(())
    }

    fn cancel_timer(&self, _: Place, _: &str) -> bool {
        false
    }

    fn set_reminder(&self, _: Place, _: Later<'_>) -> Result<()> {
        Ok(())
    }

    fn cancel_reminder(&self, _: Place, _: &str) -> Result<bool> {
        Ok(false)
    }

    fn deactivate(&self, _: Place) {}
}
