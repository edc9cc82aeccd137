//! Calls of built-in grains: the pipeline answers them.

use std::rc::Rc;

use granary_cluster::CommitNo;
use granary_core::call::{BytesReply, Options};
use granary_core::envelope::Answer;
use granary_core::{Error, ErrorKind, GrainId, Ran, Result};

use crate::answers::HeldAnswer;
use crate::mailbox::RETRY_AFTER;
use crate::slot::SlotHost;

use super::Lane;

impl Lane {
    /// A call of a built-in grain: answered by the pipeline, held like any answer until what it saw is stored.
    pub(super) fn ask(
        &self,
        host: &Rc<SlotHost>,
        grain: &GrainId,
        method: &str,
        arguments: &[u8],
        (options, reply): (Options, BytesReply),
    ) {
        let answered = self.ask_pipeline(host, grain, method, arguments);
        let mut inner = host.inner.borrow_mut();
        let unsealed = inner.records_open > 0 || !inner.effects.outbox.is_empty();
        let saw = if unsealed { host.open_commit.get() } else { host.open_commit.get() - 1 };
        let answer = Box::new(BytesAnswer { reply, result: answered });
        if saw <= host.stored.get() || answer.result.is_err() {
            drop(inner);
            return answer.send();
        }
        host.has_changes.set(true);
        let held = HeldAnswer { answer, deadline: options.deadline, since: self.now.get(), call: None };
        if let Err(HeldAnswer { answer, .. }) = inner.held.hold(CommitNo(saw), false, held) {
            drop(inner);
            let message = format!("slot {} holds too many answers that wait for the store", host.id);
            answer.refuse(Error::new(ErrorKind::Overloaded, message).ran(Ran::No).after(RETRY_AFTER));
        }
    }

    fn ask_pipeline(
        &self,
        host: &SlotHost,
        grain: &GrainId,
        method: &str,
        arguments: &[u8],
    ) -> Result<Vec<u8>> {
        let mut missing = Vec::new();
        loop {
            let answered = self.pipeline.borrow_mut().ask(host.id, grain, method, arguments, &mut missing)?;
            if let Some(answer) = answered {
                return Ok(answer);
            }
            self.supply(host, &mut missing)?;
        }
    }
}

struct BytesAnswer {
    reply: BytesReply,
    result: Result<Vec<u8>>,
}

impl Answer for BytesAnswer {
    fn send(self: Box<Self>) {
        drop(self.reply.send(self.result));
    }

    fn refuse(self: Box<Self>, error: Error) {
        drop(self.reply.send(Err(error)));
    }

    fn encoded(&self) -> Result<Vec<u8>> {
        self.result.clone()
    }
}
