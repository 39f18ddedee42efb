//! Brokers that cannot be used: too old, or away. What is said of them names them and what to do.

use super::open;
use crate::log::support::SOON;
use millstream::log::{Error, Health, KafkaConfig, KafkaLog, Log};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

const API_VERSIONS: i16 = 18;
const METADATA: i16 = 3;
const UNSUPPORTED_VERSION: i16 = 35;

/// What a broker of Kafka 2.3 says that it can, as far as a client looks at it before it does anything: key, and greatest version. Metadata has a
/// lower one than that, for an answer that is short.
const OF_2_3: [(i16, i16); 13] = [
    (0, 7),            // Produce
    (1, 11),           // Fetch
    (2, 5),            // ListOffsets
    (METADATA, 1),     // Metadata
    (8, 7),            // OffsetCommit
    (9, 5),            // OffsetFetch
    (10, 2),           // FindCoordinator
    (API_VERSIONS, 2), // ApiVersions
    (22, 1),           // InitProducerId
    (24, 1),           // AddPartitionsToTxn
    (25, 1),           // AddOffsetsToTxn
    (26, 1),           // EndTxn
    (28, 2),           // TxnOffsetCommit: version 3 is of 2.5
];

/// A broker that says who it is and what it can, to every client that comes, and nothing else. Its address.
fn broker_of_2_3() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            // Clients go when they have heard enough.
            std::thread::spawn(move || while answer(&client, address.port()).is_ok() {});
        }
    });
    address.to_string()
}

fn answer(mut client: &TcpStream, port: u16) -> std::io::Result<()> {
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let mut request = vec![0; u32::from_be_bytes(length) as usize];
    client.read_exact(&mut request)?;
    let number = |at: usize| i16::from_be_bytes([request[at], request[at + 1]]);
    let mut answer = request[4..8].to_vec();
    let mut put = |bytes: &[u8]| answer.extend_from_slice(bytes);
    match (number(0), number(2)) {
        (API_VERSIONS, version) => {
            put(&(if version > 2 { UNSUPPORTED_VERSION } else { 0 }).to_be_bytes());
            put(&(OF_2_3.len() as i32).to_be_bytes());
            for (key, greatest) in OF_2_3 {
                [key, 0, greatest].iter().for_each(|number| put(&number.to_be_bytes()));
            }
            if (1..=2).contains(&version) {
                put(&0i32.to_be_bytes()); // throttle time
            }
        }
        (METADATA, 1) => {
            put(&1i32.to_be_bytes()); // one broker: number, host, port, no rack
            put(&7i32.to_be_bytes());
            put(&9i16.to_be_bytes());
            put(b"127.0.0.1");
            put(&i32::from(port).to_be_bytes());
            put(&(-1i16).to_be_bytes());
            put(&7i32.to_be_bytes()); // the controller
            put(&0i32.to_be_bytes()); // no topics
        }
        other => panic!("a client asks {other:?}, which was not said to be there"),
    }
    client.write_all(&(answer.len() as u32).to_be_bytes())?;
    client.write_all(&answer)
}

#[test]
fn brokers_that_cannot_fence_by_the_group_are_refused() {
    let address = broker_of_2_3();
    let refused = KafkaLog::open(KafkaConfig::new(&*address)).unwrap_err();
    assert!(matches!(refused, Error::Unsupported { .. }), "{refused:?}");
    let said = refused.to_string();
    assert!(said.contains("older than Kafka 2.5") && said.contains(&address) && !said.contains('\n'), "{said}");
    // A real one is heard to be new enough, or it would not open.
    assert_eq!(open().health(), Health::Up);
}

#[test]
fn a_broker_that_is_away_at_the_start_is_named() {
    let begun = Instant::now();
    let away = KafkaLog::open(KafkaConfig::new("127.0.0.1:9")).unwrap_err();
    assert!(away.is_retriable() && away.to_string().contains("no broker answers at 127.0.0.1:9"), "{away}");
    assert!(begun.elapsed() < 3 * SOON);
}
