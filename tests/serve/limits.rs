//! Limits and deadlines: what is too long, too slow, too many or too often.

use std::time::{Duration, Instant};

use millstream::serve::{ApiError, Config, RateLimit, Request, Response, Routes, StatusCode};

use super::{Running, config};

fn routes() -> Routes<()> {
    async fn length(_: (), mut request: Request) -> Result<Response, ApiError> {
        Response::json(StatusCode::OK, &request.body().await?.len())
    }
    Routes::new(()).post("/length", length).get("/ok", |_, _| async { Ok(Response::empty(StatusCode::OK)) })
}

const LIMIT: usize = 64 << 10;

#[test]
fn a_body_has_at_most_64_kib() {
    let server = Running::start(config(), routes());
    let mut client = server.connect();
    assert_eq!(client.post("/length", &"x".repeat(LIMIT)).json(), LIMIT);
    client.post("/length", &"x".repeat(LIMIT + 1)).refused(413, "BODY_TOO_LARGE");

    let mut announced = server.connect();
    announced.send("POST /length HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 99999999999\r\n\r\n");
    announced.answer().refused(413, "BODY_TOO_LARGE");

    let mut sending = server.connect();
    sending.send("POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n");
    let piece = vec![b'x'; 8 << 10];
    (0..100).take_while(|_| sending.try_send(&piece)).count();
    sending.answer().refused(413, "BODY_TOO_LARGE");

    let mut chunked = server.connect();
    chunked.send("POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    (0..=LIMIT / 1024).take_while(|_| chunked.try_send(&chunk)).count();
    chunked.answer().refused(413, "BODY_TOO_LARGE");
}

#[test]
fn slow_requests_are_given_up() {
    let server = Running::start(config(), routes());
    for head in ["G", "GET /ok HTTP/1.1\r\nhost:", "GET /ok HTTP/1.1\r\nhost: x\r\n"] {
        let (mut client, began) = (server.connect(), Instant::now());
        client.send(head).answer().refused(408, "REQUEST_TIMEOUT");
        assert!(began.elapsed() >= config().head_timeout);
        client.closed();
    }
    // Also on a connection that was of use, and drop by drop.
    let mut client = server.connect();
    assert_eq!(client.get("/ok").status, 200);
    client.send("GET /ok HTTP/1.1\r\nhost: x\r\nslow: ");
    while !client.has_answer_within(Duration::from_millis(5)) {
        client.send("x");
    }
    client.answer().refused(408, "REQUEST_TIMEOUT");

    let mut client = server.connect();
    client.send("POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n123");
    client.answer().refused(408, "REQUEST_TIMEOUT");
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let server = Running::start(Config { idle_timeout: Duration::from_millis(150), ..config() }, routes());
    server.connect().closed();
    let mut used = server.connect();
    assert_eq!(used.get("/ok").status, 200);
    used.closed();
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    let body = vec![b'x'; 64 << 20];
    let routes = Routes::new(bytes::Bytes::from(body));
    let routes = routes.get("/huge", |body, _| async { Ok(Response::bytes(StatusCode::OK, "text/plain", body)) });
    let server = Running::start(config(), routes.merge(self::routes()));
    let mut client = server.connect();
    client.send("GET /huge HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut other = server.connect();
    let began = Instant::now();
    while began.elapsed() < config().stall_timeout * 3 {
        assert_eq!(other.get("/ok").status, 200);
    }
    let mut rest = Vec::new();
    let read = std::io::Read::read_to_end(&mut client.stream, &mut rest);
    assert!(read.is_err() || rest.len() < 64 << 20, "the client that did not read got everything: {} bytes", rest.len());
}

#[test]
fn one_connection_too_many_is_told_so() {
    let server = Running::start(Config { max_connections: 2, ..config() }, routes());
    let (mut first, mut second) = (server.connect(), server.connect());
    assert_eq!([first.get("/ok").status, second.get("/ok").status], [200, 200]);
    let answer = server.connect().answer();
    answer.refused(503, "TOO_MANY_CONNECTIONS");
    assert_eq!(answer.header("retry-after"), Some("1"));
    drop(first);
    // The server sees the end on its own time.
    let began = Instant::now();
    while server.connect().send("GET /ok HTTP/1.1\r\nhost: x\r\n\r\n").answer().status != 200 {
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn a_caller_beyond_the_rate_is_told_when_to_come_back() {
    let rate_limit = Some(RateLimit { per_second: 1, burst: 3 });
    let server = Running::start(Config { rate_limit, ..config() }, routes());
    let mut client = server.connect();
    let answers: Vec<_> = (0..4).map(|_| client.get("/ok")).collect();
    assert_eq!(answers.iter().map(|a| a.status).collect::<Vec<_>>(), [200, 200, 200, 429]);
    answers[3].refused(429, "RATE_LIMITED");
    let seconds: u64 = answers[3].header("retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&seconds));
}
