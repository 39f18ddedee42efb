//! Dead letters: a record that could not be processed, as it was, with headers that say why and where.
//!
//! Header names begin as KIP-1034's do; `application`, `node` and `timestamp` are added in the same manner.

use crate::error::ProcessError;
use crate::log::{Error, Limits, RecordRef, TopicInfo};
use crate::record::{Headers, Offset, Partition, Timestamp};

/// The names of the headers.
pub(crate) mod headers {
    pub(crate) const PREFIX: &str = "__streams.errors.";
    pub(crate) const EXCEPTION: &str = "__streams.errors.exception";
    pub(crate) const MESSAGE: &str = "__streams.errors.message";
    pub(crate) const TOPIC: &str = "__streams.errors.topic";
    pub(crate) const PARTITION: &str = "__streams.errors.partition";
    pub(crate) const OFFSET: &str = "__streams.errors.offset";
    pub(crate) const TIMESTAMP: &str = "__streams.errors.timestamp";
    pub(crate) const APPLICATION: &str = "__streams.errors.application";
    pub(crate) const NODE: &str = "__streams.errors.node";
    /// `timer` or `punctuation` where it was no record that failed, `part` where a part of the program beside the topology parked it.
    pub(crate) const EVENT: &str = "__streams.errors.event";
    /// The node that had set the timer.
    pub(crate) const TIMER: &str = "__streams.errors.timer";
    /// When the timer was to fire.
    pub(crate) const TIMER_TIME: &str = "__streams.errors.timer.time";
    /// How many bytes the letter would have with the record's value and headers, which are not in it.
    pub(crate) const OMITTED: &str = "__streams.errors.omitted";
}

/// The longest message that is kept, in bytes.
const MESSAGE_BYTES: usize = 1_000;
/// The longest name that is kept, in bytes; names of topics are shorter.
const NAME_BYTES: usize = 250;
/// What the headers of a dead letter take at most, in bytes: the log takes records that are larger by so much than any that it is given
/// from outside or by an operator, so that each can be parked as it is.
pub(crate) const ROOM: usize = 4 << 10;

/// As much of a text as fits, in whole characters.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// What stands for the kind of failure where the application itself refused the record.
pub(super) const REJECTED: &str = "Rejected";

/// What failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A record.
    Record,
    /// A record that a part of the program beside the topology could not process: the node is the part's name.
    Part,
    /// A timer, whose key is the letter's.
    Timer {
        /// The node that had set it.
        node: String,
        /// When it was to fire.
        at: Timestamp,
    },
    /// A punctuator, which runs again at its next time anyway.
    Punctuation,
}

/// Where a record failed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    /// The kind of failure: `Undecodable`, `Unwritable`, `TooFarAhead` or `Failed`; or [`REJECTED`].
    pub exception: String,
    /// The cause in words.
    pub message: String,
    /// The application that could not process it.
    pub application: String,
    /// The node of its topology that failed.
    pub node: String,
    /// The topic that the record was read from.
    pub topic: String,
    /// Its partition.
    pub partition: Partition,
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// Its own headers.
    pub original: Headers,
    /// What failed: where it was no record, the place is that of the last one before it.
    pub event: Event,
    /// How many bytes the letter would have with the record's value and headers, where they are not in it.
    pub omitted: Option<usize>,
}

/// The key, the value and the headers of a dead letter.
pub(crate) type Written<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, Headers);

/// How large a record is and may be, if it is too large for a topic.
fn beyond(topic: &TopicInfo, key: Option<&[u8]>, value: Option<&[u8]>, headers: &Headers) -> Option<(usize, usize)> {
    let limits = Limits { max_record_bytes: usize::MAX };
    match limits.check(topic, Partition(0), Timestamp(0), key, value, headers) {
        Err(Error::RecordTooLarge { bytes, max, .. }) => Some((bytes, max)),
        _ => None,
    }
}

