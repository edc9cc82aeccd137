//! The built-in kinds as a program sees them: names, typed references, typed answers.
//!
//! | kind | addressed by | answers |
//! |---|---|---|
//! | [`Window`] | [`Window::key`] and its kin | [`WindowState`]: the row as the sink has it, and where the window stands |
//! | [`Device`] | the routing key | [`DeviceState`]: clock, counts, open windows |
//!
//! A pipeline answers these calls from the slot's own state. The types here are never hosted: they carry the calls.

mod device;
mod window;

pub use device::{Device, DeviceRef, DeviceState};
pub use granary_window::{Op, Reason, State};
pub use window::{Window, WindowRef, WindowState};

use granary_core::{Error, ErrorKind, Grain, Ran};

/// The names of the built-in kinds. A user's kind with one of them is refused.
pub const BUILT_IN: &[&str] = &[Device::KIND, Window::KIND, "Endpoint", "Endpoints", "Rules"];

/// Whether a user's kind may not have this name.
pub fn is_reserved(kind: &str) -> bool {
    BUILT_IN.contains(&kind)
}

/// Where a built-in kind is called as if it were hosted: only a silo with a pipeline knows the answer.
fn not_hosted<G: Grain>() -> Error {
    let message = format!("`{}` is built in: a silo that runs a pipeline answers it", G::KIND);
    Error::new(ErrorKind::NotFound, message).ran(Ran::No)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_built_in_kinds_are_reserved() {
        assert_eq!(BUILT_IN, ["Device", "Window", "Endpoint", "Endpoints", "Rules"]);
        assert!(is_reserved("Window") && !is_reserved("window") && !is_reserved("Sensor"));
    }
}
