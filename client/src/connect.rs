//! Opening a connection: TCP, then a hello each way.

use std::time::Duration;

use granary_core::{Error, ErrorKind, Ran, Result};
use granary_wire::{Decoder, Frame, Hello, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Role, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long connecting and the handshake may take: one lost packet is sent again after a second.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(3);

/// What a client says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    /// What it is.
    pub(crate) role: Role,
    /// The cluster it must be; empty takes any.
    pub(crate) cluster: String,
    /// What the client calls itself.
    pub(crate) name: String,
}

/// A socket whose handshake is done, and what arrived after it.
pub(crate) struct Opened {
    pub(crate) socket: TcpStream,
    pub(crate) decoder: Decoder,
    /// What the silo calls itself.
    pub(crate) silo: String,
}

/// Opens a connection, once.
pub(crate) async fn open(address: &str, us: &Introduction) -> Result<Opened> {
    match tokio::time::timeout(CONNECT_MAX, shake(address, us)).await {
        Ok(opened) => opened.map_err(|error| error.ran(Ran::No)),
        Err(_) => Err(unavailable(address, &format!("no answer within {} s", CONNECT_MAX.as_secs()))),
    }
}

fn unavailable(address: &str, why: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unavailable, format!("no silo at {address}: {why}")).ran(Ran::No)
}

async fn shake(address: &str, us: &Introduction) -> Result<Opened> {
    let mut socket = TcpStream::connect(address).await.map_err(|e| unavailable(address, &e))?;
    socket.set_nodelay(true).map_err(|e| unavailable(address, &e))?;
    let hello = Hello { version: PROTOCOL_VERSION, cluster: &us.cluster, role: us.role, name: &us.name };
    let mut bytes = Vec::new();
    encode(&Frame::Hello(hello), &mut bytes).map_err(|e| Error::invalid(e.to_string()))?;
    socket.write_all(&bytes).await.map_err(|e| unavailable(address, &e))?;
    let mut decoder = Decoder::handshake();
    loop {
        let count = socket.read(decoder.space()).await.map_err(|e| unavailable(address, &e))?;
        if count == 0 {
            return Err(unavailable(address, &"it closed the connection during the handshake"));
        }
        decoder.filled(count);
        if let Some(silo) = welcomed(address, us, &mut decoder)? {
            decoder.welcome();
            return Ok(Opened { socket, decoder, silo });
        }
    }
}

/// The silo's name, once its hello has come and fits.
fn welcomed(address: &str, us: &Introduction, decoder: &mut Decoder) -> Result<Option<String>> {
    let wrong = |why: &dyn std::fmt::Display| Error::invalid(format!("{address} is no silo of ours: {why}"));
    match decoder.next_frame().map_err(|e| wrong(&e))? {
        None => Ok(None),
        Some(Frame::Goodbye(failure)) => Err(failure.to_error()),
        Some(Frame::Hello(hello)) => {
            if !(PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION).contains(&hello.version) {
                let (theirs, ours) = (hello.version, PROTOCOL_VERSION);
                return Err(wrong(&format!("it speaks protocol {theirs}, this client {ours}")));
            }
            if !us.cluster.is_empty() && us.cluster != hello.cluster {
                let (theirs, ours) = (hello.cluster, &us.cluster);
                return Err(wrong(&format!("it belongs to the cluster `{theirs}`, not to `{ours}`")));
            }
            Ok(Some(hello.name.to_owned()))
        }
        Some(other) => Err(wrong(&format!("its first frame is a `{}`", other.name()))),
    }
}
