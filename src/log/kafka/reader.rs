//! Reading a partition outside of a group: changelogs to restore, dead letters, whatever a program looks at. All readers of a process share
//! two clients, one for what is read to an end and one for what is followed: a client asks for all its partitions at once, and whoever begins
//! to read would wait until the brokers have answered that nothing has come to those which are followed. A partition that is read in order
//! keeps its place between fetches, and one that nobody reads any more is let go, as is the client of those that are read to an end.

use super::super::batch::RecordBatch;
use super::super::{Bounds, Error, Fetched, StoredBatch, TopicId, TopicInfo};
use super::cluster::{Cluster, client};
use super::config::Until;
use super::error;
use super::native::{Client, Consuming, Failure, Isolation, Kind, Message, Queue, Wake};
use super::topics::Topics;
use crate::{Offset, Partition, Timestamp};
use parking_lot::Mutex;
use rdkafka::types::RDKafkaErrorCode as Code;
use rustc_hash::FxHashMap;
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a broker has for records that must be there.
const PATIENCE: Duration = Duration::from_secs(10);
/// A partition that was not read for this long is let go, with what was fetched ahead: one that is followed, and one that is read to an end.
const IDLE: Duration = Duration::from_secs(10);
const IDLE_AT_END: Duration = Duration::from_secs(3);
/// A broker that has records which can be read gives them within this time.
const QUIET: Duration = Duration::from_millis(150);
/// The pause before it is asked again for the end of a commit that is decided and not marked yet.
const SOON: Duration = Duration::from_millis(1);

/// All readers of a process.
#[derive(Default)]
pub(super) struct Readers {
    fetching: Mutex<Option<Arc<Client>>>,
    following: Mutex<Option<Arc<Client>>>,
    open: Mutex<FxHashMap<(TopicId, Partition), Arc<Mutex<Option<Reader>>>>>,
}

/// One partition that is being read.
struct Reader {
    reading: Reading,
    // In this order: a client ends only after everything that refers to it.
    _consuming: Consuming,
    queue: Queue,
    /// Something may have come since it was last looked.
    ready: Arc<AtomicBool>,
    client: Arc<Client>,
    /// The partition's committed end, as it was asked for last: there is something before it.
    committed: Offset,
    until: Until,
    used: Instant,
}

impl Until {
    fn idle(self) -> Duration {
        match self {
            Until::End => IDLE_AT_END,
            Until::Dropped => IDLE,
        }
    }
}

/// The place of a reader in its partition, and what it learns there.
pub(super) struct Reading {
    pub(super) topic: Arc<str>,
    pub(super) topic_c: CString,
    pub(super) partition: i32,
    /// Where the next record lies, or after it.
    pub(super) next: i64,
    /// The end that the broker said was reached, once.
    eof: Option<i64>,
    /// The end as far as known.
    end: i64,
    /// What came in the place of a record, after those that were taken before it.
    failed: Option<Code>,
    /// The place of the last such.
    failed_at: Option<i64>,
    /// When a record came last.
    quiet_since: Instant,
}

impl Reading {
    pub(super) fn new(topic: &TopicInfo, partition: Partition, from: Offset, end: i64) -> Reading {
        let topic_c = CString::new(&*topic.name).unwrap_or_default();
        let (partition, next) = (partition.0 as i32, from.0 as i64);
        Reading {
            topic: Arc::clone(&topic.name),
            topic_c,
            partition,
            next,
            eof: None,
            end,
            failed: None,
            failed_at: None,
            quiet_since: Instant::now(),
        }
    }

    /// Begins anew, elsewhere.
    pub(super) fn go_to(&mut self, from: Offset) {
        (self.next, self.eof) = (from.0 as i64, None);
        (self.failed, self.failed_at, self.quiet_since) = (None, None, Instant::now());
    }

