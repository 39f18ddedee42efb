//! Trade: users who order, pay, pay twice, cancel, wait for their parcels and run out of points, on products that run out of stock.

#[cfg(test)]
mod checks;
mod ledger;
mod outbox;
mod plan;
mod send;
mod verify;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mysql_async::Opts;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use self::ledger::{Ledger, What};
use self::outbox::Outbox;
use self::plan::{Act, Job, Plan};
use self::verify::Verified;
use super::heard::Heard;
use super::listen::{Audience, listen};
use super::report::{Counted, Latency, Section};
use super::schedule::Schedule;
use super::twins::Twins;
use super::{Background, Broken, Error, Run, each, locked, progress, unless_failed};
use crate::cli::{Load, Rate};
use crate::client::Event;

/// The bit of a seed that sets the ids of users and products apart from those of coupons.
const APART: u64 = 1 << 51;

/// One load of orders, shared by all its tasks.
pub struct Trade {
    run: Arc<Run>,
    /// Id of the user of number 0; likewise for products.
    base: u64,
    users: u32,
    /// Orders that may be made and not paid yet; no bound where requests are sent at fixed times.
    most_open: Option<usize>,
    /// By which an outside program takes part.
    outbox: Option<Outbox>,
    state: Mutex<State>,
    /// There is something more to do, or nothing more will come.
    queued: Notify,
    /// An order was paid.
    paid: Notify,
    /// What each of the first users has heard live.
    heard: Vec<Arc<Mutex<Heard<ledger::Heard>>>>,
}

struct State {
    plan: Plan,
    ledger: Ledger,
    twins: Twins,
    measured: Measured,
    /// What is to be done, by when.
    queue: BTreeMap<(Instant, u64), Todo>,
    /// Numbers requests, and what is queued.
    next: u64,
    /// Connections that still make something new.
    making: usize,
    /// What was taken from the queue and is not done.
    in_hand: usize,
    /// Orders that were made and not paid yet.
    open: usize,
    /// When each plain order of a listener was due, and its payment sent, until it is heard to be complete.
    awaited: HashMap<u64, (Instant, Instant)>,
    /// When the last of what an outside program tells of an order was committed, until it is heard to be complete.
    awaited_outside: HashMap<u64, Instant>,
}

/// Something to do.
#[derive(Clone)]
struct Todo {
    what: Do,
    /// Number of the request; the same for both of two twins, for it makes the idempotency key.
    number: u64,
    /// Whether it is sent twice.
    twice: bool,
    due: Instant,
}

impl Do {
    /// Whether it is a request, which may be sent twice with one key.
    fn is_request(&self) -> bool {
        !matches!(self, Do::Make(Job::Outside(_) | Job::Unmatched) | Do::Act { act: Act::PayOutside, .. })
    }
}

#[derive(Clone)]
enum Do {
    Make(Job),
    Act {
        order: u64,
        /// What is to be paid for it.
        due: u64,
        act: Act,
        /// How often it was refused for coming too early.
        tries: u32,
    },
}

/// What was counted and timed while requests were sent.
#[derive(Default)]
struct Measured {
    /// Orders of the outside program.
    outside: u64,
    payments: u64,
    cancels: u64,
    ships: u64,
    delivers: u64,
    /// Of additions of points and stock.
    additions: u64,
    /// Answered 409 or 422, which is what may happen to them.
    refused: u64,
    /// Sent a second time, with the same key.
    repeated: u64,
    /// Bad requests that were refused as they should.
    bad: u64,
    /// From when an order was due to when its 201 was read.
    post: Latency,
    /// From when an order was due to when its user heard that it is complete.
    completed: Latency,
    /// From when its payment was sent to the same.
    paid: Latency,
    /// From the commit of the last that an outside program tells of an order to the same.
    outbox: Latency,
}

