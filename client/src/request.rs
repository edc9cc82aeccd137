//! One request: how long it may take, whether it may be sent again, and what is said when it did not succeed.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use granary_core::call::Options;
use granary_core::time::Span;
use granary_core::{Error, ErrorKind, Key, Ran, Result};
use granary_wire::{Call, Caller};
use tokio::time::Instant;

use crate::link::Link;
use crate::outgoing::lock;
use crate::pending::{IN_FLIGHT_MAX, Missed};

/// The wait before a request is sent again; each later one is twice as long, up to [`BACKOFF_MAX`].
pub const BACKOFF_MIN: Duration = Duration::from_millis(5);

/// The longest wait before a request is sent again.
pub const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// A deadline that is never reached, for timeouts beyond what a clock can hold.
const FAR: Duration = Duration::from_secs(365 * 86_400);

/// The wait before attempt `number` is followed by another.
pub(crate) fn backoff(number: u32) -> Duration {
    (BACKOFF_MIN * (1 << (number.clamp(1, 8) - 1))).min(BACKOFF_MAX)
}

/// What a message names as that which did not succeed.
pub(crate) type What<'w> = dyn Display + Sync + 'w;

/// A call before it has an id.
pub(crate) struct Request<'r> {
    pub(crate) kind: &'r str,
    pub(crate) key: &'r Key,
    pub(crate) method: &'r str,
    pub(crate) arguments: &'r [u8],
    pub(crate) options: &'r Options,
}

impl Display for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}.{}", self.kind, self.key, self.method)
    }
}

impl Request<'_> {
    pub(crate) fn check(&self) -> Result<()> {
        self.options
            .check()
            .map_err(|error| Error::new(error.kind(), format!("{self}: {}", error.message())).ran(Ran::No))
    }

    pub(crate) fn frame(&self, id: u64, timeout: Span) -> Call<'_> {
        let options = self.options;
        Call {
            id,
            kind: self.kind,
            key: self.key.as_str(),
            method: self.method,
            arguments: self.arguments,
            timeout,
            idempotency_key: options.idempotency_key.as_deref(),
            one_way: options.one_way,
            chain: options.chain.as_deref().map(Caller::all_of).unwrap_or_default(),
            context: options.context.as_deref().map(|context| context.iter().collect()).unwrap_or_default(),
        }
    }
}

/// How long a request may take, and how it went so far.
pub(crate) struct Course<'w> {
    what: &'w What<'w>,
    timeout: Span,
    pub(crate) deadline: Instant,
    /// It may be sent again when it has perhaps run.
    is_idempotent: bool,
    /// How often a way was looked for.
    pub(crate) attempts: u32,
    /// It has perhaps run.
    may_have_run: bool,
    /// Why the attempts so far were gone on from, as the last one said.
    reason: Option<Error>,
}

impl<'w> Course<'w> {
    pub(crate) fn new(what: &'w What<'w>, timeout: Span, is_idempotent: bool) -> Course<'w> {
        let now = Instant::now();
        let deadline = now.checked_add(timeout.into()).unwrap_or(now + FAR);
        Course { what, timeout, deadline, is_idempotent, attempts: 0, may_have_run: false, reason: None }
    }

    /// The time that is left to the other side.
    pub(crate) fn left(&self) -> Span {
        if self.attempts <= 1 {
            return self.timeout; // the clock is asked only where time has passed
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        Span(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)).min(self.timeout)
    }

    /// Whether to try again after this error: it surely did not run and may succeed later, or may run again.
    pub(crate) fn goes_on(&mut self, error: &Error) -> bool {
        let ran = error.did_run();
        self.may_have_run |= ran == Some(Ran::Unknown);
        let may_repeat = match ran {
            Some(Ran::No) => true,
            Some(Ran::Unknown) => self.is_idempotent,
            Some(Ran::Yes) => false,
            None => error.kind() == ErrorKind::Moved,
        };
        let is_passing = matches!(
            error.kind(),
            ErrorKind::Moved | ErrorKind::Fenced | ErrorKind::Closed | ErrorKind::Unavailable
        );
        let goes_on = may_repeat && is_passing;
        if goes_on {
            self.reason = Some(error.clone());
        }
        goes_on
    }

    /// How long to wait before the next attempt; `None` when the deadline has come.
    pub(crate) fn pause(&self) -> Option<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        // Half of what is left: the last attempt is not made before the deadline is near.
        (left > BACKOFF_MIN).then(|| backoff(self.attempts).min(left / 2))
    }

    /// The error the caller gets.
    pub(crate) fn end(&self, error: Error) -> Error {
        // A later attempt that surely did not run says nothing about the one before.
        let error = if self.may_have_run && error.did_run() == Some(Ran::No) {
            error.ran(Ran::Unknown)
        } else {
            error
        };
        if self.attempts <= 1 || error.kind() == ErrorKind::Rejected {
            return error;
        }
        let mut message = format!("{} (attempt {})", error.message(), self.attempts);
        // That the last of several attempts came too late does not say what held the others up.
        if let (ErrorKind::Timeout, Some(reason)) = (error.kind(), &self.reason) {
            let _ = write!(message, "; before that: {}: {}", reason.kind().name(), reason.message());
        }
        let mut told = Error::new(error.kind(), message);
        if let Some(ran) = error.did_run() {
            told = told.ran(ran);
        }
        error.retry_after().into_iter().fold(told, Error::after)
    }

    /// The deadline has come; `last` is why it was not done before.
    pub(crate) fn late(&self, last: &Error) -> Error {
        let Course { what, timeout, attempts, .. } = self;
        let message = format!(
            "{what} was not done within {timeout}, tried {attempts} times; the last reason: {}: {}",
            last.kind().name(),
            last.message()
        );
        let ran = if self.may_have_run { Ran::Unknown } else { Ran::No };
        Error::new(ErrorKind::Timeout, message).ran(ran)
    }

    /// The deadline came before it was sent.
    pub(crate) fn unsent(&self, to: &dyn Display, why: &dyn Display) -> Error {
        let message = format!("{} was not sent to {to} within {}: {why}", self.what, self.timeout);
        Error::new(ErrorKind::Timeout, message).ran(Ran::No)
    }

    /// What a connection's answer to it means.
    pub(crate) fn missed(&self, missed: Missed, link: &Link) -> Error {
        match missed {
            Missed::Failed(error) => error,
            Missed::Full => self.unsent(&link.address, &format!("{IN_FLIGHT_MAX} requests wait for answers")),
            Missed::Expired => {
                let in_flight = lock(&link.pending).in_flight();
                let message = format!(
                    "{} was sent to {} and not answered within {}; {in_flight} requests wait on this connection",
                    self.what, link.address, self.timeout
                );
                Error::new(ErrorKind::Timeout, message).ran(Ran::Unknown)
            }
        }
    }
}
