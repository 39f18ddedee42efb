//! Many transactions made into one write: offsets given, appends to the same partition put together, requests seen before turned
//! away. Nothing here writes; what comes out is a write batch, and what to publish and answer once it is written or durable.

use super::layout::{self, EndRow, Place};
use super::partition::{TailBudget, Topics, Written};
use super::queue::{Answer, Job, Outcome, Told};
use super::store::Store;
use crate::log::{Committed, Error, Moment, RecordBatch, StoredBatch, Transaction};
use crate::{Offset, Timestamp};
use rocksdb::WriteBatch;
use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::Arc;

/// A group on its way.
#[derive(Debug)]
pub(super) struct Group {
    at: Moment,
    parts: Vec<Part>,
    part_of: FxHashMap<Place, usize>,
    requests: FxHashSet<Vec<u8>>,
    answers: Vec<(Answer, Outcome, Told)>,
    /// Why a request could not be looked up, if so.
    pub unread: Option<Arc<str>>,
}

/// What one partition gets.
#[derive(Debug)]
struct Part {
    place: Place,
    base: u64,
    end: EndRow,
    batches: Vec<RecordBatch>,
}

/// What to publish once it is written.
pub(super) type Publication = Vec<(Place, EndRow, StoredBatch)>;

impl Group {
    pub(super) fn new(at: Moment) -> Group {
        Group {
            at,
            parts: Vec::new(),
            part_of: FxHashMap::default(),
            requests: FxHashSet::default(),
            answers: Vec::new(),
            unread: None,
        }
    }

    /// Takes a transaction in, and puts its offsets and its request into `write`.
    pub(super) fn add(&mut self, job: Job, topics: &Topics, store: &Store, now: Timestamp, write: &mut WriteBatch) {
        if let Some(request) = &job.transaction.request {
            let refusal = match self.is_carried_out(&request.key, store, now) {
                Ok(false) => None,
                Ok(true) => Some(Error::RequestExists),
                Err(error) => {
                    let cause: Arc<str> = error.to_string().into();
                    self.unread = Some(Arc::clone(&cause));
                    Some(Error::Unavailable { cause })
                }
            };
            if let Some(error) = refusal {
                // Answered with the others: the first one of this key may be in this very group, and is not durable before.
                self.answers.push((job.answer, Err(error), Told::Durable));
                return;
            }
        }
        let Transaction { appends, offsets, request } = job.transaction;
        let mut positions = Vec::with_capacity(appends.len());
        for append in appends {
            let offset = self.append((append.topic, append.partition), append.batch, topics);
            positions.push((append.topic, append.partition, offset));
        }
        if let Some(read) = offsets {
            for (topic, partition, offset) in &read.offsets {
                write.put(layout::group_key(&read.group, (*topic, *partition)), offset.0.to_le_bytes());
            }
        }
        if let Some(request) = request {
            let family = store.family(layout::REQUESTS);
            write.put_cf(family, layout::request_key(&request.key), layout::request_row(&request, &positions));
            write.put_cf(family, layout::expiry_key(request.expires_at, &request.key), []);
            self.requests.insert(request.key);
        }
        let base_offsets = positions.into_iter().map(|(_, _, offset)| offset).collect();
        self.answers.push((job.answer, Ok(Committed { base_offsets, at: self.at }), job.told));
    }

    fn is_carried_out(&self, key: &[u8], store: &Store, now: Timestamp) -> Result<bool, Error> {
        if self.requests.contains(key) {
            return Ok(true);
        }
        let Some(row) = store.get(layout::REQUESTS, &layout::request_key(key))? else { return Ok(false) };
        let expires_at = layout::request_expiry(&row);
        Ok(expires_at.ok_or_else(|| store.damaged(format!("request {} can't be read", key.escape_ascii())))? > now)
    }

    fn append(&mut self, place: Place, batch: RecordBatch, topics: &Topics) -> Offset {
        let index = *self.part_of.entry(place).or_insert_with(|| {
            let end = topics.state(place).expect("the partition was checked before the transaction was queued").lock().end;
            self.parts.push(Part { place, base: end.end, end, batches: Vec::new() });
            self.parts.len() - 1
        });
        let part = &mut self.parts[index];
        let offset = Offset(part.end.end);
        part.end.end += batch.len() as u64;
        if !batch.is_empty() {
            part.batches.push(batch);
        }
        offset
    }

    /// Puts the records into `write`.
    pub(super) fn finish(&mut self, topics: &Topics, store: &Store, now: Timestamp, write: &mut WriteBatch) -> Publication {
        let mut publication = Vec::with_capacity(self.parts.len());
        for Part { place, base, mut end, batches } in self.parts.drain(..).filter(|part| !part.batches.is_empty()) {
            let span = u32::try_from(end.end - base).expect("the bytes of a group are bounded far below this many records");
            let batch = StoredBatch::concat(Offset(base), span, now, &batches);
            end.appended += batch.stored_bytes() as u64;
            let topic = topics.get(place.0).expect("the topic was found before");
            let family = store.family(layout::batches_of(topic.info.cleanup));
            write.put_cf(family, layout::batch_key(place, Offset(base)), batch.value());
            write.put(layout::place_key(layout::END, place), end.encode());
            publication.push((place, end, batch));
        }
        // Also of a group that writes nothing else: what is durable is found again by this number.
        write.put(layout::WRITE, self.at.0.to_le_bytes());
        publication
    }

    /// Those who are told their outcome now that the group is written, and those who are told once it is durable.
    pub(super) fn into_answers(self) -> [Vec<(Answer, Outcome)>; 2] {
        let (written, durable): (Vec<_>, Vec<_>) = self.answers.into_iter().partition(|(.., told)| *told == Told::Written);
        [written, durable].map(|answers| answers.into_iter().map(|(answer, outcome, _)| (answer, outcome)).collect())
    }

    /// How many transactions there are.
    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }
}

/// Makes a written group readable for the members.
pub(super) fn publish(publication: Publication, topics: &Topics, tails: &mut TailBudget) -> Vec<Written> {
    publication.into_iter().map(|(place, end, batch)| tails.publish(topics, place, end, batch)).collect()
}
