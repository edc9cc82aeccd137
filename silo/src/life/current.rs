//! The present life of a silo, as those see it who serve its clients.

use std::sync::{Arc, PoisonError, RwLock};

use granary_cluster::members::{Table, View};
use granary_core::{Error, ErrorKind, Ran, Result, Span, time};
use granary_engine::Handle;
use tokio::sync::watch;

use crate::backing::Backing;

use super::Life;
use super::membership::Standing;

/// How long who asks too early is told to wait.
const RETRY_AFTER: Span = time::millis(100);

/// The present life, if there is one.
#[derive(Default)]
pub struct Current(RwLock<Present>);

enum Present {
    /// There is none yet, or none any more, for this reason.
    None(String),
    Life(Arc<Now>),
}

impl Default for Present {
    fn default() -> Present {
        Present::None("it starts".into())
    }
}

struct Now {
    lanes: Handle,
    backing: Backing,
    standing: Option<watch::Receiver<Standing>>,
    table: Option<watch::Receiver<Table>>,
}

impl Current {
    /// Its lanes. `unavailable` while the silo starts or comes back.
    pub fn lanes(&self) -> Result<Handle> {
        Ok(self.now()?.lanes.clone())
    }

    /// Its store and log.
    pub fn backing(&self) -> Result<Backing> {
        Ok(self.now()?.backing.clone())
    }

    /// The cluster as the silo sees it; `None` when it is a cluster of one.
    pub fn view(&self) -> Result<Option<Arc<View>>> {
        let now = self.now()?;
        let Some(standing) = &now.standing else { return Ok(None) };
        match &*standing.borrow() {
            Standing::Member(view) => Ok(Some(view.clone())),
            Standing::Joining => Err(unavailable("it joins its cluster")),
            Standing::Out(_) => Err(unavailable("it is no member of its cluster")),
        }
    }

    /// The member table as the silo has last read it, with the figures of a moment ago; `None` when it is a cluster of one.
    pub fn table(&self) -> Result<Option<Table>> {
        let now = self.now()?;
        Ok(now.table.as_ref().map(|table| table.borrow().clone()))
    }

    /// There is no life, for this reason.
    pub(super) fn none(&self, why: &str) {
        self.set(Present::None(why.to_owned()));
    }

    /// This is the life from now on.
    pub(super) fn begin(&self, life: &Life) {
        let standing = life.member.as_ref().map(super::Member::standing);
        let table = life.member.as_ref().map(super::Member::table);
        let now = Now { lanes: life.handle(), backing: life.backing().clone(), standing, table };
        self.set(Present::Life(Arc::new(now)));
    }

    fn set(&self, present: Present) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = present;
    }

    fn now(&self) -> Result<Arc<Now>> {
        match &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            Present::Life(now) => Ok(now.clone()),
            Present::None(why) => Err(unavailable(why)),
        }
    }
}

fn unavailable(why: &str) -> Error {
    let message = format!("the silo cannot answer yet: {why}");
    Error::new(ErrorKind::Unavailable, message).ran(Ran::No).after(RETRY_AFTER)
}
