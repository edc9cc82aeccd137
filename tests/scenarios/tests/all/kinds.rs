//! The kinds that the scenarios call.

use std::sync::Mutex;

use granary_core::host::CatchUp;
use granary_core::{Call, Cx, Error, Grain, Key, KindInfo, Method, Result, Schedule, Shared, Span};
use granary_engine::Handle;
use granary_macros::grain;
use serde::{Deserialize, Serialize};

/// A counter, with every way to change it.
#[derive(Default, Serialize, Deserialize)]
pub struct Counter {
    total: u64,
}

#[grain(crate = granary_core)]
impl Counter {
    pub fn add(&mut self, by: u64) -> u64 {
        self.total += by;
        self.total
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    #[snapshot]
    pub fn glance(&self) -> u64 {
        self.total
    }

    /// Changes the state, then refuses: the change stands, the answer is an error.
    pub fn add_and_refuse(&mut self, by: u64) -> Result<u64> {
        self.total += by;
        Err(Error::rejected(format!("at {}", self.total)))
    }

    pub fn add_and_panic(&mut self, by: u64) -> u64 {
        self.total += by;
        panic!("at {}", self.total)
    }

    pub fn only_panic(&self) -> u64 {
        panic!("for no reason")
    }

    /// Changes the state before and after waiting for another grain.
    pub async fn add_around(&mut self, by: u64, gate: String, cx: &mut Cx) -> Result<u64> {
        self.total += by;
        cx.grain::<Gate>(Key::parse(&gate)).pass().timeout(granary_core::time::hours(1)).await?;
        self.total += by;
        Ok(self.total)
    }

    /// Adds to another counter of any slot, and waits for it.
    pub async fn add_there(&mut self, there: String, by: u64, cx: &mut Cx) -> Result<u64> {
        self.total += by;
        cx.grain::<Counter>(Key::parse(&there)).add(by).await
    }

    pub async fn panic_after(&mut self, by: u64, gate: String, cx: &mut Cx) -> Result<u64> {
        self.total += by;
        cx.grain::<Gate>(Key::parse(&gate)).pass().timeout(granary_core::time::hours(1)).await?;
        panic!("after the gate")
    }

    pub fn tell_out(&mut self, text: String, cx: &mut Cx) -> Result<()> {
        self.total += 1;
        cx.emit("out", &text)
    }

    /// Emits, waits, and emits again.
    pub async fn tell_around(&mut self, text: String, gate: String, cx: &mut Cx) -> Result<()> {
        self.total += 1;
        cx.emit("out", &format!("{text} before"))?;
        cx.grain::<Gate>(Key::parse(&gate)).pass().timeout(granary_core::time::hours(1)).await?;
        cx.emit("out", &format!("{text} after"))
    }
}

/// A grain that lets calls pass once it is opened: what a turn waits for in a test.
#[derive(Default, Serialize, Deserialize)]
pub struct Gate {
    #[serde(skip)]
    opened: tokio_gate::Opened,
    #[serde(skip)]
    waiting: u64,
}

/// A flag that turns can wait for.
mod tokio_gate {
    use std::rc::Rc;
    use tokio::sync::Semaphore;

    #[derive(Clone)]
    pub struct Opened(pub Rc<Semaphore>);

    impl Default for Opened {
        fn default() -> Opened {
            Opened(Rc::new(Semaphore::new(0)))
        }
    }
}

#[grain(volatile, turn_max = "2h", crate = granary_core)]
impl Gate {
    /// Waits until the gate is opened.
    #[interleave]
    pub async fn pass(this: &Shared<Self>) -> Result<()> {
        let gate = this.update(|me| {
            me.waiting += 1;
            me.opened.clone()
        });
        let passed = gate.0.acquire().await.is_ok();
        this.update(|me| me.waiting -= 1);
        if passed { Ok(()) } else { Err(Error::rejected("the gate was closed for good")) }
    }

