//! A real MariaDB of the tests' own: a data directory of its own, a free port of loopback, an unprivileged user, gone with the tests.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, Opts, OptsBuilder};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::ports::free_ports;
use crate::shop::eventually;

/// Nobody: the server refuses to run as root.
const NOBODY: u32 = 65_534;

/// What every server is started with: a binlog of rows, no more memory than it needs, no waiting for the disk (a killed process loses nothing).
const SETTINGS: &[&str] = &[
    "--no-defaults",
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--binlog-format=ROW",
    "--server-id=1",
    "--innodb-buffer-pool-size=32M",
    "--innodb-log-file-size=16M",
    "--innodb-flush-log-at-trx-commit=2",
    "--performance-schema=OFF",
    "--max-allowed-packet=64M",
];
const BINLOG: &[&str] = &["--log-bin=binlog"];

fn runtime() -> &'static Runtime {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
    &RUNTIME
}

/// Runs to the end what talks to a database.
pub fn wait<T>(talk: impl Future<Output = T>) -> T {
    runtime().block_on(talk)
}

/// Runs beside the test.
pub fn spawn(talk: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    runtime().spawn(talk)
}

fn is_root() -> bool {
    // SAFETY: it asks for nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// A program of the server, which a user's path may not lead to.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin", "/usr/local/bin"].map(PathBuf::from));
    let found = places.map(|place| place.join(name)).find(|program| program.exists());
    found.unwrap_or_else(|| panic!("{name} is missing: `make setup` installs the package mariadb-server"))
}

/// As the user that the server runs as, until the tests end.
fn unprivileged(mut command: Command) -> Command {
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let end_with_the_tests = || {
        // SAFETY: it only asks the kernel for a signal, which is allowed between fork and exec.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(end_with_the_tests) };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Where all servers have their data. A shell notices the end of the tests by the end of its input, and tidies up.
fn base() -> &'static Path {
    static BASE: LazyLock<(PathBuf, Child)> = LazyLock::new(|| {
        let dir = TempDir::new().expect("a directory").keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let mut janitor = Command::new("sh");
        janitor.args(["-c", r#"read -r _; sleep 0.5; rm -rf "$0""#]).arg(&dir).stdin(Stdio::piped());
        (dir, janitor.spawn().expect("a shell"))
    });
    &BASE.0
}

fn directory() -> TempDir {
    TempDir::new_in(base()).expect("a directory")
}

fn give_away(path: &Path) {
    if is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).expect("root may give files away");
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            give_away(&entry.path());
        }
    }
}

/// An empty data directory, which takes seconds to make and is copied from then on.
fn template() -> &'static Path {
    static TEMPLATE: LazyLock<TempDir> = LazyLock::new(|| {
        let dir = directory();
        give_away(dir.path());
        let mut install = Command::new(program("mariadb-install-db"));
        install.args([
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--innodb-log-file-size=16M",
        ]);
        install.arg(format!("--datadir={}", dir.path().join("data").display()));
        let output =
            unprivileged(install).stdout(Stdio::piped()).stderr(Stdio::piped()).output().expect("mariadb-install-db runs");
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        dir
    });
    TEMPLATE.path()
}

/// The server that tests share which do not stop it.
pub fn shared() -> &'static Server {
    static SHARED: LazyLock<Server> = LazyLock::new(|| Server::start(&[]));
    &SHARED
}

/// A server that is killed when it is dropped.
pub struct Server {
    /// `None` if somebody else runs it.
    process: Option<Child>,
    dir: TempDir,
    pub port: u16,
    settings: Vec<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill().ok();
            process.wait().ok();
        }
    }
}

impl Server {
    /// A server with a binlog and further settings.
    pub fn start(settings: &[&str]) -> Server {
        Server::start_as(&[BINLOG, settings].concat())
    }

    /// A server without a binlog.
    pub fn without_binlog() -> Server {
        Server::start_as(&[])
    }

    /// The MySQL 8 that `make mysql8` runs.
    pub fn mysql8() -> Server {
        let port = std::env::var("CDC_MYSQL8_PORT").ok().and_then(|port| port.parse().ok());
        let port = port.expect("CDC_MYSQL8_PORT, by make mysql8");
        Server { process: None, dir: directory(), port, settings: Vec::new() }
    }

    fn process(&mut self) -> &mut Child {
        self.process.as_mut().expect("a server of the tests' own")
    }

