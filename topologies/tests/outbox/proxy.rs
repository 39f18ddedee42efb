//! Stands between a shop and its database, and loses the answer to a commit when it is told to.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What becomes of the next commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The connection breaks before the database hears of it.
    LostBefore,
    /// The connection breaks before its answer comes.
    LostAfter,
    /// Likewise, and there is no other connection until the proxy comes back.
    GoneAfter,
}

#[derive(Default)]
struct State {
    next: Option<Fate>,
    is_gone: bool,
    /// Every connection, so that all can be broken.
    open: Vec<TcpStream>,
}

pub struct Proxy {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    /// A proxy before a port of this machine. It lasts as long as the tests.
    pub fn before(port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let proxy = Proxy { port: listener.local_addr().expect("an address").port(), state: Arc::default() };
        let state = Arc::clone(&proxy.state);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("a connection");
                if state.lock().expect("no panic").is_gone {
                    continue; // closed
                }
                let server = TcpStream::connect(("127.0.0.1", port)).expect("the database runs");
                connect(client, server, &state);
            }
        });
        proxy
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn next_commit(&self, fate: Fate) {
        self.state.lock().expect("no panic").next = Some(fate);
    }

    pub fn come_back(&self) {
        self.state.lock().expect("no panic").is_gone = false;
    }
}

fn connect(client: TcpStream, server: TcpStream, state: &Arc<Mutex<State>>) {
    let again = |stream: &TcpStream| stream.try_clone().expect("another handle");
    state.lock().expect("no panic").open.extend([again(&client), again(&server)]);
    let (from_server, to_client) = (again(&server), again(&client));
    thread::spawn(move || forward(from_server, to_client, |_| None, |_| ()));
    let (watched, state) = (Arc::clone(state), Arc::clone(state));
    thread::spawn(move || {
        let watch = |bytes: &[u8]| {
            let is_commit = bytes.windows(7).any(|word| word == b"\x03COMMIT"); // a query of that text
            watched.lock().expect("no panic").next.take_if(|_| is_commit)
        };
        let met = |fate: Fate| {
            let mut state = state.lock().expect("no panic");
            if fate == Fate::GoneAfter {
                state.is_gone = true;
                state.open.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Read)));
            }
        };
        forward(client, server, watch, met);
    });
}

/// Passes on what comes, until the end of one of the two or of the commit that is watched for and then met.
fn forward(mut from: TcpStream, mut to: TcpStream, watch: impl Fn(&[u8]) -> Option<Fate>, met: impl Fn(Fate)) {
    let mut bytes = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let fate = watch(&bytes[..count]);
        if fate != Some(Fate::LostBefore) && to.write_all(&bytes[..count]).is_err() {
            break;
        }
        if let Some(fate) = fate {
            // The client sees the end only then; the database hears what was sent before its own.
            met(fate);
            break;
        }
    }
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Write).ok();
}
