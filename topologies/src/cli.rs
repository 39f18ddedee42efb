//! The command line. Every flag has an environment variable and a line in `--help`; wrong usage ends the process with
//! exit code 2 and one sentence that names the flag. Nothing is opened or started here.

mod cluster;
mod gate;
mod outbox;
mod sink;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::process;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use jiff::SignedDuration;
use millstream::{ResetTo, Timestamp};
use mysql_async::Opts;

pub use self::cluster::{ApiServer, Cdc, Cluster, GroupProtocol, KafkaMechanism, Worker};
pub use self::gate::Gate;
pub use self::outbox::{Database, Outbox, Retention};
pub use self::sink::{Delivery, Receive, Sink};
use crate::client::Target;
use crate::time::Iso;

/// What `shop` was told to do.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Serve everything from this process on the embedded log (what plain `shop` does too)
    Dev(Dev),
    /// Run topologies on Kafka
    Worker(Worker),
    /// Serve clients on Kafka: requests, queries and events; topologies run in workers
    Api(ApiServer),
    /// Relay a database's outbox to Kafka
    Cdc(Cdc),
    /// Deliver the events of data-platform from Kafka to an HTTP endpoint
    Sink(Sink),
    /// An endpoint to try the sink with: takes events at POST /events, once by X-Idempotency-Key, and counts them
    Receive(Receive),
    /// Print a topology
    Topology(Topology),
    /// Look at dead letters and replay them, through a running shop or in the cluster itself
    #[command(subcommand)]
    Dlq(Dlq),
    /// Forget what the shop knows and begin its inputs anew; it must not run meanwhile
    Reset(Reset),
    /// Put load on a running shop, then check through its API that nothing was lost, doubled or oversold
    Load(Load),
}

/// `shop dev`
#[derive(Args, Clone, Debug)]
pub struct Dev {
    /// Directory of the log and the state; made when missing
    #[arg(long, env = "SHOP_DATA", value_name = "DIR", default_value = "./data")]
    pub data: PathBuf,
    /// Add a small catalogue, and steady made-up claims and orders
    #[arg(long, env = "SHOP_DEMO")]
    pub demo: bool,
    /// Threads that run topologies [default: one for each core, at most 4]
    #[arg(long, env = "SHOP_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Memory for state and caches, such as 64MiB or 2GiB
    #[arg(long, env = "SHOP_MEMORY_BUDGET", value_name = "SIZE", default_value = "256MiB", value_parser = bytes)]
    pub memory_budget: usize,
    /// An order that is not paid within this time fails, such as 15m or 90s
    #[arg(long, env = "SHOP_PAYMENT_TIMEOUT", value_name = "TIME", default_value = "15m", value_parser = duration)]
    pub payment_timeout: Duration,
    /// How clients are served
    #[command(flatten)]
    pub interface: Interface,
    /// Write requests through the outbox of a MySQL or MariaDB database, and follow it in its binlog
    #[command(flatten)]
    pub outbox: Outbox,
    /// How long the outbox keeps its rows
    #[command(flatten)]
    pub retention: Retention,
    /// A gate before coupons
    #[command(flatten)]
    pub gate: Gate,
    /// Deliver the events of data-platform to this URL, each as a POST of JSON with X-Idempotency-Key
    #[arg(long, env = "SHOP_SINK_URL", value_name = "URL", help_heading = "Deliveries")]
    pub sink_url: Option<String>,
    /// How events are delivered
    #[command(flatten)]
    pub delivery: Delivery,
    /// What is logged
    #[command(flatten)]
    pub logging: Logging,
}

/// How clients are served.
#[derive(Args, Clone, Debug)]
pub struct Interface {
    /// Address to serve on; port 0 takes a free one
    #[arg(long, env = "SHOP_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Language of the messages to users
    #[arg(long, env = "SHOP_LANG", value_name = "LANGUAGE", default_value = "ko")]
    pub lang: Language,
    /// File with the HS256 secret of the callers' tokens; without it nobody is asked for one
    #[arg(long, env = "SHOP_AUTH_SECRET_FILE", value_name = "FILE")]
    pub auth_secret_file: Option<PathBuf>,
    /// Serve an address other than loopback although nobody is asked for a token
    #[arg(long, env = "SHOP_INSECURE_NO_AUTH", conflicts_with = "auth_secret_file")]
    pub insecure_no_auth: bool,
    /// Origin whose web pages may call this shop, such as https://shop.example; may be repeated
    #[arg(long, env = "SHOP_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub cors_origin: Vec<String>,
    /// Requests per second that one caller may make [default: unlimited]
    #[arg(long, env = "SHOP_RATE_LIMIT", value_name = "N")]
    pub rate_limit: Option<NonZeroU32>,
}

