//! Turns of `async fn` methods, built in recycled boxes: a busy lane allocates none of them anew.

use std::any::{Any, TypeId};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::cx::Cx;
use crate::envelope::{Ended, ReplyTo, end};
use crate::error::{Error, Result};
use crate::grain::Method;
use crate::shared::Shared;

/// Boxes kept for the next turn of the same method.
const SPARE_BOXES_MAX: usize = 64;

/// A turn under way: poll it until it is done, then ask for its end, then give the box back.
pub type Turn = Pin<Box<dyn TurnFuture>>;

/// A turn of any method.
pub trait TurnFuture {
    /// Goes on until it waits or ends.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()>;
    /// After the end: answers, or hands the answer over to be held.
    fn end(self: Pin<&mut Self>, hold: &mut dyn FnMut(Option<&Error>) -> bool) -> Ended;
    /// Drops what is left of the turn and answers with this error.
    fn refuse(self: Pin<&mut Self>, error: Error);
    /// Answers with this error now; the turn goes on, and nobody waits for it any more.
    fn expire(self: Pin<&mut Self>, error: Error);
    /// Whether somebody still waits for the answer.
    fn is_awaited(&self) -> bool;
    /// Which method's box this is.
    fn method(&self) -> TypeId;
    /// Begins the next turn in this box; `seed` holds a [`Seed`] of the method.
    fn renew(self: Pin<&mut Self>, seed: &mut dyn Any);
}

struct Seed<M: Method> {
    message: M,
    grain: Rc<Shared<M::Grain>>,
    cx: Cx,
    to: ReplyTo<M::Reply>,
}

pin_project! {
    struct Seat<M: Method, F, B> {
        #[pin]
        future: Option<F>,
        build: B,
        result: Option<Result<M::Reply>>,
        to: Option<ReplyTo<M::Reply>>,
    }
}

impl<M, F, B> TurnFuture for Seat<M, F, B>
where
    M: Method,
    F: Future<Output = Result<M::Reply>> + 'static,
    B: Fn(M, Rc<Shared<M::Grain>>, Cx) -> F + 'static,
{
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else { return Poll::Ready(()) };
        let Poll::Ready(result) = future.poll(context) else { return Poll::Pending };
        *this.result = Some(result);
        this.future.set(None);
        Poll::Ready(())
    }

    fn end(self: Pin<&mut Self>, hold: &mut dyn FnMut(Option<&Error>) -> bool) -> Ended {
        let this = self.project();
        match (this.to.take(), this.result.take()) {
            (Some(to), Some(result)) => end(to, result, hold),
            _ => Ended::Left,
        }
    }

    fn refuse(self: Pin<&mut Self>, error: Error) {
        let mut this = self.project();
        this.future.set(None);
        *this.result = None;
        if let Some(to) = this.to.take() {
            to.send(Err(error));
        }
    }

    fn expire(self: Pin<&mut Self>, error: Error) {
        if let Some(to) = self.project().to.replace(ReplyTo::Nobody) {
            to.send(Err(error));
        }
    }

    fn is_awaited(&self) -> bool {
        self.to.as_ref().is_some_and(ReplyTo::is_awaited)
    }

    fn method(&self) -> TypeId {
        TypeId::of::<M>()
    }

    fn renew(self: Pin<&mut Self>, seed: &mut dyn Any) {
        let seed = seed.downcast_mut::<Option<Seed<M>>>().and_then(Option::take);
        let Seed { message, grain, cx, to } = seed.expect("the pool hands a box a seed of its own method");
        let mut this = self.project();
        let future = (this.build)(message, grain, cx);
        this.future.set(Some(future));
        *this.to = Some(to);
        *this.result = None;
    }
}

/// The spare boxes of a lane, by method.
#[derive(Default)]
pub struct TurnPool {
    spare: Vec<(TypeId, Vec<Turn>)>,
}

impl TurnPool {
    /// A turn of `M` that has not been polled.
    pub(crate) fn turn<M: Method>(
        &mut self,
        message: M,
        grain: Rc<Shared<M::Grain>>,
        cx: Cx,
        to: ReplyTo<M::Reply>,
    ) -> Turn {
        let method = TypeId::of::<M>();
        let spare = self.spare.iter_mut().find(|(m, _)| *m == method).and_then(|(_, boxes)| boxes.pop());
        if let Some(mut turn) = spare {
            turn.as_mut().renew(&mut Some(Seed::<M> { message, grain, cx, to }));
            return turn;
        }
        seat::<M, _, _>(M::start, Seed { message, grain, cx, to })
    }

    /// Takes back the box of a turn that has ended.
    pub fn give_back(&mut self, turn: Turn) {
        let method = turn.method();
        let place = self.spare.iter().position(|(m, _)| *m == method).unwrap_or_else(|| {
            self.spare.push((method, Vec::new()));
            self.spare.len() - 1
        });
        let boxes = &mut self.spare[place].1;
        if boxes.len() < SPARE_BOXES_MAX {
            boxes.push(turn);
        }
    }
}

fn seat<M, F, B>(build: B, seed: Seed<M>) -> Turn
where
    M: Method,
    F: Future<Output = Result<M::Reply>> + 'static,
    B: Fn(M, Rc<Shared<M::Grain>>, Cx) -> F + 'static,
{
    let mut turn = Box::pin(Seat::<M, F, B> { future: None, build, result: None, to: None });
    turn.as_mut().renew(&mut Some(seed));
    turn
}
