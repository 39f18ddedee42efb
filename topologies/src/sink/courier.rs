//! The courier: reads the partitions that are its own, lets events out as lanes and breaker allow, and commits how far it is together with
//! the dead letters. One thread does all of that; tries run beside it and only report back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use hyper::header::HeaderValue;
use millstream::log::{
    self, Append, Change, Cleanup, GroupOffsets, Inputs, Log, Member, Membership, RecordBatch, RecordRef, TopicId, TopicInfo,
    TopicSpec, Transaction,
};
use millstream::{Failure, Handle, Offset, Partition};
use serde::Deserialize;
use tokio::sync::watch;

use super::Settings;
use super::alerts::{Alert, Alerts};
use super::breaker::{Admission, Breaker, Circuit, Permit};
use super::endpoint::{Endpoint, Verdict};
use super::lanes::{Event, INPUTS, Lanes, Letter, Origin, Reason};
use super::status::Status;
use crate::orders::topology::DATA_PLATFORM;

/// The group that sinks share partitions in.
const GROUP: &str = "shop-sink";
/// The name that dead letters and their replays have.
const PART: &str = "sink";
/// How long dead letters are kept, in milliseconds: as those of the engine.
const DEAD_LETTERS_MS: u64 = 30 * 24 * 3_600_000;

/// How often an event is tried again before it is parked.
const RETRIES: u32 = 3;
/// Each pause between tries is so much longer than the one before.
const GROWTH: f32 = 4.0;

/// No more of a partition is read while so many of its events are here.
const WINDOW: usize = 1_000;
const FETCH_BYTES: usize = 1 << 20;

/// What is done is committed after this time at the latest, and at once when nothing is out: so much may be delivered again after a crash.
const COMMIT_EVERY: Duration = Duration::from_millis(200);
/// Offsets are also written when they have not moved, for a broker forgets those of a group that says nothing for 7 days.
const COMMIT_AT_LEAST: Duration = Duration::from_secs(3_600);
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// The longest sleep while tries are out: what is new is looked for that often.
const SHORT_WAIT: Duration = Duration::from_millis(5);
/// The pause after trouble with the log; each further one doubles it, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long what is out may take once it is to stop.
const GRACE: Duration = Duration::from_secs(6);

pub struct Courier {
    app: Handle,
    log: Arc<dyn Log>,
    settings: Settings,
    status: Arc<Status>,
    alerts: Alerts,
    tokio: tokio::runtime::Handle,
    endpoint: Endpoint,
    breaker: Breaker,
    /// The endpoint has asked to be left alone until then.
    paused_until: Option<Instant>,
    inputs: [TopicInfo; INPUTS],
    dead_letters: TopicInfo,
    member: Box<dyn Member>,
    /// Partitions that the group gave and that are not read yet.
    wanted: BTreeSet<Partition>,
    partitions: BTreeMap<Partition, Owned>,
    /// The partition whose turn is next.
    turn: Partition,
    /// Grows whenever a partition is taken: what comes back from before is nobody's any more.
    generation: u64,
    back: (mpsc::Sender<Back>, mpsc::Receiver<Back>),
    out: usize,
    last_commit: Instant,
    pause: Duration,
}

/// A partition that is this sink's.
struct Owned {
    generation: u64,
    lanes: Lanes,
}

/// A try that has ended.
struct Back {
    partition: Partition,
    generation: u64,
    permit: Permit,
    event: Event,
    verdict: Verdict,
    took: Duration,
}

/// What must be in an event: all that is known of it here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Changed {
    order_id: u64,
    status: String,
}

