//! What is kept in Redis of a coupon, and the scripts that change it, each in one round trip and as one step. Only what the scripts say
//! happens here; what is true of a coupon is known elsewhere.
//!
//! ```text
//! coupon:{id}:count       how many users are in: those who have the coupon, and those who were let in since and wait to be decided
//! coupon:{id}:admitted    the latter: user -> when it was let in, in microseconds of Redis' clock
//! coupon:{id}:generation  which counting the two come from; -… while they are being counted; missing after a flush
//! ```
//! Nobody is let in but by who knows the generation, so whoever finds another one first looks whether its own are counted.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, RedisError, RedisResult, Script, ScriptInvocation};

/// How long one call may take, and a connection: a gate that is slower than that is in the way.
const CALL: Duration = Duration::from_millis(250);
const CONNECT: Duration = Duration::from_millis(500);
/// A coupon that nobody has counted for so long is forgotten, in seconds. It is counted again if it is claimed after all.
const FORGET_S: u64 = 7 * 24 * 3_600;
/// How many waiting users are looked at together.
const PAGE: usize = 10_000;

/// Lets a user in, unless there are as many as can.
/// ARGV: user, limit, how many have the coupon at least, the generation that is known.
const ADMIT: &str = r"
local generation = redis.call('GET', KEYS[3]) or ''
if generation ~= ARGV[4] or generation == '' then return {'other', generation, 0} end
local count = tonumber(redis.call('GET', KEYS[1]) or '')
if not count or count < tonumber(ARGV[3]) then return {'lost', '', 0} end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local since = redis.call('ZSCORE', KEYS[2], ARGV[1])
if since then
    now = math.max(now, since + 1)
elseif count >= tonumber(ARGV[2]) then
    return {'full', '', 0}
else
    redis.call('INCR', KEYS[1])
end
redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[1])
return {since and 'already' or 'admitted', '', now}";

/// Takes a user out who was let in at that time, and not again since. ARGV: user, time.
const GIVE_BACK: &str = r"
if tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or '') ~= tonumber(ARGV[2]) then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('DECR', KEYS[1])
return 1";

/// Closes the gate, so that it can be counted; says by which name. ARGV: a new name.
const CLOSE: &str = r"
local generation = redis.call('TYPE', KEYS[3]).ok == 'string' and redis.call('GET', KEYS[3]) or ''
if generation:sub(1, 1) == '-' then return generation end
if redis.call('TYPE', KEYS[2]).ok ~= 'zset' then redis.call('DEL', KEYS[2]) end
redis.call('SET', KEYS[3], ARGV[1])
return ARGV[1]";

/// Who waits, with the time of each; the first two are Redis' time and the count. ARGV: generation, let in longer ago than this, at most.
const WAITING: &str = r"
if (redis.call('GET', KEYS[3]) or '') ~= ARGV[1] then return {} end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local count = tonumber(redis.call('GET', KEYS[1]) or '') or -1
local latest = ARGV[2] == '0' and '+inf' or string.format('%.0f', now - tonumber(ARGV[2]))
local found = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', latest, 'WITHSCORES', 'LIMIT', 0, ARGV[3])
local all = {now, count, redis.call('ZCARD', KEYS[2])}
for i = 1, #found do all[#all + 1] = tonumber(found[i]) end
return all";

/// Opens a gate that was counted. ARGV: the name that it was closed by, the new generation, how many have the coupon, seconds to keep, how many
/// wait no longer, they, then who waits beside those who are known, each with a time.
const OPEN: &str = r"
if (redis.call('GET', KEYS[3]) or '') ~= ARGV[1] then return 0 end
local gone = tonumber(ARGV[5])
for i = 6, 5 + gone do redis.call('ZREM', KEYS[2], ARGV[i]) end
for i = 6 + gone, #ARGV, 2 do redis.call('ZADD', KEYS[2], 'NX', ARGV[i + 1], ARGV[i]) end
redis.call('SET', KEYS[1], ARGV[3] + redis.call('ZCARD', KEYS[2]), 'EX', ARGV[4])
redis.call('SET', KEYS[3], ARGV[2], 'EX', ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[4])
return 1";

