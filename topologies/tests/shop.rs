//! A running shop: started from the built binary on a free port, with a data directory of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{Connection, Response, Stream};

/// A shop that is killed when it is dropped.
pub struct Shop {
    process: Child,
    /// Kept open, so that the shop can go on printing.
    stdout: Option<BufReader<ChildStdout>>,
    pub address: SocketAddr,
    pub data: Arc<TempDir>,
}

impl Drop for Shop {
    fn drop(&mut self) {
        // It may have ended already, which is fine.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// `shop` with arguments, and an environment without settings of its own.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shop"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SHOP_")) {
        command.env_remove(name);
    }
    command.args(args);
    command
}

/// Runs `shop` to its end; for what is to end by itself.
pub fn run(args: &[&str]) -> Output {
    run_command(&mut command(args))
}

/// Likewise.
#[track_caller]
pub fn run_command(command: &mut Command) -> Output {
    const LIMIT: Duration = Duration::from_secs(60);
    let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let (id, (ended, end)) = (process.id(), mpsc::channel());
    thread::spawn(move || ended.send(process.wait_with_output()).ok());
    end.recv_timeout(LIMIT).map(|output| output.expect("a child")).unwrap_or_else(|_| {
        kill("KILL", id);
        panic!("{command:?} still runs after {LIMIT:?}")
    })
}

/// Sends a signal, by the name `kill` knows.
pub fn kill(signal: &str, process: u32) {
    assert!(Command::new("sh").args(["-c", &format!("kill -{signal} {process}")]).status().expect("a shell").success());
}

/// What a shop that refuses to start says: one sentence, and exit code 2.
#[track_caller]
pub fn refusal(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.lines().count(), 1, "not one sentence: {said}");
    said
}

/// Arguments of a shop.
pub fn dev<'a>(listen: &'a str, data: &'a Path) -> [&'a str; 7] {
    ["dev", "--listen", listen, "--log-level", "error", "--data", data.to_str().expect("UTF-8")]
}

/// Any free port.
pub const FREE: &str = "127.0.0.1:0";

/// The shop that tests share which neither stop it nor look at lists of everything.
pub fn shared() -> &'static Shop {
    // A static is never dropped. The shell notices the end of the tests by the end of its input, and tidies up.
    const SUPERVISE: &str = r#""$0" "$@" & read -r _; kill -9 $!; rm -rf "$DATA""#;
    static SHARED: LazyLock<Shop> = LazyLock::new(|| {
        let data = TempDir::new().expect("a directory");
        let mut supervisor = Command::new("sh");
        supervisor.args(["-c", SUPERVISE, env!("CARGO_BIN_EXE_shop")]).args(dev(FREE, data.path())).env("DATA", data.path());
        Shop::spawn(supervisor.stdin(Stdio::piped()), Arc::new(data))
    });
    &SHARED
}

/// A number of an answer.
#[track_caller]
pub fn id_of(answer: &Value, field: &str) -> u64 {
    answer[field].as_u64().unwrap_or_else(|| panic!("no {field}: {answer}"))
}

/// Waits for what can't be subscribed to, by looking again and again; gives the first `Some`.
#[track_caller]
pub fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    const LIMIT: Duration = Duration::from_secs(20);
    let began = Instant::now();
    loop {
        match look() {
            Some(found) => return found,
            None => assert!(began.elapsed() < LIMIT, "it has not come about in {LIMIT:?}"),
        }
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// A number that no other test uses as an id.
pub fn fresh_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1_000_000);
    NEXT.fetch_add(1, Relaxed)
}

impl Shop {
    /// Starts a shop without data.
    pub fn start() -> Shop {
        Shop::start_with(&[])
    }

    /// Likewise, with further arguments.
    pub fn start_with(args: &[&str]) -> Shop {
        let data = TempDir::new().expect("a directory");
        let mut command = command(&dev(FREE, data.path()));
        Shop::spawn(command.args(args).stdin(Stdio::null()), Arc::new(data))
    }

    /// Starts a shop at an address on what is there already.
    pub fn start_on(data: Arc<TempDir>, listen: &str) -> Shop {
        Shop::spawn(command(&dev(listen, data.path())).stdin(Stdio::null()), data)
    }

    /// A shop of its own with this in its environment.
    pub fn start_in(environment: &[(&str, &str)]) -> Shop {
        let data = Arc::new(TempDir::new().expect("a directory"));
        let mut command = command(&dev(FREE, data.path()));
        Shop::spawn(command.envs(environment.iter().copied()).stdin(Stdio::null()), data)
    }

    /// The same with further arguments.
    pub fn start_on_with(data: Arc<TempDir>, listen: &str, args: &[&str]) -> Shop {
        Shop::spawn(command(&dev(listen, data.path())).args(args).stdin(Stdio::null()), data)
    }