    /// Takes what is in the queue, up to about `max_bytes`, and says whether there may be more.
    ///
    /// # Errors
    /// What stands in the place of a record.
    pub(super) fn take(
        &mut self,
        client: &Client,
        queue: &Queue,
        max_bytes: usize,
    ) -> Result<(Option<StoredBatch>, bool), Failure> {
        let mut batch = Batch::default();
        let mut more = true;
        while more && self.failed.is_none() && batch.bytes() < max_bytes.max(1) {
            // The records of a batch are about equally large, so this stops near the limit.
            let room = max_bytes.saturating_sub(batch.bytes()) / batch.record_bytes();
            let taken = queue.consume(room.clamp(1, 512), Duration::ZERO, |message| match message.error() {
                None => batch.push(&message),
                Some(Code::PartitionEOF) => self.eof = Some(message.offset()),
                Some(code) => (self.failed, self.failed_at) = (Some(code), Some(message.offset())),
            });
            more = taken > 0;
        }
        // Markers and aborted records have offsets too. Only what was consumed since the reader is here counts.
        // librdkafka counts what comes in the place of a record as a record at that offset, as its message that the end is reached.
        let is_record = |at: i64| ![self.eof, self.failed_at].contains(&Some(at));
        let passed = client.position(&self.topic, self.partition).filter(|at| is_record(at - 1));
        self.next = self.next.max(batch.next).max(passed.unwrap_or(0)).max(self.eof.unwrap_or(0));
        if batch.records.is_some() {
            self.quiet_since = Instant::now();
        }
        if let Some(end) = client.last_seen_end(&self.topic_c, self.partition) {
            self.end = self.end.max(end);
        }
        match batch.finish() {
            None => self.failed.take().map_or(Ok((None, more)), |code| Err(code.into())),
            batch => Ok((batch, more)),
        }
    }

    /// The end as far as known: where the reader is, if there is no more to read. Open transactions lie behind that, and nothing
    /// tells where they begin but that no record comes.
    pub(super) fn end(&self) -> i64 {
        let quiet = self.eof == Some(self.next) || self.quiet_since.elapsed() > QUIET;
        if quiet { self.next } else { self.end.max(self.next) }
    }
}

/// Records on their way into a stored batch.
#[derive(Default)]
struct Batch {
    records: Option<RecordBatch>,
    base: i64,
    next: i64,
    latest: i64,
}

impl Batch {
    fn bytes(&self) -> usize {
        self.records.as_ref().map_or(0, |records| records.bytes().len())
    }

    /// How large a record is about to be, as far as one can tell.
    fn record_bytes(&self) -> usize {
        self.records.as_ref().map_or(16 << 10, |records| records.bytes().len() / records.len().max(1) + 1)
    }

    fn push(&mut self, message: &Message<'_>) {
        let offset = message.offset();
        if self.records.is_none() {
            (self.base, self.next) = (offset, offset);
        }
        let records = self.records.get_or_insert_with(|| StoredBatch::fill(4096));
        // A record without a time has -1, which is also how a time of 0 is written.
        let timestamp = message.timestamp().max(0);
        let gap = (offset - self.next) as u64;
        records.push_foreign(gap, Timestamp(timestamp), message.key(), message.value(), message.headers());
        self.next = offset + 1;
        self.latest = self.latest.max(timestamp);
    }

    fn finish(self) -> Option<StoredBatch> {
        let span = (self.next - self.base) as u32;
        let (base, latest) = (Offset(self.base as u64), Timestamp(self.latest));
        self.records.map(|records| StoredBatch::filled(base, span, latest, records))
    }
}

/// The part of a partition that can be read, what this process has committed included.
pub(super) fn bounds(cluster: &Cluster, topics: &Topics, id: TopicId, partition: Partition) -> Result<Bounds, Error> {
    let topic = topics.find(id, partition)?;
    let end = committed_end(cluster, topics, &topic, partition)?;
    let start = end_of(cluster, &topic, partition, None)?;
    Ok(Bounds { start, end: end.max(start) })
}

