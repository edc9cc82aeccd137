//! A call on its way to a grain, of any method: a box that a lane queues, runs or refuses.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use serde::Serialize;
use tokio::sync::oneshot;

use crate::call::{BytesReply, Options};
use crate::codec;
use crate::cx::Cx;
use crate::error::{Error, ErrorKind, Ran, Result};
use crate::grain::{Method, MethodInfo};
use crate::shared::{AnyGrain, Shared};
use crate::turn::{Turn, TurnPool};

/// Where a typed answer goes.
#[derive(Debug)]
pub enum ReplyTo<R> {
    /// To a typed caller in this process.
    Typed(oneshot::Sender<Result<R>>),
    /// To the wire.
    Bytes(BytesReply),
    /// Nowhere.
    Nobody,
}

impl<R: Serialize> ReplyTo<R> {
    /// Answers. A caller that has gone misses it.
    pub fn send(self, result: Result<R>) {
        match self {
            ReplyTo::Typed(to) => drop(to.send(result)),
            ReplyTo::Bytes(to) => drop(to.send(result.and_then(|reply| codec::to_bytes(&reply)))),
            ReplyTo::Nobody => {}
        }
    }

    /// Whether somebody still waits.
    pub fn is_awaited(&self) -> bool {
        match self {
            ReplyTo::Typed(to) => !to.is_closed(),
            ReplyTo::Bytes(to) => !to.is_closed(),
            ReplyTo::Nobody => true,
        }
    }
}

/// An answer that waits for the commit that covers it.
pub trait Answer: Send {
    /// Lets it leave.
    fn send(self: Box<Self>);
    /// Answers with an error instead: what it reports was undone.
    fn refuse(self: Box<Self>, error: Error);
    /// The reply as bytes, or the error it is: to be stored under an idempotency key.
    fn encoded(&self) -> Result<Vec<u8>>;
}

struct TypedAnswer<R> {
    to: ReplyTo<R>,
    result: Result<R>,
}

impl<R: Serialize + Send + 'static> Answer for TypedAnswer<R> {
    fn send(self: Box<Self>) {
        self.to.send(self.result);
    }

    fn refuse(self: Box<Self>, error: Error) {
        self.to.send(Err(error));
    }

    fn encoded(&self) -> Result<Vec<u8>> {
        self.result.as_ref().map_err(Error::clone).and_then(codec::to_bytes)
    }
}

/// What became of a turn's answer.
pub enum Ended {
    /// It left, or nobody waits for it.
    Left,
    /// It is to be held.
    Held(Box<dyn Answer>),
    /// The turn panicked with this payload; the answer is to be refused.
    Panicked(Box<dyn Answer>, Box<dyn Any + Send>),
}

/// Answers `to` now, or hands the answer back to be held: `hold` decides, asked once.
pub fn end<R: Serialize + Send + 'static>(
    to: ReplyTo<R>,
    result: Result<R>,
    hold: &mut dyn FnMut(Option<&Error>) -> bool,
) -> Ended {
    if hold(result.as_ref().err()) {
        return Ended::Held(Box::new(TypedAnswer { to, result }));
    }
    to.send(result);
    Ended::Left
}

/// A call of some method, on its way.
pub trait Envelope: Send {
    /// Which method.
    fn info(&self) -> &'static MethodInfo;
    /// What travels with it.
    fn options(&self) -> &Options;
    /// The same, to be changed on the way.
    fn options_mut(&mut self) -> &mut Options;
    /// Whether somebody still waits for the answer.
    fn is_awaited(&self) -> bool;
    /// Runs a plain `fn` turn to its end; `hold` is asked with the error, if any, whether the answer must wait.
    fn run(
        self: Box<Self>,
        grain: &dyn AnyGrain,
        cx: &mut Cx,
        hold: &mut dyn FnMut(Option<&Error>) -> bool,
    ) -> Ended;
    /// Builds the turn of an `async fn`, in a recycled box.
    fn start(self: Box<Self>, grain: Rc<dyn AnyGrain>, cx: Cx, pool: &mut TurnPool) -> Turn;
    /// Answers without running.
    fn refuse(self: Box<Self>, error: Error);
    /// Answers with a stored reply.
    fn answer(self: Box<Self>, stored: &[u8]);
    /// Whether its caller, if any waits, is in this process: such a call can be passed on to another silo without the
    /// caller noticing. A caller behind a connection asks there itself.
    fn is_from_here(&self) -> bool;
    /// Takes it apart, to be sent to another silo, and whom to tell what that answered.
    fn take_apart(self: Box<Self>) -> (Result<Vec<u8>>, Options, Answered);
}