    /// How many wait.
    #[interleave]
    pub fn waiting(this: &Shared<Self>) -> u64 {
        this.read(|me| me.waiting)
    }

    /// Lets all pass, now and later.
    #[interleave]
    pub fn open(this: &Shared<Self>) {
        this.read(|me| me.opened.0.add_permits(1_000_000));
    }
}

/// Grains that call one another in a ring.
#[derive(Default, Serialize, Deserialize)]
pub struct Ring {
    seen: u64,
}

#[grain(crate = granary_core)]
impl Ring {
    /// Calls the next of the path, and so on.
    pub async fn go(&mut self, path: Vec<String>, cx: &mut Cx) -> Result<u64> {
        self.seen += 1;
        let Some((next, rest)) = path.split_first() else { return Ok(self.seen) };
        cx.grain::<Ring>(Key::parse(next)).go(rest.to_vec()).await
    }

    /// Calls the next number until it is zero: a chain of different grains.
    pub async fn down(&mut self, left: u64, cx: &mut Cx) -> Result<u64> {
        self.seen += 1;
        if left == 0 {
            return Ok(0);
        }
        let next = format!("{}-{left}", cx.key().as_str().split('-').next().unwrap_or("x"));
        Ok(1 + cx.grain::<Ring>(next).down(left - 1).await?)
    }
}

/// Reads and writes that wait at a gate.
#[derive(Default, Serialize, Deserialize)]
pub struct Doc {
    edits: u64,
}

#[grain(crate = granary_core)]
impl Doc {
    pub async fn read_at(&self, gate: String, cx: &mut Cx) -> Result<u64> {
        cx.grain::<Gate>(Key::parse(&gate)).pass().await?;
        Ok(self.edits)
    }

    pub async fn edit_at(&mut self, gate: String, cx: &mut Cx) -> Result<u64> {
        self.edits += 1;
        cx.grain::<Gate>(Key::parse(&gate)).pass().await?;
        Ok(self.edits)
    }

    pub fn edit(&mut self) -> u64 {
        self.edits += 1;
        self.edits
    }

    pub fn edits(&self) -> u64 {
        self.edits
    }

    #[interleave]
    pub async fn bump_around(this: &Shared<Self>, gate: String, cx: &mut Cx) -> Result<(u64, u64)> {
        let before = this.update(|me| {
            me.edits += 1;
            me.edits
        });
        cx.grain::<Gate>(Key::parse(&gate)).pass().await?;
        Ok((before, this.read(|me| me.edits)))
    }

    #[interleave]
    pub fn look(this: &Shared<Self>) -> u64 {
        this.read(|me| me.edits)
    }
}

/// A kind whose turns may last five seconds.
#[derive(Default, Serialize, Deserialize)]
pub struct Brief {
    total: u64,
}

#[grain(turn_max = "5s", crate = granary_core)]
impl Brief {
    pub fn add(&mut self, by: u64) -> u64 {
        self.total += by;
        self.total
    }

    pub async fn add_around(&mut self, by: u64, gate: String, cx: &mut Cx) -> Result<u64> {
        self.total += by;
        cx.grain::<Gate>(Key::parse(&gate)).pass().timeout(granary_core::time::hours(1)).await?;
        self.total += by;
        Ok(self.total)
    }

    pub fn total(&self) -> u64 {
        self.total
    }
}

/// A grain whose turns hold the lane.
#[derive(Default, Serialize, Deserialize)]
pub struct Spinner;

#[grain(volatile, crate = granary_core)]
impl Spinner {
    pub fn hold_lane(&self, ms: u64) -> u64 {
        std::thread::sleep(std::time::Duration::from_millis(ms));
        ms
    }
}

/// A grain with volatile timers.
#[derive(Default, Serialize, Deserialize)]
pub struct Ticker {
    ticks: u64,
    #[serde(skip)]
    at_once: u64,
    #[serde(skip)]
    most_at_once: u64,
}

#[grain(crate = granary_core)]
impl Ticker {
    pub fn start(&mut self, every_ms: u64, cx: &mut Cx) -> Result<()> {
        let key = cx.key().clone();
        cx.timer("tick", Schedule::every(Span(every_ms)), Ticker::at(key).tick())
    }