impl Courier {
    /// A courier that has joined the group.
    ///
    /// # Errors
    /// What is in its way, in one sentence.
    pub fn new(
        app: Handle,
        settings: Settings,
        status: Arc<Status>,
        alerts: Alerts,
        tokio: tokio::runtime::Handle,
    ) -> Result<Courier, String> {
        let endpoint = Endpoint::new(settings.target.clone(), settings.try_timeout, settings.concurrency)?;
        let log = Arc::clone(app.log());
        let topics = || {
            let events = log.create_topic(&DATA_PLATFORM.spec())?;
            let beside = |name: String, cleanup| {
                let spec = || TopicSpec { name: name.clone(), partitions: events.partitions, cleanup };
                let topic = log.topic(&name)?.map_or_else(|| log.create_topic(&spec()), Ok)?;
                Ok::<_, log::Error>(app.with_room_for_letters(&topic, &events))
            };
            let kept = Cleanup::Delete { retention_ms: Some(DEAD_LETTERS_MS), retention_bytes: None };
            let replays = beside(app.replay_topic(PART), kept)?;
            let dead_letters = beside(format!("{}.dlq", events.name), kept)?;
            let reads = Inputs { topics: vec![events.id, replays.id], tasks: events.partitions };
            let member = log.join(Membership { group: GROUP.into(), worker: 0, subs: vec![reads] })?;
            Ok::<_, log::Error>(([events, replays], dead_letters, member))
        };
        let (inputs, dead_letters, member) = topics().map_err(|error| error.to_string())?;
        // Where one process has the log, nobody gives partitions: all are its own.
        let is_alone = app.start_number() == 0;
        let wanted = if is_alone { (0..inputs[0].partitions).map(Partition).collect() } else { BTreeSet::new() };
        tracing::info!("delivers {} to {}", inputs[0].name, settings.target);
        Ok(Courier {
            breaker: Breaker::new(settings.open_for),
            paused_until: None,
            partitions: BTreeMap::new(),
            turn: Partition(0),
            generation: 0,
            back: mpsc::channel(),
            out: 0,
            last_commit: Instant::now(),
            pause: FIRST_PAUSE,
            app,
            log,
            settings,
            status,
            alerts,
            tokio,
            endpoint,
            inputs,
            dead_letters,
            member,
            wanted,
        })
    }

    /// Delivers until it is to stop.
    ///
    /// # Errors
    /// Why it cannot go on, in one sentence.
    pub fn run(mut self, stopping: &watch::Receiver<bool>) -> Result<(), String> {
        while !*stopping.borrow() {
            if let Err(error) = self.turn() {
                self.recover(&error)?;
            }
        }
        self.finish();
        Ok(())
    }

    fn turn(&mut self) -> Result<(), log::Error> {
        self.follow_group()?;
        self.read()?;
        let now = Instant::now();
        let rests_until = self.let_out(now);
        let done: u64 = self.partitions.values().map(|owned| owned.lanes.uncommitted()).sum();
        let since = self.last_commit.elapsed();
        if (done > 0 && (self.out == 0 || since >= COMMIT_EVERY)) || since >= COMMIT_AT_LEAST {
            self.commit()?;
        }
        if self.out > 0 {
            self.take_back(SHORT_WAIT);
        } else {
            let until = rests_until.map_or(LONGEST_WAIT, |until| until.saturating_duration_since(now));
            self.member.wait(until.min(LONGEST_WAIT));
        }
        Ok(())
    }

    /// Takes and gives up partitions as the group says.
    fn follow_group(&mut self) -> Result<(), log::Error> {
        for change in self.member.changes()? {
            match change {
                Change::Assigned { partition, .. } => {
                    self.wanted.insert(partition);
                }
                // What is out comes back to nobody. Its new owner delivers it again, before anything that comes after it.
                Change::Revoked { partition, .. } => {
                    self.wanted.remove(&partition);
                    self.partitions.remove(&partition);
                }
            }
        }
        if self.wanted.is_empty() {
            return Ok(());
        }
        let known = self.offsets()?;
        while let Some(partition) = self.wanted.first().copied() {
            let mut starts = [Offset(0); INPUTS];
            for (topic, start) in self.inputs.iter().zip(&mut starts).filter(|(topic, _)| partition.0 < topic.partitions) {
                let kept = self.log.bounds(topic.id, partition)?;
                let committed = known.iter().find(|(id, p, _)| (*id, *p) == (topic.id, partition)).map(|(.., offset)| *offset);
                *start = committed.unwrap_or(kept.start);
                if *start < kept.start {
                    self.passed_over(topic, partition, *start, kept.start);
                    *start = kept.start;
                }
            }
            let offsets: Vec<_> = self.inputs.iter().zip(starts).map(|(topic, start)| (topic.id, start)).collect();
            self.member.begin(0, partition, &offsets)?;
            self.generation += 1;
            self.partitions.insert(partition, Owned { generation: self.generation, lanes: Lanes::new(starts) });
            self.wanted.remove(&partition);
        }
        Ok(())
    }

