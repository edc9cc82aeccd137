//! One accepted connection: handshake, requests in, answers out, and its end.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use granary_core::{Error, ErrorKind, Ran};
use granary_wire::{
    Ask, Decoder, Failure, Frame, Hello, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Role, Tail, encode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::feed::{Credit, Feed, Stop};
use super::following::Following;
use super::{
    CONNECTION_IN_FLIGHT_MAX, CONNECTION_TAILS_MAX, CONNECTIONS_MAX, DRAIN_MAX, HANDSHAKE_MAX, Identity,
    Reply, Service,
};
use crate::outgoing::{Outgoing, PORTION_FRAMES, lock, others_first};

/// How long a peer may take to be told why it is refused.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// What replies and feeds of a connection share with it.
pub(super) struct Connection {
    pub(super) outgoing: Outgoing,
    pub(super) in_flight: InFlight,
    pub(super) following: Following,
    pub(super) tails: Mutex<Vec<(u64, Arc<Credit>)>>,
}

impl Connection {
    /// No tail of it gets anything any more.
    fn end_tails(&self) {
        for (_, credit) in lock(&self.tails).drain(..) {
            credit.stop(Stop::Leaving);
        }
    }
}

/// The requests that wait for their answers. Only the task that reads the connection adds to them.
#[derive(Default)]
pub(super) struct InFlight {
    count: AtomicUsize,
    left: Notify,
}

impl InFlight {
    /// Waits for room for one more request; its reply makes room again.
    async fn enter(&self) {
        while self.count.load(Ordering::Acquire) >= CONNECTION_IN_FLIGHT_MAX {
            self.left.notified().await;
        }
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// One is answered.
    pub(super) fn leave(&self) {
        let before = self.count.fetch_sub(1, Ordering::AcqRel);
        if before >= CONNECTION_IN_FLIGHT_MAX || before == 1 {
            self.left.notify_one();
        }
    }

    /// Waits until all are answered.
    async fn all_left(&self) {
        while self.count.load(Ordering::Acquire) > 0 {
            self.left.notified().await;
        }
    }
}

/// Refuses a connection beyond the limit.
pub(super) async fn turn_away(mut socket: TcpStream) {
    let message = format!("the silo serves {CONNECTIONS_MAX} connections already");
    farewell(&mut socket, &Error::new(ErrorKind::Overloaded, message).ran(Ran::No)).await;
}

/// Tells the peer why it is refused. It may have gone: nobody else needs to know.
async fn farewell(socket: &mut TcpStream, error: &Error) {
    let mut bytes = Vec::new();
    if encode(&Frame::Goodbye(Failure::of(error)), &mut bytes).is_ok() {
        drop(tokio::time::timeout(FAREWELL_MAX, socket.write_all(&bytes)).await);
        drop(tokio::time::timeout(FAREWELL_MAX, socket.shutdown()).await);
    }
}

/// Serves a connection to its end.
pub(super) async fn run(
    mut socket: TcpStream,
    service: &dyn Service,
    identity: &Identity,
    stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut decoder = Decoder::handshake();
    let greeted = tokio::time::timeout(HANDSHAKE_MAX, greet(&mut socket, &mut decoder, identity)).await;
    match greeted.unwrap_or_else(|_| Err(Refusal::Gone(io::ErrorKind::TimedOut.into()))) {
        Ok(()) => decoder.welcome(),
        Err(Refusal::Told(error)) => {
            farewell(&mut socket, &error).await;
            return Ok(());
        }
        Err(Refusal::Gone(error)) => return Err(error),
    }
    let connection = Arc::new(Connection {
        outgoing: Outgoing::default(),
        in_flight: InFlight::default(),
        following: Following::default(),
        tails: Mutex::default(),
    });
    let (mut from, mut to) = socket.into_split();
    let ended = tokio::select! {
        biased;
        ended = take_requests(&connection, service, &mut from, &mut decoder, stopped) => ended,
        written = connection.outgoing.write_to(&mut to) => written,
        never = connection.following.run() => match never {},
    };
    connection.end_tails();
    connection.following.end();
    connection.outgoing.close();
    // Answers and the goodbye that are already there still leave.
    ended.and(connection.outgoing.write_to(&mut to).await)
}

/// Why a connection never began.
enum Refusal {
    /// The peer is told.
    Told(Error),
    /// The peer has gone.
    Gone(io::Error),
}

async fn greet(socket: &mut TcpStream, decoder: &mut Decoder, identity: &Identity) -> Result<(), Refusal> {
    loop {
        let count = socket.read(decoder.space()).await.map_err(Refusal::Gone)?;
        if count == 0 {
            return Err(Refusal::Gone(io::ErrorKind::UnexpectedEof.into()));
        }
        decoder.filled(count);
        let told = |why: String| Refusal::Told(Error::invalid(why).ran(Ran::No));
        match decoder.next_frame().map_err(|e| told(e.to_string()))? {
            None => {}
            Some(Frame::Hello(hello)) => {
                check(&hello, identity).map_err(told)?;
                break;
            }
            Some(other) => return Err(told(format!("a `{}` frame before the hello", other.name()))),
        }
    }
    let (cluster, name) = (&identity.cluster, &identity.silo);
    let hello = Hello { version: PROTOCOL_VERSION, cluster, role: Role::Silo, name };
    let mut bytes = Vec::new();
    encode(&Frame::Hello(hello), &mut bytes).expect("the names of a cluster and a silo fit into a frame");
    socket.write_all(&bytes).await.map_err(Refusal::Gone)
}

fn check(hello: &Hello<'_>, identity: &Identity) -> Result<(), String> {
    if !(PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION).contains(&hello.version) {
        let theirs = hello.version;
        return Err(format!(
            "protocol {theirs} is not spoken here: this silo speaks {PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION}"
        ));
    }
    if !hello.cluster.is_empty() && hello.cluster != identity.cluster {
        let (ours, theirs) = (&identity.cluster, hello.cluster);
        return Err(format!("this silo belongs to the cluster `{ours}`, the client looks for `{theirs}`"));
    }
    Ok(())
}

/// Reads requests until the peer leaves, breaks the rules, or the silo stops.
async fn take_requests(
    connection: &Arc<Connection>,
    service: &dyn Service,
    from: &mut OwnedReadHalf,
    decoder: &mut Decoder,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut service = Some(service);
    let deadline = loop {
        if let Err(error) = hand_over(connection, service, decoder).await {
            let told = Error::new(ErrorKind::Codec, error.to_string()).ran(Ran::Unknown);
            drop(connection.outgoing.push(&Frame::Goodbye(Failure::of(&told))));
            return Ok(());
        }
        // Who does not take its answers may ask no more.
        connection.outgoing.room().await;
        tokio::select! {
            biased;
            () = told(&mut stopped), if service.is_some() => {
                service = None;
                say_goodbye(connection);
            }
            count = from.read(decoder.space()) => match count? {
                0 => break Instant::now() + DRAIN_MAX,
                count => decoder.filled(count),
            },
        }
    };
    connection.end_tails();
    // What is not answered by then is answered by the end of the connection.
    drop(tokio::time::timeout_at(deadline, connection.in_flight.all_left()).await);
    Ok(())
}

/// Waits until the silo stops; that `serve` itself is gone is a stop too.
async fn told(stopped: &mut watch::Receiver<bool>) {
    drop(stopped.wait_for(|stopped| *stopped).await.map(|_| ()));
}

pub(super) fn shutting_down() -> Error {
    Error::new(ErrorKind::Closed, "the silo is shutting down").ran(Ran::No)
}

/// From here on requests are refused, until the peer sends no more.
fn say_goodbye(connection: &Connection) {
    drop(connection.outgoing.push(&Frame::Goodbye(Failure::of(&shutting_down()))));
    connection.end_tails();
}

/// Hands the requests that have arrived to the service; without one they are refused.
async fn hand_over(
    connection: &Arc<Connection>,
    service: Option<&dyn Service>,
    decoder: &mut Decoder,
) -> granary_wire::Result<()> {
    let mut frames = 0;
    while let Some(frame) = decoder.next_frame()? {
        frames += 1;
        if frames % PORTION_FRAMES == 0 {
            others_first().await;
        }
        let Some(service) = service else {
            if let Some(id) = asked(&frame) {
                expected(connection, Some(id)).await.send(Err(shutting_down()));
            }
            continue;
        };
        match frame {
            Frame::Call(call) => {
                let reply = expected(connection, (!call.one_way).then_some(call.id)).await;
                service.call(call, reply);
            }
            Frame::Produce(produce) => {
                let reply = expected(connection, Some(produce.id)).await;
                service.produce(produce, reply);
            }
            Frame::Ask(Ask { id, what, arguments }) => {
                service.ask(what, arguments, expected(connection, Some(id)).await);
            }
            Frame::Cancel { id } => connection.following.cancel(id),
            Frame::Tail(tail) => begin_tail(connection, service, tail).await,
            Frame::Credit { id, bytes } => with_tail(connection, id, |credit| credit.give(bytes)),
            Frame::Stop { id } => with_tail(connection, id, |credit| credit.stop(Stop::Asked)),
            Frame::Goodbye(_) => {}
            other => return Err(granary_wire::Error::Misplaced { frame: other.name() }),
        }
    }
    Ok(())
}

/// The request in a frame, if it waits for an answer.
fn asked(frame: &Frame<'_>) -> Option<u64> {
    match frame {
        Frame::Call(call) => (!call.one_way).then_some(call.id),
        Frame::Produce(produce) => Some(produce.id),
        Frame::Tail(tail) => Some(tail.id),
        Frame::Ask(ask) => Some(ask.id),
        _ => None,
    }
}

/// Waits for room for one more request in flight; its reply makes room again.
async fn expected(connection: &Arc<Connection>, id: Option<u64>) -> Reply {
    connection.in_flight.enter().await;
    Reply::new(connection.clone(), id)
}

async fn begin_tail(connection: &Arc<Connection>, service: &dyn Service, tail: Tail<'_>) {
    let credit = Arc::new(Credit::of(tail.credit_bytes));
    let refusal = {
        let mut tails = lock(&connection.tails);
        if tails.iter().any(|(id, _)| *id == tail.id) {
            Some(Error::invalid(format!("the tail {} exists already", tail.id)))
        } else if tails.len() >= CONNECTION_TAILS_MAX {
            let message = format!("a connection may have {CONNECTION_TAILS_MAX} tails");
            Some(Error::new(ErrorKind::Overloaded, message))
        } else {
            tails.push((tail.id, credit.clone()));
            None
        }
    };
    match refusal {
        Some(error) => expected(connection, Some(tail.id)).await.send(Err(error.ran(Ran::No))),
        None => service.tail(tail.clone(), Feed::new(connection.clone(), tail.id, credit)),
    }
}

/// What arrives for a tail that has ended in the meantime is late, not wrong.
fn with_tail(connection: &Connection, id: u64, act: impl FnOnce(&Credit)) {
    if let Some((_, credit)) = lock(&connection.tails).iter().find(|(tail, _)| *tail == id) {
        act(credit);
    }
}