    pub fn start_failing(&mut self, every_ms: u64, cx: &mut Cx) -> Result<()> {
        let key = cx.key().clone();
        cx.timer("tick", Schedule::every(Span(every_ms)), Ticker::at(key).tick_and_fail())
    }

    pub fn start_at(&mut self, every_ms: u64, gate: String, cx: &mut Cx) -> Result<()> {
        let key = cx.key().clone();
        cx.timer("tick", Schedule::every(Span(every_ms)), Ticker::at(key).tick_at(gate))
    }

    pub fn stop(&mut self, cx: &mut Cx) -> bool {
        cx.cancel_timer("tick")
    }

    pub fn tick(&mut self) {
        self.ticks += 1;
    }

    pub fn tick_and_fail(&mut self) -> Result<()> {
        self.ticks += 1;
        Err(Error::rejected("every tick fails"))
    }

    #[interleave]
    pub async fn tick_at(this: &Shared<Self>, gate: String, cx: &mut Cx) -> Result<()> {
        this.update(|me| {
            me.ticks += 1;
            me.at_once += 1;
            me.most_at_once = me.most_at_once.max(me.at_once);
        });
        let passed = cx.grain::<Gate>(Key::parse(&gate)).pass().await;
        this.update(|me| me.at_once -= 1);
        passed
    }

    #[interleave]
    pub fn ticks(this: &Shared<Self>) -> (u64, u64) {
        this.read(|me| (me.ticks, me.most_at_once))
    }
}

/// A grain with reminders.
#[derive(Default, Serialize, Deserialize)]
pub struct Bill {
    sent: u64,
}

#[grain(crate = granary_core)]
impl Bill {
    pub fn remind(&mut self, every_ms: u64, catch_up: CatchUp, cx: &mut Cx) -> Result<()> {
        let key = cx.key().clone();
        cx.remind("bill", Schedule::every(Span(every_ms)).catch_up(catch_up), Bill::at(key).send())
    }

    pub fn send(&mut self) {
        self.sent += 1;
    }

    pub fn sent(&self) -> u64 {
        self.sent
    }

    pub fn cancel(&mut self, cx: &mut Cx) -> Result<bool> {
        cx.cancel_reminder("bill")
    }

    /// Holds the grain until the gate opens, then takes the reminder back.
    pub async fn cancel_after(&mut self, gate: String, cx: &mut Cx) -> Result<bool> {
        cx.grain::<Gate>(Key::parse(&gate)).pass().await?;
        cx.cancel_reminder("bill")
    }

    /// Sets the reminder, then waits: it is set when the turn ends, not before.
    pub async fn remind_around(&mut self, every_ms: u64, gate: String, cx: &mut Cx) -> Result<()> {
        let key = cx.key().clone();
        cx.remind("bill", Schedule::every(Span(every_ms)), Bill::at(key).send())?;
        cx.grain::<Gate>(Key::parse(&gate)).pass().await
    }
}

/// What the hooks below did, in order.
pub static HOOKS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A grain with hooks.
#[derive(Default, Serialize, Deserialize)]
pub struct Guest {
    visits: u64,
}

#[grain(idle = "1m", crate = granary_core)]
impl Guest {
    pub fn visit(&mut self) -> u64 {
        self.visits += 1;
        self.visits
    }

    pub fn leave(&mut self, cx: &mut Cx) -> u64 {
        self.visits += 1;
        cx.deactivate();
        self.visits
    }

    fn on_activate(&mut self, cx: &mut Cx) -> Result<()> {
        HOOKS.lock().expect("no test panics with it").push(format!("{} in at {}", cx.key(), self.visits));
        if cx.key().as_str().starts_with("bad") {
            return Err(Error::rejected("no room for bad guests"));
        }
        assert!(!cx.key().as_str().starts_with("worse"), "a guest that breaks the door");
        Ok(())
    }

