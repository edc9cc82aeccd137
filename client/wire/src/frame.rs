//! The frames. They borrow from the bytes they were read from: a silo opens a call without copying its arguments.

use std::sync::Arc;

use granary_core::call::{Chain, Options};
use granary_core::time::Span;
use granary_core::{Context, Error, ErrorKind, GrainId, Key, Ran, Result};

/// Who opens a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A program that uses grains.
    Client,
    /// A silo.
    Silo,
}

/// The first frame of each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The protocol version the sender wants to speak.
    pub version: u16,
    /// The cluster it means; empty means whichever it finds.
    pub cluster: &'a str,
    /// What it is.
    pub role: Role,
    /// What it calls itself, for logs.
    pub name: &'a str,
}

/// One grain that waits for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller<'a> {
    /// The kind's name.
    pub kind: &'a str,
    /// The key in its escaped form.
    pub key: &'a str,
    /// Its method.
    pub method: &'a str,
}

impl<'a> Caller<'a> {
    /// The grains of `chain`, outermost first.
    pub fn all_of(chain: &'a Chain) -> Vec<Caller<'a>> {
        let of = |link: &'a Chain| Caller {
            kind: &link.grain.kind,
            key: link.grain.key.as_str(),
            method: &link.method,
        };
        let mut callers: Vec<_> = chain.links().map(of).collect();
        callers.reverse();
        callers
    }
}

/// A call of a grain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<'a> {
    /// Names the call on this connection; the reply repeats it.
    pub id: u64,
    /// The kind's name.
    pub kind: &'a str,
    /// The key in its escaped form.
    pub key: &'a str,
    /// The method's name.
    pub method: &'a str,
    /// The arguments as MessagePack: a map by name, an array by place, or the only one as it is.
    pub arguments: &'a [u8],
    /// How long the caller waits, counted from the arrival.
    pub timeout: Span,
    /// The same key has one effect and one answer.
    pub idempotency_key: Option<&'a str>,
    /// No reply is sent.
    pub one_way: bool,
    /// The grains that wait for it, outermost first; none when no grain calls.
    pub chain: Vec<Caller<'a>>,
    /// What the request carries along, by name.
    pub context: Vec<(&'a str, &'a str)>,
}

impl Call<'_> {
    /// What travels with the call besides its message.
    pub fn options(&self) -> Result<Options> {
        let chain = self.chain.iter().fold(None, |caller, link| {
            let grain = GrainId { kind: link.kind.into(), key: Key::parse(link.key) };
            Some(Chain::link(grain, link.method.to_owned(), caller))
        });
        let context = match &self.context[..] {
            [] => None,
            entries => Some(Arc::new(Context::new(entries.iter().copied())?)),
        };
        Ok(Options {
            timeout: Some(self.timeout),
            idempotency_key: self.idempotency_key.map(Arc::from),
            chain,
            context,
            one_way: self.one_way,
            ..Options::default()
        })
    }
}

/// Asks a silo for something that is no grain's: how it is, which silo owns which slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask<'a> {
    /// Names the request on this connection.
    pub id: u64,
    /// What is asked for: `status`, `slots`, `drain`, ...
    pub what: &'a str,
    /// As MessagePack, or empty.
    pub arguments: &'a [u8],
}

/// The answer to a [`Call`], [`Produce`] or [`Ask`]; of a [`Tail`] its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The request it answers.
    pub id: u64,
    /// The answer as MessagePack, or why there is none.
    pub result: std::result::Result<&'a [u8], Failure<'a>>,
}

/// An error on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure<'a> {
    /// The kind.
    pub kind: ErrorKind,
    /// The message without kind and code.
    pub message: &'a str,
    /// Whether the call ran.
    pub ran: Option<Ran>,
    /// When to come back.
    pub retry_after: Option<Span>,
}

impl<'a> Failure<'a> {
    /// What `error` says.
    pub fn of(error: &'a Error) -> Failure<'a> {
        Failure {
            kind: error.kind(),
            message: error.message(),
            ran: error.did_run(),
            retry_after: error.retry_after(),
        }
    }

    /// The error it came from.
    pub fn to_error(&self) -> Error {
        let mut error = Error::new(self.kind, self.message);
        if let Some(ran) = self.ran {
            error = error.ran(ran);
        }
        if let Some(wait) = self.retry_after {
            error = error.after(wait);
        }
        error
    }
}

/// Where to begin in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first record that is kept.
    Earliest,
    /// With the next record written.
    Latest,
    /// With this offset of each partition; partitions not named begin at the earliest.
    Offsets(Vec<(u32, u64)>),
}

/// Asks for the records of a stream as they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail<'a> {
    /// Names the tail on this connection.
    pub id: u64,
    /// The stream: a sink, a topic, or `alerts`, `late`, `rejected`, `poisoned`.
    pub stream: &'a str,
    /// Where to begin.
    pub start: Start,
    /// How many bytes of records may be sent before a [`Frame::Credit`] gives more.
    pub credit_bytes: u64,
}

