//! `shop dlq`: looks at dead letters and has them replayed: those of a running shop over its HTTP API, or those of a cluster by itself.

use std::io;

use std::sync::Arc;

use millstream::log::{self, KafkaLog};
use millstream::serve::show_dead_letter;
use millstream::{AppendError, DeadLetters, Selection, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::{Cluster, Dlq, Replay};
use crate::client::{Connection, Target};
use crate::topology::{self, Settings};
use crate::{cluster, serving};

/// Why it did not work, in one sentence.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no shop, or it went away.
    #[error("the shop at {0} can't be reached: {1}")]
    Unreachable(Target, io::Error),
    /// The shop refused.
    #[error("the shop answered {0}: {1}")]
    Refused(u16, String),
    /// The shop's answer was not one.
    #[error("the shop's answer is not understood: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// The cluster cannot be used as the command line says.
    #[error("{0}")]
    Cluster(#[from] serving::Error),
    /// The cluster refused.
    #[error("{0}")]
    Log(#[from] log::Error),
    /// A replay could not be appended.
    #[error("{0}")]
    Append(#[from] AppendError),
    /// There is no such topic in the cluster.
    #[error("there is no dead-letter topic {0}")]
    UnknownTopic(String),
}

#[derive(Deserialize)]
struct Topics {
    topics: Vec<Topic>,
}

#[derive(Deserialize)]
struct Topic {
    topic: String,
    records: u64,
}

#[derive(Deserialize)]
struct Page {
    records: Vec<Value>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Replayed {
    matched: u64,
    replayed: u64,
}

/// Does what the command says and prints the result to standard output.
pub async fn run(command: &Dlq) -> Result<(), Error> {
    let (Dlq::List { place } | Dlq::Show { place, .. } | Dlq::Replay(Replay { place, .. })) = command;
    match &place.cluster {
        Some(cluster) => in_cluster(command, cluster).await,
        None => over_http(command, &place.remote.target()).await,
    }
}

async fn over_http(command: &Dlq, target: &Target) -> Result<(), Error> {
    match command {
        Dlq::List { .. } => {
            let answer: Topics = call(target, "GET", "/dlq", &[]).await?;
            print_topics(answer.topics.into_iter().map(|Topic { topic, records }| (topic, records)));
        }
        Dlq::Show { topic, limit, .. } => show(target, topic, limit.get()).await?,
        Dlq::Replay(Replay { topic, from, to, key, dry_run, .. }) => {
            let body = json!({"from": from, "to": to, "key": key, "dryRun": dry_run}).to_string();
            let answer: Replayed = call(target, "POST", &format!("/dlq/{topic}/replay"), body.as_bytes()).await?;
            print_replayed(&answer);
        }
    }
    Ok(())
}

/// The same without a running shop. What is replayed waits in the cluster for the workers.
async fn in_cluster(command: &Dlq, cluster: &Cluster) -> Result<(), Error> {
    let topology = topology::shared(&Settings::default()).map_err(serving::misconfigured)?;
    let letters = DeadLetters::new(topology, Arc::new(KafkaLog::open(cluster::kafka_config(cluster)?)?));
    match command {
        Dlq::List { .. } => print_topics(letters.topics()?),
        Dlq::Show { topic, limit, .. } => {
            let records = letters.read(topic, None, limit.get())?.ok_or_else(|| Error::UnknownTopic(topic.clone()))?;
            records.iter().for_each(|record| println!("{}", show_dead_letter(record)));
        }
        Dlq::Replay(Replay { topic, from, to, key, dry_run, .. }) => {
            let (from, to) = (from.map(Timestamp), to.map(Timestamp));
            let selection = Selection { from, to, key: key.clone().map(String::into_bytes) };
            let replayed = letters.replay(topic, &selection, *dry_run).await?;
            let millstream::Replayed { matched, replayed } = replayed.ok_or_else(|| Error::UnknownTopic(topic.clone()))?;
            print_replayed(&Replayed { matched, replayed });
        }
    }
    Ok(())
}

fn print_topics(topics: impl IntoIterator<Item = (String, u64)>) {
    topics.into_iter().for_each(|(topic, records)| println!("{records:>10} {topic}"));
}

fn print_replayed(Replayed { matched, replayed }: &Replayed) {
    println!("{matched} matched, {replayed} replayed");
}

async fn show(target: &Target, topic: &str, limit: usize) -> Result<(), Error> {
    let (mut left, mut after) = (limit, String::new());
    loop {
        let page: Page = call(target, "GET", &format!("/dlq/{topic}?limit={}{after}", left.min(200)), &[]).await?;
        for record in page.records.iter().take(left) {
            println!("{record}");
        }
        left = left.saturating_sub(page.records.len());
        match page.next {
            Some(next) if left > 0 => after = format!("&after={next}"),
            _ => return Ok(()),
        }
    }
}

async fn call<T: serde::de::DeserializeOwned>(target: &Target, method: &str, path: &str, body: &[u8]) -> Result<T, Error> {
    let mut request = Vec::new();
    target.write_request(&mut request, method, path, "", body);
    let unreachable = |error| Error::Unreachable(target.clone(), error);
    let mut connection = Connection::open(target).await.map_err(unreachable)?;
    let status = connection.send(&request).await.map_err(unreachable)?;
    if status >= 300 {
        return Err(Error::Refused(status, String::from_utf8_lossy(connection.body()).into_owned()));
    }
    Ok(serde_json::from_slice(connection.body())?)
}
