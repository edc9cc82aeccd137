//! A grain's state as its activation holds it.

use std::any::Any;
use std::cell::{Cell, Ref, RefCell, RefMut};

use crate::codec;
use crate::error::Result;
use crate::grain::{Grain, KindInfo};

/// The state of a grain, shared by the turns that may overlap on it.
///
/// `#[interleave]` methods take `this: &Shared<Self>`: other such turns run between their awaits, so state is read
/// and changed in synchronous closures, each of them atomic.
#[derive(Debug, Default)]
pub struct Shared<G> {
    state: RefCell<G>,
    changed: Cell<bool>,
}

impl<G: 'static> Shared<G> {
    /// Holds `state`.
    pub fn new(state: G) -> Shared<G> {
        Shared { state: RefCell::new(state), changed: Cell::new(false) }
    }

    /// Looks at the state.
    pub fn read<R>(&self, look: impl FnOnce(&G) -> R) -> R {
        look(&self.state.borrow())
    }

    /// Changes the state, atomically.
    pub fn update<R>(&self, change: impl FnOnce(&mut G) -> R) -> R {
        self.changed.set(true);
        change(&mut self.state.borrow_mut())
    }

    /// For generated code: the state of a read turn. Turn admission keeps writers out as long as it is held.
    #[doc(hidden)]
    pub fn borrow(&self) -> Ref<'_, G> {
        self.state.borrow()
    }

    /// For generated code: the state of an exclusive turn. Turn admission keeps all others out.
    #[doc(hidden)]
    pub fn borrow_mut(&self) -> RefMut<'_, G> {
        self.state.borrow_mut()
    }
}

/// A [`Shared`] grain of any kind.
pub trait AnyGrain: Any {
    /// Appends the stored form: state version and fields.
    fn encode(&self, out: &mut Vec<u8>) -> Result<()>;
    /// Puts the stored form back in place; volatile fields start anew.
    fn restore(&self, image: &[u8]) -> Result<()>;
    /// Whether [`Shared::update`] ran since the last time this was asked.
    fn take_changed(&self) -> bool;
    /// Its kind.
    fn kind(&self) -> &'static KindInfo;
}

impl<G: Grain> AnyGrain for Shared<G> {
    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        codec::encode_named(&(G::VERSION, &*self.state.borrow()), out)
    }

    fn restore(&self, image: &[u8]) -> Result<()> {
        let state = decode_state::<G>(image)?;
        *self.state.borrow_mut() = state;
        Ok(())
    }

    fn take_changed(&self) -> bool {
        self.changed.replace(false)
    }

    fn kind(&self) -> &'static KindInfo {
        G::info()
    }
}

/// Reads a stored state, through [`Grain::migrate`] when another version wrote it.
pub fn decode_state<G: Grain>(image: &[u8]) -> Result<G> {
    let (version, state): (u32, rmpv::Value) = match codec::from_bytes::<(u32, G)>(image) {
        Ok((version, state)) if version == G::VERSION => return Ok(state),
        _ => codec::from_bytes(image)?,
    };
    G::migrate(version, state)
}