/// What is logged.
#[derive(Args, Clone, Debug)]
pub struct Logging {
    /// Least severity that is logged
    #[arg(long, env = "SHOP_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,
    /// Form of the log on standard error
    #[arg(long, env = "SHOP_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// Language of `message` in what users hear.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Korean
    Ko,
    /// English
    En,
}

/// Least severity that is logged.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What needs somebody
    Error,
    /// What may need somebody
    Warn,
    /// What an operator follows
    Info,
    /// What explains a failure
    Debug,
    /// Everything
    Trace,
}

/// Form of the log.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people
    Text,
    /// A JSON object a line
    Json,
}

/// `shop topology`
#[derive(Args, Clone, Debug)]
#[command(mut_arg("brokers", |brokers| brokers.required(false)))]
pub struct Topology {
    /// Its name [default: all of them]
    #[arg(env = "SHOP_TOPOLOGY")]
    pub name: Option<String>,
    /// How to print it
    #[arg(long, env = "SHOP_TOPOLOGY_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub format: TopologyFormat,
    /// The cluster, to print with its tasks, who has them and their lag
    #[command(flatten)]
    pub cluster: Option<Cluster>,
}

/// How a topology is printed.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopologyFormat {
    /// Sub-topologies, nodes and stores, line by line
    Text,
    /// A Mermaid flow chart
    Mermaid,
    /// A Graphviz digraph
    Dot,
}

/// The running shop to talk to.
#[derive(Args, Clone, Debug)]
pub struct Remote {
    /// The running shop
    #[arg(long, env = "SHOP_URL", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: Target,
    /// Token of the caller, where the shop asks for one; better given by the environment, which other users can't read
    #[arg(long, env = "SHOP_TOKEN", value_name = "JWT", hide_env_values = true, value_parser = token)]
    token: Option<String>,
}

impl Remote {
    /// Where requests go, and by whom.
    #[must_use]
    pub fn target(&self) -> Target {
        self.url.clone().with_token(self.token.clone())
    }
}

/// `shop dlq`
#[derive(Subcommand, Clone, Debug)]
pub enum Dlq {
    /// List the topics that hold dead letters, and how many
    List {
        /// Where they are
        #[command(flatten)]
        place: Place,
    },
    /// Print the dead letters of a topic, oldest first, each as a line of JSON
    Show {
        /// The dead-letter topic, such as coupon-issue.dlq
        topic: String,
        /// Print at most so many
        #[arg(long, env = "SHOP_DLQ_LIMIT", value_name = "N", default_value = "50")]
        limit: NonZeroUsize,
        /// Where they are
        #[command(flatten)]
        place: Place,
    },
    /// Give dead letters back to the step that failed on them
    Replay(Replay),
}

/// `shop dlq replay`
#[derive(Args, Clone, Debug)]
pub struct Replay {
    /// The dead-letter topic, such as coupon-issue.dlq
    pub topic: String,
    /// Replay what was parked at this time or later, such as 2026-01-31T12:00:00Z or milliseconds since 1970 [default: from the first]
    #[arg(long, env = "SHOP_DLQ_FROM", value_name = "TIME", value_parser = time_ms)]
    pub from: Option<i64>,
    /// Replay what was parked before this time [default: to the last]
    #[arg(long, env = "SHOP_DLQ_TO", value_name = "TIME", value_parser = time_ms)]
    pub to: Option<i64>,
    /// Replay only the letters of this key
    #[arg(long, env = "SHOP_DLQ_KEY", value_name = "KEY")]
    pub key: Option<String>,
    /// Only count what would be replayed
    #[arg(long, env = "SHOP_DLQ_DRY_RUN")]
    pub dry_run: bool,
    /// Where they are
    #[command(flatten)]
    pub place: Place,
}

/// Where dead letters are: in the cluster if one is named, else asked of a running shop.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("brokers", |brokers| brokers.required(false)))] // flattening an Option leaves what is required so
pub struct Place {
    /// The running shop
    #[command(flatten)]
    pub remote: Remote,
    /// The cluster
    #[command(flatten)]
    pub cluster: Option<Cluster>,
}

