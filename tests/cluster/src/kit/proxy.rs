//! A way to Redis that can be cut, and can lead to another server.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// It listens as long as the process lives.
#[derive(Clone)]
pub struct Proxy {
    address: String,
    state: Arc<Mutex<State>>,
}

struct State {
    /// `None` while the way is cut.
    target: Option<String>,
    open: Vec<TcpStream>,
}

impl Proxy {
    pub fn to(target: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let state = Arc::new(Mutex::new(State { target: Some(target), open: Vec::new() }));
        let proxy = Proxy { address, state };
        let accepting = proxy.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                accepting.connect(stream);
            }
        });
        proxy
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Nothing gets through any more, and connections end.
    pub fn cut(&self) {
        self.lead(None);
    }

    /// New connections lead there; older ones end.
    pub fn lead_to(&self, target: String) {
        self.lead(Some(target));
    }

    fn lead(&self, target: Option<String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.target = target;
        for stream in state.open.drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    fn connect(&self, from: TcpStream) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(to) = state.target.as_ref().and_then(|target| TcpStream::connect(target).ok()) else {
            return;
        };
        for (reads, writes) in [(&from, &to), (&to, &from)] {
            let (Ok(reads), Ok(writes)) = (reads.try_clone(), writes.try_clone()) else { return };
            drop(reads.set_nodelay(true));
            thread::spawn(move || copy(reads, writes));
        }
        state.open.extend([from, to]);
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(n) = from.read(&mut bytes) {
        if n == 0 || to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
    drop(from.shutdown(Shutdown::Both));
}
