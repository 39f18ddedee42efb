//! `shop load`: a rush on a running shop over HTTP, and the proof at its end that nothing was lost, doubled or oversold.
//! It knows the shop by its contract alone, survives the shop's crashes, and shares its machine, so it is made to be cheap.

mod caller;
mod ledger;
mod listen;
mod plan;
mod report;
mod rush;
mod verify;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use crate::cli::Load;
use crate::client::Target;
use crate::open_files;
use caller::{Caller, Faults};
use ledger::{Answer, Broken, Decision, Heard, Ledger};
use plan::{Claim, Job, Plan};
use report::{Measured, Report};
use rush::Schedule;

/// How long the shop may be away before the load gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to get ready at first.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);
/// How long the decision of an accepted claim may take once nothing is sent any more.
const SETTLE: Duration = Duration::from_secs(30);
/// Streams that are opened at the same time, well below the backlog of a listening socket.
const DOORS: usize = 64;

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
    /// The run would mix with an earlier one.
    #[error("coupon {coupon} exists already, so choose another --seed")]
    UsedBefore {
        /// Its id.
        coupon: u64,
    },
}

impl From<Broken> for Error {
    fn from(sentence: Broken) -> Error {
        Error::Broken(sentence)
    }
}

/// One load, shared by all its tasks.
struct Rush {
    target: Target,
    faults: Arc<Faults>,
    seed: u32,
    /// Begins every idempotency key of this run, so that no earlier run's answer comes back.
    run: String,
    /// Id of the user of number 0; likewise for coupons.
    base: u64,
    limit: u32,
    users: u32,
    state: Mutex<State>,
    coupon_made: Notify,
    coupon_taken: Notify,
    /// What each of the first users has heard live.
    heard: Vec<Arc<Mutex<Heard>>>,
    listening: AtomicU64,
    doors: Semaphore,
}

struct State {
    plan: Plan,
    ledger: Ledger,
    measured: Measured,
    /// When each listener's first claim of a coupon was due, by coupon, until its decision is heard.
    awaited: Vec<Vec<Option<Instant>>>,
}

