//! What `#[grain]` writes, written by hand: the target of the macro and a check of the traits.

// written as the macro writes it; turn admission keeps others out of a borrow that is held
#![allow(clippy::manual_async_fn, clippy::await_holding_refcell_ref)]

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use granary_core::call::Call;
use granary_core::context::{CONTEXT_BYTES_MAX, Context};
use granary_core::grain::{MethodEntry, Subscription};
use granary_core::host::{Begun, Emitted, Host, Later, LocalCall, Place};
use granary_core::{
    Access, Caller, Cx, ErrorKind, Grain, Key, KindId, KindInfo, Method, MethodInfo, Result, Shared, SlotId,
    Timestamp,
};
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

// the user's own block, kept as it is
impl Sensor {
    async fn record(&mut self, value: u64, _cx: &mut Cx) -> Result<()> {
        if value > 100 {
            self.bursts += 1;
        }
        Ok(())
    }

    fn bursts(&self) -> u64 {
        self.bursts
    }

    async fn bump(this: &Shared<Self>, by: u64) -> u64 {
        this.update(|me| {
            me.bursts += by;
            me.bursts
        })
    }
}

// what the attribute adds
impl Grain for Sensor {
    const KIND: &'static str = "Sensor";
    type Ref<C: Caller> = SensorRef<C>;

    fn reference<C: Caller>(key: Key, caller: C) -> SensorRef<C> {
        SensorRef { key, caller }
    }

    fn info() -> &'static KindInfo {
        static INFO: OnceLock<KindInfo> = OnceLock::new();
        INFO.get_or_init(|| {
            let mut info = KindInfo::of::<Sensor>(vec![
                MethodEntry::of::<SensorRecord>(),
                MethodEntry::of::<SensorBursts>(),
                MethodEntry::of::<SensorBump>(),
            ]);
            info.subscriptions = vec![Subscription { stream: "readings", method: "record" }];
            info
        })
    }
}

#[derive(Clone)]
struct SensorRef<C> {
    key: Key,
    caller: C,
}

impl<C: Caller> SensorRef<C> {
    fn record(&self, value: u64) -> Call<C, SensorRecord> {
        Call::new(self.key.clone(), self.caller.clone(), SensorRecord { value })
    }

    fn bursts(&self) -> Call<C, SensorBursts> {
        Call::new(self.key.clone(), self.caller.clone(), SensorBursts {})
    }

    fn bump(&self, by: u64) -> Call<C, SensorBump> {
        Call::new(self.key.clone(), self.caller.clone(), SensorBump { by })
    }
}

#[derive(Serialize, Deserialize)]
struct SensorRecord {
    value: u64,
}

impl Method for SensorRecord {
    type Grain = Sensor;
    type Reply = ();
    const INFO: MethodInfo = MethodInfo {
        kind: "Sensor",
        kind_id: KindId::of("Sensor"),
        name: "record",
        access: Access::Write,
        is_async: true,
        snapshot: false,
    };

    fn start(self, grain: Rc<Shared<Sensor>>, mut cx: Cx) -> impl Future<Output = Result<()>> + 'static {
        async move { grain.borrow_mut().record(self.value, &mut cx).await }
    }
}

#[derive(Serialize, Deserialize)]
struct SensorBursts {}

impl Method for SensorBursts {
    type Grain = Sensor;
    type Reply = u64;
    const INFO: MethodInfo = MethodInfo {
        kind: "Sensor",
        kind_id: KindId::of("Sensor"),
        name: "bursts",
        access: Access::Read,
        is_async: false,
        snapshot: false,
    };

    fn run(self, grain: &Shared<Sensor>, _cx: &mut Cx) -> Result<u64> {
        Ok(grain.borrow().bursts())
    }
}

#[derive(Serialize, Deserialize)]
struct SensorBump {
    by: u64,
}

impl Method for SensorBump {
    type Grain = Sensor;
    type Reply = u64;
    const INFO: MethodInfo = MethodInfo {
        kind: "Sensor",
        kind_id: KindId::of("Sensor"),
        name: "bump",
        access: Access::Interleave,
        is_async: true,
        snapshot: false,
    };

    fn start(self, grain: Rc<Shared<Sensor>>, _cx: Cx) -> impl Future<Output = Result<u64>> + 'static {
        async move { Ok(Sensor::bump(&grain, self.by).await) }
    }
}

#[test]
fn the_table_of_a_kind_names_its_methods() {
    let names: Vec<_> = Sensor::info().methods.iter().map(|m| m.info.name).collect();
    assert_eq!(names, ["record", "bursts", "bump"]);
    assert!(Sensor::info().method("bursts").is_some());
}

#[test]
fn state_survives_its_stored_form() {
    let grain = (Sensor::info().wake)(None).unwrap();
    let mut image = Vec::new();
    grain.encode(&mut image).unwrap();
    let (version, state): (u32, Sensor) = granary_core::codec::from_bytes(&image).unwrap();
    assert_eq!((version, state.bursts), (1, 0));
    assert!((Sensor::info().wake)(Some(&image)).is_ok());
}

#[test]
fn a_call_without_a_caller_says_what_to_use() {
    let call = Sensor::at("d/7").bump(3);
    let (target, method, arguments) = call.into_parts().unwrap();
    assert_eq!((target.to_string().as_str(), method), ("Sensor/d%2F7", "bump"));
    assert_eq!(granary_core::codec::from_bytes::<SensorBump>(&arguments).unwrap().by, 3);
    let _ = (Sensor::at("a").record(1), Sensor::at("a").bursts());
}

/// Keeps the context of each call.
#[derive(Default)]
struct Contexts(RefCell<Vec<Option<Arc<Context>>>>);

impl Host for Contexts {
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }

    fn call(&self, from: Place, _: KindId, _: &Key, call: &mut dyn LocalCall) -> Result<Begun> {
        assert_eq!(from.turn, Place::PLAIN);
        self.0.borrow_mut().push(call.options().context.clone());
        Ok(Begun::Ran)
    }

    fn whereabouts(&self, _: &'static str, _: &Key) -> String {
        String::new()
    }

    fn wake_at(&self, _: Timestamp, _: Waker) {}

    fn emit(&self, _: Place, _: &str, _: Emitted) -> Result<()> {
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

#[test]
fn the_calls_of_a_turn_carry_the_context_it_came_with() {
    let host = Rc::new(Contexts::default());
    let place = Place { slot: SlotId(0), activation: 0, turn: Place::PLAIN, generation: 0 };
    let context = Some(Arc::new(Context::new([("tenant", "acme")]).unwrap()));
    let mut cx =
        Cx::new(host.clone(), place, "Sensor", "d-7".into(), Timestamp(0)).with_context(context.clone());
    assert_eq!((cx.context("tenant"), cx.context("user")), (Some("acme"), None));

    cx.tell(Sensor::at("a").bump(1)).into_inner().unwrap();
    cx.tell(Sensor::at("a").bump(1).context("user", "u-1")).into_inner().unwrap();
    let long = "x".repeat(CONTEXT_BYTES_MAX);
    let error = cx.tell(Sensor::at("a").bump(1).context("long", &long)).into_inner().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);

    let both = Arc::new(Context::new([("tenant", "acme"), ("user", "u-1")]).unwrap());
    assert_eq!(*host.0.borrow(), [context, Some(both)]);
}
