//! Routes, methods, bodies and errors, and what a connection survives.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use millstream::serve::{ApiError, Caller, Config, Request, Response, Routes, StatusCode};
use serde_json::json;
use tokio::sync::Notify;

use super::client::post;
use super::{Client, Running, config};

/// What the handlers below share with the tests.
#[derive(Default)]
struct World {
    added: AtomicUsize,
    asked: Notify,
    go: Notify,
}

fn routes(world: &Arc<World>) -> Routes<Arc<World>> {
    async fn add(world: Arc<World>, mut request: Request) -> Result<Response, ApiError> {
        #[derive(serde::Deserialize)]
        struct Body {
            add: usize,
        }
        let Body { add } = request.json().await?;
        let sum = world.added.fetch_add(add, Ordering::SeqCst) + add;
        Response::json(StatusCode::ACCEPTED, &json!({"sum": sum, "requestId": request.id().to_string()}))
    }
    async fn show(_: Arc<World>, request: Request) -> Result<Response, ApiError> {
        let (id, name) = (request.param_id("id")?, request.param("name")?);
        let limit = request.query_number("limit", 50, 1..=200)?;
        let text = request.query("text")?;
        Response::json(StatusCode::OK, &json!({"id": id, "name": name, "limit": limit, "text": text, "route": request.route()}))
    }
    async fn wait(world: Arc<World>, _: Request) -> Result<Response, ApiError> {
        world.asked.notify_one();
        world.go.notified().await;
        Response::json(StatusCode::OK, "done")
    }
    Routes::new(Arc::clone(world))
        .post("/add", add)
        .get("/things/{id}/{name}", show)
        .get("/wait", wait)
        .get("/fails", |_, _| async { Err(ApiError::internal("the secret cause")) })
        .get("/panics", |_, _| async { panic!("a bug") })
        .get("/long", |_, _| async { Ok(Response::bytes(StatusCode::OK, "text/plain", vec![b'x'; 3_000_000])) })
}

fn start() -> (Running, Arc<World>) {
    let world = Arc::new(World::default());
    (Running::start(config(), routes(&world)), world)
}

#[test]
fn a_request_is_answered_with_its_parameters() {
    let (server, _) = start();
    let mut client = server.connect();
    let answer = client.get("/things/9007199254740991/a%2Fb%20%EC%BF%A0?limit=7&text=x+y%26z");
    assert_eq!(answer.status, 200);
    let expected = json!({
        "id": 9_007_199_254_740_991_u64, "name": "a/b 쿠", "limit": 7, "text": "x y&z", "route": "/things/{id}/{name}"
    });
    assert_eq!(answer.json(), expected);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    for id in ["9007199254740992", "-1", "+1", "1.0", "x", "99999999999999999999999", "%31%"] {
        let message = client.get(&format!("/things/{id}/x")).refused(400, "INVALID_FIELD");
        assert!(message.starts_with("id "), "{message}");
    }
    for limit in ["0", "201", "x", "", "%"] {
        let message = client.get(&format!("/things/1/x?limit={limit}")).refused(400, "INVALID_FIELD");
        assert!(message.starts_with("limit "), "{message}");
    }
    client.get("/things/1/%ff").refused(400, "INVALID_FIELD");
    client.get("/nothing").refused(404, "NOT_FOUND");
    client.get("/things/1/").refused(404, "NOT_FOUND");
}

#[test]
fn methods_are_told_apart() {
    let (server, _) = start();
    let mut client = server.connect();
    let answer = client.get("/add");
    answer.refused(405, "METHOD_NOT_ALLOWED");
    assert_eq!(answer.header("allow"), Some("POST, OPTIONS"));
    let answer = client.send("DELETE /things/1/x HTTP/1.1\r\nhost: x\r\n\r\n").answer();
    answer.refused(405, "METHOD_NOT_ALLOWED");
    assert_eq!(answer.header("allow"), Some("GET, HEAD, OPTIONS"));
    let answer = client.send("OPTIONS /things/1/x HTTP/1.1\r\nhost: x\r\n\r\n").head();
    assert_eq!((answer.status, answer.header("allow")), (204, Some("GET, HEAD, OPTIONS")));
    let length = client.get("/things/1/x").body.len().to_string();
    let answer = client.send("HEAD /things/1/x HTTP/1.1\r\nhost: x\r\n\r\n").head();
    assert_eq!((answer.status, answer.header("content-length")), (200, Some(length.as_str())));
    // A body would be read as the head of the next answer.
    assert_eq!(client.get("/things/1/x").status, 200);
}

