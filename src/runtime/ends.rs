//! Where topics end now, and how far the application's tasks have read them, wherever they run. Of a log in this process that is known at once;
//! a log elsewhere is asked, and all who want to know while one question is on its way share the next: each answer is of after it was asked for.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Shared;
use crate::log;
use crate::record::{Offset, Partition};
use crate::topology::TopicIndex;

/// An offset of every partition of some topics.
pub(super) type TopicEnds = HashMap<TopicIndex, Vec<(Partition, Offset)>>;

/// How long to rest when the log cannot be asked, and how often to look whether to stop.
const PAUSE: Duration = Duration::from_millis(20);
const LOOK: Duration = Duration::from_millis(100);

/// What is asked of topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Where they end.
    End,
    /// How far they are read: what the group shows.
    Read,
}

pub(super) struct Question {
    what: What,
    topics: BTreeSet<TopicIndex>,
    answer: oneshot::Sender<TopicEnds>,
}

/// Where ends are asked for, if the log is elsewhere.
#[derive(Default)]
pub(crate) struct Ends(Mutex<Option<Sender<Question>>>);

impl Ends {
    /// From now on a thread answers that [`run`]s with the other end of this queue.
    pub(super) fn ask_through(&self, questions: Sender<Question>) {
        *self.0.lock() = Some(questions);
    }

    /// Nobody answers any more.
    pub(super) fn close(&self) {
        *self.0.lock() = None;
    }
}

impl Shared {
    /// Where these topics end now; without an answer as long as the log cannot be asked.
    pub(super) async fn ends(&self, topics: impl IntoIterator<Item = TopicIndex>) -> TopicEnds {
        let topics: BTreeSet<TopicIndex> = topics.into_iter().collect();
        if self.embedded.is_some() {
            // It fails only when it is closed, which ends everything.
            return self.ends_at_once(&topics).unwrap_or_default();
        }
        self.ask(What::End, topics).await
    }

    /// How far the tasks of all processes have read these topics; without an answer as long as the log cannot be asked.
    pub(super) async fn read_anywhere(&self, topics: BTreeSet<TopicIndex>) -> TopicEnds {
        self.ask(What::Read, topics).await
    }

    async fn ask(&self, what: What, topics: BTreeSet<TopicIndex>) -> TopicEnds {
        let (answer, answered) = oneshot::channel();
        let asked = self.ends.0.lock().as_ref().map(|questions| questions.send(Question { what, topics, answer }));
        match (asked, answered.await) {
            (Some(Ok(())), Ok(ends)) => ends,
            // The application stops.
            _ => std::future::pending().await,
        }
    }

    /// The same for a thread that may block.
    pub(super) fn ends_at_once(&self, topics: &BTreeSet<TopicIndex>) -> Result<TopicEnds, log::Error> {
        self.at_once(What::End, topics)
    }

    fn at_once(&self, what: What, topics: &BTreeSet<TopicIndex>) -> Result<TopicEnds, log::Error> {
        let partitions = |topic: &TopicIndex| {
            let topic = *topic;
            (0..self.topics[topic.0].partitions).map(move |p| (topic, Partition(p)))
        };
        let places: Vec<(TopicIndex, Partition)> = topics.iter().flat_map(partitions).collect();
        let asked: Vec<_> = places.iter().map(|(topic, partition)| (self.topics[topic.0].id, *partition)).collect();
        let offsets = match what {
            What::End => self.log.open_ends(&asked)?,
            What::Read => self.log.read_so_far(&self.group, &asked)?,
        };
        let mut ends = TopicEnds::new();
        for ((topic, partition), end) in places.into_iter().zip(offsets) {
            ends.entry(topic).or_default().push((partition, end));
        }
        Ok(ends)
    }
}

/// Answers until the application stops.
pub(super) fn run(shared: &Shared, questions: &Receiver<Question>) {
    while !shared.stopping.load(Ordering::Acquire) {
        let mut waiting = match questions.recv_timeout(LOOK) {
            Ok(first) => vec![first],
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        waiting.extend(questions.try_iter());
        while !waiting.is_empty() && !shared.stopping.load(Ordering::Acquire) {
            let what = waiting[0].what;
            let alike = |question: &Question| question.what == what;
            let topics = waiting.iter().filter(|question| alike(question)).flat_map(|question| question.topics.iter().copied());
            match shared.at_once(what, &topics.collect()) {
                Ok(ends) => {
                    for Question { topics, answer, .. } in waiting.extract_if(.., |question| alike(question)) {
                        let own = topics.iter().map(|topic| (*topic, ends.get(topic).cloned().unwrap_or_default()));
                        // Who has gone does not need it.
                        drop(answer.send(own.collect()));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the ends of topics are not known for now");
                    shared.log.wait(shared.log.version(), PAUSE);
                    waiting.retain(|question| !question.answer.is_closed());
                }
            }
        }
    }
    shared.ends.close();
}