impl Trade {
    /// A trade that has not begun; with an `outbox`, an outside program takes part.
    pub fn new(run: &Arc<Run>, args: &Load, outbox: Option<&Opts>) -> Arc<Trade> {
        let listeners = if args.orders { args.listeners.min(args.users) } else { 0 };
        let base = APART ^ run.base();
        Arc::new(Trade {
            run: Arc::clone(run),
            base,
            users: args.users,
            most_open: (args.rate == Rate::Max).then_some(args.connections.get()),
            outbox: outbox.map(|opts| Outbox::new(opts, run.seed)),
            state: Mutex::new(State {
                plan: Plan::new(run.seed, args.users, outbox.is_some()),
                ledger: Ledger::new(base, args.users),
                twins: Twins::default(),
                measured: Measured::default(),
                queue: BTreeMap::new(),
                next: 0,
                making: 0,
                in_hand: 0,
                open: 0,
                awaited: HashMap::new(),
                awaited_outside: HashMap::new(),
            }),
            queued: Notify::new(),
            paid: Notify::new(),
            heard: (0..listeners).map(|_| Arc::default()).collect(),
        })
    }

    /// Lets its users listen; answers how many streams that are.
    pub fn listen(self: &Arc<Trade>, background: &mut Background) -> u64 {
        for (user, heard) in (0..).zip(self.heard.iter().cloned()) {
            background.spawn(listen(Arc::clone(self), user, heard));
        }
        self.heard.len() as u64
    }

    /// The trade, from the first product to the proof.
    ///
    /// # Errors
    /// What was broken, or does not work.
    pub async fn run(self: Arc<Trade>, args: &Load, connections: usize) -> Result<Section, Error> {
        let (trade, mut background) = (self, Background::new());
        send::make_products(&trade).await?;
        background.spawn(verify::watch_counts(Arc::clone(&trade)));
        // What is made is soon followed by more requests than made it.
        let makers = connections.div_ceil(4);
        trade.state().making = makers;
        let (began, schedule) = (Instant::now(), Arc::new(Schedule::new(args)));
        let senders = each(0..connections.max(makers + 1), |number| {
            let (trade, schedule) = (Arc::clone(&trade), Arc::clone(&schedule));
            async move { if number < makers { send::make(trade, schedule).await } else { send::act(trade).await } }
        });
        unless_failed(&mut background, senders).await??;
        unless_failed(&mut background, verify::settle(&trade)).await??;
        let seconds = began.elapsed().as_secs_f64();

        let bar = progress(trade.users.into(), "users checked");
        let each_user = bar.clone();
        let verified = unless_failed(&mut background, verify::verify(&trade, move || each_user.inc(1))).await??;
        bar.finish_and_clear();
        let state = trade.state();
        Ok(report(seconds, state.ledger.made(), &state.measured, verified))
    }

    /// How many orders were made so far.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.state().ledger.made()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// The id of a user or product of this run.
    fn id(&self, number: u32) -> u64 {
        self.base + u64::from(number)
    }

    fn outbox(&self) -> &Outbox {
        self.outbox.as_ref().expect("an outside program is planned only where there is an outbox")
    }

    /// Whether a user's events are listened to.
    fn is_heard(&self, user: u32) -> bool {
        (user as usize) < self.heard.len()
    }

    /// The next thing to be made. Where it goes as fast as it can, that waits until enough orders are paid.
    async fn next_made(&self, due: Instant) -> Todo {
        while let Some(most) = self.most_open {
            let paid = self.paid.notified();
            if self.state().open < most {
                break;
            }
            // Another connection may have been told; it is looked at again in any case.
            _ = timeout(Duration::from_millis(100), paid).await;
        }
        let mut state = self.state();
        let job = state.plan.next();
        if matches!(&job, Job::Order(order) if !order.acts.is_empty()) {
            state.open += 1;
        }
        let todo = state.numbered(Do::Make(job), due);
        drop(state);
        self.queued.notify_waiters();
        todo
    }

    /// The next thing to do from the queue; `None` once there will be none any more. When nothing new is made, nothing is waited for.
    async fn next_queued(&self) -> Option<Todo> {
        loop {
            let queued = self.queued.notified();
            let wait_until = {
                let mut state = self.state();
                let first = state.queue.first_key_value().map(|((due, _), _)| *due);
                match first {
                    Some(due) if due <= Instant::now() || state.making == 0 => {
                        state.in_hand += 1;
                        return state.queue.pop_first().map(|(_, todo)| todo);
                    }
                    None if state.making == 0 && state.in_hand == 0 => return None,
                    first => first,
                }
            };
            match wait_until {
                Some(due) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = queued => {}
                },
                None => queued.await,
            }
        }
    }
}