/// `shop reset`
#[derive(Args, Clone, Debug)]
#[command(group(ArgGroup::new("where").args(["brokers", "data"]).required(true)))]
pub struct Reset {
    /// The cluster
    #[command(flatten)]
    pub cluster: Option<Cluster>,
    /// Directory of log and state of a shop that has no cluster
    #[arg(long, env = "SHOP_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where its inputs are read from: earliest, latest, or a time such as 2026-01-31T12:00:00Z or milliseconds since 1970
    #[arg(long, env = "SHOP_RESET_TO", value_name = "PLACE", default_value = "earliest", value_parser = reset_to)]
    pub to: ResetTo,
    /// Topics that are read from there; the others that it reads go on at their end [default: those that it does not write itself]
    #[arg(long, env = "SHOP_RESET_INPUT_TOPICS", value_name = "TOPIC", value_delimiter = ',')]
    pub input_topics: Option<Vec<String>>,
    /// Only say what would be done
    #[arg(long, env = "SHOP_RESET_DRY_RUN")]
    pub dry_run: bool,
    /// Wait for processes that were killed until the group has given them up; who runs is never thrown out
    #[arg(long, env = "SHOP_RESET_FORCE")]
    pub force: bool,
}

/// `shop load`
#[derive(Args, Clone, Debug)]
#[command(group(ArgGroup::new("what").args(["coupons", "orders", "idle_listeners"]).required(true).multiple(true)))]
pub struct Load {
    /// The running shop
    #[command(flatten)]
    pub remote: Remote,
    /// Rush for coupons, one after the other, each with fewer than there are users; then check that all add up
    #[arg(long, env = "SHOP_LOAD_COUPONS")]
    pub coupons: bool,
    /// Trade: orders, payments, double payments, cancels that race with them, parcels, stock and points that run out; then check that all
    /// add up. With --coupons both at once, each at the rate and with half of the connections
    #[arg(long, env = "SHOP_LOAD_ORDERS")]
    pub orders: bool,
    /// With --orders: database whose outbox the shop relays; an outside program then makes a part of the orders and payments by inserting
    /// rows, in any order, twice, or without an order. Better given by the environment
    #[arg(long, env = "SHOP_LOAD_OUTBOX", value_name = "URL", requires = "orders", hide_env_values = true)]
    outbox: Option<String>,
    /// Users that claim, and users that order
    #[arg(long, env = "SHOP_LOAD_USERS", value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub users: u32,
    /// Requests per second at fixed times, to 1 ms; or max, where each connection sends on when it has its answer
    #[arg(long, env = "SHOP_LOAD_RATE", value_name = "R", default_value = "max")]
    pub rate: Rate,
    /// How long to send
    #[arg(long, env = "SHOP_LOAD_SECONDS", value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Connections that requests are sent on
    #[arg(long, env = "SHOP_LOAD_CONNECTIONS", value_name = "N", default_value = "128")]
    pub connections: NonZeroUsize,
    /// Users that listen to their events meanwhile; every user's events are read at the end
    #[arg(long, env = "SHOP_LOAD_LISTENERS", value_name = "N", default_value_t = 100)]
    pub listeners: u32,
    /// Users beyond those that only listen, to measure what an open stream costs the shop
    #[arg(long, env = "SHOP_LOAD_IDLE_LISTENERS", value_name = "N")]
    pub idle_listeners: Option<NonZeroU32>,
    /// How many of a hundred users each coupon has enough for
    #[arg(long, env = "SHOP_LOAD_LIMIT_PERCENT", value_name = "P", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub limit_percent: u32,
    /// Decides ids and order of requests; each run against the same data needs another one [default: random]
    #[arg(long, env = "SHOP_LOAD_SEED", value_name = "X")]
    pub seed: Option<u32>,
    /// Print the result as one JSON object
    #[arg(long, env = "SHOP_LOAD_JSON")]
    pub json: bool,
}

impl Load {
    /// The database of the outside program.
    ///
    /// # Errors
    /// One sentence that names the flag, without the password.
    pub fn database(&self) -> Result<Option<Opts>, String> {
        let Some(url) = &self.outbox else { return Ok(None) };
        match Opts::from_url(url) {
            Ok(opts) if opts.db_name().is_some() => Ok(Some(opts)),
            Ok(_) => Err("--outbox names no database: mysql://USER:PASSWORD@HOST:PORT/DATABASE".into()),
            Err(error) => Err(format!("--outbox is not mysql://USER:PASSWORD@HOST:PORT/DATABASE: {error}")),
        }
    }
}

/// How fast to send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// At fixed times, so many a second, whether answers come or not.
    PerSecond(f64),
    /// As fast as answers come.
    Max,
}

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        match text.parse::<f64>() {
            _ if text == "max" => Ok(Rate::Max),
            Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(Rate::PerSecond(rate)),
            _ => Err("a number above 0, or max".into()),
        }
    }
}

/// The Millstream shop: first-come coupons, exactly once, with nothing to install beside it.
///
/// Without a command it does what `shop dev` does.
#[derive(Parser)]
#[command(name = "shop", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    dev: Dev,
}

