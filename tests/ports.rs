//! Ports of loopback for servers that tests start, kill and start again: none that the system gives to whoever asks for any. One of those may be
//! taken while a server is away, also by a client of its own, which looks for it so often that it is given the very port and so finds itself.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below what systems give by themselves: from 32768 on (Linux), or from 49152 on (RFC 6335).
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// The first of so many free ones in a row.
pub fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let bind = |port: u16| TcpListener::bind(("127.0.0.1", port)).ok();
    // Processes of tests at the same time begin at different places.
    let begin = (std::process::id() % 997) as u16 * 12;
    for _ in 0..COUNT {
        let first = FIRST + (begin + NEXT.fetch_add(count, Ordering::Relaxed) % COUNT) % COUNT;
        if (first..first + count).map(bind).collect::<Option<Vec<_>>>().is_some() {
            return first;
        }
    }
    panic!("no {count} ports in a row are free");
}
