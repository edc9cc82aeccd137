//! A cluster of doubles: silos that know who owns which slot, answer by the method's name, and can be killed.

// each test program uses a part of it
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::net::TcpListener as Bound;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use granary_client::serve::{Feed, Identity, Reply, Service, serve};
use granary_client::{SiloEntry, SlotTable, Start};
use granary_core::time::{Span, millis};
use granary_core::{Error, ErrorKind, GrainId, Ran, Result, codec};
use granary_wire::{Call, Produce, Tail};
use tokio::sync::{Notify, oneshot};

pub const SLOTS: u16 = 12;

/// What all silos share.
#[derive(Default)]
pub struct World {
    pub table: Mutex<SlotTable>,
    /// Slots that the table gives to another silo already, and who still has them.
    pub still: Mutex<BTreeMap<u16, usize>>,
    /// Silos do not know of slots.
    pub is_one: AtomicBool,
    /// Calls of each method, by silo.
    pub calls: Mutex<Vec<(usize, String)>>,
    pub moved: AtomicUsize,
    pub asked_for_slots: AtomicUsize,
    /// Answers that never come, and whether somebody waits.
    pub kept: Mutex<Vec<oneshot::Sender<Result<Vec<u8>>>>>,
    pub timeouts: Mutex<Vec<Span>>,
    rows: Mutex<Vec<u64>>,
    written: Notify,
    pub tails: Mutex<Vec<usize>>,
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics while it holds this")
}

impl World {
    pub fn count(&self, method: &str) -> usize {
        lock(&self.calls).iter().filter(|(_, other)| other == method).count()
    }

    /// Gives a slot to another silo.
    pub fn give(&self, slot: u16, owner: Option<u16>) {
        let mut table = lock(&self.table);
        table.owners[usize::from(slot)] = owner;
        table.version += 1;
    }

    /// The table names another owner, and the present one goes on until [`World::let_go`].
    pub fn begin_to_give(&self, slot: u16, owner: u16) {
        let before = lock(&self.table).owners[usize::from(slot)].expect("it has an owner");
        lock(&self.still).insert(slot, usize::from(before));
        self.give(slot, Some(owner));
    }

    pub fn let_go(&self, slot: u16) {
        lock(&self.still).remove(&slot);
    }

    pub fn write(&self, rows: std::ops::Range<u64>) {
        lock(&self.rows).extend(rows);
        self.written.notify_waiters();
    }

    fn owns(&self, silo: usize, key: &str) -> bool {
        let table = lock(&self.table);
        let slot = table.slot_of(key).0;
        let owner = table.owners[usize::from(slot)].map(usize::from);
        let still = lock(&self.still).get(&slot).copied();
        self.is_one.load(Ordering::SeqCst) || still.or(owner) == Some(silo)
    }
}

struct Double {
    world: Arc<World>,
    silo: usize,
}

impl Service for Double {
    fn call(&self, call: Call<'_>, reply: Reply) {
        let world = &self.world;
        if !world.owns(self.silo, call.key) {
            world.moved.fetch_add(1, Ordering::SeqCst);
            let error = Error::new(ErrorKind::Moved, format!("{} lives elsewhere", call.key));
            return reply.send(Err(error.ran(Ran::No)));
        }
        lock(&world.calls).push((self.silo, call.method.to_owned()));
        lock(&world.timeouts).push(call.timeout);
        match call.method {
            "echo" => reply.send(Ok(call.arguments.to_vec())),
            "who" => reply.send(codec::to_bytes(&self.silo)),
            "drop" => drop(reply),
            "twice" if world.count("twice") < 3 => drop(reply),
            "twice" => reply.send(codec::to_bytes(call.idempotency_key.unwrap_or("none"))),
            "full" => {
                let error = Error::new(ErrorKind::Overloaded, "full").ran(Ran::No).after(millis(7));
                reply.send(Err(error));
            }
            "keep" => {
                let (to, answer) = oneshot::channel();
                reply.follow(answer);
                lock(&world.kept).push(to);
            }
            "context" => {
                let options = call.options().expect("a context within its limits");
                let chain = options.chain.map(|chain| chain.to_string());
                let tenant = options.context.and_then(|context| context.get("tenant").map(str::to_owned));
                reply.send(codec::to_bytes(&(chain, tenant)));
            }
            other => reply.send(Err(Error::new(ErrorKind::NotFound, other).ran(Ran::No))),
        }
    }

    fn tail(&self, tail: Tail<'_>, mut feed: Feed) {
        let (world, start) = (self.world.clone(), tail.start);
        lock(&world.tails).push(self.silo);
        tokio::spawn(async move {
            let mut next = match start {
                Start::Earliest => 0,
                Start::Latest => lock(&world.rows).len(),
                Start::Offsets(offsets) => usize::try_from(offsets[0].1).expect("a small offset"),
            };
            loop {
                let news = world.written.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                let row = lock(&world.rows).get(next).copied();
                let Some(row) = row else {
                    tokio::select! {
                        () = feed.gone() => return,
                        () = news => continue,
                    }
                };
                let value = row.to_be_bytes();
                let offset = next as u64;
                let record =
                    granary_wire::Record { partition: 0, offset, key: None, id: None, value: &value };
                if feed.send(&record).await.is_err() {
                    return;
                }
                next += 1;
            }
        });
    }