/// Hears the encoded answer of a call that was passed on.
pub type Answered = Box<dyn FnOnce(Result<Vec<u8>>) + Send>;

/// The envelope of method `M`.
pub struct Letter<M: Method> {
    message: M,
    options: Options,
    to: ReplyTo<M::Reply>,
}

impl<M: Method> Letter<M> {
    /// A call with this message.
    pub fn new(message: M, options: Options, to: ReplyTo<M::Reply>) -> Letter<M> {
        Letter { message, options, to }
    }
}

/// The grain behind `any` as its own type; the lane found it by the kind of `M`.
pub(crate) fn downcast<M: Method>(any: &dyn AnyGrain) -> &Shared<M::Grain> {
    (any as &dyn Any).downcast_ref().expect("the lane found the grain by the kind of the method")
}

impl<M: Method> Envelope for Letter<M> {
    fn info(&self) -> &'static MethodInfo {
        M::info()
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }

    fn is_awaited(&self) -> bool {
        self.to.is_awaited()
    }

    fn run(
        self: Box<Self>,
        grain: &dyn AnyGrain,
        cx: &mut Cx,
        hold: &mut dyn FnMut(Option<&Error>) -> bool,
    ) -> Ended {
        let Letter { message, to, .. } = *self;
        match catch_unwind(AssertUnwindSafe(|| message.run(downcast::<M>(grain), cx))) {
            Ok(result) => end(to, result, hold),
            Err(payload) => {
                let result = Err(Error::new(ErrorKind::Poisoned, "the turn panicked"));
                Ended::Panicked(Box::new(TypedAnswer { to, result }), payload)
            }
        }
    }

    fn start(self: Box<Self>, grain: Rc<dyn AnyGrain>, cx: Cx, pool: &mut TurnPool) -> Turn {
        let grain: Rc<dyn Any> = grain;
        let grain = grain.downcast().expect("the lane found the grain by the kind of the method");
        pool.turn::<M>(self.message, grain, cx, self.to)
    }

    fn refuse(self: Box<Self>, error: Error) {
        self.to.send(Err(error));
    }

    fn answer(self: Box<Self>, stored: &[u8]) {
        match self.to {
            ReplyTo::Bytes(to) => drop(to.send(Ok(stored.to_vec()))),
            to => to.send(codec::from_bytes(stored)),
        }
    }

    fn is_from_here(&self) -> bool {
        !matches!(self.to, ReplyTo::Bytes(_))
    }

    fn take_apart(self: Box<Self>) -> (Result<Vec<u8>>, Options, Answered) {
        let Letter { message, options, to } = *self;
        let answered = Box::new(move |answer: Result<Vec<u8>>| match to {
            ReplyTo::Bytes(to) => drop(to.send(answer)),
            // the call has run: what cannot be read is its answer
            to => to.send(answer.and_then(|bytes| codec::from_bytes(&bytes).map_err(|e| e.ran(Ran::Yes)))),
        });
        (codec::to_bytes(&message), options, answered)
    }
}

/// Opens a call of `M` from encoded arguments: a map by name, an array by place, or the only argument as it is.
/// When they do not fit, the caller is told and the error returned.
pub(crate) fn open<M: Method>(
    arguments: &[u8],
    options: Options,
    reply: BytesReply,
) -> Result<Box<dyn Envelope>> {
    let message = match decode_message::<M>(arguments) {
        Ok(message) => message,
        Err(error) => {
            drop(reply.send(Err(error.clone())));
            return Err(error);
        }
    };
    let to = if options.one_way { ReplyTo::Nobody } else { ReplyTo::Bytes(reply) };
    Ok(Box::new(Letter::<M>::new(message, options, to)))
}

fn decode_message<M: Method>(arguments: &[u8]) -> Result<M> {
    const EMPTY_ARRAY: u8 = 0x90;
    const ARRAY_OF_ONE: u8 = 0x91;
    if arguments.is_empty() {
        return codec::from_bytes(&[EMPTY_ARRAY]).map_err(|e| wrong_arguments::<M>(&e));
    }
    codec::from_bytes(arguments).or_else(|first| {
        let mut only = Vec::with_capacity(arguments.len() + 1);
        only.push(ARRAY_OF_ONE);
        only.extend_from_slice(arguments);
        codec::from_bytes(&only).map_err(|_| wrong_arguments::<M>(&first))
    })
}

fn wrong_arguments<M: Method>(error: &Error) -> Error {
    let info = M::info();
    Error::new(
        ErrorKind::Invalid,
        format!("the arguments of {}.{} do not fit: {}", info.kind, info.name, error.message()),
    )
    .ran(Ran::No)
}