    /// How far the group has read. A broker that dies between the commit of a transaction and its marks may never set that of the offsets,
    /// and then holds them back until the group commits again: what it shows is no more than that, and what is read twice is delivered
    /// under the same idempotency key.
    fn offsets(&self) -> Result<Vec<(TopicId, Partition, Offset)>, log::Error> {
        let error = match self.log.offsets(GROUP) {
            Err(error @ log::Error::Unavailable { .. }) => error,
            other => return other,
        };
        let all = |topic: &TopicInfo| -> Vec<_> { (0..topic.partitions).map(|p| (topic.id, Partition(p))).collect() };
        let places: Vec<_> = self.inputs.iter().flat_map(all).collect();
        let shown = self.log.read_so_far(GROUP, &places)?;
        tracing::warn!("goes on from the offsets that show, some events may be delivered again: {error}");
        let known = places.into_iter().zip(shown).filter(|(_, offset)| *offset > Offset(0));
        Ok(known.map(|((topic, partition), offset)| (topic, partition, offset)).collect())
    }

    fn passed_over(&self, topic: &TopicInfo, partition: Partition, from: Offset, start: Offset) {
        tracing::error!(
            "records {from} to {start} of {}-{partition} were deleted by retention before they were delivered",
            topic.name
        );
    }

