//! Several silos of one cluster, each with its own name, addresses and way to Redis.

use granary_client::{Client, SlotTable};

use super::PATIENCE;
use super::proxy::Proxy;
use super::rig::{Rig, free_address};
use super::silo::{Place, Silo};

/// Silos, by their numbers; one that was killed leaves its place empty.
pub struct Several<'r> {
    rig: &'r Rig,
    places: Vec<Place>,
    proxies: Vec<Proxy>,
    silos: Vec<Option<Silo>>,
}

impl<'r> Several<'r> {
    /// So many silos, all ready.
    pub fn start(rig: &'r Rig, count: usize) -> Several<'r> {
        Several::start_by(rig, count, |_, _| {})
    }

    /// The same, each with a place as `arrange` leaves it.
    pub fn start_by(rig: &'r Rig, count: usize, arrange: impl Fn(usize, &mut Place)) -> Several<'r> {
        let mut several = Several { rig, places: vec![], proxies: vec![], silos: vec![] };
        for no in 0..count {
            several.add();
            arrange(no, &mut several.places[no]);
        }
        for no in 0..count {
            several.begin(no);
        }
        several.until_settled();
        several
    }

    /// A place for one more, which does not run yet; its number.
    pub fn add(&mut self) -> usize {
        let (no, proxy) = (self.places.len(), Proxy::to(self.rig.redis.address()));
        self.places.push(Place {
            name: format!("silo-{no}"),
            listen: free_address(),
            gateway: free_address(),
            redis: format!("redis://{}/0", proxy.address()),
            log: None,
            advertise: None,
            variables: Vec::new(),
        });
        self.proxies.push(proxy);
        self.silos.push(None);
        no
    }

    /// How many places there are.
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// The addresses that clients are given.
    pub fn addresses(&self) -> String {
        let listens: Vec<&str> = self.places.iter().map(|place| place.listen.as_str()).collect();
        listens.join(",")
    }

    pub fn place(&self, no: usize) -> &Place {
        &self.places[no]
    }

    /// The cluster they are of.
    pub fn rig(&self) -> &'r Rig {
        self.rig
    }

    /// What one is started with from now on, beside its place.
    pub fn set(&mut self, no: usize, variables: &[(&str, String)]) {
        self.places[no].variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    }

    /// Stops one in order and starts it with these variables, and waits until every slot runs.
    #[track_caller]
    pub fn roll(&mut self, no: usize, variables: &[(&str, String)]) {
        self.stop(no);
        self.set(no, variables);
        self.begin(no);
        self.until_settled();
    }

    /// Starts one and does not wait for it.
    pub fn begin(&mut self, no: usize) {
        self.silos[no] = Some(Silo::start_at(self.rig, &self.places[no], &[]));
    }

    pub fn silo(&self, no: usize) -> &Silo {
        self.silos[no].as_ref().expect("a silo that runs")
    }

    pub fn runs(&self, no: usize) -> bool {
        self.silos[no].is_some()
    }

    /// Ends one as `kill -9` does.
    pub fn kill(&mut self, no: usize) {
        self.silos[no].take().expect("a silo that runs").kill();
    }

    /// Asks one to stop and waits until it has.
    pub fn stop(&mut self, no: usize) {
        self.silos[no].take().expect("a silo that runs").stop();
    }

    /// Its way to Redis.
    pub fn proxy(&self, no: usize) -> &Proxy {
        &self.proxies[no]
    }

    pub fn mend(&self, no: usize) {
        self.proxies[no].lead_to(self.rig.redis.address());
    }

    /// All ways to Redis lead there from now on.
    pub fn lead_all_to(&self, address: &str) {
        self.proxies.iter().for_each(|proxy| proxy.lead_to(address.to_owned()));
    }

    /// The slot table as this silo answers it; `None` when it does not answer.
    pub fn table_of(&self, no: usize) -> Option<SlotTable> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let address = &self.places[no].listen;
            let client = Client::connect(address.as_str()).await.ok()?;
            SlotTable::from_bytes(&client.ask_silo(address, "slots", &[]).await.ok()?).ok()
        })
    }

    /// Waits until the silos that run say the same of who has which slot, and each runs the slots that it has by that word;
    /// what they say.
    #[track_caller]
    pub fn until_agreed(&self) -> SlotTable {
        let began = std::time::Instant::now();
        loop {
            let running: Vec<usize> = (0..self.count()).filter(|no| self.runs(*no)).collect();
            let tables: Vec<_> = running.iter().map(|no| self.table_of(*no)).collect();
            let counts: Vec<_> =
                running.iter().map(|no| self.silo(*no).metric("granary_slots_running")).collect();
            let is_as_told = |table: &SlotTable| {
                let owned = |no: usize| {
                    let of = table.silos.iter().position(|silo| silo.address == self.places[no].listen);
                    table.owners.iter().filter(|owner| owner.map(usize::from) == of && of.is_some()).count()
                };
                table.silos.len() == running.len()
                    && table.owners.iter().all(Option::is_some)
                    && running.iter().zip(&counts).all(|(no, count)| *count == Some(owned(*no) as f64))
            };
            if let Some(Some(first)) = tables.first()
                && tables.iter().all(|table| table.as_ref() == Some(first))
                && is_as_told(first)
            {
                return first.clone();
            }
            assert!(began.elapsed() < PATIENCE, "the silos do not agree: {counts:?}, {tables:?}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Slots that run, on the silos that answer.
    fn slots_running(&self) -> f64 {
        let each = self.silos.iter().flatten().filter_map(|silo| silo.metric("granary_slots_running"));
        each.sum()
    }

    /// Waits until every slot runs on one of these silos, for so long.
    #[track_caller]
    pub fn until_running_on(&self, silos: &[usize], within: std::time::Duration) {
        let began = std::time::Instant::now();
        loop {
            let each: Vec<_> =
                silos.iter().filter_map(|no| self.silo(*no).metric("granary_slots_running")).collect();
            if (each.iter().sum::<f64>() - f64::from(super::rig::SLOTS)).abs() < 0.5 {
                return;
            }
            assert!(began.elapsed() < within, "slots do not run on {silos:?} within {within:?}: {each:?}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Waits until every silo that was started is ready, or says that it is outdated, and every slot runs on one of them.
    #[track_caller]
    pub fn until_settled(&self) {
        let began = std::time::Instant::now();
        let slots = f64::from(super::rig::SLOTS);
        loop {
            let ready = self.silos.iter().flatten().all(|silo| silo.is_ready() || silo.is_outdated());
            if ready && (self.slots_running() - slots).abs() < 0.5 {
                return;
            }
            let each: Vec<_> =
                self.silos.iter().flatten().map(|s| s.metric("granary_slots_running")).collect();
            assert!(began.elapsed() < PATIENCE, "the cluster does not settle: {each:?}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Stops all, one after the other.
    pub fn stop_all(mut self) {
        for no in 0..self.silos.len() {
            if self.runs(no) {
                self.stop(no);
            }
        }
    }
}