    fn produce(&self, _: Produce<'_>, reply: Reply) {
        reply.send(Ok(Vec::new()));
    }

    fn ask(&self, what: &str, arguments: &[u8], reply: Reply) {
        match what {
            "slots" if !self.world.is_one.load(Ordering::SeqCst) => {
                self.world.asked_for_slots.fetch_add(1, Ordering::SeqCst);
                reply.send(lock(&self.world.table).to_bytes());
            }
            "status" => reply.send(codec::to_bytes(&BTreeMap::from([("silo", self.silo)]))),
            "ends" => {
                assert_eq!(codec::from_bytes::<String>(arguments).expect("a stream"), "rows");
                let end = lock(&self.world.rows).len() as u64;
                reply.send(codec::to_bytes(&BTreeMap::from([(0_u32, end)])));
            }
            _ => reply.send(Err(Error::new(ErrorKind::NotFound, what).ran(Ran::No))),
        }
    }
}

/// A silo in a runtime of its own.
pub struct Silo {
    pub address: String,
    stop: Option<oneshot::Sender<()>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Silo {
    fn start(world: &Arc<World>, silo: usize, listener: Bound) -> Silo {
        let address = listener.local_addr().expect("it is bound").to_string();
        listener.set_nonblocking(true).expect("a socket");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (stop, stopped) = oneshot::channel::<()>();
        let service = Arc::new(Double { world: world.clone(), silo });
        let identity = Identity { cluster: "dev".into(), silo: format!("silo-{silo}") };
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            serve(listener, service, identity, async move { drop(stopped.await) }).await
        });
        Silo { address, stop: Some(stop), runtime: Some(runtime) }
    }

    /// All at once, as by a kill.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// In order.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }
}

impl Drop for Silo {
    fn drop(&mut self) {
        self.kill();
    }
}

pub struct Cluster {
    pub world: Arc<World>,
    pub silos: Vec<Silo>,
}

impl Cluster {
    /// So many silos, the slots dealt out in turn.
    pub fn start(silos: u16) -> Cluster {
        let world = Arc::new(World::default());
        let listeners: Vec<Bound> = (0..silos).map(|_| Bound::bind("127.0.0.1:0").expect("a port")).collect();
        let entry = |(silo, listener): (usize, &Bound)| SiloEntry {
            incarnation: silo as u64 + 1,
            name: format!("silo-{silo}"),
            address: listener.local_addr().expect("it is bound").to_string(),
        };
        *lock(&world.table) = SlotTable {
            version: 1,
            slots: SLOTS,
            silos: listeners.iter().enumerate().map(entry).collect(),
            owners: (0..SLOTS).map(|slot| Some(slot % silos)).collect(),
        };
        let start = |(silo, listener)| Silo::start(&world, silo, listener);
        let silos = listeners.into_iter().enumerate().map(start).collect();
        Cluster { world, silos }
    }

    /// A silo that was killed listens again.
    pub fn restart(&mut self, silo: usize) {
        let bind = || Bound::bind(&self.silos[silo].address).ok();
        let listener = (0..500).find_map(|_| {
            bind().or_else(|| {
                std::thread::sleep(Duration::from_millis(10)); // the killed one is still letting go
                None
            })
        });
        let listener = listener.expect("the port is free again");
        self.silos[silo] = Silo::start(&self.world, silo, listener);
    }

    pub fn seed(&self) -> String {
        self.silos[0].address.clone()
    }

    pub fn seeds(&self) -> String {
        let addresses: Vec<&str> = self.silos.iter().map(|silo| silo.address.as_str()).collect();
        addresses.join(", ")
    }

    /// The slots a silo owns.
    pub fn slots_of(&self, silo: u16) -> Vec<u16> {
        let table = lock(&self.world.table);
        (0..SLOTS).filter(|slot| table.owners[usize::from(*slot)] == Some(silo)).collect()
    }

    /// All slots of one silo go to another.
    pub fn give_all(&self, from: u16, to: u16) {
        for slot in self.slots_of(from) {
            self.world.give(slot, Some(to));
        }
    }
}

/// A grain in this slot.
pub fn in_slot(slot: u16) -> GrainId {
    (0..10_000_u64).map(|key| GrainId::new("Sensor", key)).find(|id| id.slot(SLOTS).0 == slot).expect("one")
}

/// Waits until it holds.
pub async fn until(holds: impl Fn() -> bool, what: &str) {
    let held = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), held).await.is_ok(), "{what}");
}
