//! The whole stack as `make up` starts it: what the README walks through works, also after `make down`, and after a reset.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{Connection, Response, Stream};
use crate::ports::free_ports;
use crate::shop::{command, eventually, run};

/// A stack of its own ports and directory. A shell ends it with the test, however that ends.
struct Stack {
    dir: TempDir,
    port: u16,
    settings: [(&'static str, String); 5],
    janitor: Child,
}

impl Drop for Stack {
    fn drop(&mut self) {
        // The end of its input tells it.
        drop(self.janitor.stdin.take());
        self.janitor.wait().ok();
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("operations/stack.sh")
}

impl Stack {
    fn new() -> Stack {
        let dir = TempDir::new().expect("a directory");
        let (port, kafka, db, redis) = (free_ports(6), free_ports(2), free_ports(1), free_ports(1));
        let settings = [
            ("STACK_DIR", dir.path().join("stack").to_str().expect("UTF-8").to_owned()),
            ("STACK_PORT", port.to_string()),
            ("STACK_KAFKA_PORT", kafka.to_string()),
            ("STACK_DB_PORT", db.to_string()),
            ("STACK_REDIS_PORT", redis.to_string()),
        ];
        let mut janitor = Command::new("sh");
        janitor.args(["-c", r#"read -r _; "$0" down; "$0" wipe"#]).arg(script()).envs(settings.iter().cloned());
        let janitor = janitor.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("a shell");
        Stack { dir, port, settings, janitor }
    }

    /// Runs the script, which must succeed. What it says goes to a file: what it starts would hold a pipe open.
    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        let said = self.dir.path().join("said");
        let file = std::fs::File::create(&said).expect("a file");
        let mut script = Command::new(script());
        script.args(args).envs(self.settings.iter().cloned()).stdin(Stdio::null());
        let status = script.stdout(file.try_clone().expect("a handle")).stderr(file).status().expect("the script runs");
        let said = std::fs::read_to_string(said).expect("UTF-8");
        assert!(status.success(), "{args:?}: {said}");
        said
    }

    fn up(&self) {
        self.run(&["up", env!("CARGO_BIN_EXE_shop")]);
    }

    fn api(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// A request to the API, or to what serves so many ports above it.
    fn ask(&self, above: u16, method: &str, path: &str, body: &Value) -> Response {
        let mut connection = Connection::open(([127, 0, 0, 1], self.port + above).into());
        let body = if body.is_null() { String::new() } else { body.to_string() };
        connection.send(method, path, &[], body.as_bytes());
        connection.response()
    }

    fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.settings[2].1)
    }

    /// An outside program's own INSERT: a user claims a coupon.
    fn insert_claim(&self, coupon: u64, user: u64) {
        let payload = json!({"couponId": coupon, "userId": user, "requestedAt": "2026-01-31T12:00:00Z"});
        let row = format!(
            "INSERT INTO outbox_events (id, aggregate_type, aggregate_id, event_type, payload) VALUES
             (UUID(), 'Coupon', '{coupon}', 'CouponIssueRequest', '{payload}')"
        );
        let socket = format!("{}/mariadb/socket", self.settings[0].1);
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "-uroot", "-S", &socket, "shop", "-e", &row]);
        assert!(client.status().expect("make setup installs it").success());
    }

    /// Makes a coupon, which a row of an outside program gives to a user, who hears of it.
    fn a_row_is_heard(&self, coupon: u64, user: u64) {
        let made = json!({"couponId": coupon, "name": "Summer", "limit": 2});
        self.ask(0, "POST", "/api/coupons", &made).ok(201);
        let mut stream = Stream::open(self.api(), &format!("/api/sse/subscribe/{user}"), &[]);
        assert_eq!(stream.next().name, "connected");
        self.insert_claim(coupon, user);
        let heard = stream.next();
        assert_eq!((heard.name.as_str(), &heard.json()["couponId"]), ("coupon-issued", &json!(coupon)), "{heard:?}");
    }
}

#[test]
fn what_make_up_starts_does_what_the_readme_says() {
    let stack = Stack::new();
    stack.up();
    let status = stack.run(&["status"]);
    assert_eq!(status.matches(" runs, pid ").count(), 8, "{status}");
    stack.a_row_is_heard(1001, 7);

    let (url, outbox) = (format!("http://{}", stack.api()), format!("mysql://shop:shop@127.0.0.1:{}/shop", stack.settings[3].1));
    let load = ["load", "--coupons", "--orders", "--url", &url, "--outbox", &outbox, "--rate", "20", "--seconds", "3"];
    let output = command(&[&load[..], &["--users", "200", "--listeners", "20"]].concat()).output().expect("the binary runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.matches("every invariant holds").count() == 2, "{said}");
    println!("{said}");
    let delivered = eventually(|| {
        let delivered = stack.ask(1, "GET", "/events", &Value::Null).ok(200);
        (delivered["taken"].as_u64() > Some(0)).then_some(delivered)
    });
    assert_eq!(delivered["differing"], 0, "{delivered}");

    stack.run(&["down"]);
    stack.up();
    let issued = || stack.ask(0, "GET", "/api/coupons/1001", &Value::Null).json()["issued"].clone();
    eventually(|| (issued() == 1).then_some(()));

    let reset = || run(&["reset", "--brokers", &stack.brokers()]);
    let refused = reset();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    for above in [0, 2, 3, 4, 5] {
        assert!(said.contains(&format!("process 127.0.0.1:{}", stack.port + above)), "{said}");
    }
    stack.run(&["stop"]);
    let done = reset();
    assert!(done.status.success(), "{done:?}");
    stack.up();
    stack.ask(0, "GET", "/api/coupons/1001", &Value::Null).refused(404, "COUPON_NOT_FOUND");
    stack.a_row_is_heard(1001, 7);
    for part in ["api", "worker1", "worker2", "cdc", "sink"] {
        let log = std::fs::read_to_string(format!("{}/{part}.log", stack.settings[0].1)).expect("its log");
        assert!(!log.contains("another version") && !log.contains("ERROR"), "{part}: {log}");
    }
}