    /// Starts what serves, and waits until it is ready.
    pub fn spawn(command: &mut Command, data: Arc<TempDir>) -> Shop {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the binary runs");
        let mut stdout = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert_ne!(stdout.read_line(&mut line).expect("UTF-8"), 0, "the shop ended without serving");
            if let Some(address) = line.trim_end().strip_prefix("shop serves on http://") {
                break address.parse().expect("an address");
            }
        };
        let shop = Shop { process, stdout: Some(stdout), address, data };
        eventually(|| (shop.get("/readyz").status == 200).then_some(()));
        shop
    }

    /// Kills it with `kill -9`, and starts it again at the same address on the same data.
    pub fn kill_and_restart(self) -> Shop {
        let (data, address) = (Arc::clone(&self.data), self.address.to_string());
        drop(self);
        Shop::start_on(data, &address)
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends it a signal, by the name `kill` knows.
    pub fn signal(&self, name: &str) {
        kill(name, self.process.id());
    }

    /// Waits for its end, no longer than `limit`.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> ExitStatus {
        // Its standard output closes when it ends, and that another thread can wait for.
        let (ended, end) = mpsc::channel();
        let stdout = self.stdout.take().expect("it is taken only here");
        thread::spawn(move || {
            let lines = stdout.lines().map_while(Result::ok).count();
            // The other end is gone where the limit has passed.
            ended.send(lines).ok();
        });
        end.recv_timeout(limit).unwrap_or_else(|_| panic!("the shop still runs after {limit:?}"));
        self.process.wait().expect("a child")
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut connection = self.connect();
        connection.send(method, path, headers, body);
        connection.response()
    }

    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.request("POST", path, &[], body.to_string().as_bytes())
    }

    pub fn post_with_key(&self, path: &str, key: &str, body: &Value) -> Response {
        self.request("POST", path, &[("idempotency-key", key)], body.to_string().as_bytes())
    }

    /// Creates a coupon of a fresh id.
    #[track_caller]
    pub fn coupon(&self, limit: u64) -> u64 {
        let coupon = fresh_id();
        self.post("/api/coupons", &json!({"couponId": coupon, "name": format!("Coupon {coupon}"), "limit": limit})).ok(201);
        coupon
    }

    /// Claims a coupon.
    pub fn claim(&self, coupon: u64, user: u64) -> Response {
        self.post(&format!("/api/coupons/{coupon}/issue"), &json!({"userId": user}))
    }

    /// Claims a coupon and waits until the claim is decided.
    #[track_caller]
    pub fn claim_and_wait(&self, coupon: u64, user: u64) {
        let token = self.claim(coupon, user).position();
        self.get(&format!("/api/users/{user}/coupons?at_least={token}")).ok(200);
    }

    /// The ids of the coupons a user has, newest first.
    #[track_caller]
    pub fn coupons_of(&self, user: u64) -> Vec<u64> {
        let body = self.get(&format!("/api/users/{user}/coupons")).ok(200);
        body["coupons"].as_array().expect("a list").iter().map(|c| c["couponId"].as_u64().expect("an id")).collect()
    }

    /// Creates a product of a fresh id.
    #[track_caller]
    pub fn product(&self, price: u64, stock: u64) -> u64 {
        let product = fresh_id();
        let terms = json!({"productId": product, "name": format!("Product {product}"), "price": price, "stock": stock});
        self.post("/api/products", &terms).ok(201);
        product
    }

    /// Orders one of a product.
    pub fn order(&self, user: u64, product: u64) -> Response {
        self.post("/api/orders", &json!({"userId": user, "items": [{"productId": product, "quantity": 1}]}))
    }

    /// The provider tells of a payment.
    pub fn pay(&self, order: u64, amount: u64) -> Response {
        self.post("/api/payments", &json!({"orderId": order, "amount": amount}))
    }

    /// Makes an order of one product, pays for it and waits until it is confirmed.
    #[track_caller]
    pub fn confirmed(&self, user: u64, product: u64) -> u64 {
        let made = self.order(user, product).ok(201);
        let order = id_of(&made, "orderId");
        self.pay(order, id_of(&made, "amountDue")).ok(201);
        self.await_status(order, "CONFIRMED");
        order
    }

    /// Waits until an order has a status, and gives it.
    #[track_caller]
    pub fn await_status(&self, order: u64, status: &str) -> Value {
        let seen = || self.get(&format!("/api/orders/{order}")).ok(200);
        eventually(|| Some(seen()).filter(|order| order["status"] == status))
    }

    /// A user's events, from an id on or from now.
    pub fn subscribe(&self, user: u64, last: Option<&str>) -> Stream {
        let headers: Vec<_> = last.iter().map(|id| ("last-event-id", *id)).collect();
        Stream::open(self.address, &format!("/api/sse/subscribe/{user}"), &headers)
    }
}