/// The end of a partition, which includes what this process has committed: that is decided, and its mark is on its way.
fn committed_end(cluster: &Cluster, topics: &Topics, topic: &TopicInfo, partition: Partition) -> Result<Offset, Error> {
    let at_least = topics.committed_end(topic.id, partition);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let end = end_of(cluster, topic, partition, Some(Isolation::Committed))?;
        // Whoever has an open transaction in front of it holds it back, until the transaction's timeout at most.
        if end >= at_least || Instant::now() >= deadline {
            return Ok(end);
        }
        cluster.progress.pause(SOON);
    }
}

/// The start of a partition, or one of its ends.
pub(super) fn end_of(
    cluster: &Cluster,
    topic: &TopicInfo,
    partition: Partition,
    end: Option<Isolation>,
) -> Result<Offset, Error> {
    let place = [(Arc::clone(&topic.name), partition.0 as i32)];
    let found = cluster.ask(&topic.name, |client, timeout| client.ends_of(&place, end, timeout))?;
    Ok(found[0])
}

/// An offset that is not there.
pub(super) fn out_of_range(topic: &TopicInfo, partition: Partition, offset: Offset, bounds: Bounds) -> Error {
    let Bounds { start, end } = bounds;
    Error::OutOfRange { topic: Arc::clone(&topic.name), partition, offset, start, end }
}

impl Readers {
    /// See [`Log::fetch`](super::super::Log::fetch).
    pub(super) fn fetch(
        &self,
        cluster: &Cluster,
        topics: &Topics,
        (id, partition): (TopicId, Partition),
        from: Offset,
        max_bytes: usize,
    ) -> Result<Fetched, Error> {
        let topic = topics.find(id, partition)?;
        let place = Arc::clone(self.open.lock().entry((id, partition)).or_default());
        let mut place = place.lock();
        open_at(&self.fetching, Until::End, &mut place, cluster, topics, (&topic, partition), from)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = cluster.progress.version();
            if let Some(fetched) = take(&mut place, cluster, topics, &topic, partition, max_bytes)? {
                return Ok(fetched);
            }
            if let Some(reader) = &mut *place
                && from >= reader.committed
            {
                reader.committed = committed_end(cluster, topics, &topic, partition)?;
                if from >= reader.committed {
                    return Ok(Fetched { batches: Vec::new(), next: from, end: from });
                }
            }
            // There is something: it is on its way.
            if Instant::now() >= deadline {
                *place = None;
                cluster.available()?;
                let cause = format!("{}-{partition} gives no records at offset {from}", topic.name);
                return Err(Error::Unavailable { cause: cause.into() });
            }
            cluster.available()?;
            cluster.progress.wait(seen, Duration::from_millis(10));
        }
    }

    /// See [`Log::follow`](super::super::Log::follow).
    pub(super) fn follow(
        &self,
        cluster: &Cluster,
        topics: &Topics,
        (id, partition): (TopicId, Partition),
        from: Offset,
        max_bytes: usize,
    ) -> Result<Fetched, Error> {
        let topic = topics.find(id, partition)?;
        cluster.available()?;
        let place = Arc::clone(self.open.lock().entry((id, partition)).or_default());
        let mut place = place.lock();
        let reader = open_at(&self.following, Until::Dropped, &mut place, cluster, topics, (&topic, partition), from)?;
        reader.used = Instant::now();
        let ready = Arc::clone(&reader.ready);
        let end = Offset(reader.reading.end() as u64);
        let nothing = Fetched { batches: Vec::new(), next: from, end };
        if !ready.swap(false, Ordering::AcqRel) {
            return Ok(nothing);
        }
        let fetched = take(&mut place, cluster, topics, &topic, partition, max_bytes)?;
        // What did not fit is for the next call.
        ready.fetch_or(fetched.is_some(), Ordering::AcqRel);
        Ok(fetched.unwrap_or(nothing))
    }

    /// Lets go of what nobody reads any more.
    pub(super) fn sweep(&self) {
        self.open.lock().retain(|_, place| {
            let Some(mut reader) = place.try_lock() else { return true };
            let is_idle = |reader: &Reader| reader.used.elapsed() > reader.until.idle();
            if reader.as_ref().is_some_and(is_idle) {
                *reader = None;
            }
            reader.is_some() || Arc::strong_count(place) > 1
        });
        let unused = self.fetching.lock().take_if(|client| Arc::strong_count(client) == 1);
        // Its threads end now, and nobody waits for that.
        drop(unused);
    }
}

