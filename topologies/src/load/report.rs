//! What a load prints: rates, latencies and what was checked, for people or as one JSON object.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::verify::Verified;

/// Longer latencies are counted as this: ten minutes.
const LONGEST_US: u64 = 600_000_000;

/// What was counted and timed while requests were sent.
pub struct Measured {
    /// Claims that were answered 202, each counted once.
    pub accepted: u64,
    /// Claims that were answered 409.
    pub refused: u64,
    /// Requests that were sent a second time, with the same key, and answered.
    pub repeated: u64,
    /// Bad requests that were refused as they should.
    pub bad: u64,
    /// From when a claim was due to when its 202 was read, in microseconds.
    pub post: Histogram<u64>,
    /// From when a claim was due to when its user heard the decision, in microseconds.
    pub event: Histogram<u64>,
}

impl Default for Measured {
    fn default() -> Measured {
        let histogram = || Histogram::new_with_bounds(1, LONGEST_US, 3).expect("good bounds");
        Measured { accepted: 0, refused: 0, repeated: 0, bad: 0, post: histogram(), event: histogram() }
    }
}

impl Measured {
    /// Requests that were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.accepted + self.refused + self.repeated + self.bad
    }
}

/// The result of a load.
pub struct Report<'a> {
    /// Decides what the run did.
    pub seed: u32,
    /// How long requests were sent.
    pub elapsed: Duration,
    /// Requests that were answered in that time.
    pub requests: u64,
    /// What was counted and timed.
    pub measured: &'a Measured,
    /// Connections that broke or could not be made.
    pub broken: u64,
    /// Answers 429, 503 and 504.
    pub postponed: u64,
    /// What was found to hold.
    pub verified: Verified,
}

const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

impl Report<'_> {
    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64()
    }

    /// All of it as JSON; latencies in milliseconds.
    #[must_use]
    pub fn json(&self) -> Value {
        let latency = |histogram: &Histogram<u64>| {
            let mut values: serde_json::Map<String, Value> =
                PERCENTILES.iter().map(|(name, p)| ((*name).to_owned(), ms(histogram.value_at_percentile(*p)).into())).collect();
            values.insert("max".into(), ms(histogram.max()).into());
            values.insert("samples".into(), histogram.len().into());
            Value::Object(values)
        };
        let Report { seed, measured, broken, postponed, verified, .. } = self;
        json!({
            "seed": seed,
            "seconds": self.elapsed.as_secs_f64(),
            "durablePostsPerSecond": self.per_second(measured.accepted),
            "requestsPerSecond": self.per_second(self.requests),
            "accepted": measured.accepted,
            "refused": measured.refused,
            "repeated": measured.repeated,
            "bad": measured.bad,
            "postMs": latency(&measured.post),
            "postToEventMs": latency(&measured.event),
            "brokenConnections": broken,
            "postponedAnswers": postponed,
            "verified": {
                "coupons": verified.coupons, "users": verified.users, "issued": verified.issued, "events": verified.events,
            },
        })
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { seed, measured, broken, postponed, verified, .. } = self;
        let Measured { accepted, refused, repeated, bad, post, event } = measured;
        let (durable, all) = (self.per_second(*accepted), self.per_second(self.requests));
        writeln!(
            f,
            "sent       {durable:.0} durable POSTs/s, {all:.0} requests/s, for {:.1} s (seed {seed})",
            self.elapsed.as_secs_f64()
        )?;
        writeln!(f, "answers    {accepted} accepted, {refused} refused, {repeated} repeated, {bad} bad ones refused")?;
        writeln!(f, "faults     {broken} broken connections, {postponed} answers to try later")?;
        for (name, histogram) in [("POST", post), ("POST-event", event)] {
            write!(f, "{name:<10}")?;
            for (percentile, p) in PERCENTILES {
                write!(f, " {percentile} {:.2}", ms(histogram.value_at_percentile(p)))?;
            }
            writeln!(f, " max {:.2} ms, {} samples", ms(histogram.max()), histogram.len())?;
        }
        let Verified { coupons, users, issued, events } = verified;
        write!(
            f,
            "verified   every invariant holds: {coupons} coupons, issued {issued} times to {users} users, who heard {events} decisions"
        )
    }
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}
