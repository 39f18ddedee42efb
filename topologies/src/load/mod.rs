//! `shop load`: thousands of users on a running shop over HTTP, and the proof at its end that nothing was lost, doubled or oversold.
//! It knows the shop by its contract alone, survives the shop's crashes, and shares its machine, so it is made to be cheap.

mod caller;
mod coupons;
mod heard;
mod listen;
mod orders;
mod random;
mod report;
mod schedule;
mod twins;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use mysql_async::Opts;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use self::caller::{Caller, Faults};
use self::coupons::Rush;
use self::orders::Trade;
use self::report::{Report, Section};
use crate::cli::Load;
use crate::client::Target;
use crate::open_files;

/// How long the shop may be away before the load gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to get ready at first.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);
/// How long what was accepted may take once nothing is sent any more.
const SETTLE: Duration = Duration::from_secs(30);
/// Streams that are opened at the same time, well below the backlog of a listening socket.
const DOORS: usize = 64;
/// Users that are checked at the same time.
const READERS: u32 = 32;

/// What was broken, in one sentence.
pub type Broken = String;

/// Why a load failed, in one sentence.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The shop broke a promise.
    #[error("broken invariant: {0}")]
    Broken(Broken),
    /// The shop gave an answer that no such request may get.
    #[error("{request} was answered with status {status}: {body}")]
    Unexpected {
        /// What was asked.
        request: String,
        /// The status code.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
    /// The shop was away for too long.
    #[error("the shop at {target} has not answered for {seconds} s: {cause}")]
    Unreachable {
        /// Where it should be.
        target: String,
        /// How long it was tried.
        seconds: u64,
        /// What the last attempt came to.
        cause: String,
    },
    /// The database takes no rows.
    #[error("the outbox cannot be written: {0}")]
    Outbox(String),
    /// The run would mix with an earlier one.
    #[error("{what} {id} exists already, so choose another --seed")]
    UsedBefore {
        /// What it is.
        what: &'static str,
        /// Its id.
        id: u64,
    },
}

impl From<Broken> for Error {
    fn from(sentence: Broken) -> Error {
        Error::Broken(sentence)
    }
}

/// What all kinds of load of one run share.
pub struct Run {
    target: Target,
    faults: Arc<Faults>,
    seed: u32,
    /// Begins every idempotency key of this run, so that no earlier run's answer comes back.
    tag: String,
    listening: AtomicU64,
    doors: Semaphore,
}

impl Run {
    fn new(args: &Load) -> Run {
        let random = uuid::Uuid::new_v4();
        Run {
            target: args.remote.target(),
            faults: Arc::default(),
            seed: args.seed.unwrap_or(random.as_fields().0),
            tag: random.simple().to_string(),
            listening: AtomicU64::new(0),
            doors: Semaphore::new(DOORS),
        }
    }

    fn caller(&self) -> Caller {
        Caller::new(self.target.clone(), Arc::clone(&self.faults))
    }

    /// Where the ids of this run begin: each run has a million of its own.
    fn base(&self) -> u64 {
        (u64::from(self.seed) + 1) << 20
    }

    async fn wait_for_listeners(&self, streams: u64) {
        while self.listening.load(Relaxed) < streams {
            sleep(POLL).await;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of the lock panics")
}

/// Puts the load on the shop, checks what came of it, and prints the result to standard output. It wants a runtime of one
/// thread, which leaves the most of the machine to the shop. With an `outbox` an outside program takes part.
pub async fn run(args: &Load, outbox: Option<&Opts>) -> Result<(), Error> {
    open_files::allow();
    let run = Arc::new(Run::new(args));
    Caller::new(run.target.clone(), Arc::default()).patient_for(FIRST_PATIENCE).get("/readyz").await?;

    let mut background = Background::new();
    let (rush, trade) = (Rush::new(&run, args), Trade::new(&run, args, outbox));
    let idle = args.idle_listeners.map_or(0, u32::from);
    let streams = rush.listen(idle, &mut background) + trade.listen(&mut background);
    unless_failed(&mut background, run.wait_for_listeners(streams)).await?;

    if args.coupons || args.orders {
        let bar = progress(args.seconds.into(), "s");
        background.spawn(show(Arc::clone(&rush), Arc::clone(&trade), bar.clone()));
        // Half of the connections for each, where both are wanted.
        let connections = args.connections.get().div_ceil(usize::from(args.coupons) + usize::from(args.orders));
        let coupons = only_if(args.coupons, Arc::clone(&rush).run(args, connections));
        let orders = only_if(args.orders, Arc::clone(&trade).run(args, connections));
        let sections = unless_failed(&mut background, async { tokio::try_join!(coupons, orders) }).await??;
        bar.finish_and_clear();
        let (broken, postponed) = (run.faults.broken.load(Relaxed), run.faults.postponed.load(Relaxed));
        let sections = [sections.0, sections.1].into_iter().flatten().collect();
        let report = Report { seed: run.seed, broken, postponed, sections };
        if args.json {
            println!("{}", report.json());
        } else {
            println!("{report}");
        }
        return Ok(());
    }
    unless_failed(&mut background, sleep(Duration::from_secs(args.seconds.into()))).await?;
    let (open, broken) = (run.listening.load(Relaxed), run.faults.broken.load(Relaxed));
    if args.json {
        println!("{}", serde_json::json!({"openStreams": open, "brokenConnections": broken}));
    } else {
        println!("{open} streams are open, {broken} connections broke");
    }
    Ok(())
}

async fn only_if(wanted: bool, load: impl Future<Output = Result<Section, Error>>) -> Result<Option<Section>, Error> {
    if wanted { load.await.map(Some) } else { Ok(None) }
}

/// Tasks that go on until the load is over; the end of one is its failure, or of no interest.
type Background = JoinSet<Result<(), Error>>;

/// Runs a task for each of `items` until all are done.
async fn each<T, F>(items: impl IntoIterator<Item = T>, task: impl Fn(T) -> F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let mut tasks: JoinSet<_> = items.into_iter().map(task).collect();
    while let Some(done) = tasks.join_next().await {
        done.expect("no task panics or is aborted")?;
    }
    Ok(())
}

/// Waits for `work`, or for the first failure in the background.
async fn unless_failed<T>(background: &mut Background, work: impl Future<Output = T>) -> Result<T, Error> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            Some(ended) = background.join_next() => ended.expect("no task panics or is aborted")?,
        }
    }
}

/// A bar on standard error; nothing where that is no terminal.
fn progress(length: u64, unit: &str) -> ProgressBar {
    let template = format!("{{bar:40}} {{pos}}/{{len}} {unit}  {{msg}}");
    ProgressBar::new(length).with_style(ProgressStyle::with_template(&template).expect("a good template"))
}

async fn show(rush: Arc<Rush>, trade: Arc<Trade>, bar: ProgressBar) -> Result<(), Error> {
    let mut ticks = interval(Duration::from_millis(200));
    let began = Instant::now();
    let (mut seen, mut at) = ([0, 0], began);
    while !bar.is_finished() {
        ticks.tick().await;
        let (done, now) = ([rush.accepted(), trade.made()], Instant::now());
        let per_second = |n: usize| (done[n] - seen[n]) as f64 / (now - at).as_secs_f64().max(0.001);
        bar.set_position(began.elapsed().as_secs());
        bar.set_message(format!("{:.0} claims/s, {:.0} orders/s", per_second(0), per_second(1)));
        (seen, at) = (done, now);
    }
    Ok(())
}