    fn on_deactivate(&mut self, cx: &mut Cx) {
        HOOKS.lock().expect("no test panics with it").push(format!("{} out at {}", cx.key(), self.visits));
    }
}

/// A grain that is told of records.
#[derive(Default, Serialize, Deserialize)]
pub struct Tally {
    seen: Vec<String>,
}

#[grain(crate = granary_core)]
impl Tally {
    /// Notes the record's text; `err` in it makes the handler refuse, `boom` panic.
    pub fn take(&mut self, text: String, cx: &mut Cx) -> Result<()> {
        self.seen.push(text.clone());
        cx.emit("out", &format!("{}: {text}, the {}. of its key", cx.key(), self.seen.len()))?;
        assert!(!text.contains("boom"), "the handler panics at `{text}`");
        if text.contains("err") { Err(Error::rejected(format!("not `{text}`"))) } else { Ok(()) }
    }

    /// The same, with calls inside the slot on the way.
    pub async fn take_with_help(&mut self, text: String, cx: &mut Cx) -> Result<()> {
        let helper = Key::parse(&format!("{}/helper", cx.key()));
        let seen = cx.grain::<Tally>(helper.clone()).note(text.clone()).await?;
        self.seen.push(format!("{text} ({seen})"));
        cx.emit("out", &format!("{}: {text}", cx.key()))
    }

    pub async fn note(&mut self, text: String) -> u64 {
        tokio::task::yield_now().await;
        self.seen.push(text);
        self.seen.len() as u64
    }

    /// Calls a grain of another slot, which no handler of records may.
    pub async fn reach_out(&mut self, text: String, cx: &mut Cx) -> Result<()> {
        self.seen.push(text);
        for i in 0..8 {
            cx.grain::<Counter>(format!("far-{i}")).add(1).await?;
        }
        Ok(())
    }

    pub fn seen(&self) -> Vec<String> {
        self.seen.clone()
    }
}

/// The kinds that scenarios need.
pub fn kinds() -> Vec<&'static KindInfo> {
    vec![
        Counter::info(),
        Gate::info(),
        Ring::info(),
        Doc::info(),
        Brief::info(),
        Spinner::info(),
        Ticker::info(),
        Bill::info(),
        Guest::info(),
        Tally::info(),
    ]
}

/// Awaits the answer to a call, not for ever.
pub async fn answer<M: Method>(call: Call<Handle, M>) -> Result<M::Reply> {
    let what = format!("an answer to {}.{}", M::INFO.kind, M::INFO.name);
    granary_scenarios::soon(&what, call.into_future()).await
}

/// Sends a call now; its answer is awaited later.
pub fn send<M: Method>(call: Call<Handle, M>) -> tokio::task::JoinHandle<Result<M::Reply>> {
    tokio::spawn(call.into_future())
}

/// Awaits a call that was sent.
pub async fn joined<R>(sent: tokio::task::JoinHandle<Result<R>>) -> Result<R> {
    granary_scenarios::soon("an answer to a call sent before", sent)
        .await
        .expect("awaiting a call never panics")
}

/// Waits until so many turns stand at a gate.
pub async fn at_gate(silo: &granary_scenarios::Silo, gate: &str, turns: u64) {
    granary_scenarios::soon(&format!("{turns} turns at gate {gate}"), async {
        let gate = || silo.handle.grain::<Gate>(Key::parse(gate));
        while gate().waiting().await.expect("a gate answers") < turns {
            tokio::time::sleep(Span(1).into()).await;
        }
    })
    .await;
}

/// Opens a gate for good.
pub async fn open(silo: &granary_scenarios::Silo, gate: &str) {
    answer(silo.handle.grain::<Gate>(Key::parse(gate)).open()).await.expect("a gate opens");
}
