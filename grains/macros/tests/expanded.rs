//! Grains as users write them: what the attribute adds is read back and run, without a silo.

mod support;

use std::fmt;

use granary_core::{
    Access, Cx, Durability, Error, ErrorKind, Grain, Method, Result, Shared, Span, Value, codec,
    grain as core_grain,
};
use granary_macros::grain;
use serde::{Deserialize, Serialize};
use support::{Desk, ask};

/// Everything the attribute knows, on one type.
#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
    #[serde(skip)]
    woken: u64,
}

#[derive(Debug)]
struct TooHot(u64);

impl From<TooHot> for Error {
    fn from(error: TooHot) -> Error {
        Error::rejected(format!("{} degrees", error.0))
    }
}

impl fmt::Display for TooHot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} degrees", self.0)
    }
}

type Checked = std::result::Result<u64, TooHot>;

mod hidden {
    pub type Result = std::result::Result<u64, super::TooHot>;
}

#[grain(
    name = "Thermometer", version = 3, idle = "10m", turn_max = "250ms", queue_max = 7, volatile,
    crate = granary_core
)]
impl Sensor {
    const LIMIT: u64 = 100;

    fn fresh() -> Self {
        Sensor::default()
    }

    /// Counts a burst.
    #[subscribe("readings")]
    #[subscribe("more-readings")]
    async fn record(&mut self, mut value: u64, cx: &mut Cx) -> Result<()> {
        value += self.offset();
        if value > Self::LIMIT {
            self.bursts += 1;
            cx.emit("bursts", &value)?;
        }
        Ok(())
    }

    fn bursts(&self) -> u64 {
        self.bursts
    }

    #[snapshot]
    fn peek(&self) -> Option<u64> {
        Some(self.bursts)
    }

    #[interleave]
    async fn bump(this: &Shared<Self>, by: u64, times: u32) -> u64 {
        this.update(|me| {
            me.bursts += by * u64::from(times);
            me.bursts
        })
    }

    #[interleave]
    fn bump_at_once(this: &Shared<Self>, cx: &mut Cx) -> String {
        this.update(|me| me.bursts += 1);
        cx.key().to_string()
    }

    fn check(&self, limit: u64) -> std::result::Result<u64, TooHot> {
        if self.bursts > limit { Err(TooHot(self.bursts)) } else { Ok(limit - self.bursts) }
    }

    fn check_by_alias(&self) -> hidden::Result {
        self.judge()
    }

    fn r#match(&self, r#type: String, state: u64, grain: Option<u64>, cx: &mut Cx) -> (String, u64) {
        (r#type, state + grain.unwrap_or(0) + cx.now().ms().unsigned_abs())
    }

    fn replace(&mut self, by: Self) -> Vec<Self> {
        vec![std::mem::replace(self, by)]
    }

    fn reset(&mut self) {
        *self = Self::fresh();
    }

    #[private]
    fn judge(&self) -> Checked {
        self.check(1)
    }

    #[private]
    fn offset(&self) -> u64 {
        0
    }

    #[cfg(any())]
    fn never(&self, what: Unknown) {}

    fn on_activate(&mut self, _cx: &mut Cx) {
        self.woken += 1;
    }

    async fn on_deactivate(&mut self) -> Result<()> {
        self.woken = 0;
        Ok(())
    }

    fn migrate(from: u32, state: Value) -> Result<Self> {
        let bursts = state.as_u64().ok_or_else(|| Error::new(ErrorKind::Codec, "no number"))?;
        Ok(Sensor { bursts: bursts * u64::from(from), ..Self::default() })
    }
}

/// The arguments of a method that takes none.
const NOTHING: [u8; 0] = [];

#[test]
fn the_table_names_methods_hooks_and_streams() {
    let info = Sensor::info();
    let names: Vec<_> = info.methods.iter().map(|m| m.info.name).collect();
    let expected = [
        "record",
        "bursts",
        "peek",
        "bump",
        "bump_at_once",
        "check",
        "check_by_alias",
        "match",
        "replace",
        "reset",
    ];
    assert_eq!(names, expected);
    assert_eq!((info.name, info.version), ("Thermometer", 3));
    assert_eq!(info.on_activate.unwrap().info.name, "on_activate");
    assert!(info.on_deactivate.unwrap().info.is_async);
    let streams: Vec<_> = info.subscriptions.iter().map(|s| (s.stream, s.method)).collect();
    assert_eq!(streams, [("readings", "record"), ("more-readings", "record")]);
    assert!(info.methods.iter().all(|m| m.info.kind == "Thermometer" && m.info.kind_id == info.id));
}

#[test]
fn the_options_reach_the_kind() {
    let options = Sensor::info().options;
    assert_eq!((options.idle, options.turn_max), (Span(600_000), Span(250)));
    assert_eq!((options.queue_max, options.durability), (7, Durability::Volatile));
    let plain = Plain::info();
    assert_eq!((plain.name, plain.version), ("Plain", 1));
    assert_eq!(plain.options, core_grain::KindOptions::DEFAULT);
}

#[test]
fn receivers_decide_how_a_method_takes_the_grain() {
    let access = |name: &str| {
        let info = Sensor::info().method(name).unwrap().info;
        (info.access, info.is_async, info.snapshot)
    };
    assert_eq!(access("record"), (Access::Write, true, false));
    assert_eq!(access("bursts"), (Access::Read, false, false));
    assert_eq!(access("peek"), (Access::Read, false, true));
    assert_eq!(access("bump"), (Access::Interleave, true, false));
    assert_eq!(access("bump_at_once"), (Access::Interleave, false, false));
}