impl State {
    /// Numbers something to do, and queues its twin if it is to have one.
    fn numbered(&mut self, what: Do, due: Instant) -> Todo {
        let twin = if what.is_request() { self.plan.twin() } else { None };
        self.next += 1;
        let todo = Todo { what, number: self.next, twice: twin.is_some(), due };
        if let Some(delay_ms) = twin {
            self.enqueue(Todo { due: due + Duration::from_millis(delay_ms), ..todo.clone() });
        }
        todo
    }

    fn enqueue(&mut self, todo: Todo) {
        self.next += 1;
        self.queue.insert((todo.due, self.next), todo);
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct News {
    order_id: u64,
    #[serde(default)]
    payment_id: u64,
}

impl Audience for Trade {
    type Told = ledger::Heard;

    fn run(&self) -> &Run {
        &self.run
    }

    fn user_id(&self, user: u32) -> u64 {
        self.id(user)
    }

    fn read(&self, event: &Event) -> Result<ledger::Heard, Broken> {
        let id = event.id.parse().map_err(|_| "its id is not a number")?;
        let what: What = serde_json::from_value(event.name.as_str().into()).map_err(|_| "an event of no order")?;
        let News { order_id, payment_id } = serde_json::from_str(&event.data).map_err(|error| error.to_string())?;
        Ok(ledger::Heard { id, what, order: order_id, payment: payment_id })
    }

    fn heard(&self, user: u32, told: &ledger::Heard) -> Result<(), Broken> {
        let mut state = self.state();
        let State { awaited, awaited_outside, measured, ledger, .. } = &mut *state;
        // The answer to an order may come later than its first news.
        if ledger.user_of(told.order).is_some_and(|owner| owner != user) {
            return Err(format!("user {} heard of another user's order: {told:?}", self.id(user)));
        }
        if told.what == What::OrderCompleted {
            if let Some((due, sent)) = awaited.remove(&told.order) {
                measured.completed.record(due.elapsed());
                measured.paid.record(sent.elapsed());
            }
            if let Some(committed) = awaited_outside.remove(&told.order) {
                measured.outbox.record(committed.elapsed());
            }
        }
        Ok(())
    }
}

fn report(seconds: f64, made: u64, measured: &Measured, verified: Verified) -> Section {
    let Measured {
        outside,
        payments,
        cancels,
        ships,
        delivers,
        additions,
        refused,
        repeated,
        bad,
        post,
        completed,
        paid,
        outbox,
    } = measured;
    let Verified { orders, live, pending, cancelled, failed, refunds, unmatched, events, .. } = verified;
    let mut section = Section {
        name: "orders",
        seconds,
        rates: vec![("ordersPerSecond", "orders/s through the whole saga", made)],
        counts: vec![
            Counted("made", "orders", made),
            Counted("payments", "payments", *payments),
            Counted("cancels", "cancels", *cancels),
            Counted("ships", "ships", *ships),
            Counted("delivers", "delivers", *delivers),
            Counted("additions", "additions of points and stock", *additions),
            Counted("refused", "refused", *refused),
            Counted("repeated", "repeated", *repeated),
            Counted("bad", "bad ones refused", *bad),
        ],
        latencies: vec![
            ("postMs", "POST", post.clone()),
            ("postToCompletedMs", "to complete", completed.clone()),
            ("paymentToCompletedMs", "from paid", paid.clone()),
        ],
        verified: vec![
            Counted("orders", "orders", orders),
            Counted("live", "confirmed, shipped or delivered", live),
            Counted("pending", "pending", pending),
            Counted("cancelled", "cancelled", cancelled),
            Counted("failed", "failed", failed),
            Counted("refunds", "refunds", refunds),
            Counted("events", "events heard", events),
        ],
    };
    if *outside > 0 {
        section.counts.push(Counted("outside", "orders by the outbox", *outside));
        section.latencies.push(("outboxToCompletedMs", "by outbox", outbox.clone()));
        section.verified.push(Counted("unmatched", "payments of no order", unmatched));
    }
    section
}
