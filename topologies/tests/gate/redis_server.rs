//! A real Redis of a test's own: a free port of loopback, a directory of its own, gone with the test.

use std::process::{Child, Command, Stdio};

use redis::{Client, Connection, FromRedisValue};
use tempfile::TempDir;

use crate::ports::free_ports;
use crate::shop::eventually;

/// A server that is killed when it is dropped.
pub struct RedisServer {
    process: Option<Child>,
    dir: TempDir,
    port: u16,
    settings: Vec<String>,
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

impl RedisServer {
    /// A server that keeps nothing on its disk unless it is told to.
    pub fn start(settings: &[&str]) -> RedisServer {
        let dir = TempDir::new().expect("a directory");
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut server = RedisServer { process: None, dir, port: free_ports(1), settings };
        // Another process may take the port before the server does: then another port.
        for _ in 0..10 {
            if server.spawn() {
                return server;
            }
            server.port = free_ports(1);
        }
        panic!("redis-server does not start");
    }

    fn spawn(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &self.port.to_string()]);
        command.arg("--dir").arg(self.dir.path()).args(&self.settings);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn().expect("redis-server is missing: `make setup` installs it");
        let is_up = eventually(|| match process.try_wait().expect("a child") {
            Some(_) => Some(false),
            // One that wants a password says so, and is up, too.
            None => match self.client().get_connection() {
                Ok(mut connection) => match redis::cmd("PING").query::<String>(&mut connection) {
                    Ok(_) => Some(true),
                    Err(error) => (error.code() == Some("NOAUTH")).then_some(true),
                },
                Err(_) => None,
            },
        });
        self.process = is_up.then_some(process);
        is_up
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn client(&self) -> Client {
        Client::open(self.url()).expect("a URL")
    }

    pub fn connect(&self) -> Connection {
        self.client().get_connection().expect("a running server")
    }

    /// The answer to a command.
    #[track_caller]
    pub fn ask<T: FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut asked = redis::cmd(words.next().expect("a command"));
        asked.arg(words.map(|word| word.trim_matches('\'')).collect::<Vec<_>>());
        asked.query(&mut self.connect()).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// How many are in of a coupon; `None` if that is not known.
    pub fn count(&self, coupon: u64) -> Option<u64> {
        self.ask(&format!("GET coupon:{coupon}:count"))
    }

    /// Kills it with `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("a child");
            process.wait().expect("a child");
        }
    }

    /// Starts it again with what is on its disk.
    pub fn restart(&mut self) {
        assert!(self.spawn(), "redis-server starts again at its port");
    }
}
