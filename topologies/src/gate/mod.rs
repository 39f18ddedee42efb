//! The admission gate of coupons: Redis counts who is let in to claim, in one round trip, so that a rush is turned away before it
//! reaches the log. It counts distinct users and lets in at most as many as can have the coupon. It is never the judge: who gets a coupon, the
//! topology decides, and whatever Redis says, or has forgotten, costs at most a claim that is refused later.
//!
//! A user that is let in waits to be decided. Its write may fail, and then the place is given back; nobody may know what became of
//! the write, or the process may die: then the views tell after [`LEASE`], and the place is free again or taken for good. So a full gate
//! is not the last word: only a view that says *sold out* is, for that is never undone. Till then whoever comes waits for the view.
//!
//! What Redis has lost is counted again ([`recount`]). While it is away, the shop goes on by the views, or refuses ([`WhenDown`]).

mod recount;
mod scripts;
mod status;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use millstream::serve::ApiError;
use millstream::{Handle, TypedView};
use parking_lot::Mutex;
use redis::ErrorKind;
use tokio::time::Instant;

use self::scripts::{Admitted, Redis, Trouble};
use self::status::Counts;
use crate::api::known::{Known, view};
use crate::coupons::domain::Coupon;
use crate::coupons::topology::{COUPON_CLAIMS, COUPON_ISSUE, COUPONS};

/// How long a user that was let in may wait to be decided, before the views are asked whether it ever will.
const LEASE: Duration = Duration::from_secs(5);
/// How long a claim waits for others to be decided.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at a full gate.
const PAUSE: Duration = Duration::from_millis(20);
/// After so many looks, it is doubted.
const DOUBT: u32 = 5;
/// How often a lost Redis is looked for, and how often waiting users are looked after.
const PROBE: Duration = Duration::from_millis(100);
const ROUND: Duration = Duration::from_millis(500);
/// A coupon that was not claimed for so long is not looked after any more.
const IDLE: Duration = Duration::from_secs(60);

/// What becomes of claims while Redis is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenDown {
    /// They are let in by what the views know.
    Open,
    /// They are refused, to be tried again.
    Closed,
}

/// Where Redis is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How to reach it.
    pub client: redis::Client,
    /// What becomes of claims while it is away.
    pub when_down: WhenDown,
}

impl Settings {
    /// Reads a URL such as `redis://:password@host:6379/0`.
    ///
    /// # Errors
    /// One sentence, without the password.
    pub fn new(url: &str, when_down: WhenDown) -> Result<Settings, String> {
        match redis::Client::open(url) {
            Ok(client) => Ok(Settings { client, when_down }),
            Err(error) => Err(format!("--redis is not redis://USER:PASSWORD@HOST:PORT/DATABASE: {error}")),
        }
    }
}

/// The gate of a process.
pub struct Gate {
    app: Handle,
    redis: Redis,
    when_down: WhenDown,
    coupons: Known<Coupon>,
    claims: TypedView<(u64, u64), i64>,
    books: Mutex<HashMap<u64, Arc<Book>>>,
    counts: Counts,
}

