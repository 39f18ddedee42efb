//! The rush for coupons: every user claims every coupon, some twice, and each coupon has fewer than there are users.

mod ledger;
mod plan;
mod rush;
mod verify;

use std::sync::{Arc, Mutex, MutexGuard};

use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use self::ledger::{Decision, Ledger};
use self::plan::{Claim, Job, Plan};
use self::verify::Verified;
use super::heard::Heard;
use super::listen::{Audience, listen};
use super::report::{Counted, Latency, Section};
use super::schedule::Schedule;
use super::twins::Answered;
use super::{Background, Broken, Error, POLL, Run, each, locked, progress, unless_failed};
use crate::cli::Load;
use crate::client::Event;

/// One rush, shared by all its tasks.
pub struct Rush {
    run: Arc<Run>,
    /// Id of the user of number 0; likewise for coupons.
    base: u64,
    limit: u32,
    users: u32,
    state: Mutex<State>,
    coupon_made: Notify,
    coupon_taken: Notify,
    /// What each of the first users has heard live.
    heard: Vec<Arc<Mutex<Heard<Decision>>>>,
}

struct State {
    plan: Plan,
    ledger: Ledger,
    measured: Measured,
    /// When each listener's first claim of a coupon was due, by coupon, until its decision is heard.
    awaited: Vec<Vec<Option<Instant>>>,
}

/// What was counted and timed while requests were sent.
#[derive(Default)]
struct Measured {
    /// Claims that were answered 202, each counted once.
    accepted: u64,
    /// Claims that were answered 409.
    refused: u64,
    /// Requests that were sent a second time, with the same key, and answered.
    repeated: u64,
    /// Bad requests that were refused as they should.
    bad: u64,
    /// From when a claim was due to when its 202 was read.
    post: Latency,
    /// From when a claim was due to when its user heard the decision.
    event: Latency,
}

impl Measured {
    fn answered(&self) -> u64 {
        self.accepted + self.refused + self.repeated + self.bad
    }
}

impl Rush {
    /// A rush that has not begun.
    pub fn new(run: &Arc<Run>, args: &Load) -> Arc<Rush> {
        let listeners = if args.coupons { args.listeners.min(args.users) } else { 0 };
        let base = run.base();
        Arc::new(Rush {
            run: Arc::clone(run),
            base,
            limit: (u64::from(args.users) * u64::from(args.limit_percent)).div_ceil(100) as u32,
            users: args.users,
            state: Mutex::new(State {
                plan: Plan::new(run.seed, args.users),
                ledger: Ledger::new(base, args.users),
                measured: Measured::default(),
                awaited: Vec::new(),
            }),
            coupon_made: Notify::new(),
            coupon_taken: Notify::new(),
            heard: (0..listeners).map(|_| Arc::default()).collect(),
        })
    }

    /// Lets its users listen, and as many beyond them that will hear nothing; answers how many streams that are.
    pub fn listen(self: &Arc<Rush>, idle: u32, background: &mut Background) -> u64 {
        let idle_heard = (0..idle).map(|_| Arc::default());
        for (user, heard) in (0..).zip(self.heard.iter().cloned()).chain((self.users..).zip(idle_heard)) {
            background.spawn(listen(Arc::clone(self), user, heard));
        }
        self.heard.len() as u64 + u64::from(idle)
    }

    /// The rush, from the first coupon to the proof.
    ///
    /// # Errors
    /// What was broken, or does not work.
    pub async fn run(self: Arc<Rush>, args: &Load, connections: usize) -> Result<Section, Error> {
        let (rush, mut background) = (self, Background::new());
        background.spawn(rush::make_coupons(Arc::clone(&rush)));
        unless_failed(&mut background, rush.wait_for_coupons()).await?;
        background.spawn(rush::watch_counts(Arc::clone(&rush)));
        let mut callers = Vec::new();
        for _ in 0..connections {
            let mut caller = rush.run.caller();
            caller.get("/healthz").await?;
            callers.push(caller);
        }
        let (began, schedule) = (Instant::now(), Arc::new(Schedule::new(args)));
        let senders = each(callers, |caller| rush::send(Arc::clone(&rush), caller, Arc::clone(&schedule)));
        unless_failed(&mut background, senders).await??;
        let (elapsed, requests) = (began.elapsed(), rush.state().measured.answered());
        let repeaters = each(0..connections, |_| rush::repeat(Arc::clone(&rush)));
        unless_failed(&mut background, repeaters).await??;

        let bar = progress(rush.users.into(), "users checked");
        let each_user = bar.clone();
        let verified = unless_failed(&mut background, verify::verify(&rush, move || each_user.inc(1))).await??;
        bar.finish_and_clear();
        Ok(report(elapsed.as_secs_f64(), requests, &rush.state().measured, verified))
    }

    /// How many claims were accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.state().measured.accepted
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
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

    fn answered(&self, claim: &Claim, refusal: Option<&str>, answer: Answered, due: Instant) -> Result<(), Error> {
        let mut state = self.state();
        let State { ledger, measured, .. } = &mut *state;
        let counts = ledger.answered(claim, refusal, answer)?;
        match refusal {
            _ if !counts => measured.repeated += 1,
            Some(_) => measured.refused += 1,
            None => {
                measured.accepted += 1;
                measured.post.record(answer.read - due);
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Decided {
    coupon_id: u64,
}

impl Audience for Rush {
    type Told = Decision;

    fn run(&self) -> &Run {
        &self.run
    }

    fn user_id(&self, user: u32) -> u64 {
        self.id(user)
    }

    fn read(&self, event: &Event) -> Result<Decision, Broken> {
        let issued = match event.name.as_str() {
            "coupon-issued" => true,
            "coupon-rejected" => false,
            _ => return Err("an event of no claim".into()),
        };
        let id = event.id.parse().map_err(|_| "its id is not a number")?;
        let decided: Decided = serde_json::from_str(&event.data).map_err(|error| error.to_string())?;
        Ok(Decision { id, coupon: self.state().ledger.coupon_number(decided.coupon_id)?, issued })
    }

    fn heard(&self, user: u32, decision: &Decision) -> Result<(), Broken> {
        if user >= self.users {
            return Err(format!("user {} claimed nothing, but heard {decision:?}", self.id(user)));
        }
        let mut state = self.state();
        let State { awaited, measured, .. } = &mut *state;
        if let Some(due) = awaited[decision.coupon as usize].get_mut(user as usize).and_then(Option::take) {
            measured.event.record(due.elapsed());
        }
        Ok(())
    }
}

fn report(seconds: f64, requests: u64, measured: &Measured, verified: Verified) -> Section {
    let Measured { accepted, refused, repeated, bad, post, event } = measured;
    let Verified { coupons, users, issued, events } = verified;
    Section {
        name: "coupons",
        seconds,
        rates: vec![("durablePostsPerSecond", "durable POSTs/s", *accepted), ("requestsPerSecond", "requests/s", requests)],
        counts: vec![
            Counted("accepted", "accepted", *accepted),
            Counted("refused", "refused", *refused),
            Counted("repeated", "repeated", *repeated),
            Counted("bad", "bad ones refused", *bad),
        ],
        latencies: vec![("postMs", "POST", post.clone()), ("postToEventMs", "POST-event", event.clone())],
        verified: vec![
            Counted("coupons", "coupons", coupons.into()),
            Counted("issued", "issued", issued),
            Counted("users", "users", users.into()),
            Counted("events", "events heard", events),
        ],
    }
}
