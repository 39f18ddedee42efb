//! The parts of a watch: what some tasks of a store hold and how it changes, told by the process that has them. Here it is read and watched;
//! from elsewhere it comes over a connection, as the same [`News`] in the data of server-sent events.
//!
//! **Invariant.** A part tells all rows that there are at a position, then every change after it, or it ends. It ends when a task has gone from its
//! process even for a moment, for then changes may have passed that were told to nobody.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::ACCEPT;
use millstream_state::{Direction, Range};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::super::events::{Event, Events};
use super::super::peers::{Peers, Refusal};
use super::gather::{Coded, Forwarded};
use crate::log;
use crate::record::Offset;
use crate::runtime::{Handle, QueryError, TaskPlace, View, Watched};

/// How many rows are read at a time.
const PAGE: usize = 100;
/// How much news a part may be ahead of who shows it.
const AHEAD: usize = 16;
/// How often it is looked whether a process that follows a task has come to a position.
const LOOK: Duration = Duration::from_millis(50);
/// How often a process tells another that it is still there, if there is nothing else to tell.
const STILL: Duration = Duration::from_secs(5);
/// After so long without a word from a process its part is looked for anew.
const SILENCE: Duration = Duration::from_secs(20);

/// What a part tells. Partitions and positions are numbers, as in the answers to clients.
#[derive(Serialize, Deserialize)]
pub(super) enum News {
    /// The rows that these partitions hold, each at its position, come now.
    Begins(Vec<(u32, u64)>),
    /// One of them.
    Row { partition: u32, key: Coded, value: Coded },
    /// These were all rows of these partitions at those positions; what comes now has changed since.
    Current(Vec<(u32, u64)>),
    /// A committed change.
    Changed { partition: u32, position: u64, key: Coded, value: Option<Coded> },
    /// Nothing has changed for a while.
    Still,
}

/// Where parts put what they tell. Its error says that nobody listens any more, and then the part is dropped with it.
pub(super) type Teller = mpsc::Sender<News>;

pub(super) fn channel() -> (Teller, mpsc::Receiver<News>) {
    mpsc::channel(AHEAD)
}

/// How a part has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It could not begin there. The process is to be left alone for so long, if it says so.
    Unreached(Option<Duration>),
    /// It is to be begun anew, there or elsewhere.
    Anew,
    /// The application has stopped.
    Over,
}

/// Tasks, and the position that is known of each: the part begins there or later.
pub(super) type Known = Vec<(TaskPlace, Offset)>;

/// Which of their times here this is for tasks that can all be read here.
pub(super) fn readable_since(application: &Handle, tasks: &Known) -> Option<Vec<u64>> {
    tasks.iter().map(|(task, _)| application.readable_since(*task)).collect()
}

/// Tells of tasks that this process has.
pub(super) async fn here(
    application: Handle,
    view: View,
    watched: Watched,
    tasks: Known,
    news: Teller,
) -> Result<Ended, QueryError> {
    let mut moves = application.moves();
    let Some(since) = readable_since(&application, &tasks) else { return Ok(Ended::Unreached(None)) };
    let told = async {
        // A process that follows a task may not have come so far.
        for (task, known) in tasks.clone() {
            while !has_come_to(&view, task, known).await? {
                sleep(LOOK).await;
            }
        }
        tell(&view, &watched, &tasks, &news).await
    };
    let gone = async {
        while readable_since(&application, &tasks).as_ref() == Some(&since) {
            // The other end is the application's, which lives as long as its handle.
            let _ = moves.changed().await;
        }
    };
    let outcome = tokio::select! {
        biased;
        () = gone => return Ok(Ended::Anew),
        outcome = told => outcome,
    };
    match outcome {
        // The log repairs itself, or the task has gone since.
        Err(QueryError::Log(log::Error::Closed)) => Ok(Ended::Over),
        Err(QueryError::Log(error)) if error.is_retriable() => Ok(Ended::Anew),
        Err(QueryError::Elsewhere { .. }) => Ok(Ended::Anew),
        outcome => outcome,
    }
}