/// What this process remembers of a coupon.
#[derive(Default)]
struct Book {
    inner: Mutex<Own>,
    /// Held while the coupon is counted: once is enough for all who wait for it.
    counting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Own {
    /// The generation that is known to count all of `users`, and the connection on which that was found.
    generation: Option<(u64, String)>,
    /// Users that this process has let in and that may not be decided yet: since when, and when by Redis' clock, if by Redis.
    users: HashMap<u64, (Instant, Option<u64>)>,
    used: Option<Instant>,
    /// The count that the views were found to agree with.
    right: Option<u64>,
}

/// How a claim may go on.
pub enum Entry {
    /// It may be written.
    Passed(Admission),
    /// The coupon is sold out for good, as the view now knows.
    SoldOut,
}

/// That a user was let in.
#[must_use = "its write may fail: then it is to be given back"]
pub struct Admission {
    gate: Arc<Gate>,
    coupon: u64,
    user: u64,
    by: By,
}

/// Who has let a user in.
#[derive(Clone, Copy)]
enum By {
    /// Redis, at that time of its clock.
    Redis(u64),
    /// Redis, for an earlier claim, whose place it is.
    Earlier,
    /// The views, while Redis was away.
    Views,
}

impl Admission {
    /// Nothing was written, so the place is free for another.
    pub async fn give_back(self) {
        let Admission { gate, coupon, user, by } = self;
        if matches!(by, By::Earlier) {
            return;
        }
        gate.book(coupon).inner.lock().users.remove(&user);
        // Where Redis does not answer, the place is free when the lease ends.
        if let By::Redis(since) = by
            && let Ok(true) = gate.redis.give_back(coupon, user, since).await
        {
            gate.counts.given_back();
        }
    }
}

/// Why a gate cannot tell.
enum Blind {
    /// Redis is away, or what it keeps cannot be counted.
    Redis,
    /// The views are too far behind.
    Views(ApiError),
}

impl From<Trouble> for Blind {
    fn from(_: Trouble) -> Blind {
        Blind::Redis
    }
}

impl From<ApiError> for Blind {
    fn from(error: ApiError) -> Blind {
        Blind::Views(error)
    }
}

impl Gate {
    /// A gate before the coupons of this application, whose metrics are among the application's. Redis may be away.
    ///
    /// # Errors
    /// One sentence, if Redis does not let the shop in.
    ///
    /// # Panics
    /// If the application does not run the shop's topologies: a programming error.
    pub async fn open(app: &Handle, settings: Settings) -> Result<Arc<Gate>, String> {
        let gate = Arc::new(Gate {
            app: app.clone(),
            redis: Redis::new(settings.client),
            when_down: settings.when_down,
            coupons: Known::new(app, &COUPONS, COUPON_ISSUE),
            claims: view(app, &COUPON_CLAIMS),
            books: Mutex::default(),
            counts: Counts::default(),
        });
        status::register(&gate, &mut app.registry().write());
        match gate.redis.connect().await {
            Err(error) if error.kind() == ErrorKind::AuthenticationFailed || error.code() == Some("NOAUTH") => {
                Err(format!("--redis: {error}"))
            }
            Err(error) => {
                gate.redis.tell(&error, app.now().0);
                Ok(gate)
            }
            Ok(()) => Ok(gate),
        }
    }

    fn book(&self, coupon: u64) -> Arc<Book> {
        Arc::clone(self.books.lock().entry(coupon).or_default())
    }

    /// Lets a user in to claim a coupon, as far as Redis and the views know.
    ///
    /// # Errors
    /// 503 `NOT_READY` while that cannot be said.
    pub async fn enter(self: &Arc<Gate>, coupon: &Coupon, user: u64) -> Result<Entry, ApiError> {
        let book = self.book(coupon.coupon_id);
        let blind = match tokio::time::timeout(PATIENCE, self.wait_to_enter(&book, coupon, user)).await {
            Ok(Ok(entry)) => return Ok(entry),
            Ok(Err(blind)) => blind,
            Err(_) => {
                let message = format!("the last claims of coupon {} are still being decided", coupon.coupon_id);
                return Err(ApiError::unavailable("NOT_READY", message));
            }
        };
        self.counts.down();
        match (self.when_down, blind) {
            (WhenDown::Open, _) => {
                book.remember(user, None);
                Ok(Entry::Passed(Admission { gate: Arc::clone(self), coupon: coupon.coupon_id, user, by: By::Views }))
            }
            (WhenDown::Closed, Blind::Views(error)) => Err(error),
            (WhenDown::Closed, Blind::Redis) => {
                Err(ApiError::unavailable("NOT_READY", "claims are not taken while Redis does not answer"))
            }
        }
    }

