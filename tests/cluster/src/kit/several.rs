//! Several silos of one cluster, each with its own name, addresses and way to Redis.

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
            let proxy = Proxy::to(rig.redis.address());
            several.places.push(Place {
                name: format!("silo-{no}"),
                listen: free_address(),
                gateway: free_address(),
                redis: format!("redis://{}/0", proxy.address()),
                log: None,
                advertise: None,
                variables: Vec::new(),
            });
            arrange(no, &mut several.places[no]);
            several.proxies.push(proxy);
            several.silos.push(None);
        }
        for no in 0..count {
            several.begin(no);
        }
        several.until_settled();
        several
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
    pub fn set(&mut self, no: usize, variables: &[(&'static str, String)]) {
        self.places[no].variables = variables.to_vec();
    }

    /// Stops one in order and starts it with these variables, and waits until every slot runs.
    #[track_caller]
    pub fn roll(&mut self, no: usize, variables: &[(&'static str, String)]) {
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