/// A record of a stream, sent for a [`Tail`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its identity: copies have the same.
    pub id: Option<&'a str>,
    /// Its value.
    pub value: &'a [u8],
}

impl Record<'_> {
    /// What a record costs besides its own bytes.
    const OVERHEAD_BYTES: u64 = 64;

    /// The credit it uses.
    pub fn credit_bytes(&self) -> u64 {
        let key = self.key.map_or(0, <[u8]>::len);
        let id = self.id.map_or(0, str::len);
        Self::OVERHEAD_BYTES + (key + id + self.value.len()) as u64
    }
}

/// A record to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewRecord<'a> {
    /// Its key: decides the partition.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: &'a [u8],
}

/// Asks for records to be written to a topic: those of one partition in their order and in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Produce<'a> {
    /// Names the request on this connection.
    pub id: u64,
    /// The topic.
    pub topic: &'a str,
    /// The records.
    pub records: Vec<NewRecord<'a>>,
}

/// Everything that can be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Who I am; first on each side.
    Hello(Hello<'a>),
    /// No more requests are taken; replies under way still come. `Closed` is the ordinary end.
    Goodbye(Failure<'a>),
    /// A call.
    Call(Call<'a>),
    /// An answer.
    Reply(Reply<'a>),
    /// Records, please.
    Tail(Tail<'a>),
    /// More records, please.
    Credit {
        /// The tail.
        id: u64,
        /// How many bytes more.
        bytes: u64,
    },
    /// No more records, please; the tail's [`Reply`] follows.
    Stop {
        /// The tail.
        id: u64,
    },
    /// A record.
    Record {
        /// The tail it is for.
        id: u64,
        /// The record.
        record: Record<'a>,
    },
    /// Records to write.
    Produce(Produce<'a>),
    /// Something of the silo itself, please.
    Ask(Ask<'a>),
    /// Nobody waits any more for the reply to this call: queued it never runs, running it goes on, and no reply is sent.
    Cancel {
        /// The call.
        id: u64,
    },
}

impl Frame<'_> {
    /// The frame's name, as errors print it.
    pub fn name(&self) -> &'static str {
        self.tag().name()
    }

    pub(crate) fn tag(&self) -> Tag {
        match self {
            Frame::Hello(_) => Tag::Hello,
            Frame::Goodbye(_) => Tag::Goodbye,
            Frame::Call(_) => Tag::Call,
            Frame::Reply(Reply { result: Ok(_), .. }) => Tag::Answer,
            Frame::Reply(Reply { result: Err(_), .. }) => Tag::Refusal,
            Frame::Tail(_) => Tag::Tail,
            Frame::Credit { .. } => Tag::Credit,
            Frame::Stop { .. } => Tag::Stop,
            Frame::Record { .. } => Tag::Record,
            Frame::Produce(_) => Tag::Produce,
            Frame::Ask(_) => Tag::Ask,
            Frame::Cancel { .. } => Tag::Cancel,
        }
    }
}

/// The first entry of a frame's array. Numbers of a released version are never given anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    Hello = 0,
    Goodbye = 1,
    Call = 2,
    Answer = 3,
    Refusal = 4,
    Tail = 5,
    Credit = 6,
    Stop = 7,
    Record = 8,
    Produce = 9,
    Ask = 10,
    Cancel = 11,
}

impl Tag {
    const ALL: [Tag; 12] = [
        Tag::Hello,
        Tag::Goodbye,
        Tag::Call,
        Tag::Answer,
        Tag::Refusal,
        Tag::Tail,
        Tag::Credit,
        Tag::Stop,
        Tag::Record,
        Tag::Produce,
        Tag::Ask,
        Tag::Cancel,
    ];

    pub(crate) fn of(number: u64) -> Option<Tag> {
        Tag::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Entries of the frame's array, the tag among them.
    pub(crate) const fn entries(self) -> u32 {
        match self {
            Tag::Hello => 6,
            Tag::Goodbye | Tag::Tail => 5,
            Tag::Call => 11,
            Tag::Answer | Tag::Credit => 3,
            Tag::Refusal => 6,
            Tag::Stop | Tag::Cancel => 2,
            Tag::Record => 7,
            Tag::Produce | Tag::Ask => 4,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Tag::Hello => "hello",
            Tag::Goodbye => "goodbye",
            Tag::Call => "call",
            Tag::Answer | Tag::Refusal => "reply",
            Tag::Tail => "tail",
            Tag::Credit => "credit",
            Tag::Stop => "stop",
            Tag::Record => "record",
            Tag::Produce => "produce",
            Tag::Ask => "ask",
            Tag::Cancel => "cancel",
        }
    }
}
