//! Parked rows that somebody gave back: read from the relay's replay topic, and made rows again. How far that is read lies in the log, written in
//! the transaction of what came of it, so that a replay is carried out once.

use millstream::codec::{Data, Json};
use millstream::{AppendError, Failure, Handle, Offset, Partition, Topic};

use super::table::{Columns, Row};

/// How far the replays were carried out, by the name of the relay.
pub const REPLAYED: Topic<String, u64> = Topic::with_codecs("shop.cdc-replayed", String::CODEC, &Json).compacted();

/// How much is read at once, in bytes.
const FETCH_BYTES: usize = 1 << 20;

/// What was given back.
pub struct Replays {
    /// The rows, or why a letter is none, in order.
    pub rows: Vec<Result<Row, String>>,
    /// Where to go on.
    pub next: u64,
}

/// What was given back to the relay of a table since it was looked last, if there is anything. Blocks.
///
/// # Errors
/// If the log cannot be read.
pub fn read(app: &Handle, part: &str, relay: &String, table: &str, columns: &Columns) -> Result<Option<Replays>, AppendError> {
    let Some(topic) = app.log().topic(&app.replay_topic(part))? else { return Ok(None) };
    let bounds = app.log().bounds(topic.id, Partition(0))?;
    if bounds.end == Offset(0) {
        return Ok(None);
    }
    let from = Offset(app.last(&REPLAYED, relay)?.unwrap_or(0)).max(bounds.start);
    if from >= bounds.end {
        return Ok(None);
    }
    let fetched = app.log().fetch(topic.id, Partition(0), from, FETCH_BYTES)?;
    let mut rows = Vec::new();
    for record in fetched.batches.iter().flat_map(|batch| batch.records_from(from)) {
        match Failure::read(&record) {
            Some((failure, headers)) if failure.topic == table => rows.push(match headers.get("piece") {
                None => Row::from_json(record.value.unwrap_or_default(), columns),
                Some(_) => Err("a row that was parked in pieces cannot be replayed".to_owned()),
            }),
            // Another table's relay sees to it.
            Some(_) | None => {}
        }
    }
    Ok(Some(Replays { rows, next: fetched.next.0 }))
}