/// The name of the kind of failure.
pub(super) fn exception(error: &ProcessError) -> &'static str {
    match error {
        ProcessError::Undecodable { .. } => "Undecodable",
        ProcessError::Unwritable(_) => "Unwritable",
        ProcessError::Failed(_) => "Failed",
        ProcessError::TooFarAhead { .. } => "TooFarAhead",
        ProcessError::State(_) => "State",
    }
}

impl DeadLetter {
    /// The record's own headers and those that say why it is here.
    pub(crate) fn to_headers(&self) -> Headers {
        let headers = self
            .original
            .clone()
            .with(headers::EXCEPTION, self.exception.as_str())
            .with(headers::MESSAGE, cut(&self.message, MESSAGE_BYTES))
            .with(headers::TOPIC, self.topic.as_str())
            .with(headers::PARTITION, self.partition.to_string())
            .with(headers::OFFSET, self.offset.to_string())
            .with(headers::TIMESTAMP, self.timestamp.to_string())
            .with(headers::APPLICATION, self.application.as_str())
            .with(headers::NODE, cut(&self.node, NAME_BYTES));
        let headers = match self.omitted {
            Some(bytes) => headers.with(headers::OMITTED, bytes.to_string()),
            None => headers,
        };
        match &self.event {
            Event::Record => headers,
            Event::Part => headers.with(headers::EVENT, "part"),
            Event::Timer { node, at } => headers
                .with(headers::EVENT, "timer")
                .with(headers::TIMER, cut(node, NAME_BYTES))
                .with(headers::TIMER_TIME, at.to_string()),
            Event::Punctuation => headers.with(headers::EVENT, "punctuation"),
        }
    }

    /// The letter of a record, as the topic takes it: where it is too large, without the record's value and headers, which then are only where
    /// the record was read, for as long as they are kept there. That is larger than anything this library lets into a topic that it has made.
    pub(crate) fn write<'a>(&self, key: Option<&'a [u8]>, value: Option<&'a [u8]>, topic: &TopicInfo) -> Written<'a> {
        let headers = self.to_headers();
        let Some((bytes, max)) = beyond(topic, key, value, &headers) else { return (key, value, headers) };
        let message =
            format!("value and headers are only where it was read, for {bytes} bytes are more than {max}: {}", self.message);
        let rest = DeadLetter { message, original: Headers::EMPTY, omitted: Some(bytes), ..self.clone() };
        let headers = rest.to_headers();
        let key = key.filter(|key| beyond(topic, Some(key), None, &headers).is_none());
        tracing::error!(
            topic = self.topic,
            partition = self.partition.0,
            offset = self.offset.0,
            "a record is too large for {}, which takes {max} bytes: its dead letter says only where it is",
            topic.name
        );
        (key, None, headers)
    }

    /// Reads a record of a dead-letter topic back; `None` if it is not one that an engine wrote.
    pub(crate) fn from_record(record: &RecordRef<'_>) -> Option<DeadLetter> {
        let all = record.headers.to_headers();
        let text = |name| all.get(name).and_then(|value| std::str::from_utf8(value).ok()).map(str::to_owned);
        let event = match text(headers::EVENT).as_deref() {
            None => Event::Record,
            Some("part") => Event::Part,
            Some("timer") => {
                Event::Timer { node: text(headers::TIMER)?, at: Timestamp(text(headers::TIMER_TIME)?.parse().ok()?) }
            }
            Some("punctuation") => Event::Punctuation,
            Some(_) => return None,
        };
        Some(DeadLetter {
            exception: text(headers::EXCEPTION)?,
            message: text(headers::MESSAGE)?,
            application: text(headers::APPLICATION)?,
            node: text(headers::NODE)?,
            topic: text(headers::TOPIC)?,
            partition: Partition(text(headers::PARTITION)?.parse().ok()?),
            offset: Offset(text(headers::OFFSET)?.parse().ok()?),
            timestamp: Timestamp(text(headers::TIMESTAMP)?.parse().ok()?),
            event,
            omitted: text(headers::OMITTED).and_then(|bytes| bytes.parse().ok()),
            original: all.iter().filter(|(name, _)| !name.starts_with(headers::PREFIX)).collect(),
        })
    }
}
