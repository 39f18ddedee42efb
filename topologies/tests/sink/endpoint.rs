//! Somebody else's HTTP endpoint, on a thread of its own: it takes each event once by its idempotency key, and answers as it is told to.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// The event is taken, after this time.
    Take(Duration),
    /// A status, with further headers.
    Refuse(u16, Vec<(&'static str, String)>),
    /// The request is read and never answered.
    Hang,
}

impl Reply {
    pub const TAKE: Reply = Reply::Take(Duration::ZERO);

    pub fn status(status: u16) -> Reply {
        Reply::Refuse(status, Vec::new())
    }
}

/// Decides by the idempotency key and how many requests came before.
type Script = Box<dyn Fn(&str, usize) -> Reply + Send>;

/// What came.
pub struct Seen {
    script: Script,
    /// When each request came, and its key.
    pub requests: Vec<(Instant, String)>,
    /// What was taken: keys in the order they came first.
    pub taken: Vec<String>,
    bodies: BTreeMap<String, Value>,
    /// Keys that came with another body than before, or without one.
    pub differing: Vec<String>,
}

/// The endpoint; it goes away when it is dropped.
pub struct Endpoint {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    /// Closes when it is dropped, which ends the thread.
    _end: oneshot::Sender<()>,
}

impl Endpoint {
    pub fn start(script: impl Fn(&str, usize) -> Reply + Send + 'static) -> Endpoint {
        let seen = Arc::new(Mutex::new(Seen {
            script: Box::new(script),
            requests: Vec::new(),
            taken: Vec::new(),
            bodies: BTreeMap::new(),
            differing: Vec::new(),
        }));
        let (end, ended) = oneshot::channel();
        let (told, address) = std::sync::mpsc::channel();
        let serving = Arc::clone(&seen);
        thread::spawn(move || {
            let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            tokio.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                told.send(listener.local_addr().expect("it is bound")).expect("somebody waits");
                tokio::select! {
                    () = accept(listener, serving) => {}
                    _ = ended => {}
                }
            });
        });
        Endpoint { address: address.recv().expect("it serves"), seen, _end: end }
    }

    pub fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic while it is held")
    }

    /// Answers so from now on.
    pub fn turn(&self, script: impl Fn(&str, usize) -> Reply + Send + 'static) {
        self.seen().script = Box::new(script);
    }
}

impl Seen {
    /// The keys of each order, in the order they were taken.
    pub fn by_order(&self) -> BTreeMap<u64, Vec<String>> {
        let mut orders = BTreeMap::<u64, Vec<String>>::new();
        for key in &self.taken {
            let (order, _) = key.split_once('-').expect("{orderId}-{status}");
            orders.entry(order.parse().expect("an id")).or_default().push(key.clone());
        }
        orders
    }

    fn came(&mut self, key: &str, body: &[u8]) -> Reply {
        self.requests.push((Instant::now(), key.to_owned()));
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let named = (body["orderId"].as_u64(), body["status"].as_str());
        let is_same = self.bodies.get(key).is_none_or(|known| *known == body);
        // What alerts say has neither key nor order.
        if !key.is_empty()
            && (!is_same || named != key.split_once('-').map_or((None, None), |(id, s)| (id.parse().ok(), Some(s))))
        {
            self.differing.push(key.to_owned());
        }
        if key.is_empty() {
            self.taken.push(body.to_string());
        }
        self.bodies.insert(key.to_owned(), body);
        (self.script)(key, self.requests.len() - 1)
    }

    fn take(&mut self, key: &str) {
        if !key.is_empty() && !self.taken.iter().any(|taken| taken == key) {
            self.taken.push(key.to_owned());
        }
    }
}

async fn accept(listener: TcpListener, seen: Arc<Mutex<Seen>>) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&seen), request));
            // The other side may go away whenever it likes.
            let _gone = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(seen: Arc<Mutex<Seen>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let key = request.headers().get("x-idempotency-key").map(|key| key.to_str().expect("text").to_owned()).unwrap_or_default();
    let is_json = request.headers().get("content-type").is_some_and(|value| value == "application/json");
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let reply = seen.lock().expect("no panic while it is held").came(&key, if is_json { &body } else { b"" });
    match reply {
        Reply::Take(after) => {
            // Taken once it is answered: a request that its sender gives up before is none.
            tokio::time::sleep(after).await;
            seen.lock().expect("no panic while it is held").take(&key);
            Ok(Response::new(Full::default()))
        }
        Reply::Refuse(status, headers) => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            Ok(response.body(Full::from("as the test wants it")).expect("a response"))
        }
        Reply::Hang => std::future::pending().await,
    }
}