/// Takes users out who have waited long enough: those who have the coupon stay in the count, the others leave it. ARGV: generation, then for
/// each user when it was let in and how many leave the count for it, 0 or 1.
const SETTLE: &str = r"
if (redis.call('GET', KEYS[3]) or '') ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 3 do
    if tonumber(redis.call('ZSCORE', KEYS[2], ARGV[i]) or '') == tonumber(ARGV[i + 1]) then
        redis.call('ZREM', KEYS[2], ARGV[i])
        redis.call('DECRBY', KEYS[1], ARGV[i + 2])
    end
end
return 1";

/// The generation.
const GENERATION: &str = r"return redis.call('TYPE', KEYS[3]).ok == 'string' and redis.call('GET', KEYS[3]) or ''";

/// How many of the users wait. ARGV: generation, users.
const COUNTED: &str = r"
if (redis.call('GET', KEYS[3]) or '') ~= ARGV[1] then return -1 end
local counted = 0
for i = 2, #ARGV do
    if redis.call('ZSCORE', KEYS[2], ARGV[i]) then counted = counted + 1 end
end
return counted";

/// Redis does not do what it is asked for now.
#[derive(Debug)]
pub enum Trouble {
    /// It is away, or says no to everything.
    Away,
    /// What it keeps of the coupon is not what the scripts have written.
    Damaged,
}

/// What became of a user at the gate.
pub enum Admitted {
    /// It is in.
    Now(u64),
    /// It was in already.
    Before(u64),
    /// As many are in as can.
    Full,
    /// The gate is of another counting, or of none (empty).
    Other(String),
    /// Fewer are in than have the coupon.
    Lost,
}

/// Who waits to be decided.
pub struct Waiting {
    /// Redis' time, in microseconds.
    pub now: u64,
    /// How many are in; `None` if that is no number.
    pub count: Option<u64>,
    /// How many wait in all.
    pub all: u64,
    /// Of them those that were asked for, with when they were let in.
    pub users: Vec<(u64, u64)>,
}

/// A connection that is made anew when it was lost; each has a number.
pub struct Redis {
    client: Client,
    connection: Mutex<Option<MultiplexedConnection>>,
    session: AtomicU64,
    /// When trouble was told last, in milliseconds; so that it is not told ten times a second.
    told_ms: AtomicI64,
    scripts: Scripts,
}

struct Scripts {
    admit: Script,
    give_back: Script,
    close: Script,
    waiting: Script,
    open: Script,
    settle: Script,
    counted: Script,
    generation: Script,
}

impl Redis {
    pub fn new(client: Client) -> Redis {
        let scripts = Scripts {
            admit: Script::new(ADMIT),
            give_back: Script::new(GIVE_BACK),
            close: Script::new(CLOSE),
            waiting: Script::new(WAITING),
            open: Script::new(OPEN),
            settle: Script::new(SETTLE),
            counted: Script::new(COUNTED),
            generation: Script::new(GENERATION),
        };
        let told_ms = AtomicI64::new(i64::MIN);
        Redis { client, connection: Mutex::default(), session: AtomicU64::new(0), told_ms, scripts }
    }

    /// The number of the connection that there is.
    pub fn session(&self) -> Option<u64> {
        self.connection.lock().is_some().then(|| self.session.load(Ordering::Acquire))
    }