/// Reads the command line and the environment. Ends the process after `--help` and `--version` (exit code 0), and for wrong
/// usage (2).
#[must_use]
pub fn parse() -> Command {
    read(std::env::args_os()).unwrap_or_else(|stop| match stop {
        Stop::Informed(text) => text.exit(),
        Stop::Misused(sentence) => {
            eprintln!("shop: {sentence}");
            process::exit(2)
        }
    })
}

/// Why there is no command to run.
#[derive(Debug)]
enum Stop {
    /// The user asked for help or the version.
    Informed(clap::Error),
    /// One sentence that names the flag.
    Misused(String),
}

fn read(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Command, Stop> {
    let cli = Cli::try_parse_from(args).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Informed(error),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Stop::Misused("a command is missing, --help lists them".into()),
        _ => Stop::Misused(sentence(&error.render().to_string())),
    })?;
    let command = cli.command.unwrap_or(Command::Dev(cli.dev));
    let interface = match &command {
        Command::Dev(dev) => &dev.interface,
        Command::Worker(worker) => &worker.interface,
        Command::Api(api) => &api.interface,
        Command::Cdc(cdc) => &cdc.interface,
        Command::Sink(sink) => &sink.interface,
        Command::Receive(receive) => &receive.interface,
        Command::Topology(_) | Command::Dlq(_) | Command::Reset(_) | Command::Load(_) => return Ok(command),
    };
    if interface.listen.ip().is_loopback() || interface.auth_secret_file.is_some() || interface.insecure_no_auth {
        return Ok(command);
    }
    Err(Stop::Misused(format!(
        "--listen {} can be reached from other machines, so it needs --auth-secret-file FILE or --insecure-no-auth",
        interface.listen
    )))
}

/// What clap says is wrong, without its advice and usage lines.
fn sentence(message: &str) -> String {
    let wrong = message.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = wrong.split_whitespace().collect();
    words.join(" ").trim_start_matches("error: ").to_owned()
}

/// A time with its unit.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: Result<SignedDuration, _> = text.parse();
    let duration = parsed.ok().and_then(|duration| Duration::try_from(duration).ok());
    duration
        .filter(|duration| duration.as_millis() > 0)
        .ok_or_else(|| "a time has a number and a unit, such as 15m or 90s".into())
}

fn bytes(text: &str) -> Result<usize, String> {
    const UNITS: [(&str, usize); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];
    let parsed =
        UNITS.iter().find_map(|(unit, bytes)| text.strip_suffix(unit)?.trim_end().parse::<usize>().ok()?.checked_mul(*bytes));
    parsed.filter(|bytes| *bytes > 0).ok_or_else(|| "a size is a number and KiB, MiB or GiB, such as 256MiB".into())
}

/// Milliseconds since 1970.
fn time_ms(text: &str) -> Result<i64, String> {
    Iso::parse(text).map(|Iso(at)| at.0).ok_or_else(|| "a time is like 2026-01-31T12:00:00Z, or milliseconds since 1970".into())
}

fn reset_to(text: &str) -> Result<ResetTo, String> {
    match text {
        "earliest" => Ok(ResetTo::Earliest),
        "latest" => Ok(ResetTo::Latest),
        text => time_ms(text)
            .map(|ms| ResetTo::Time(Timestamp(ms)))
            .map_err(|_| "earliest, latest, or a time like 2026-01-31T12:00:00Z, or milliseconds since 1970".into()),
    }
}