    fn start_as(settings: &[&str]) -> Server {
        let dir = directory();
        let data = dir.path().join("data");
        let copied = Command::new("cp").arg("-r").arg(template().join("data")).arg(&data).status().expect("cp runs");
        assert!(copied.success());
        give_away(dir.path());
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        // Another process may take the port before the server does: then another port.
        for _ in 0..10 {
            let port = free_ports(1);
            let mut process = Server::spawn(dir.path(), port, &settings);
            if up(&mut process, port) {
                let server = Server { process: Some(process), dir, port, settings };
                server.run(
                    "",
                    "CREATE USER app@'%' IDENTIFIED BY 'app'; GRANT ALL ON *.* TO app@'%';
                     CREATE USER cdc@'%' IDENTIFIED BY 'cdc'; GRANT SELECT, REPLICATION SLAVE, BINLOG MONITOR ON *.* TO cdc@'%'",
                );
                return server;
            }
        }
        panic!("the server does not start: {}", fs::read_to_string(dir.path().join("log")).unwrap_or_default());
    }

    fn spawn(dir: &Path, port: u16, settings: &[String]) -> Child {
        let mut server = Command::new(program("mariadbd"));
        server.args(SETTINGS).args(settings).arg(format!("--port={port}"));
        for (name, file) in [("datadir", "data"), ("socket", "socket"), ("pid-file", "pid"), ("log-error", "log")] {
            server.arg(format!("--{name}={}", dir.join(file).display()));
        }
        // The signal comes with the end of the thread that starts it: one that lives as long as the tests.
        let mut server = unprivileged(server);
        wait(runtime().spawn(async move { server.spawn() })).expect("no panic").expect("mariadbd runs")
    }

    /// Kills it with `kill -9` and starts it on what is there.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// Sends it a signal, by the name `kill` knows.
    pub fn signal(&self, name: &str) {
        crate::shop::kill(name, self.process.as_ref().expect("a server of the tests' own").id());
    }

    /// Starts it on what is there.
    pub fn restart(&mut self) {
        self.process = Some(Server::spawn(self.dir.path(), self.port, &self.settings));
        let port = self.port;
        assert!(up(self.process(), port), "{}", fs::read_to_string(self.dir.path().join("log")).unwrap_or_default());
    }

    pub fn kill(&mut self) {
        self.process().kill().expect("a running server");
        self.process().wait().expect("a child");
    }

    /// Where a program finds a database.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("mysql://{user}:{user}@127.0.0.1:{}/{database}", self.port)
    }

    pub async fn connect(&self, database: &str) -> mysql_async::Result<Conn> {
        connect(self.port, database).await
    }

    /// Runs statements.
    #[track_caller]
    pub fn run(&self, database: &str, statements: &str) {
        let is_root = database.is_empty() && self.process.is_some();
        run(self.port, if is_root { "root" } else { "app" }, database, statements);
    }

    /// All rows of a query.
    #[track_caller]
    pub fn rows<T: FromRow + Send + 'static>(&self, database: &str, query: &str) -> Vec<T> {
        wait(async { self.connect(database).await.expect("a connection").query(query).await.expect("an answer") })
    }

    /// A database of its own for a test.
    pub fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("app{}", NEXT.fetch_add(1, Relaxed));
        self.run("", &format!("CREATE DATABASE {name} CHARACTER SET utf8mb4"));
        name
    }
}

/// Runs statements.
#[track_caller]
pub fn run(port: u16, user: &str, database: &str, statements: &str) {
    wait(async {
        let mut conn = connect_as(port, database, user).await.expect("a connection");
        for statement in statements.split(';').filter(|statement| !statement.trim().is_empty()) {
            conn.query_drop(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
    });
}

pub async fn connect(port: u16, database: &str) -> mysql_async::Result<Conn> {
    connect_as(port, database, "app").await
}

async fn connect_as(port: u16, database: &str, user: &str) -> mysql_async::Result<Conn> {
    let opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(port).user(Some(user)).prefer_socket(false);
    let opts = opts.pass((user != "root").then_some(user)).db_name((!database.is_empty()).then_some(database));
    Conn::new(Opts::from(opts)).await
}

/// Waits until the server answers; `false` if it has ended.
fn up(process: &mut Child, port: u16) -> bool {
    eventually(|| match process.try_wait().expect("a child") {
        Some(_) => Some(false),
        None => TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(true),
    })
}
