//! What a kind of grain is: its name, state, methods, options and hooks. `#[grain]` writes the implementations.

use std::future::Future;
use std::rc::Rc;

use serde::{Serialize, de::DeserializeOwned};

use crate::call::{BytesReply, Caller, Options, Unbound};
use crate::cx::Cx;
use crate::envelope::Envelope;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Key;
use crate::shared::{AnyGrain, Shared, decode_state};
use crate::time::{Span, mins, secs};

/// A kind's name as a number, so that a call compares four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KindId(pub u32);

impl KindId {
    /// The number of a kind's name (FNV-1a). Two kinds of one silo that collide are refused at start.
    pub const fn of(name: &str) -> KindId {
        let bytes = name.as_bytes();
        let (mut hash, mut i) = (0x811c_9dc5_u32, 0);
        while i < bytes.len() {
            hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
            i += 1;
        }
        KindId(hash)
    }
}

/// Where a kind's state lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// In the store; replies wait for the commit.
    Durable,
    /// In memory only: gone when the activation goes. Replies wait for nothing.
    Volatile,
}

/// What can be set for a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindOptions {
    /// An activation nobody called for so long leaves memory.
    pub idle: Span,
    /// A turn older than this is ended.
    pub turn_max: Span,
    /// Calls that may wait for one grain; one more is `Overloaded`.
    pub queue_max: u32,
    /// Where the state lives.
    pub durability: Durability,
}

impl KindOptions {
    /// 15 minutes idle, turns of 60 s, 1,000 waiting calls, durable.
    pub const DEFAULT: KindOptions =
        KindOptions { idle: mins(15), turn_max: secs(60), queue_max: 1_000, durability: Durability::Durable };
}

/// A virtual grain: a state that exists whenever it is called. Implemented by `#[grain]`.
pub trait Grain: Default + Serialize + DeserializeOwned + 'static {
    /// The kind's name.
    const KIND: &'static str;
    /// The version of the state's layout.
    const VERSION: u32 = 1;
    /// Idle time, turn limit, queue and durability.
    const OPTIONS: KindOptions = KindOptions::DEFAULT;
    /// The typed reference: one method for each of the grain's.
    type Ref<C: Caller>;

    /// For generated code: the reference to the grain with this key.
    fn reference<C: Caller>(key: Key, caller: C) -> Self::Ref<C>;

    /// The kind's table; one for the whole process.
    fn info() -> &'static KindInfo;

    /// A reference without a caller: for pipelines, timers and reminders.
    fn at(key: impl Into<Key>) -> Self::Ref<Unbound> {
        Self::reference(key.into(), Unbound)
    }

    /// Makes today's state of one that version `from` stored. The default refuses: give `migrate` in the `impl` block.
    fn migrate(from: u32, state: rmpv::Value) -> Result<Self> {
        let _ = state;
        let message = format!(
            "{}: stored state has version {from}, this program has version {} and no `migrate` from it",
            Self::KIND,
            Self::VERSION
        );
        Err(Error::new(ErrorKind::Codec, message))
    }
}

/// How a method takes the grain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `&self`: overlaps with other reads.
    Read,
    /// `&mut self`: exclusive until it ends.
    Write,
    /// `this: &Shared<Self>`: overlaps with others of its sort.
    Interleave,
}

/// What is known of a method without its types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodInfo {
    /// The kind's name.
    pub kind: &'static str,
    /// The kind's number.
    pub kind_id: KindId,
    /// The method's name.
    pub name: &'static str,
    /// How it takes the grain.
    pub access: Access,
    /// Whether it is an `async fn`: it may wait within its turn.
    pub is_async: bool,
    /// `#[snapshot]`: answers at once from memory, may show what a crash undoes.
    pub snapshot: bool,
}

/// One method of a kind, and at the same time its arguments: the message a call carries. Made by `#[grain]`.
pub trait Method: Serialize + DeserializeOwned + Send + 'static {
    /// The kind it belongs to.
    type Grain: Grain;
    /// What it answers.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
    /// Name and access.
    const INFO: MethodInfo;

    /// Runs a plain `fn` to its end. Generated for those; an `async fn` never gets here.
    fn run(self, grain: &Shared<Self::Grain>, cx: &mut Cx) -> Result<Self::Reply> {
        let _ = (grain, cx);
        Err(Error::new(ErrorKind::Invalid, format!("{} is an async method", Self::INFO.name)))
    }

    /// The turn as a future.
    fn start(
        self,
        grain: Rc<Shared<Self::Grain>>,
        mut cx: Cx,
    ) -> impl Future<Output = Result<Self::Reply>> + 'static {
        async move { self.run(&grain, &mut cx) }
    }

    /// The method's table row.
    fn info() -> &'static MethodInfo {
        const { &Self::INFO }
    }
}

/// Makes a new grain, or the one with this stored state.
pub type Wake = fn(image: Option<&[u8]>) -> Result<Rc<dyn AnyGrain>>;

/// Opens a call from its encoded arguments.
pub type Open = fn(arguments: &[u8], options: Options, reply: BytesReply) -> Result<Box<dyn Envelope>>;

/// A method as the wire, timers and streams see it.
#[derive(Clone, Copy)]
pub struct MethodEntry {
    /// Name and access.
    pub info: &'static MethodInfo,
    /// Opens a call of it.
    pub open: Open,
}

impl MethodEntry {
    /// The row of method `M`.
    pub fn of<M: Method>() -> MethodEntry {
        MethodEntry { info: M::info(), open: crate::envelope::open::<M> }
    }
}

/// A stream a kind listens to: each record is a turn of the grain whose key is the record's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The stream's topic.
    pub stream: &'static str,
    /// The method that takes the record's value.
    pub method: &'static str,
}

/// Everything the engine knows of a kind.
pub struct KindInfo {
    /// Its name.
    pub name: &'static str,
    /// Its number.
    pub id: KindId,
    /// The version of its state.
    pub version: u32,
    /// Its options.
    pub options: KindOptions,
    /// Its methods, in the order of the source.
    pub methods: Vec<MethodEntry>,
    /// The method run before the first turn of an activation.
    pub on_activate: Option<MethodEntry>,
    /// The method run before an idle activation leaves; a crash skips it.
    pub on_deactivate: Option<MethodEntry>,
    /// The streams it listens to.
    pub subscriptions: Vec<Subscription>,
    /// A new grain, or the one with this stored state.
    pub wake: Wake,
}

impl KindInfo {
    /// The table of kind `G` with these methods. Called once per kind, by generated code.
    pub fn of<G: Grain>(methods: Vec<MethodEntry>) -> KindInfo {
        KindInfo {
            name: G::KIND,
            id: KindId::of(G::KIND),
            version: G::VERSION,
            options: G::OPTIONS,
            methods,
            on_activate: None,
            on_deactivate: None,
            subscriptions: Vec::new(),
            wake: wake::<G>,
        }
    }

    /// The method with this name.
    pub fn method(&self, name: &str) -> Option<&MethodEntry> {
        self.methods.iter().find(|entry| entry.info.name == name)
    }
}

fn wake<G: Grain>(image: Option<&[u8]>) -> Result<Rc<dyn AnyGrain>> {
    let state = image.map_or_else(|| Ok(G::default()), decode_state::<G>)?;
    Ok(Rc::new(Shared::new(state)))
}