#[test]
fn methods_run_with_arguments_by_name_by_place_and_alone() {
    let desk = Desk::new::<Sensor>("d-7");
    assert_eq!(ask::<()>(&desk, "record", &101_u64), Ok(()));
    assert_eq!(ask::<()>(&desk, "record", &[100_u64]), Ok(()));
    assert_eq!(ask::<u64>(&desk, "bursts", &NOTHING), Ok(1));
    assert_eq!(desk.emitted(), ["bursts"]);
    assert_eq!(ask::<u64>(&desk, "bump", &(2_u64, 3_u32)), Ok(7));
    assert_eq!(ask::<String>(&desk, "bump_at_once", &NOTHING), Ok("d-7".to_owned()));
    assert_eq!(ask::<Option<u64>>(&desk, "peek", &NOTHING), Ok(Some(8)));

    #[derive(Serialize)]
    struct Arguments {
        r#type: &'static str,
        state: u64,
    }
    let arguments = Arguments { r#type: "t", state: 1 };
    assert_eq!(
        ask::<(String, u64)>(&desk, "match", &arguments),
        Ok(("t".to_owned(), 1 + Desk::NOW.unsigned_abs()))
    );
    assert_eq!(ask::<()>(&desk, "reset", &NOTHING), Ok(()));
    assert_eq!(ask::<u64>(&desk, "bursts", &NOTHING), Ok(0));
}

#[test]
fn errors_of_the_users_own_become_the_runtimes() {
    let desk = Desk::new::<Sensor>("d-7");
    assert_eq!(ask::<u64>(&desk, "check", &5_u64), Ok(5));
    ask::<u64>(&desk, "bump", &(9_u64, 1_u32)).unwrap();
    let error = ask::<u64>(&desk, "check", &5_u64).unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Rejected, "9 degrees"));
    assert_eq!(ask::<u64>(&desk, "check_by_alias", &NOTHING).unwrap_err().kind(), ErrorKind::Rejected);
}

#[test]
fn wrong_arguments_are_refused_by_name() {
    let desk = Desk::new::<Sensor>("d-7");
    let error = ask::<()>(&desk, "record", &"hot").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let expected = "the arguments of Thermometer.record do not fit: \
        cannot decode: invalid type: string \"hot\", expected `value`, by name or in this order";
    assert_eq!(error.message(), expected);
}

#[test]
fn an_older_state_is_migrated() {
    let old = codec::to_bytes(&(2_u32, 21_u64)).unwrap();
    let desk = Desk::waking::<Sensor>("d-7", &old);
    assert_eq!(ask::<u64>(&desk, "bursts", &NOTHING), Ok(42));
    assert!((Plain::info().wake)(Some(&old)).is_err());
}

#[test]
fn hooks_run_like_methods() {
    let desk = Desk::new::<Sensor>("d-7");
    let hook = Sensor::info().on_activate.unwrap();
    assert_eq!(support::run::<()>(&desk, &hook, &NOTHING), Ok(()));
    assert_eq!(ask::<Vec<Sensor>>(&desk, "replace", &[Sensor::default()]).unwrap().len(), 1);
}

#[test]
fn the_reference_carries_arguments_in_order() {
    let (target, method, arguments) = Sensor::at("d/7").bump(3, 4).into_parts().unwrap();
    assert_eq!((target.to_string().as_str(), method), ("Thermometer/d%2F7", "bump"));
    let by_name: std::collections::BTreeMap<String, u64> = codec::from_bytes(&arguments).unwrap();
    assert_eq!(by_name.into_iter().collect::<Vec<_>>(), [("by".to_owned(), 3), ("times".to_owned(), 4)]);
}

/// A kind without options or methods, beside a type that is named like generated parameters.
#[derive(Default, Serialize, Deserialize)]
struct Plain;

#[grain(crate = granary_core)]
impl Plain {}

/// Public kinds, private kinds and private replies, called from another module.
mod seen_from_outside {
    use super::*;

    #[derive(Default, Serialize, Deserialize)]
    pub(super) struct C {
        count: i64,
    }

    #[derive(Serialize, Deserialize)]
    struct Secret;

    #[grain(crate = granary_core)]
    impl C {
        pub fn add(&mut self, key: i64, caller: i64) -> i64 {
            self.count += key + caller;
            self.count
        }

        fn secret(&self) -> Result<Secret> {
            Ok(Secret)
        }
    }

    pub(super) fn is_snapshot<M: Method>(_: &granary_core::Call<granary_core::Unbound, M>) -> bool {
        M::INFO.snapshot
    }
}

#[test]
fn calls_are_as_visible_as_the_grain() {
    use seen_from_outside::{C, CRef, is_snapshot};
    let reference: CRef<granary_core::Unbound> = C::at("x");
    let call = reference.add(1, 2);
    assert!(!is_snapshot(&call));
    assert_eq!(call.target().to_string(), "C/x");
    let desk = Desk::new::<C>("x");
    assert_eq!(ask::<i64>(&desk, "add", &(1_i64, 2_i64)), Ok(3));
}
