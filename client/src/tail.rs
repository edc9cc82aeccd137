//! The records of a stream as they come. The silo sends what it has credit for; reading gives it more. When a
//! connection is lost the tail goes on at the next offsets, from whichever silo can be reached.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_core::{Error, ErrorKind, Ran, Result, codec};
use granary_wire::{Frame, START_PARTITIONS_MAX, Start};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::client::Client;
use crate::link::Link;
use crate::outgoing::lock;
use crate::request::backoff;

/// How many bytes of records may be under way or unread, besides the last record sent.
pub const TAIL_CREDIT_BYTES: u64 = 1 << 20;

/// How often a lost tail is opened again before its error is returned; a record that comes counts anew.
pub const TAIL_ATTEMPTS_MAX: u32 = 120;

/// What a token begins with: which form it has.
const TOKEN_FORM: &str = "t1-";

/// A record of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its identity: copies have the same.
    pub id: Option<String>,
    /// Its value.
    pub value: Vec<u8>,
}

impl Record {
    pub(crate) fn of(record: &granary_wire::Record<'_>) -> Record {
        Record {
            partition: record.partition,
            offset: record.offset,
            key: record.key.map(<[u8]>::to_vec),
            id: record.id.map(str::to_owned),
            value: record.value.to_vec(),
        }
    }

    fn credit_bytes(&self) -> u64 {
        let Record { partition, offset, key, id, value } = self;
        granary_wire::Record {
            partition: *partition,
            offset: *offset,
            key: key.as_deref(),
            id: id.as_deref(),
            value,
        }
        .credit_bytes()
    }
}

/// Where a tail stands: what its token holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    stream: String,
    /// It began at the latest records, and no silo could say where those are: it cannot go on without a gap.
    is_vague: bool,
    /// The next offset of each partition; those not named begin at the earliest.
    next: BTreeMap<u32, u64>,
}

impl Mark {
    fn start(&self) -> Start {
        if self.is_vague {
            return Start::Latest;
        }
        if self.next.is_empty() {
            return Start::Earliest;
        }
        Start::Offsets(self.next.iter().map(|(partition, offset)| (*partition, *offset)).collect())
    }

    fn token(&self) -> Result<String> {
        let mut token = TOKEN_FORM.to_owned();
        for byte in codec::to_bytes(self)? {
            token.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
            token.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        }
        Ok(token)
    }

    fn of(token: &str) -> Result<Mark> {
        let wrong = || Error::invalid("the token is not one of a tail").ran(Ran::No);
        let digits = token.strip_prefix(TOKEN_FORM).ok_or_else(wrong)?.as_bytes();
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let pair = |pair: &[u8]| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        };
        let bytes: Vec<u8> = digits.chunks(2).map(pair).collect::<Option<_>>().ok_or_else(wrong)?;
        let mark: Mark = codec::from_bytes(&bytes).map_err(|_| wrong())?;
        if mark.next.len() > START_PARTITIONS_MAX { Err(wrong()) } else { Ok(mark) }
    }
}

/// A tail on one connection.
struct Source {
    link: Arc<Link>,
    id: u64,
    records: mpsc::UnboundedReceiver<Result<Record>>,
    read_bytes: u64,
}

impl Source {
    fn open(link: Arc<Link>, stream: &str, start: Start) -> Result<Source> {
        let (to, records) = mpsc::unbounded_channel(); // bounded by the credit
        let credit_bytes = TAIL_CREDIT_BYTES;
        let id = lock(&link.pending).begin_tail(to, credit_bytes)?;
        let source = Source { link, id, records, read_bytes: 0 };
        source.link.send(&Frame::Tail(granary_wire::Tail { id, stream, start, credit_bytes }))?;
        Ok(source)
    }

    async fn next(&mut self) -> Option<Result<Record>> {
        let record = self.records.recv().await?;
        if let Ok(record) = &record {
            self.read_bytes += record.credit_bytes();
            self.give_credit();
        }
        Some(record)
    }

