//! The names of all endpoints, as one grain: `Endpoints/all`.

use std::collections::BTreeSet;

use granary_core::{Error, ErrorKind, Ran, Result};
use granary_macros::grain;
use serde::{Deserialize, Serialize};

use crate::settings::check_name;

/// Endpoints of a cluster.
pub const ENDPOINTS_MAX: usize = 1_000;

/// Which endpoints there are.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Endpoints {
    names: BTreeSet<String>,
}

/// The key of the only one.
pub const ALL: &str = "all";

#[grain(crate = granary_core)]
impl Endpoints {
    /// Adds a name; fine when it is there already.
    fn add(&mut self, name: String) -> Result<()> {
        let refused = |message: String| Error::new(ErrorKind::Invalid, message).ran(Ran::No);
        check_name(&name).map_err(refused)?;
        if self.names.len() >= ENDPOINTS_MAX && !self.names.contains(&name) {
            return Err(refused(format!("there are {ENDPOINTS_MAX} endpoints, which is the most")));
        }
        self.names.insert(name);
        Ok(())
    }

    /// Takes a name away; whether it was there.
    fn remove(&mut self, name: String) -> bool {
        self.names.remove(&name)
    }

    /// All of them.
    fn names(&self) -> Vec<String> {
        self.names.iter().cloned().collect()
    }
}
