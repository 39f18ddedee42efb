//! `shop dlq`: looks at the dead letters of a running shop and has them replayed, over its HTTP API.

use std::io;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::{Dlq, Replay};
use crate::client::{Connection, Target};

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
    match command {
        Dlq::List { remote } => {
            let answer: Topics = call(&remote.target(), "GET", "/dlq", &[]).await?;
            for Topic { topic, records } in answer.topics {
                println!("{records:>10} {topic}");
            }
        }
        Dlq::Show { topic, limit, remote } => show(&remote.target(), topic, limit.get()).await?,
        Dlq::Replay(replay) => {
            let Replay { topic, from, to, key, dry_run, remote } = replay;
            let body = json!({"from": from, "to": to, "key": key, "dryRun": dry_run}).to_string();
            let answer: Replayed = call(&remote.target(), "POST", &format!("/dlq/{topic}/replay"), body.as_bytes()).await?;
            println!("{} matched, {} replayed", answer.matched, answer.replayed);
        }
    }
    Ok(())
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
