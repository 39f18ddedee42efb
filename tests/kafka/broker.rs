//! A real broker for tests: Apache Kafka on loopback, started by `kafka.sh` and gone with the test, however that ends.

#![allow(dead_code, reason = "several test binaries use it, and none all of it")]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::ports::free_ports;

/// A broker that is killed or stands still is thought to live for so long, and not for 9 s.
const MORTAL: &str = "broker.session.timeout.ms=1500\nbroker.heartbeat.interval.ms=500\n";
const REPLICATED: &str = "default.replication.factor=3\nmin.insync.replicas=2\noffsets.topic.replication.factor=3\n\
                          transaction.state.log.replication.factor=3\ntransaction.state.log.min.isr=2\n";

/// A broker of its own directory and ports, alone or one of a cluster's.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    dir: PathBuf,
    node: Node,
    settings: Settings,
}

/// Which one of its cluster it is, from 1 on.
#[derive(Clone, Debug)]
struct Node {
    id: u16,
    port: u16,
    controller: u16,
    /// Where clients connect to the cluster, as they take it.
    cluster: String,
}

/// What a broker has that is not the default.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of the listener for clients.
    pub protocol: &'static str,
    /// Further properties, one a line.
    pub properties: String,
    /// SCRAM users, as `kafka.sh` takes them.
    pub scram: String,
}

impl Broker {
    /// Starts one and waits until it serves.
    pub fn start() -> Broker {
        Broker::with(Settings { protocol: "PLAINTEXT", properties: String::new(), scram: String::new() })
    }

    /// One that is killed and started again: its cluster takes it back after 1.5 s.
    pub fn mortal() -> Broker {
        Broker::with(Settings { protocol: "PLAINTEXT", properties: MORTAL.to_owned(), scram: String::new() })
    }

    /// Three that are one cluster and mortal: all have each record, and two must have it before it is acknowledged. Any two go on without the third.
    pub fn three() -> [Broker; 3] {
        let first = free_ports(6);
        let ids = [1, 2, 3];
        let (port, controller) = (|id: u16| first + id - 1, |id: u16| first + 2 + id);
        let join = |parts: [String; 3]| parts.join(",");
        let cluster = join(ids.map(|id| format!("127.0.0.1:{}", port(id))));
        let voters = join(ids.map(|id| format!("{id}@127.0.0.1:{}", controller(id))));
        let properties = format!("{MORTAL}controller.quorum.voters={voters}\n{REPLICATED}");
        let settings = Settings { protocol: "PLAINTEXT", properties, scram: String::new() };
        let node = |id| Node { id, port: port(id), controller: controller(id), cluster: cluster.clone() };
        // None serves before another is there.
        let mut brokers = ids.map(|id| Broker::begin(node(id), settings.clone()));
        brokers.iter_mut().for_each(Broker::wait_until_up);
        brokers
    }

    /// The same with other settings.
    pub fn with(settings: Settings) -> Broker {
        let port = free_ports(2);
        let node = Node { id: 1, port, controller: port + 1, cluster: format!("127.0.0.1:{port}") };
        let mut broker = Broker::begin(node, settings);
        broker.wait_until_up();
        broker
    }

    fn begin(node: Node, settings: Settings) -> Broker {
        let dir = std::env::temp_dir().join(format!("millstream-kafka-{}-{}", std::process::id(), node.port));
        forget_the_dead();
        fs::create_dir_all(&dir).expect("a directory for the broker");
        let child = spawn(&dir, &node, &settings);
        Broker { child, dir, node, settings }
    }

    /// Where clients connect to its cluster.
    pub fn address(&self) -> String {
        self.node.cluster.clone()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().expect("the broker is there to be killed");
        self.child.wait().expect("it was killed");
    }

    /// Starts it again after `kill`, with the data it had.
    pub fn restart(&mut self) {
        self.child = spawn(&self.dir, &self.node, &self.settings);
        self.wait_until_up();
    }

    /// SIGSTOP.
    pub fn freeze(&self) {
        signal(self.child.id(), libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        signal(self.child.id(), libc::SIGCONT);
    }

    /// Runs one of Kafka's command-line tools against it.
    pub fn tool(&self, class: &str, args: &[&str], input: &str) -> String {
        let mut command = Command::new(script());
        command.args(["tool", class, "--bootstrap-server", &self.address()]).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut run = command.spawn().expect("the script runs");
        run.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("the tool reads");
        let run = run.wait_with_output().expect("the script ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(run.status.success(), "{class} {args:?}: {}{}", text(&run.stdout), text(&run.stderr));
        text(&run.stdout)
    }

    fn wait_until_up(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        let output = self.dir.join("output");
        loop {
            let said = fs::read_to_string(&output).unwrap_or_default();
            if said.contains("Kafka Server started") {
                return;
            }
            let ended = self.child.try_wait().expect("its state can be asked");
            if ended.is_some() && said.contains("Unexpected error in raft IO thread") {
                // Kafka's own: one of a new cluster that hears of a leader before it knows of an election ends, and can be started again.
                self.child = spawn(&self.dir, &self.node, &self.settings);
                continue;
            }
            assert!(ended.is_none(), "Kafka did not start:\n{said}");
            assert!(Instant::now() < deadline, "Kafka is not up after two minutes:\n{said}");
            // There is no event to wait for but a line in a file.
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.thaw();
        let _gone = self.child.kill();
        let _gone = self.child.wait();
        let _kept = fs::remove_dir_all(&self.dir);
    }
}

/// Sends a signal to a process of this test.
pub fn signal(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).expect("a process id");
    // SAFETY: kill has no preconditions; the process is a child that was not waited for yet.
    unsafe { libc::kill(pid, signal) };
}

fn script() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().find(|dir| dir.join("tests/kafka/kafka.sh").is_file());
    root.expect("the script is in the project").join("tests/kafka/kafka.sh")
}

/// The kernel ends a child when the *thread* that made it ends, so one thread makes all, and stays.
fn spawn(dir: &Path, node: &Node, settings: &Settings) -> Child {
    static SPAWNER: std::sync::OnceLock<mpsc::Sender<(Command, mpsc::Sender<std::io::Result<Child>>)>> =
        std::sync::OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, commands) = mpsc::channel::<(Command, mpsc::Sender<std::io::Result<Child>>)>();
        std::thread::spawn(move || {
            for (mut command, answer) in commands {
                let _gone = answer.send(command.spawn());
            }
        });
        sender
    });
    let properties = dir.join("extra.properties");
    fs::write(&properties, &settings.properties).expect("a file of properties");
    let output = File::create(dir.join("output")).expect("a file for the output");
    let mut command = Command::new(script());
    command
        .arg("run")
        .env("KAFKA_NODE", node.id.to_string())
        .env("KAFKA_PORT", node.port.to_string())
        .env("KAFKA_CONTROLLER_PORT", node.controller.to_string())
        .env("KAFKA_HOME_DIR", dir)
        .env("KAFKA_EXTRA", properties)
        .env("KAFKA_SCRAM", &settings.scram)
        .env("KAFKA_PROTOCOL", settings.protocol)
        .env("KAFKA_JVM", "-Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1")
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a second handle"))
        .stderr(output);
    // SAFETY: prctl may be called between fork and exec, and the script is replaced by Java, which keeps the setting.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    let (answer, child) = mpsc::channel();
    spawner.send((command, answer)).expect("the thread stays");
    child.recv().expect("the thread answers").expect("the script runs")
}

/// Removes what tests left behind that were killed.
fn forget_the_dead() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix("millstream-kafka-").and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _others_do_it = fs::remove_dir_all(entry.path());
        }
    }
}