impl Rush {
    fn new(args: &Load) -> Rush {
        let random = uuid::Uuid::new_v4();
        let seed = args.seed.unwrap_or(random.as_fields().0);
        let listeners = if args.coupons { args.listeners.min(args.users) } else { 0 };
        let base = (u64::from(seed) + 1) << 20;
        Rush {
            target: args.remote.target(),
            faults: Arc::default(),
            seed,
            run: random.simple().to_string(),
            base,
            limit: (u64::from(args.users) * u64::from(args.limit_percent)).div_ceil(100) as u32,
            users: args.users,
            state: Mutex::new(State {
                plan: Plan::new(seed, args.users),
                ledger: Ledger::new(base, args.users),
                measured: Measured::default(),
                awaited: Vec::new(),
            }),
            coupon_made: Notify::new(),
            coupon_taken: Notify::new(),
            heard: (0..listeners).map(|_| Arc::default()).collect(),
            listening: AtomicU64::new(0),
            doors: Semaphore::new(DOORS),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    fn caller(&self) -> Caller {
        Caller::new(self.target.clone(), Arc::clone(&self.faults))
    }

    /// The id of a user or coupon of this run.
    fn id(&self, number: u32) -> u64 {
        self.base + u64::from(number)
    }

    fn add_coupon(&self, coupon: u32) {
        let mut state = self.state();
        state.ledger.add_coupon(self.limit);
        state.awaited.push(vec![None; self.heard.len()]);
        state.plan.add_coupon(coupon);
        drop(state);
        self.coupon_made.notify_waiters();
    }

    /// The next request, as soon as there is a coupon to claim.
    async fn next_job(&self) -> Job {
        loop {
            let made = self.coupon_made.notified();
            let (job, waiting) = {
                let mut state = self.state();
                (state.plan.next(), state.plan.waiting())
            };
            if waiting < rush::READY {
                self.coupon_taken.notify_one();
            }
            match job {
                Some(job) => return job,
                None => made.await,
            }
        }
    }

    async fn wait_for_listeners(&self, streams: u64) {
        while self.listening.load(Relaxed) < streams {
            sleep(POLL).await;
        }
    }

    async fn wait_for_coupons(&self) {
        while self.state().plan.waiting() < rush::READY {
            sleep(POLL).await;
        }
    }

    fn sends(&self, claim: &Claim, due: Instant) {
        if claim.user < self.heard.len() as u32 {
            let mut state = self.state();
            if state.ledger.unheard(claim) {
                state.awaited[claim.coupon as usize][claim.user as usize].get_or_insert(due);
            }
        }
    }

    fn answered(&self, claim: &Claim, answer: Answer<'_>, due: Instant) -> Result<(), Error> {
        let mut state = self.state();
        let State { ledger, measured, .. } = &mut *state;
        let counts = ledger.answered(claim, answer)?;
        match answer.refusal {
            _ if !counts => measured.repeated += 1,
            Some(_) => measured.refused += 1,
            None => {
                measured.accepted += 1;
                measured.post.saturating_record((answer.read - due).as_micros() as u64);
            }
        }
        Ok(())
    }

    fn delivered(&self, user: u32, decision: &Decision) {
        let mut state = self.state();
        let State { awaited, measured, .. } = &mut *state;
        if let Some(due) = awaited[decision.coupon as usize].get_mut(user as usize).and_then(Option::take) {
            measured.event.saturating_record(due.elapsed().as_micros() as u64);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of the lock panics")
}

/// Puts the load on the shop, checks what came of it, and prints the result to standard output. It wants a runtime of one
/// thread, which leaves the most of the machine to the shop.
pub async fn run(args: &Load) -> Result<(), Error> {
    open_files::allow();
    let rush = Arc::new(Rush::new(args));
    Caller::new(rush.target.clone(), Arc::default()).patient_for(FIRST_PATIENCE).get("/readyz").await?;

    let mut background = Background::new();
    let idle = args.idle_listeners.map_or(0, u32::from);
    let idle_heard = (0..idle).map(|_| Arc::default());
    for (user, heard) in (0..).zip(rush.heard.iter().cloned()).chain((args.users..).zip(idle_heard)) {
        background.spawn(listen::listen(Arc::clone(&rush), user, heard));
    }
    let streams = rush.heard.len() as u64 + u64::from(idle);
    unless_failed(&mut background, rush.wait_for_listeners(streams)).await?;

    let length = Duration::from_secs(args.seconds.into());
    if args.coupons {
        return rush_for_coupons(&rush, args, length, &mut background).await;
    }
    unless_failed(&mut background, sleep(length)).await?;
    let (open, broken) = (rush.listening.load(Relaxed), rush.faults.broken.load(Relaxed));
    if args.json {
        println!("{}", serde_json::json!({"openStreams": open, "brokenConnections": broken}));
    } else {
        println!("{open} streams are open, {broken} connections broke");
    }
    Ok(())
}

async fn rush_for_coupons(rush: &Arc<Rush>, args: &Load, length: Duration, background: &mut Background) -> Result<(), Error> {
    background.spawn(rush::make_coupons(Arc::clone(rush)));
    unless_failed(background, rush.wait_for_coupons()).await?;
    background.spawn(rush::watch_counts(Arc::clone(rush)));
    let mut callers = Vec::new();
    for _ in 0..args.connections.get() {
        let mut caller = rush.caller();
        caller.get("/healthz").await?;
        callers.push(caller);
    }

    let bar = progress(args.seconds.into(), "s");
    let (began, schedule) = (Instant::now(), Arc::new(Schedule::new(args.rate, length)));
    background.spawn(show(Arc::clone(rush), bar.clone(), began));
    let senders = each(callers, |caller| rush::send(Arc::clone(rush), caller, Arc::clone(&schedule)));
    unless_failed(background, senders).await??;
    let (elapsed, requests) = (began.elapsed(), rush.state().measured.answered());
    let repeaters = each(0..args.connections.get(), |_| rush::repeat(Arc::clone(rush)));
    unless_failed(background, repeaters).await??;
    bar.finish_and_clear();

    let bar = progress(args.users.into(), "users checked");
    let each_user = bar.clone();
    let verified = unless_failed(background, verify::verify(rush, move || each_user.inc(1))).await??;
    bar.finish_and_clear();

    let (broken, postponed) = (rush.faults.broken.load(Relaxed), rush.faults.postponed.load(Relaxed));
    let report = Report { seed: rush.seed, elapsed, requests, measured: &rush.state().measured, broken, postponed, verified };
    if args.json {
        println!("{}", report.json());
    } else {
        println!("{report}");
    }
    Ok(())
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

async fn show(rush: Arc<Rush>, bar: ProgressBar, began: Instant) -> Result<(), Error> {
    let mut ticks = interval(Duration::from_millis(200));
    let (mut seen, mut at) = (0, began);
    while !bar.is_finished() {
        ticks.tick().await;
        let (accepted, now) = (rush.state().measured.accepted, Instant::now());
        bar.set_position(began.elapsed().as_secs());
        bar.set_message(format!("{:.0} POSTs/s", (accepted - seen) as f64 / (now - at).as_secs_f64().max(0.001)));
        (seen, at) = (accepted, now);
    }
    Ok(())
}
