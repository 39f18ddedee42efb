//! A topic as a feed: the events of each of its keys in order, each with a sequence that it keeps, for whoever comes back to them. There is no
//! step between a record's commit and its being there: the sequence is the record's place in its partition.
//!
//! ```
//! # use millstream::{FeedEvent, Store, StreamBuilder, Topic};
//! # const IN: Topic<u64, String> = Topic::new("in");
//! const NEWS: Topic<u64, String> = Topic::new("news").partitions(3).retention_ms(172_800_000);
//! /// By user and sequence, for a day.
//! const HEARD: Store<(u64, u64), FeedEvent<String>> = Store::ordered("heard").ttl_ms(86_400_000);
//!
//! let mut builder = StreamBuilder::new("example");
//! builder.stream(&IN).to(&NEWS);
//! builder.feed(&NEWS, &HEARD);
//! # builder.build().unwrap();
//! ```

use std::marker::PhantomData;

use super::global_table::decode;
use crate::codec::{self, Codec, Data, Format, Presence};
use crate::error::ProcessError;
use crate::task::RecordRef;
use crate::task::context::encode;
use crate::task::global::{GlobalRows, Refused, Rows};

/// An event of a feed, stored by the pair of its key and its sequence, which is the record's offset and 1. So the sequences of a key grow, and
/// begin after 0; at 0 stands which was the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEvent<V> {
    /// The sequence of the key's event before this one, also if that is gone by now, or 0; where that is not known, one that it does not exceed.
    pub previous: u64,
    /// What happened; `None` at sequence 0.
    pub value: Option<V>,
}

/// The codec of events: eight bytes of the sequence before, big-endian, and unless it stands at 0, a byte 1 and the value.
#[derive(Debug)]
struct Event<V>(PhantomData<fn() -> V>);

const NAME: &str = "feed-event";

impl<V: Data> Data for FeedEvent<V> {
    const CODEC: &'static dyn Codec<FeedEvent<V>> = &Event(PhantomData);
}

/// The sequence before, and the bytes of the value.
fn split(bytes: &[u8]) -> Result<(u64, Option<&[u8]>), codec::Error> {
    let short = || codec::Error::invalid(NAME, "is cut off");
    let (previous, value) = bytes.split_first_chunk().ok_or_else(short)?;
    Ok((u64::from_be_bytes(*previous), value.split_first().map(|(_, value)| value)))
}

impl<V: Data> Format for Event<V> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn fingerprint(&self) -> String {
        format!("{NAME} of {}", V::CODEC.fingerprint())
    }

    fn to_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), codec::Error> {
        let (previous, value) = split(bytes)?;
        out.extend_from_slice(format!("{{\"previous\":{previous},\"value\":").as_bytes());
        match value {
            Some(value) => V::CODEC.to_json(value, out)?,
            None => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
        Ok(())
    }

    fn parse_text(&self, _: &str, _: &mut Vec<u8>) -> Result<(), codec::Error> {
        Err(codec::Error::invalid(NAME, "is not written as text"))
    }
}

impl<V: Data> Codec<FeedEvent<V>> for Event<V> {
    fn encode(&self, event: &FeedEvent<V>, out: &mut Vec<u8>) -> Result<Presence, codec::Error> {
        out.extend_from_slice(&event.previous.to_be_bytes());
        match &event.value {
            None => Ok(Presence::Present),
            Some(value) => {
                out.push(1);
                V::CODEC.encode(value, out)
            }
        }
    }

    fn decode(&self, bytes: Option<&[u8]>) -> Result<FeedEvent<V>, codec::Error> {
        let (previous, value) = split(codec::present(bytes, NAME)?)?;
        Ok(FeedEvent { previous, value: value.map(|value| V::CODEC.decode(Some(value))).transpose()? })
    }
}

/// Reads the topic's records by its codecs, and writes rows by those of the types.
pub(crate) struct FeedReader<K: 'static, V: 'static> {
    pub(crate) key: &'static dyn Codec<K>,
    pub(crate) value: &'static dyn Codec<V>,
}

impl<K: Data, V: Data> GlobalRows for FeedReader<K, V> {
    fn take_in(&self, record: &RecordRef<'_>, rows: &mut Rows<'_>) -> Result<(), Refused> {
        if record.key.is_none() {
            return Ok(());
        }
        let (subject, value) = (decode(self.key, "key", record.key)?, decode(self.value, "value", record.value)?);
        let sequence = record.offset.0 + 1;
        let (mut last, mut place, mut row) = (Vec::new(), Vec::new(), Vec::new());
        let place_of = |sequence: u64, out: &mut Vec<u8>| -> Result<(), ProcessError> {
            *out = codec::prefix(&subject).map_err(|error| ProcessError::failed(format_args!("a key {error}")))?;
            encode(u64::CODEC, "key", &sequence, out).map(drop)
        };
        place_of(0, &mut last)?;
        place_of(sequence, &mut place)?;
        let known = rows.get(&last)?.map(|row| split(&row).map(|(last, _)| last)).transpose();
        let previous = known.map_err(|error| ProcessError::failed(format_args!("a stored event {error}")))?;
        // What is known to be there was taken in before, and knows better what was before it.
        if previous.is_some_and(|last| sequence <= last) {
            return Ok(());
        }
        let event = FeedEvent { previous: previous.unwrap_or(rows.begin.0), value: Some(value) };
        if encode(<FeedEvent<V>>::CODEC, "value", &event, &mut row)? {
            rows.put(&place, &row);
            rows.put_for_good(&last, &sequence.to_be_bytes());
        }
        Ok(())
    }
}