    /// Connects, if there is no connection.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connect(&self) -> RedisResult<()> {
        if self.connection.lock().is_some() {
            return Ok(());
        }
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(CALL));
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        let mut slot = self.connection.lock();
        self.session.fetch_add(1, Ordering::AcqRel);
        *slot = Some(connection);
        Ok(())
    }

    /// Says why Redis is not used, not more often than every five seconds.
    pub fn tell(&self, error: &RedisError, now_ms: i64) {
        let told = self.told_ms.load(Ordering::Relaxed);
        if now_ms.saturating_sub(told) >= 5_000 {
            self.told_ms.store(now_ms, Ordering::Relaxed);
            tracing::warn!("the gate is without Redis: {error}");
        }
    }

    async fn call<T: FromRedisValue>(&self, script: ScriptInvocation<'_>) -> Result<T, Trouble> {
        let (connection, session) = {
            let slot = self.connection.lock();
            (slot.clone(), self.session.load(Ordering::Acquire))
        };
        let mut connection = connection.ok_or(Trouble::Away)?;
        let error = match script.invoke_async(&mut connection).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        // A script that fails on what somebody else has put there, or an answer of another form: mended by counting.
        if matches!(error.code(), Some("ERR" | "WRONGTYPE")) || error.kind() == ErrorKind::UnexpectedReturnType {
            tracing::warn!("what Redis keeps of a coupon is not the gate's: {error}");
            return Err(Trouble::Damaged);
        }
        let mut slot = self.connection.lock();
        if slot.is_some() && self.session.load(Ordering::Acquire) == session {
            *slot = None;
            tracing::warn!("the gate has lost Redis: {error}");
        }
        Err(Trouble::Away)
    }

    pub async fn admit(&self, coupon: u64, user: u64, limit: u64, issued: u64, generation: &str) -> Result<Admitted, Trouble> {
        let mut script = of_coupon(&self.scripts.admit, coupon);
        script.arg(user).arg(limit).arg(issued).arg(generation);
        let (what, other, number): (String, String, u64) = self.call(script).await?;
        match what.as_str() {
            "admitted" => Ok(Admitted::Now(number)),
            "already" => Ok(Admitted::Before(number)),
            "full" => Ok(Admitted::Full),
            "lost" => Ok(Admitted::Lost),
            _ => Ok(Admitted::Other(other)),
        }
    }

    pub async fn give_back(&self, coupon: u64, user: u64, since: u64) -> Result<bool, Trouble> {
        let mut script = of_coupon(&self.scripts.give_back, coupon);
        script.arg(user).arg(since);
        self.call(script).await
    }

    pub async fn close(&self, coupon: u64, name: &str) -> Result<String, Trouble> {
        let mut script = of_coupon(&self.scripts.close, coupon);
        script.arg(name);
        self.call(script).await
    }

    /// Who waits for longer than `age_us`; everybody if that is 0. `None` if the gate is of another generation.
    pub async fn waiting(&self, coupon: u64, generation: &str, age_us: u64) -> Result<Option<Waiting>, Trouble> {
        let most = if age_us == 0 { -1 } else { PAGE as i64 };
        let mut script = of_coupon(&self.scripts.waiting, coupon);
        script.arg(generation).arg(age_us).arg(most);
        let answer: Vec<i64> = self.call(script).await?;
        let [now, count, all, users @ ..] = answer.as_slice() else { return Ok(None) };
        let users = users.as_chunks::<2>().0.iter().map(|[user, since]| (user.cast_unsigned(), since.cast_unsigned())).collect();
        Ok(Some(Waiting { now: now.cast_unsigned(), count: u64::try_from(*count).ok(), all: all.cast_unsigned(), users }))
    }

    /// `false` if somebody else has opened it.
    pub async fn open(
        &self,
        coupon: u64,
        [closed, generation]: [&str; 2],
        issued: u64,
        gone: &[u64],
        added: &[(u64, u64)],
    ) -> Result<bool, Trouble> {
        let mut script = of_coupon(&self.scripts.open, coupon);
        script.arg(closed).arg(generation).arg(issued).arg(FORGET_S).arg(gone.len()).arg(gone);
        for (user, since) in added {
            script.arg(user).arg(since);
        }
        self.call(script).await
    }

    /// The generation of the gate; empty if it has none.
    pub async fn generation(&self, coupon: u64) -> Result<String, Trouble> {
        self.call(of_coupon(&self.scripts.generation, coupon)).await
    }

    /// `false` if the gate is of another generation.
    pub async fn settle(&self, coupon: u64, generation: &str, users: &[(u64, u64, bool)]) -> Result<bool, Trouble> {
        let mut script = of_coupon(&self.scripts.settle, coupon);
        script.arg(generation);
        for (user, since, leaves) in users {
            script.arg(user).arg(since).arg(u8::from(*leaves));
        }
        self.call(script).await
    }

    /// Whether all these users are in. `false` also if the gate is of another generation.
    pub async fn has_all(&self, coupon: u64, generation: &str, users: &[u64]) -> Result<bool, Trouble> {
        let mut script = of_coupon(&self.scripts.counted, coupon);
        script.arg(generation).arg(users);
        Ok(self.call::<i64>(script).await? == users.len() as i64)
    }
}

fn of_coupon(script: &Script, coupon: u64) -> ScriptInvocation<'_> {
    let mut invocation = script.prepare_invoke();
    for part in ["count", "admitted", "generation"] {
        invocation.key(format!("coupon:{coupon}:{part}"));
    }
    invocation
}
