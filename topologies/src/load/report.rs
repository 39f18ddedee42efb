//! What a load prints: rates, latencies and what was checked, for people or as one JSON object.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

/// Longer latencies are counted as this: ten minutes.
const LONGEST_US: u64 = 600_000_000;

/// Latencies, in microseconds.
#[derive(Clone)]
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Latency {
        Latency(Histogram::new_with_bounds(1, LONGEST_US, 3).expect("good bounds"))
    }
}

impl Latency {
    /// One more.
    pub fn record(&mut self, took: Duration) {
        self.0.saturating_record(took.as_micros() as u64);
    }

    fn json(&self) -> Value {
        let at = |(name, p): &(&str, f64)| ((*name).to_owned(), ms(self.0.value_at_percentile(*p)).into());
        let mut values: Map<String, Value> = PERCENTILES.iter().map(at).collect();
        values.insert("max".into(), ms(self.0.max()).into());
        values.insert("samples".into(), self.0.len().into());
        Value::Object(values)
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (percentile, p) in PERCENTILES {
            write!(f, "{percentile} {:.2} ", ms(self.0.value_at_percentile(p)))?;
        }
        write!(f, "max {:.2} ms, {} samples", ms(self.0.max()), self.0.len())
    }
}

/// Something counted: its name in JSON, its name for people, and how many.
pub struct Counted(pub &'static str, pub &'static str, pub u64);

/// The result of one kind of load.
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// How long it took, in seconds: what the rates are of.
    pub seconds: f64,
    /// What is told by the second: its name in JSON, its name for people, and how many in all.
    pub rates: Vec<(&'static str, &'static str, u64)>,
    /// What was counted while requests were sent.
    pub counts: Vec<Counted>,
    /// What was timed: its name in JSON, its name for people.
    pub latencies: Vec<(&'static str, &'static str, Latency)>,
    /// What was found to hold.
    pub verified: Vec<Counted>,
}

/// The result of a load.
pub struct Report {
    /// Decides what the run did.
    pub seed: u32,
    /// Connections that broke or could not be made.
    pub broken: u64,
    /// Answers 429, 503 and 504.
    pub postponed: u64,
    /// What was done.
    pub sections: Vec<Section>,
}

const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

impl Report {
    /// All of it as JSON; latencies in milliseconds.
    #[must_use]
    pub fn json(&self) -> Value {
        let Report { seed, broken, postponed, sections } = self;
        let mut all = json!({"seed": seed, "brokenConnections": broken, "postponedAnswers": postponed});
        for section in sections {
            all[section.name] = section.json();
        }
        all
    }
}

impl Section {
    fn json(&self) -> Value {
        let counted = |counts: &[Counted]| counts.iter().map(|c| (c.0.to_owned(), c.2.into())).collect::<Map<String, Value>>();
        let mut all = counted(&self.counts);
        all.insert("seconds".into(), self.seconds.into());
        all.extend(self.rates.iter().map(|(name, _, count)| ((*name).to_owned(), (*count as f64 / self.seconds).into())));
        all.extend(self.latencies.iter().map(|(name, _, latency)| ((*name).to_owned(), latency.json())));
        all.insert("verified".into(), counted(&self.verified).into());
        all.into()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { seed, broken, postponed, sections } = self;
        for section in sections {
            write!(f, "{section}")?;
        }
        write!(f, "faults     {broken} broken connections, {postponed} answers to try later (seed {seed})")
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |counts: &[Counted]| counts.iter().map(|c| format!("{} {}", c.2, c.1)).collect::<Vec<_>>().join(", ");
        let rates: Vec<String> =
            self.rates.iter().map(|(_, name, count)| format!("{:.0} {name}", *count as f64 / self.seconds)).collect();
        writeln!(f, "{:<10} {}, for {:.1} s", self.name, rates.join(", "), self.seconds)?;
        writeln!(f, "answers    {}", counted(&self.counts))?;
        for (_, name, latency) in &self.latencies {
            writeln!(f, "{name:<10} {latency}")?;
        }
        writeln!(f, "verified   every invariant holds: {}", counted(&self.verified))
    }
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}