    async fn wait_to_enter(self: &Arc<Gate>, book: &Book, coupon: &Coupon, user: u64) -> Result<Entry, Blind> {
        let (id, limit, mut issued) = (coupon.coupon_id, coupon.limit, coupon.issued);
        let mut full = 0;
        book.inner.lock().used = Some(Instant::now());
        loop {
            let session = self.redis.session().ok_or(Blind::Redis)?;
            let generation = book.generation(session).unwrap_or_default();
            let passed = |by| Entry::Passed(Admission { gate: Arc::clone(self), coupon: id, user, by });
            match self.redis.admit(id, user, limit, issued, &generation).await {
                Ok(Admitted::Now(since)) => {
                    book.remember(user, Some(since));
                    self.counts.admitted();
                    return Ok(passed(By::Redis(since)));
                }
                // Its first claim may have come to nothing, and if not, this one is refused by the topology.
                Ok(Admitted::Before(since)) => {
                    book.remember(user, Some(since));
                    self.counts.already();
                    return Ok(passed(By::Earlier));
                }
                Ok(Admitted::Full) => {
                    let known = self.coupons.get_if(id, |coupon| coupon.remaining() == 0).await?.ahead();
                    issued = known.map_or(issued, |known| known.issued);
                    if issued >= limit {
                        self.counts.sold_out();
                        return Ok(Entry::SoldOut);
                    }
                    tokio::time::sleep(PAUSE).await;
                    full += 1;
                    // Those who wait are decided within milliseconds, if they are there.
                    if full % DOUBT == 0 {
                        self.recount(book, id, &generation, session).await?;
                    }
                }
                Ok(Admitted::Other(found)) => self.learn(book, id, &generation, &found, session).await?,
                Ok(Admitted::Lost) | Err(Trouble::Damaged) => self.recount(book, id, &generation, session).await?,
                Err(Trouble::Away) => return Err(Blind::Redis),
            }
        }
    }

    /// Looks after Redis, and after who waits to be decided, until it is dropped.
    pub async fn keep(self: Arc<Gate>) -> Infallible {
        let mut next_round = Instant::now();
        loop {
            let connected = self.redis.connect().await;
            if let Err(error) = &connected {
                self.redis.tell(error, self.app.now().0);
            } else if Instant::now() >= next_round {
                next_round = Instant::now() + ROUND;
                self.look_after_all().await;
            }
            tokio::time::sleep(PROBE).await;
        }
    }

    async fn look_after_all(&self) {
        let now = Instant::now();
        let books: Vec<(u64, Arc<Book>)> = self.books.lock().iter().map(|(coupon, book)| (*coupon, Arc::clone(book))).collect();
        for (coupon, book) in books {
            if book.forget_decided(now) {
                self.books.lock().remove(&coupon);
                continue;
            }
            // It is tried again in the next round.
            if let Some(session) = self.redis.session()
                && let Err(Blind::Views(error)) = self.look_after(&book, coupon, session).await
            {
                tracing::debug!(coupon, %error, "who waits for the coupon cannot be told");
            }
        }
    }
}

impl Book {
    /// The generation that counts all that this process has let in, as far as is known on this connection.
    fn generation(&self, session: u64) -> Option<String> {
        let own = self.inner.lock();
        own.generation.as_ref().filter(|(found_on, _)| *found_on == session).map(|(_, generation)| generation.clone())
    }

    fn set_generation(&self, session: u64, generation: &str) {
        let mut own = self.inner.lock();
        own.generation = Some((session, generation.to_owned()));
        own.right = None;
    }

    fn remember(&self, user: u64, since: Option<u64>) {
        self.inner.lock().users.insert(user, (Instant::now(), since));
    }

    /// Forgets users whose lease is over. Whether nothing is left.
    fn forget_decided(&self, now: Instant) -> bool {
        let mut own = self.inner.lock();
        own.users.retain(|_, (since, _)| now.duration_since(*since) < LEASE);
        own.users.is_empty() && own.used.is_none_or(|used| now.duration_since(used) > IDLE)
    }

    /// The users that this process has let in within the lease.
    fn users(&self) -> HashMap<u64, Option<u64>> {
        let now = Instant::now();
        let own = self.inner.lock();
        let live = own.users.iter().filter(|(_, (since, _))| now.duration_since(*since) < LEASE);
        live.map(|(user, (_, since))| (*user, *since)).collect()
    }
}