    /// Reads what is new, as far as there is room.
    fn read(&mut self) -> Result<(), log::Error> {
        let Courier { partitions, member, inputs, log, .. } = self;
        let mut gone = Vec::new();
        for (partition, owned) in partitions {
            for (input, topic) in inputs.iter().enumerate().filter(|(_, topic)| partition.0 < topic.partitions) {
                let from = owned.lanes.next_offset(input);
                if owned.lanes.len() >= WINDOW {
                    continue;
                }
                let fetched = match member.fetch(topic.id, *partition, from, FETCH_BYTES) {
                    Ok(fetched) => fetched,
                    Err(log::Error::OutOfRange { start, .. }) if from < start => {
                        owned.lanes.read_to(input, start);
                        gone.push((input, *partition, from, start));
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                // A member reads what a power cut may take back, and what goes out cannot be taken back.
                if !fetched.batches.is_empty() {
                    log.durable(log.written()).wait()?;
                }
                for record in fetched.batches.iter().flat_map(|batch| batch.records_from(from)) {
                    let place = (input, record.offset);
                    match event(place, *partition, &record) {
                        Ok(event) => owned.lanes.push(event),
                        Err(letter) => owned.lanes.push_letter(place, letter),
                    }
                }
                owned.lanes.read_to(input, fetched.next);
            }
        }
        for (input, partition, from, start) in gone {
            self.passed_over(&self.inputs[input], partition, from, start);
        }
        Ok(())
    }

    /// Begins as many tries as may be begun. When there will be more, if that is known.
    fn let_out(&mut self, now: Instant) -> Option<Instant> {
        if let Some(until) = self.paused_until.filter(|until| now < *until) {
            return Some(until);
        }
        while self.out < self.settings.concurrency {
            // Partitions take turns.
            let order = self.partitions.range_mut(self.turn..).map(|(p, owned)| (*p, owned)).next();
            let mut found = order.and_then(|(p, owned)| owned.lanes.take(now).map(|event| (p, owned.generation, event)));
            if found.is_none() {
                found = self.partitions.iter_mut().find_map(|(p, owned)| Some((*p, owned.generation, owned.lanes.take(now)?)));
            }
            let Some((partition, generation, event)) = found else {
                return self.partitions.values().filter_map(|owned| owned.lanes.rests_until()).min();
            };
            self.turn = Partition(partition.0 + 1);
            let was = self.breaker.circuit();
            let admission = self.breaker.admit(now);
            if self.breaker.circuit() != was {
                self.status.is(self.breaker.circuit());
            }
            match admission {
                Admission::Permitted(permit) => self.begin(partition, generation, event, permit),
                Admission::NotBefore(until) => {
                    self.put_back(partition, event, now);
                    return Some(until);
                }
                Admission::AfterProbes => {
                    self.put_back(partition, event, now);
                    return None;
                }
            }
        }
        None
    }

    fn put_back(&mut self, partition: Partition, event: Event, at: Instant) {
        if let Some(owned) = self.partitions.get_mut(&partition) {
            owned.lanes.again(event, at);
        }
    }

    fn begin(&mut self, partition: Partition, generation: u64, event: Event, permit: Permit) {
        let (endpoint, back, now, begun) = (self.endpoint.clone(), self.back.0.clone(), self.app.now(), Instant::now());
        let body = event.origin.value.clone().map(Bytes::from).unwrap_or_default();
        let key = event.idempotency_key.clone();
        let post = self.tokio.spawn(async move { endpoint.post(Some(&key), body, now).await });
        self.tokio.spawn(async move {
            let failed = |panic| Verdict::Failed { why: format!("the try panicked: {panic}"), pause: None };
            let verdict = post.await.unwrap_or_else(failed);
            // Nobody listens once the courier has gone.
            drop(back.send(Back { partition, generation, permit, event, verdict, took: begun.elapsed() }));
        });
        self.out += 1;
        self.status.out(self.out);
    }

    /// Waits for a try to end, and takes what has ended.
    fn take_back(&mut self, wait: Duration) {
        let mut next = self.back.1.recv_timeout(wait).ok();
        while let Some(back) = next {
            self.out -= 1;
            self.came_back(back);
            next = self.back.1.try_recv().ok();
        }
        self.status.out(self.out);
    }

    fn came_back(&mut self, Back { partition, generation, permit, mut event, verdict, took }: Back) {
        let now = Instant::now();
        let (result, failure) = match &verdict {
            Verdict::Delivered => ("delivered", None),
            Verdict::Refused(_) => ("refused", None), // the endpoint works: it has answered
            Verdict::Failed { why, pause } => {
                let until = pause.map(|pause| now + pause);
                self.paused_until = self.paused_until.max(until);
                ("failed", Some(why))
            }
        };
        self.status.tried(result, took);
        if self.breaker.record(permit, failure.is_none(), now) {
            let circuit = self.breaker.circuit();
            let why = failure.cloned().unwrap_or_default();
            tracing::warn!("the circuit to {} is {}: {why}", self.settings.target, circuit.name());
            self.status.is(circuit);
            self.alerts.raise(Alert::Circuit(circuit, why));
        }
        let Some(owned) = self.partitions.get_mut(&partition).filter(|owned| owned.generation == generation) else { return };
        match verdict {
            Verdict::Delivered => {
                owned.lanes.delivered(&event);
                self.status.deliveries("delivered", 1);
            }
            Verdict::Refused(cause) => owned.lanes.park(event, Reason { kind: "Refused", cause }),
            // An endpoint that is down says nothing about an event: then it waits, and its tries do not count.
            Verdict::Failed { why, .. } if self.breaker.circuit() == Circuit::Closed => {
                event.tries += 1;
                if event.tries > RETRIES {
                    let cause = format!("after {} tries: {why}", event.tries);
                    owned.lanes.park(event, Reason { kind: "Failed", cause });
                } else {
                    let rest = rest(self.settings.first_retry, event.tries);
                    owned.lanes.again(event, now + rest);
                }
            }
            Verdict::Failed { .. } => owned.lanes.again(event, now + self.settings.first_retry),
        }
    }

    /// Commits how far all partitions are, with the letters of what was passed.
    fn commit(&mut self) -> Result<(), log::Error> {
        self.last_commit = Instant::now();
        if self.partitions.is_empty() {
            return Ok(());
        }
        let mut offsets = Vec::new();
        let mut appends = Vec::new();
        let (mut parked, mut last) = (0, None);
        for (partition, owned) in &self.partitions {
            for (input, topic) in self.inputs.iter().enumerate().filter(|(_, topic)| partition.0 < topic.partitions) {
                offsets.push((topic.id, *partition, owned.lanes.done_before(input)));
            }
            let mut batch = RecordBatch::new();
            for letter in owned.lanes.letters() {
                self.write(letter, &mut batch);
                parked += 1;
                last = Some(&letter.reason);
            }
            if !batch.is_empty() {
                appends.push(Append { topic: self.dead_letters.id, partition: *partition, batch });
            }
        }
        let last = last.map(|reason| reason.cause.clone());
        let done = offsets.iter().map(|(topic, partition, done)| ((*topic, *partition), *done)).collect();
        let offsets = Some(GroupOffsets { group: GROUP.into(), offsets });
        let committed = self.member.commit(Transaction { appends, offsets, request: None })?;
        if let Err(error) = self.log.durable(committed.at).wait() {
            // Only the log knows now what is in it.
            self.take_anew();
            return Err(error);
        }
        self.partitions.values_mut().for_each(|owned| owned.lanes.committed());
        self.status.stands_at(done);
        if let Some(cause) = last {
            tracing::error!("{parked} events are parked in {}, the last: {cause}", self.dead_letters.name);
            self.status.deliveries("parked", parked);
            self.alerts.raise(Alert::Parked(parked, cause));
        }
        self.went_well();
        Ok(())
    }

    fn write(&self, letter: &Letter, batch: &mut RecordBatch) {
        let Letter { origin, reason } = letter;
        let failure = Failure {
            cause: reason.cause.clone(),
            application: self.app.topology().application().to_owned(),
            node: PART.to_owned(),
            topic: self.inputs[0].name.to_string(),
            partition: origin.partition,
            offset: origin.offset,
        };
        let record = (origin.key.as_deref(), origin.value.as_deref(), origin.headers.clone());
        let (key, value, headers) = failure.write(reason.kind, self.app.now(), record, &self.dead_letters);
        batch.push(self.app.now(), key, value, &headers);
    }

    fn went_well(&mut self) {
        if self.pause != FIRST_PAUSE {
            self.pause = FIRST_PAUSE;
            self.app.report(PART, None);
        }
    }

    /// After trouble with the log. What was delivered stays so where nothing was appended; where nobody knows, all is taken anew from what
    /// the log says.
    fn recover(&mut self, error: &log::Error) -> Result<(), String> {
        if error.is_fatal() || !(error.is_retriable() || error.is_outcome_unknown()) {
            return Err(error.to_string());
        }
        tracing::warn!("the sink pauses for {} ms: {error}", self.pause.as_millis());
        if error.is_outcome_unknown() {
            self.take_anew();
        }
        self.app.report(PART, Some(error.to_string()));
        let until = Instant::now() + self.pause;
        while Instant::now() < until {
            self.log.wait(self.log.version(), until.saturating_duration_since(Instant::now()));
        }
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }

    /// Forgets what is here, to go on from what the log says.
    fn take_anew(&mut self) {
        self.wanted.extend(std::mem::take(&mut self.partitions).into_keys());
    }

    /// Begins nothing more, waits for what is out, and commits.
    fn finish(&mut self) {
        let until = Instant::now() + GRACE;
        while self.out > 0 && Instant::now() < until {
            self.take_back(LONGEST_WAIT);
        }
        if let Err(error) = self.commit() {
            tracing::warn!("how far the sink came was not committed, so some is delivered again: {error}");
        }
    }
}

/// How long to wait after so many failures, with jitter, so that what failed together does not come back together.
fn rest(first: Duration, failures: u32) -> Duration {
    let rests = ExponentialBuilder::new().with_min_delay(first).with_factor(GROWTH).without_max_delay().without_max_times();
    rests.with_jitter().build().nth(failures as usize - 1).unwrap_or(first)
}

/// The event that a record carries; a replayed dead letter is taken as the record it was.
fn event(place: (usize, Offset), partition: Partition, record: &RecordRef<'_>) -> Result<Event, Letter> {
    let here = (partition, record.offset, record.headers.to_headers());
    let (partition, offset, headers) = match Failure::read(record).filter(|_| place.0 > 0) {
        Some((failure, original)) => (failure.partition, failure.offset, original),
        None => here,
    };
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let (key, value, timestamp) = (owned(record.key), owned(record.value), record.timestamp);
    let origin = Origin { partition, offset, key, value, timestamp, headers };
    let read = serde_json::from_slice::<Changed>(record.value.unwrap_or_default());
    let named = read.map_err(|error| format!("it is no change of an order's status: {error}")).and_then(|changed| {
        let key = format!("{}-{}", changed.order_id, changed.status);
        HeaderValue::try_from(&key).map_err(|_| format!("its status {:?} cannot be in a header", changed.status))?;
        Ok((changed.order_id, key))
    });
    match named {
        Ok((key, idempotency_key)) => Ok(Event { place, key, idempotency_key, origin, tries: 0 }),
        Err(cause) => Err(Letter { origin, reason: Reason { kind: "Undecodable", cause } }),
    }
}