async fn has_come_to(view: &View, task: TaskPlace, known: Offset) -> Result<bool, QueryError> {
    let view = view.clone();
    tokio::task::spawn_blocking(move || view.has_come_to(task, known)).await.expect("a look does not panic")
}

async fn tell(view: &View, watched: &Watched, tasks: &Known, news: &Teller) -> Result<Ended, QueryError> {
    let mut watch = view.watch(watched.clone());
    let key = match watched {
        Watched::Key(key) => Some(&key[..]),
        Watched::Prefix(_) => None,
    };
    let (mut begins, mut rows) = (Vec::new(), Vec::new());
    for (task, _) in tasks {
        let stand = view.stands_at(*task, key)?.durable().await?;
        begins.push((task.1, stand.position.0));
        let row = key.zip(stand.value).map(|(key, value)| (task.1, key.to_vec().into(), value));
        rows.extend(row);
    }
    // Where nobody listens any more, this is dropped with the one who did.
    let say = async |one| drop(news.send(one).await);
    say(News::Begins(begins.clone())).await;
    for (partition, key, value) in rows {
        say(News::Row { partition, key: Coded(key), value: Coded(value) }).await;
    }
    if let Watched::Prefix(prefix) = watched {
        let all = Range::prefix(prefix);
        for (task, _) in tasks {
            let (part, mut range) = (view.of(*task), all.clone());
            loop {
                let page = part.page(&range, Direction::Forward, PAGE)?.durable().await?;
                let last = page.last().filter(|_| page.len() == PAGE).map(|(key, _)| key.clone());
                for (key, value) in page {
                    say(News::Row { partition: task.1, key: Coded(key), value: Coded(value) }).await;
                }
                let Some(last) = last else { break };
                range = Range::new(Bound::Excluded(&last), all.bounds().1);
            }
        }
    }
    say(News::Current(begins.clone())).await;
    while let Some(change) = watch.next().await {
        let partition = change.partition.0;
        // Of another part, or among the rows already.
        if begins.iter().any(|(of, end)| *of == partition && change.position.0 > *end) {
            let value = view.changed_value(&change).map(Coded);
            say(News::Changed { partition, position: change.position.0, key: Coded(change.key.clone()), value }).await;
        }
    }
    Ok(if watch.lagged() { Ended::Anew } else { Ended::Over })
}

/// Tells of tasks that another process has, which are named with their positions as `asked_for` reads them.
pub(super) async fn there(peers: Arc<Peers>, endpoint: String, forwarded: Forwarded, tasks: String, news: Teller) -> Ended {
    let request = forwarded.build(&tasks).header(ACCEPT, "text/event-stream");
    let mut lines = match peers.open(&endpoint, request, forwarded.deadline()).await {
        Ok(lines) => lines,
        Err(Refusal { why, retry_after }) => {
            tracing::debug!(why, "a part of a watch is looked for elsewhere");
            return Ended::Unreached(retry_after);
        }
    };
    while let Ok(Some(line)) = timeout(SILENCE, lines.next()).await {
        let Some(data) = line.strip_prefix(b"data: ") else { continue };
        match serde_json::from_slice(data) {
            Ok(one) => drop(news.send(one).await),
            Err(error) => {
                tracing::warn!(endpoint, %error, "a process tells of a watch what is not understood here");
                return Ended::Unreached(None);
            }
        }
    }
    Ended::Anew
}

/// Sends a part to the process that has asked for it, until it ends.
pub(super) async fn pass(application: Handle, view: View, watched: Watched, tasks: Known, mut events: Events) {
    let (teller, mut news) = channel();
    let name = view.name().to_owned();
    let mut part = std::pin::pin!(here(application, view, watched, tasks, teller));
    loop {
        let one = tokio::select! {
            biased;
            Some(one) = news.recv() => one,
            outcome = &mut part => return if let Err(error) = outcome {
                tracing::error!(store = name, %error, "a part of a watch ends");
            },
            () = sleep(STILL) => News::Still,
        };
        let data = serde_json::to_vec(&one).expect("news has JSON");
        events.send(&Event::new("news", &data)).await;
    }
}