    fn give_credit(&mut self) {
        if self.read_bytes < TAIL_CREDIT_BYTES / 2 {
            return;
        }
        let bytes = std::mem::take(&mut self.read_bytes);
        lock(&self.link.pending).credit(self.id, bytes);
        // A connection that has ended says so through the records.
        drop(self.link.send(&Frame::Credit { id: self.id, bytes }));
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if lock(&self.link.pending).leave_tail(self.id) {
            drop(self.link.send(&Frame::Stop { id: self.id })); // an ended connection needs no stop
        }
    }
}

/// The records of a stream: [`Client::tail`]. It goes on by itself when its connection is lost, without gap or copy.
pub struct Tail {
    client: Client,
    mark: Mark,
    /// `None` while it is to be opened again, and after the end.
    source: Option<Source>,
    is_over: bool,
    attempts: u32,
}

impl Tail {
    pub(crate) async fn open(client: Client, stream: &str, start: Start) -> Result<Tail> {
        let mut mark = Mark { stream: stream.to_owned(), is_vague: false, next: BTreeMap::new() };
        match start {
            Start::Earliest => {}
            Start::Offsets(offsets) => mark.next = offsets.into_iter().collect(),
            Start::Latest => match ends(&client, stream).await? {
                Some(next) => mark.next = next,
                None => mark.is_vague = true,
            },
        }
        Tail::at(client, mark).await
    }

    pub(crate) async fn resume(client: Client, token: &str) -> Result<Tail> {
        Tail::at(client, Mark::of(token)?).await
    }

    async fn at(client: Client, mark: Mark) -> Result<Tail> {
        let link = client.cluster.any().await?;
        let source = Some(Source::open(link, &mark.stream, mark.start())?);
        Ok(Tail { client, mark, source, is_over: false, attempts: 0 })
    }

    /// The next record, in order within its partition; `None` when the stream has ended. After an error there is no
    /// more; [`Tail::token`] still tells where to go on.
    pub async fn next(&mut self) -> Option<Result<Record>> {
        while !self.is_over {
            let next = match &mut self.source {
                Some(source) => source.next().await,
                None => match self.open_again().await {
                    Ok(()) => continue,
                    Err(error) => Some(Err(error)),
                },
            };
            match next {
                Some(Ok(record)) => {
                    self.attempts = 0;
                    self.mark.next.insert(record.partition, record.offset + 1);
                    return Some(Ok(record));
                }
                Some(Err(error)) if self.may_go_on(&error) => self.source = None,
                end => {
                    (self.source, self.is_over) = (None, true);
                    return end;
                }
            }
        }
        None
    }

    /// Where to go on after the last record returned: for [`Client::resume`], in this program or another.
    pub fn token(&self) -> Result<String> {
        self.mark.token()
    }

    /// Whether another connection, or another silo, may have what this one has not.
    fn may_go_on(&self, error: &Error) -> bool {
        let is_passing = matches!(
            error.kind(),
            ErrorKind::Closed | ErrorKind::Unavailable | ErrorKind::Moved | ErrorKind::Fenced
        );
        is_passing && self.attempts < TAIL_ATTEMPTS_MAX && !self.mark.is_vague
    }

    async fn open_again(&mut self) -> Result<()> {
        self.attempts += 1;
        if self.attempts > 1 {
            sleep(backoff(self.attempts - 1)).await;
        }
        let link = self.client.cluster.any().await?;
        self.source = Some(Source::open(link, &self.mark.stream, self.mark.start())?);
        Ok(())
    }
}

/// The next offset of each partition; `None` when the silo cannot say.
async fn ends(client: &Client, stream: &str) -> Result<Option<BTreeMap<u32, u64>>> {
    let question = codec::to_bytes(stream)?;
    match client.ask("ends", &question).await {
        Ok(answer) => codec::from_bytes(&answer).map(Some),
        // Of the stream, or of the question: opening the tail tells.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_where_the_tail_stands() {
        let next = BTreeMap::from([(0, 7), (9, u64::MAX)]);
        let mark = Mark { stream: "alerts/ö".into(), is_vague: false, next };
        let token = mark.token().unwrap();
        assert_eq!(Mark::of(&token), Ok(mark));
        for wrong in ["", "t1-", "t1-0", "t1-zz", "t2-00", "t1-ö", &token[..token.len() - 2]] {
            assert_eq!(Mark::of(wrong).unwrap_err().kind(), ErrorKind::Invalid, "{wrong}");
        }
    }
}
