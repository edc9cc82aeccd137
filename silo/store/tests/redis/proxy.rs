//! A wire between store and server that can be cut just after a request arrived and before its reply left.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Forwards connections to a port of loopback, for ever.
pub struct Proxy {
    pub port: u16,
    cut: Arc<AtomicBool>,
}

impl Proxy {
    pub fn start(to: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let port = listener.local_addr().expect("it is bound").port();
        let cut = Arc::new(AtomicBool::new(false));
        let armed = Arc::clone(&cut);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let (near_too, far_too) = (copy(&near), copy(&far));
                std::thread::spawn(move || forward(near, far, None));
                let armed = Arc::clone(&armed);
                std::thread::spawn(move || forward(far_too, near_too, Some(armed)));
            }
        });
        Proxy { port, cut }
    }

    /// The next answer of the server is not passed on: its connection is closed instead.
    pub fn lose_next_answer(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    /// Whether an answer was lost since.
    pub fn has_lost(&self) -> bool {
        !self.cut.load(Ordering::SeqCst)
    }
}

fn copy(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a stream can be shared")
}

fn forward(mut from: TcpStream, mut to: TcpStream, cut: Option<Arc<AtomicBool>>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if cut.as_ref().is_some_and(|cut| cut.swap(false, Ordering::SeqCst)) {
            break;
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // One of the two may be closed already.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
