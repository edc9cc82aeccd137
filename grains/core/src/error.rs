//! The one public error. A kind exists only where the reader would act differently.

use std::fmt;

use crate::time::Span;

/// Every fallible operation of Granary.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, coarsely: each kind has a page `deploy/errors/GR-nnn.md` that says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The deadline passed. The message says where the time went.
    Timeout,
    /// A queue is full; [`Error::retry_after`] says when to come back.
    Overloaded,
    /// The call could only have waited for itself; the message prints the path.
    CallCycle,
    /// Another owner has taken the slot.
    Fenced,
    /// The grain lives elsewhere now.
    Moved,
    /// Store, log or silo cannot be reached at present.
    Unavailable,
    /// The grain refused the call: an `Err` of the user's own code.
    Rejected,
    /// No such kind, method, stream or file.
    NotFound,
    /// The caller's input or configuration is wrong.
    Invalid,
    /// Bytes that cannot be read as what they should be.
    Codec,
    /// A turn panicked, or the record was set aside as poisoned.
    Poisoned,
    /// Shutting down, or the connection has ended.
    Closed,
}

impl ErrorKind {
    /// Every kind, in the order of their pages.
    pub const ALL: [ErrorKind; 12] = [
        ErrorKind::Timeout,
        ErrorKind::Overloaded,
        ErrorKind::CallCycle,
        ErrorKind::Fenced,
        ErrorKind::Moved,
        ErrorKind::Unavailable,
        ErrorKind::Rejected,
        ErrorKind::NotFound,
        ErrorKind::Invalid,
        ErrorKind::Codec,
        ErrorKind::Poisoned,
        ErrorKind::Closed,
    ];

    /// The name, as logs and metrics write it.
    pub const fn name(self) -> &'static str {
        match self {
            ErrorKind::Timeout => "timeout",
            ErrorKind::Overloaded => "overloaded",
            ErrorKind::CallCycle => "call cycle",
            ErrorKind::Fenced => "fenced",
            ErrorKind::Moved => "moved",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Rejected => "rejected",
            ErrorKind::NotFound => "not found",
            ErrorKind::Invalid => "invalid",
            ErrorKind::Codec => "codec",
            ErrorKind::Poisoned => "poisoned",
            ErrorKind::Closed => "closed",
        }
    }

    /// The page of this kind: `GR-001` to `GR-012`.
    pub fn code(self) -> String {
        let number = ErrorKind::ALL.iter().position(|kind| *kind == self).map_or(0, |i| i + 1);
        format!("GR-{number:03}")
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<ErrorKind> {
        ErrorKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Did the call run?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ran {
    /// Surely not: it may be repeated.
    No,
    /// Perhaps: repeat it only with an idempotency key.
    Unknown,
    /// It ran, and answered with this error.
    Yes,
}

/// What went wrong, in words for a person, and whether the call ran.
///
/// ```
/// use granary_core::{Error, ErrorKind, Ran};
/// let error = Error::new(ErrorKind::Timeout, "Device/d-7.record waited 1.0s in a queue of 212").ran(Ran::No);
/// assert_eq!(error.to_string(), "timeout: Device/d-7.record waited 1.0s in a queue of 212 (did it run: no) (GR-001)");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    detail: Box<Detail>,
}

#[derive(Clone, Debug, PartialEq)]
struct Detail {
    kind: ErrorKind,
    message: String,
    ran: Option<Ran>,
    retry_after: Option<Span>,
}

impl Error {
    /// An error of this kind. The message is lowercase, without a period, with the values in it.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { detail: Box::new(Detail { kind, message: message.into(), ran: None, retry_after: None }) }
    }

    /// A refusal by the user's own code.
    pub fn rejected(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Rejected, message)
    }

    /// Wrong input or configuration.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, message)
    }

    /// Says whether the call ran.
    #[must_use]
    pub fn ran(mut self, ran: Ran) -> Error {
        self.detail.ran = Some(ran);
        self
    }

    /// Says when to come back.
    #[must_use]
    pub fn after(mut self, wait: Span) -> Error {
        self.detail.retry_after = Some(wait);
        self
    }

    /// What went wrong, coarsely.
    pub fn kind(&self) -> ErrorKind {
        self.detail.kind
    }

    /// The message without kind and code.
    pub fn message(&self) -> &str {
        &self.detail.message
    }

    /// Whether the call ran; `None` where the question makes no sense.
    pub fn did_run(&self) -> Option<Ran> {
        self.detail.ran
    }

    /// When to come back, if the other side said so.
    pub fn retry_after(&self) -> Option<Span> {
        self.detail.retry_after
    }

    /// Whether the same call may be sent again as it is: it surely did not run and may succeed later.
    pub fn is_retryable(&self) -> bool {
        let passing = matches!(
            self.kind(),
            ErrorKind::Timeout
                | ErrorKind::Overloaded
                | ErrorKind::Fenced
                | ErrorKind::Moved
                | ErrorKind::Unavailable
                | ErrorKind::Closed
        );
        passing && self.detail.ran == Some(Ran::No)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind().name(), self.detail.message)?;
        match self.detail.ran {
            Some(Ran::No) => f.write_str(" (did it run: no)")?,
            Some(Ran::Unknown) => f.write_str(" (did it run: unknown)")?,
            Some(Ran::Yes) | None => {}
        }
        if let Some(wait) = self.detail.retry_after {
            write!(f, " (retry after {wait})")?;
        }
        write!(f, " ({})", self.kind().code())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_surely_did_not_run_is_retryable() {
        let overloaded = Error::new(ErrorKind::Overloaded, "full").ran(Ran::No);
        assert!(overloaded.is_retryable());
        assert!(!overloaded.ran(Ran::Unknown).is_retryable());
        assert!(!Error::rejected("no").ran(Ran::No).is_retryable());
    }

    #[test]
    fn every_kind_has_a_code_and_a_name_of_its_own() {
        for (i, kind) in ErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.code(), format!("GR-{:03}", i + 1));
            assert_eq!(ErrorKind::from_name(kind.name()), Some(kind));
        }
    }
}
