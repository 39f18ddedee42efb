//! Event streams: what they carry, how they end, and that a slow client harms nobody.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use millstream::serve::{ApiError, Caller, Event, Request, Response, Routes};
use prometheus_client::registry::Registry;
use tokio::sync::broadcast;

use super::{Client, Running, config};

/// Streams whatever the test publishes, and tells when a stream is gone.
#[derive(Clone)]
struct World {
    published: broadcast::Sender<String>,
    gone: mpsc::Sender<()>,
}

struct Tell(mpsc::Sender<()>);

impl Drop for Tell {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

fn routes() -> (Routes<World>, broadcast::Sender<String>, mpsc::Receiver<()>) {
    let (published, _) = broadcast::channel(64);
    let (gone, told) = mpsc::channel();
    async fn subscribe(world: World, _: Request) -> Result<Response, ApiError> {
        let mut published = world.published.subscribe();
        let tell = Tell(world.gone);
        Ok(Response::events(move |mut events| async move {
            let _tell = tell;
            events.send(&Event::new("connected", b"{}").id(7)).await;
            loop {
                match published.recv().await {
                    Ok(data) => events.send(&Event::new("news", data.as_bytes())).await,
                    Err(broadcast::error::RecvError::Closed) => return,
                    Err(broadcast::error::RecvError::Lagged(_)) => return events.cut_off(),
                }
            }
        }))
    }
    let world = World { published: published.clone(), gone };
    (Routes::new(world).get("/stream", subscribe), published, told)
}

#[test]
fn a_stream_carries_events_and_heartbeats() {
    let (routes, published, _gone) = routes();
    let server = Running::start(config(), routes);
    let mut client = server.connect();
    let head = client.subscribe("/stream", "");
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    assert_eq!(head.header("cache-control"), Some("no-store"));
    assert_eq!(head.header("x-accel-buffering"), Some("no"));
    assert_eq!(head.header("content-length"), None);
    assert_eq!(client.events().unwrap(), ["retry: 2000", "id: 7\nevent: connected\ndata: {}"]);
    published.send("one".into()).unwrap();
    assert_eq!(client.events().unwrap(), ["event: news\ndata: one"]);
    for _ in 0..3 {
        assert_eq!(client.chunk().unwrap(), b":\n\n");
    }
    let head = server.connect().send("HEAD /stream HTTP/1.1\r\nhost: x\r\n\r\n").head();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
}

#[test]
fn a_stream_is_over_when_its_client_leaves() {
    let (routes, _published, gone) = routes();
    let server = Running::start(config(), routes);
    for leave in [|client: Client| drop(client), |mut client: Client| client.end_of_sending()] {
        let mut client = server.connect();
        client.subscribe("/stream", "");
        client.events().unwrap();
        leave(client);
        gone.recv_timeout(Duration::from_secs(10)).expect("the stream is dropped");
    }
}

#[test]
fn a_stream_ends_with_its_caller_s_authorization() {
    let (routes, _published, _gone) = routes();
    let server = Running::authorized(config(), routes, |_| {
        let expires_at = Some(tokio::time::Instant::now() + Duration::from_millis(120));
        Ok(Caller { expires_at, ..Caller::default() })
    });
    let (mut client, began) = (server.connect(), Instant::now());
    client.subscribe("/stream", "");
    while client.chunk().is_some() {}
    assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
}

#[test]
fn a_client_that_does_not_read_is_cut_off_while_others_go_on() {
    let (routes, published, gone) = routes();
    let registry = Arc::new(parking_lot::Mutex::new(Registry::default()));
    let metrics = Arc::clone(&registry);
    let server = Running::with(config(), routes, move |server| server.metrics(&mut metrics.lock()));
    let sample = |name: &str| {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry.lock()).unwrap();
        let line =
            text.lines().find(|line| line.split([' ', '{']).next() == Some(name)).unwrap_or_else(|| panic!("no {name}:\n{text}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let mut slow = server.connect();
    slow.subscribe("/stream", "");
    let mut reader = server.connect();
    reader.subscribe("/stream", "");
    reader.events().unwrap();
    assert_eq!(sample("sse_connection_count"), 2.0);

    let received = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&received);
    let thread = std::thread::spawn(move || {
        while let Some(events) = reader.events() {
            count.fetch_add(events.len(), Ordering::SeqCst);
        }
        reader
    });
    // Each event waits for the reader, so that only the other one is slow.
    let event = "x".repeat(100_000);
    let (mut sent, began) = (0, Instant::now());
    while gone.try_recv().is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "the slow client is still there after {sent} events");
        published.send(event.clone()).unwrap();
        sent += 1;
        while received.load(Ordering::SeqCst) < sent {
            std::thread::yield_now();
        }
    }
    assert_eq!(sample("sse_connection_count"), 1.0);
    drop(published);
    drop(server);
    thread.join().unwrap();
    assert_eq!(received.load(Ordering::SeqCst), sent, "the reader got every event");
}

#[test]
fn stopping_ends_streams_in_order_and_soon() {
    let (routes, _published, _gone) = routes();
    let mut server = Running::start(config(), routes);
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.subscribe("/stream", "");
        client.events().unwrap();
    }
    let mut idle = server.connect();
    let began = Instant::now();
    server.tell_to_stop();
    for client in &mut clients {
        while client.chunk().is_some() {} // panics where the stream is cut off and not ended
        client.closed();
    }
    idle.closed();
    drop((clients, idle));
    server.join();
    assert!(began.elapsed() < config().shutdown_grace, "{:?}", began.elapsed());
    assert!(std::net::TcpStream::connect(server.address).is_err(), "somebody still listens");
}

#[test]
fn stopping_waits_for_answers_but_not_for_ever() {
    let asked = Arc::new(tokio::sync::Notify::new());
    let routes = Routes::new(Arc::clone(&asked));
    let routes = routes.get("/never", |asked: Arc<tokio::sync::Notify>, _| async move {
        asked.notify_one();
        std::future::pending().await
    });
    let mut server = Running::start(config(), routes);
    let mut client = server.connect();
    client.send("GET /never HTTP/1.1\r\nhost: x\r\n\r\n");
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(asked.notified());
    let began = Instant::now();
    server.tell_to_stop();
    server.join();
    let took = began.elapsed();
    assert!(took >= config().shutdown_grace && took < config().shutdown_grace * 2, "{took:?}");
    client.closed();
}