/// The reader of a partition, at this offset.
fn open_at<'a>(
    made: &Mutex<Option<Arc<Client>>>,
    until: Until,
    place: &'a mut Option<Reader>,
    cluster: &Cluster,
    topics: &Topics,
    (topic, partition): (&TopicInfo, Partition),
    from: Offset,
) -> Result<&'a mut Reader, Error> {
    // What was read ahead is good for either, but nothing is followed by who asks again as soon.
    let goes_on = |reader: &Reader| reader.reading.next == from.0 as i64 && (reader.until == until || until == Until::End);
    if !place.as_ref().is_some_and(goes_on) {
        *place = None;
        let bounds = bounds(cluster, topics, topic.id, partition)?;
        if from < bounds.start || from > bounds.end {
            return Err(out_of_range(topic, partition, from, bounds));
        }
        let reading = Reading::new(topic, partition, from, bounds.end.0 as i64);
        let mut made = made.lock();
        let shared = match &*made {
            Some(client) => Arc::clone(client),
            None => {
                let config = cluster.config.reader(until);
                Arc::clone(made.insert(Arc::new(client(Kind::Consumer, &config, cluster.status().events())?)))
            }
        };
        drop(made);
        *place = Some(Reader::start(&shared, reading, bounds.end, until, cluster)?);
    }
    Ok(place.as_mut().expect("it was just put there"))
}

/// Takes what a reader has; nothing if that is nothing. One that cannot go on is let go.
fn take(
    place: &mut Option<Reader>,
    cluster: &Cluster,
    topics: &Topics,
    topic: &TopicInfo,
    partition: Partition,
    max_bytes: usize,
) -> Result<Option<Fetched>, Error> {
    let Some(reader) = place else { return Ok(None) };
    reader.used = Instant::now();
    let from = Offset(reader.reading.next as u64);
    let failure = match reader.reading.take(&reader.client, &reader.queue, max_bytes) {
        Ok((batch, _)) => {
            let [next, end] = [reader.reading.next, reader.reading.end()].map(|at| Offset(at as u64));
            let found = batch.is_some() || next > from;
            return Ok(found.then(|| Fetched { batches: batch.into_iter().collect(), next, end }));
        }
        Err(failure) => failure,
    };
    if matches!(failure.code, Code::AutoOffsetReset | Code::OffsetOutOfRange) {
        *place = None;
        let bounds = bounds(cluster, topics, topic.id, partition)?;
        return Err(out_of_range(topic, partition, from, bounds));
    }
    if error::is_passing(&failure) {
        // What lies behind it in the queue was not taken, and a queue that is not empty calls nobody.
        reader.ready.store(true, Ordering::Release);
        return Ok(None);
    }
    *place = None;
    if error::is_unknown(failure.code) {
        // Its bounds say for good whether there is such a topic.
        bounds(cluster, topics, topic.id, partition)?;
    }
    Err(error::of_known(&failure, &topic.name))
}

impl Reader {
    fn start(
        client: &Arc<Client>,
        reading: Reading,
        committed: Offset,
        until: Until,
        cluster: &Cluster,
    ) -> Result<Reader, Error> {
        let mut queue = Queue::new(client);
        let (progress, ready) = (Arc::clone(&cluster.progress), Arc::new(AtomicBool::new(true)));
        let told = Arc::clone(&ready);
        let wake: Wake = Arc::new(move || {
            told.store(true, Ordering::Release);
            progress.advance();
        });
        queue.on_nonempty(wake);
        let consuming = Consuming::start(client, &reading.topic, reading.partition, reading.next, &queue);
        let consuming = consuming.map_err(|failure| error::of(&failure, &reading.topic))?;
        let (client, used) = (Arc::clone(client), Instant::now());
        Ok(Reader { reading, _consuming: consuming, queue, ready, client, committed, until, used })
    }
}