#[test]
fn a_body_is_json_of_the_right_shape() {
    let (server, world) = start();
    let mut client = server.connect();
    let answer = client.post("/add", "{\"add\":1,\"more\":[]}");
    assert_eq!((answer.status, &answer.json()["sum"]), (202, &json!(1)));
    assert_eq!(answer.json()["requestId"].as_str(), answer.header("x-request-id"));
    let other = client.post("/add", "{\"add\":1}");
    assert_ne!(answer.header("x-request-id"), other.header("x-request-id"));
    for (body, code, word) in [
        ("{", "INVALID_JSON", "EOF"),
        ("", "INVALID_JSON", "EOF"),
        ("{\"add\":1}x", "INVALID_JSON", "trailing"),
        ("{}", "INVALID_FIELD", "add"),
        ("{\"add\":-1}", "INVALID_FIELD", "add "),
        ("[1]", "INVALID_FIELD", "object"),
    ] {
        let message = client.post("/add", body).refused(400, code);
        assert!(message.contains(word), "{body}: {message}");
    }
    for kind in ["", "content-type: text/plain\r\n", "content-type: application/jsonx\r\n"] {
        client.send(format!("POST /add HTTP/1.1\r\nhost: x\r\n{kind}content-length: 9\r\n\r\n{{\"add\":1}}"));
        client.answer().refused(415, "UNSUPPORTED_MEDIA_TYPE");
    }
    client.send(
        "POST /add HTTP/1.1\r\nhost: x\r\ncontent-type: Application/JSON; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n",
    );
    client.send("5\r\n{\"add\r\n").send("4\r\n\":1}\r\n0\r\n\r\n");
    assert_eq!(client.answer().status, 202);
    client.send(
        "POST /add HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n",
    );
    assert_eq!(client.head().status, 100);
    assert_eq!(client.send("{\"add\":1}").answer().status, 202);
    assert_eq!(world.added.load(Ordering::SeqCst), 4);
}

#[test]
fn a_failure_is_told_without_its_cause_and_harms_nobody() {
    let (server, _) = start();
    let mut client = server.connect();
    for path in ["/fails", "/panics", "/fails"] {
        let answer = client.get(path);
        answer.refused(500, "INTERNAL");
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(!body.contains("secret") && !body.contains("bug"), "{body}");
    }
    assert_eq!(client.get("/things/1/x").status, 200);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (server, _) = start();
    let mut client = server.connect();
    client.send((0..100).map(|_| post("/add", "{\"add\":1}")).collect::<String>());
    for n in 1..=100 {
        assert_eq!(client.answer().json()["sum"], n);
    }
}

#[test]
fn a_long_answer_comes_whole() {
    let (server, _) = start();
    let answer = server.connect().get("/long");
    assert_eq!((answer.body.len(), answer.header("content-length")), (3_000_000, Some("3000000")));
}

#[test]
fn a_client_that_closed_its_sending_side_gets_its_answer() {
    let (server, world) = start();
    let mut client = server.connect();
    client.send("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").end_of_sending();
    futures(world.asked.notified());
    world.go.notify_one();
    assert_eq!(client.answer().json(), json!("done"));
    client.closed();
    // Also with a body, whole or in two parts, and when the end comes with it.
    let mut client = server.connect();
    client.send(post("/add", "{\"add\":1}")).end_of_sending();
    assert_eq!(client.answer().status, 202);
    client.closed();
    let mut client = server.connect();
    client.send(
        "POST /add HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n",
    );
    assert_eq!(client.head().status, 100);
    client.send("{\"add\"").send(":1}").end_of_sending();
    assert_eq!(client.answer().status, 202);
    client.closed();
    let mut client = server.connect();
    client
        .send("POST /add HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{\"add\"")
        .end_of_sending();
    let sum = server.connect().post("/add", "{\"add\":0}").json()["sum"].clone();
    assert_eq!(sum, 2, "half a body was taken");
}

