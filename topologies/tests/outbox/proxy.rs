//! Stands between a shop and its database, and loses the answer to a commit when it is told to.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Nothing is passed on.
    is_gone: bool,
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
    let (from_server, to_client) = (again(&server), again(&client));
    // Once the answer is to be lost, what the database says goes nowhere.
    let is_lost = Arc::new(AtomicBool::new(false));
    let (heard, its_answer_is_lost) = (Arc::clone(state), Arc::clone(&is_lost));
    thread::spawn(move || {
        forward(from_server, to_client, |_| {
            let is_gone = its_answer_is_lost.load(Ordering::Acquire) || heard.lock().expect("no panic").is_gone;
            if is_gone { Next::End } else { Next::GoOn }
        });
    });
    let state = Arc::clone(state);
    thread::spawn(move || {
        forward(client, server, |bytes| {
            let is_commit = bytes.windows(7).any(|word| word == b"\x03COMMIT"); // a query of that text
            let mut state = state.lock().expect("no panic");
            if state.is_gone {
                return Next::End;
            }
            let Some(fate) = state.next.take_if(|_| is_commit) else { return Next::GoOn };
            is_lost.store(true, Ordering::Release);
            if fate == Fate::GoneAfter {
                state.is_gone = true;
            }
            if fate == Fate::LostBefore { Next::End } else { Next::Last }
        });
    });
}

/// What becomes of bytes that came.
enum Next {
    GoOn,
    /// They are passed on, and nothing behind them.
    Last,
    /// Not even they are.
    End,
}

/// Passes on what comes, until the end of one of the two or as long as it should.
fn forward(mut from: TcpStream, mut to: TcpStream, mut next: impl FnMut(&[u8]) -> Next) {
    let mut bytes = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let next = next(&bytes[..count]);
        if matches!(next, Next::End) || to.write_all(&bytes[..count]).is_err() || matches!(next, Next::Last) {
            break;
        }
    }
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Write).ok();
}