fn token(text: &str) -> Result<String, String> {
    let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    if good { Ok(text.to_owned()) } else { Err("a token is visible ASCII without spaces".into()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn dev(args: &str) -> Dev {
        match read(args.split(' ')) {
            Ok(Command::Dev(dev)) => dev,
            other => panic!("{args}: {other:?}"),
        }
    }

    #[test]
    fn plain_shop_is_shop_dev() {
        for args in ["shop --listen 127.0.0.1:0 --demo", "shop dev --listen 127.0.0.1:0 --demo"] {
            let dev = dev(args);
            assert_eq!(dev.interface.listen, SocketAddr::from(([127, 0, 0, 1], 0)));
            assert!(dev.demo);
            assert_eq!(dev.memory_budget, 256 << 20);
            assert_eq!(dev.interface.lang, Language::Ko);
        }
        assert_eq!(dev("shop --memory-budget 3GiB").memory_budget, 3 << 30);
        assert_eq!(
            dev("shop dev --cors-origin https://a --cors-origin https://b").interface.cors_origin,
            ["https://a", "https://b"]
        );
    }

    #[test]
    fn wrong_usage_is_one_sentence_that_names_the_flag() {
        let check = |args: &str, named: &[&str]| match read(args.split(' ')) {
            Err(Stop::Misused(sentence)) => {
                assert!(!sentence.contains('\n'), "{sentence}");
                for name in named {
                    assert!(sentence.contains(name), "{args}: '{sentence}' does not name {name}");
                }
            }
            other => panic!("{args}: {other:?}"),
        };
        check("shop --listen nonsense", &["--listen", "nonsense"]);
        check("shop dev --listen 0.0.0.0:8080", &["--listen", "--auth-secret-file", "--insecure-no-auth"]);
        check("shop --insecure-no-auth --auth-secret-file x", &["--insecure-no-auth", "--auth-secret-file"]);
        check("shop --memory-budget much", &["--memory-budget", "MiB"]);
        check("shop --memory-budget 0MiB", &["--memory-budget"]);
        check("shop --threads 0", &["--threads"]);
        check("shop --lang fr", &["--lang", "ko", "en"]);
        check("shop --rate-limit 0", &["--rate-limit"]);
        check("shop --nonsense", &["--nonsense"]);
        check("shop nonsense", &["nonsense"]);
        check("shop topology --format gif", &["--format", "mermaid"]);
        check("shop dlq", &["command"]);
        check("shop dlq show", &["TOPIC"]);
        check("shop dlq list --url ftp://x", &["--url"]);
        check("shop dlq replay t --from yesterday", &["--from", "1970"]);
        check("shop reset", &["--brokers", "--data"]);
        check("shop reset --data x --to never", &["--to", "earliest"]);
        check("shop reset --data x --brokers y", &["--brokers", "--data"]);
        check("shop dlq list --kafka-tls", &["--brokers"]);
        check("shop load", &["--coupons", "--idle-listeners"]);
        check("shop load --coupons --rate 0", &["--rate", "max"]);
        check("shop load --coupons --users 0", &["--users"]);
        check("shop load --coupons --limit-percent 101", &["--limit-percent"]);
        check("shop load --coupons --seed x", &["--seed"]);
        check("shop load --coupons --outbox mysql://x/app", &["--orders"]);
    }

    #[test]
    fn a_database_that_is_none_is_told_without_the_password() {
        for (url, named) in
            [("nonsense", "mysql://"), ("mysql://user:secret@host", "database"), ("pg://user:secret@host/app", "mysql://")]
        {
            let Ok(Command::Load(load)) = read(["shop", "load", "--orders", "--outbox", url]) else { panic!("{url}") };
            let sentence = load.database().expect_err(url);
            assert!(sentence.contains("--outbox") && sentence.contains(named) && !sentence.contains("secret"), "{sentence}");
        }
    }

    #[test]
    fn dead_letters_are_chosen_by_time() {
        for from in ["1970-01-01T00:00:01.5Z", "1970-01-01T09:00:01.500+09:00", "1500"] {
            match read(["shop", "dlq", "replay", "coupon-issue.dlq", "--from", from]) {
                Ok(Command::Dlq(Dlq::Replay(replay))) => assert_eq!((replay.from, replay.to), (Some(1500), None)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn dead_letters_are_in_the_cluster_that_is_named() {
        for (args, expected) in [("shop dlq list", None), ("shop dlq list --brokers k:1 --kafka-tls", Some("k:1"))] {
            match read(args.split(' ')) {
                Ok(Command::Dlq(Dlq::List { place })) => {
                    assert_eq!(place.cluster.as_ref().map(|cluster| cluster.brokers.as_str()), expected, "{args}");
                }
                other => panic!("{args}: {other:?}"),
            }
        }
    }

    #[test]
    fn another_address_than_loopback_needs_a_decision() {
        assert!(dev("shop --listen 0.0.0.0:80 --insecure-no-auth").interface.insecure_no_auth);
        assert!(dev("shop --listen [::]:80 --auth-secret-file secret").interface.auth_secret_file.is_some());
        assert!(dev("shop --listen [::1]:80").interface.auth_secret_file.is_none());
    }

    #[test]
    fn every_flag_has_an_environment_variable_and_a_help_line() {
        fn check(command: &clap::Command) {
            for flag in command.get_arguments().filter(|a| a.get_long().is_some_and(|l| l != "help" && l != "version")) {
                let variable = flag.get_env().and_then(|v| v.to_str());
                assert!(variable.is_some_and(|v| v.starts_with("SHOP_")), "{} {flag}: {variable:?}", command.get_name());
                assert!(flag.get_help().is_some(), "{} {flag} has no help", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        check(&command);
    }
}