#[test]
fn what_is_not_http_is_refused_in_the_shape_of_all_errors() {
    let (server, world) = start();
    let ask = |bytes: &str| server.connect().send(bytes).answer();
    let body = "content-type: application/json\r\n";
    for bad in [
        "nonsense\r\n\r\n".to_owned(),
        "\0\0\0\r\n\r\n".into(),
        "GET /wait\r\n\r\n".into(),
        "GET /wait HTTP/9.9\r\nhost: x\r\n\r\n".into(),
        "GET /wait HTTP/1.1\r\n\r\n".into(),
        "GET /wait HTTP/1.1\r\nhost: x\r\nbad header: x\r\n\r\n".into(),
        format!("POST /add HTTP/1.1\r\nhost: x\r\n{body}content-length: nine\r\n\r\n"),
        format!("POST /add HTTP/1.1\r\nhost: x\r\n{body}content-length: 9\r\ncontent-length: 10\r\n\r\n{{\"add\":1}}"),
        format!("POST /add HTTP/1.1\r\nhost: x\r\n{body}transfer-encoding: chunked\r\n\r\nzz\r\n{{\"add\":1}}"),
    ] {
        let answer = ask(&bad);
        answer.refused(400, "BAD_REQUEST");
    }
    let long = "x".repeat(100_000);
    ask(&format!("GET /wait HTTP/1.1\r\nhost: x\r\nlong: {long}\r\n\r\n")).refused(431, "HEADERS_TOO_LARGE");
    let roomy = Running::start(Config { max_head_bytes: 256 << 10, ..config() }, routes(&world));
    roomy.connect().send(format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n")).answer().refused(414, "URI_TOO_LONG");
    let many: String = (0..500).map(|n| format!("x-{n}: 1\r\n")).collect();
    ask(&format!("GET /wait HTTP/1.1\r\nhost: x\r\n{many}\r\n")).refused(431, "HEADERS_TOO_LARGE");
    let answer = ask(&format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"));
    assert!([414, 431].contains(&answer.status), "{answer:?}");

    let mut client = server.connect();
    client.send(post("/add", "{\"add\":0}") + &post("/add", "{\"add\":0}") + "garbage\r\n\r\n");
    assert_eq!([client.answer().status, client.answer().status], [202, 202]);
    client.answer().refused(400, "BAD_REQUEST");
    client.closed();
    assert_eq!(world.added.load(Ordering::SeqCst), 0, "something was added");
}

#[test]
fn a_body_that_breaks_off_is_not_taken() {
    let (server, world) = start();
    for _ in 0..20 {
        let mut client = server.connect();
        client.send("POST /add HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{\"add\":1}");
        drop(client);
    }
    assert_eq!(server.connect().post("/add", "{\"add\":0}").json()["sum"], 0);
    assert_eq!(world.added.load(Ordering::SeqCst), 0);
}

#[test]
fn callers_are_who_the_application_says() {
    let who = |_: (), request: Request| async move {
        let Caller { name, role, .. } = request.caller();
        Response::json(StatusCode::OK, &json!([name, role]))
    };
    let routes = Routes::new(()).get("/open", who).get("/closed/{name}", who);
    let server = Running::authorized(config(), routes, |request| {
        if request.route() == "/open" {
            return Ok(Caller::default());
        }
        let name = request.header("authorization").ok_or_else(|| ApiError::unauthenticated("who are you"))?;
        if name != request.param("name")? {
            return Err(ApiError::forbidden("this is another's"));
        }
        Ok(Caller { name: Some(name.to_owned()), role: "user".into(), expires_at: None })
    });
    let mut client = server.connect();
    assert_eq!(client.get("/open").json(), json!([null, ""]));
    let answer = client.get("/closed/ann");
    answer.refused(401, "UNAUTHORIZED");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    let mut ask = |path: &str| client.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: ann\r\n\r\n")).answer();
    assert_eq!(ask("/closed/ann").json(), json!(["ann", "user"]));
    ask("/closed/bob").refused(403, "FORBIDDEN");
    ask("/nothing").refused(404, "NOT_FOUND");
}

#[test]
fn only_configured_origins_are_let_in() {
    let world = Arc::new(World::default());
    let origins = vec!["https://a.example".to_owned(), "https://b.example".to_owned()];
    let server = Running::start(millstream::serve::Config { allowed_origins: origins, ..config() }, routes(&world));
    let mut client = server.connect();
    for (origin, allowed) in
        [("https://a.example", true), ("https://b.example", true), ("https://c.example", false), ("null", false)]
    {
        let answer = client.send(format!("GET /nothing HTTP/1.1\r\nhost: x\r\norigin: {origin}\r\n\r\n")).answer();
        answer.refused(404, "NOT_FOUND");
        assert_eq!(answer.header("access-control-allow-origin"), allowed.then_some(origin));
        assert_eq!(answer.header("vary"), Some("origin"));
        let answer = client
            .send(format!("OPTIONS /add HTTP/1.1\r\nhost: x\r\norigin: {origin}\r\naccess-control-request-method: POST\r\n\r\n"))
            .head();
        assert_eq!(answer.status, 204);
        assert_eq!(answer.header("access-control-allow-origin"), allowed.then_some(origin));
        assert_eq!(answer.header("access-control-allow-methods"), allowed.then_some("POST, OPTIONS"));
    }
    let answer = client.get("/nothing");
    assert_eq!((answer.header("access-control-allow-origin"), answer.header("vary")), (None, Some("origin")));
}

/// Waits for a future from a test that has no runtime.
fn futures<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn an_address_in_use_is_named() {
    let (server, _) = start();
    let taken = millstream::serve::Config { listen: server.address, ..config() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(millstream::serve::Server::bind(taken)).err().expect("the address is taken");
    let said = error.to_string();
    assert!(said.starts_with(&format!("cannot listen on {}: ", server.address)) && said.contains("in use"), "{said}");
    drop(Client::connect(server.address));
}
