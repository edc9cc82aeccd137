//! A way to a server that can be cut, can lead to another server, and can be shut to those who give a name.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// It listens as long as the process lives.
#[derive(Clone)]
pub struct Proxy {
    address: String,
    state: Arc<Mutex<State>>,
    loses_answers: Arc<AtomicBool>,
}

struct State {
    /// `None` while the way is cut.
    target: Option<String>,
    open: Vec<TcpStream>,
    /// Who is not let through: whose first words have one of these in them.
    refused: Vec<String>,
}

impl Proxy {
    pub fn to(target: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let state = State { target: Some(target), open: Vec::new(), refused: Vec::new() };
        let proxy = Proxy { address, state: Arc::new(Mutex::new(state)), loses_answers: Arc::default() };
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

    /// Whoever says one of these names first is not let through from now on. All connections end.
    pub fn refuse(&self, names: &[&str]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.refused = names.iter().map(|name| (*name).to_owned()).collect();
        end(&mut state);
    }

    /// What is said arrives and is done, and the answers to it are lost, until the way leads somewhere again.
    pub fn lose_answers(&self) {
        self.loses_answers.store(true, Ordering::SeqCst);
    }

    fn lead(&self, target: Option<String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.target = target;
        end(&mut state);
        self.loses_answers.store(false, Ordering::SeqCst);
    }

    fn connect(&self, from: TcpStream) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(to) = state.target.as_ref().and_then(|target| TcpStream::connect(target).ok()) else {
            return;
        };
        let clones = || Some((from.try_clone().ok()?, to.try_clone().ok()?));
        let (Some((asks, asked)), Some((hears, answers))) = (clones(), clones()) else { return };
        let (refused, is_lost) = (state.refused.clone(), self.loses_answers.clone());
        thread::spawn(move || copy(asks, asked, &refused, &AtomicBool::new(false)));
        thread::spawn(move || copy(answers, hears, &[], &is_lost));
        state.open.extend([from, to]);
    }
}

/// All connections end.
fn end(state: &mut State) {
    for stream in state.open.drain(..) {
        drop(stream.shutdown(Shutdown::Both));
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, refused: &[String], is_lost: &AtomicBool) {
    drop(from.set_nodelay(true));
    drop(to.set_nodelay(true));
    let mut bytes = vec![0; 64 << 10];
    let (mut is_first, mut has_lost) = (true, false);
    while let Ok(n) = from.read(&mut bytes) {
        // What comes after a lost answer would be taken for it.
        has_lost |= is_lost.load(Ordering::SeqCst);
        if n > 0 && has_lost {
            continue;
        }
        let says = |name: &String| bytes[..n].windows(name.len()).any(|part| part == name.as_bytes());
        let is_refused = std::mem::take(&mut is_first) && refused.iter().any(says);
        if n == 0 || is_refused || to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
    drop(from.shutdown(Shutdown::Both));
}
