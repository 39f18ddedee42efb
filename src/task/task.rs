//! The task itself: chooses the next thing to do, does it within a savepoint, and gathers what a commit needs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use millstream_state::{Position, TaskState};

use super::context::{Context, Origin};
use super::dead_letter::{DeadLetter, exception};
use super::input::Input;
use super::meta::{self, TimeDomain};
use super::outbox::{Outbox, Outgoing};
use crate::error::ProcessError;
use crate::log::{Limits, RecordBatch, StoredBatch, TopicInfo};
use crate::record::{Headers, Offset, Partition, Timestamp};
use crate::topology::{Punctuator, StoreIndex, TopicIndex, Topology};

/// How often a failing record is tried again before it is parked.
const RETRIES: u32 = 3;
/// The pause before the first retry; each further one is four times as long.
const FIRST_BACKOFF_MS: i64 = 50;
/// How many expired rows of a store one commit deletes at most.
const EXPIRE_ROWS: usize = 1_000;

/// What one call of `step` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A record, a timer or a punctuation was processed.
    Done,
    /// A record was parked in its dead-letter topic.
    Parked,
    /// There is nothing to do.
    Idle,
    /// A record failed and is tried again at this wall-clock time.
    Paused(Timestamp),
}

/// What a commit appends for a task.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Records for topics, in order for each partition.
    pub outputs: Vec<Outgoing>,
    /// One record for each key that changed, by store.
    pub changelogs: Vec<(StoreIndex, RecordBatch)>,
    /// The next offset of every input topic, unchanged ones too.
    pub offsets: Vec<(TopicIndex, Offset)>,
}

/// Counters of a task, for metrics.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub processed: u64,
    pub dropped: u64,
    pub dead_letters: u64,
    pub retries: u64,
}

/// What failed and is tried again. Only its own success or its parking ends the count.
struct Failing {
    what: Attempt,
    attempts: u32,
    retry_at: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Record(usize),
    Punctuator(usize),
    Timer(TimeDomain),
}

/// One partition of one sub-topology.
pub(crate) struct Task {
    topology: Arc<Topology>,
    sub: usize,
    partition: Partition,
    topics: Arc<[TopicInfo]>,
    ctx: Context,
    inputs: Vec<Input>,
    punctuators_due: Vec<Timestamp>,
    committed_stream_time: Timestamp,
    failing: Option<Failing>,
    counts: Counts,
}

impl Task {
    /// A task whose state is restored to the end of its changelogs. `topics` are the topology's, by index.
    pub(crate) fn new(
        topology: Arc<Topology>,
        sub: usize,
        partition: Partition,
        state: TaskState,
        topics: Arc<[TopicInfo]>,
        limits: Limits,
        now: Timestamp,
    ) -> Result<Task, ProcessError> {
        let meta = topology.subs[sub].meta;
        let outbox = Outbox::new(partition, Arc::clone(&topics), limits);
        let mut ctx = Context::new(state, meta, outbox);
        ctx.wall_clock = now;
        let mut task = Task {
            topology,
            sub,
            partition,
            topics,
            ctx,
            inputs: Vec::new(),
            punctuators_due: Vec::new(),
            committed_stream_time: Timestamp::UNKNOWN,
            failing: None,
            counts: Counts::default(),
        };
        task.load()?;
        Ok(task)
    }

    /// Reads what the task knows about itself from its committed state.
    fn load(&mut self) -> Result<(), ProcessError> {
        let topology = Arc::clone(&self.topology);
        let sub = &topology.subs[self.sub];
        self.failing = None;
        let (state, store) = (self.ctx.state(), sub.meta.id());
        self.inputs.clear();
        for &source in &sub.sources {
            let topic = topology.sources[source.0].topic;
            if self.partition.0 < self.topics[topic.0].partitions {
                let next = meta::offset(state, store, &topology.topics[topic.0].name)?;
                self.inputs.push(Input::new(source, next));
            }
        }
        let mut due = Vec::new();
        for punctuator in &sub.punctuators {
            let stored = meta::punctuator_due(state, store, &punctuator.name)?.or(punctuator.anchor);
            due.push(match (stored, punctuator.domain) {
                (Some(due), _) => due,
                (None, TimeDomain::Stream) => Timestamp(0),
                (None, TimeDomain::WallClock) => self.ctx.wall_clock.plus_ms(punctuator.interval_ms),
            });
        }
        self.committed_stream_time = meta::stream_time(state, store)?;
        self.punctuators_due = due;
        self.ctx.set_stream_time(self.committed_stream_time);
        self.ctx.timers = Default::default();
        Ok(())
    }

    pub(crate) fn sub_index(&self) -> usize {
        self.sub
    }

    pub(crate) fn partition(&self) -> Partition {
        self.partition
    }

    /// What was counted since this was asked last.
    pub(crate) fn take_counts(&mut self) -> Counts {
        let dropped = std::mem::take(&mut self.ctx.dropped);
        Counts { dropped, ..std::mem::take(&mut self.counts) }
    }

    /// The next offset of each input.
    pub(crate) fn next_offsets(&self) -> impl Iterator<Item = (TopicIndex, Offset)> {
        self.inputs().map(|(topic, input)| (topic, input.next()))
    }

    /// The task's stores, for reading.
    pub(crate) fn state(&self) -> &TaskState {
        self.ctx.state()
    }

    fn inputs(&self) -> impl Iterator<Item = (TopicIndex, &Input)> {
        self.inputs.iter().map(|input| (self.topology.sources[input.source.0].topic, input))
    }

    /// Hands fetched records to an input; `next` is the offset after them.
    pub(crate) fn enqueue(&mut self, input: usize, batches: Vec<StoredBatch>, next: Offset) {
        self.inputs[input].push(batches, next);
    }

    /// The input's topic begins only at `start`: older records were deleted before they could be processed.
    pub(crate) fn skip_to(&mut self, input: usize, start: Offset) {
        self.inputs[input].skip_to(start);
    }

    pub(crate) fn inputs_len(&self) -> usize {
        self.inputs.len()
    }

    /// The topic of an input and where to fetch from, if its queue wants more (`empty_only`: if it has nothing at all).
    pub(crate) fn wants(&self, input: usize, empty_only: bool) -> Option<(TopicIndex, Offset)> {
        let input = &self.inputs[input];
        let from = input.wants().filter(|_| !empty_only || input.is_empty())?;
        Some((self.topology.sources[input.source.0].topic, from))
    }

    /// Whether an input has a record and another has none: the one without should be fetched again before the next step, so that
    /// records are taken in the order of their timestamps. Replayed records have no order to keep.
    pub(crate) fn is_lopsided(&self) -> bool {
        if self.inputs.len() <= 2 {
            return false;
        }
        let ordered = || self.inputs.iter().filter(|input| !self.topology.sources[input.source.0].replays);
        ordered().any(Input::is_empty) && !ordered().all(Input::is_empty)
    }

    /// Processes the next record, timer or punctuation.
    ///
    /// # Errors
    /// If the state cannot be read: nothing of the step remains, and the transaction must be aborted.
    pub(crate) fn step(&mut self, now: Timestamp) -> Result<Step, ProcessError> {
        self.ctx.wall_clock = now;
        if let Some(failing) = self.failing.as_ref().filter(|failing| now < failing.retry_at) {
            return Ok(Step::Paused(failing.retry_at));
        }
        for domain in TimeDomain::ALL {
            if let Some(step) = self.fire(domain)? {
                return Ok(step);
            }
        }
        match self.next_input() {
            Some(next) => self.process(next),
            None => Ok(Step::Idle),
        }
    }

    /// The input with the earliest head; of equals, the one declared first.
    fn next_input(&self) -> Option<usize> {
        let mut filled = self.inputs.iter().enumerate().filter(|(_, input)| !input.is_empty());
        let first = filled.next()?;
        if filled.next().is_none() {
            return Some(first.0);
        }
        let heads = self.inputs.iter().enumerate().filter_map(|(i, input)| Some((input.head_timestamp()?, i)));
        heads.min().map(|(_, i)| i)
    }

    fn process(&mut self, index: usize) -> Result<Step, ProcessError> {
        let what = Attempt::Record(index);
        let Task { topology, ctx, inputs, counts, failing, .. } = self;
        let input = &inputs[index];
        let Some((record, after)) = input.head() else { return Ok(Step::Idle) };
        let offset = record.offset;
        let entry = &topology.sources[input.source.0];
        ctx.origin = Origin { topic: entry.topic, partition: self.partition, offset };
        let source = if entry.replays { topology.replayed(self.sub, &record) } else { Some(entry) };
        let mark = ctx.mark();
        let outcome = guarded(|| {
            ctx.set_stream_time(ctx.stream_time.max(record.timestamp));
            match source.and_then(|source| source.processor.as_ref()) {
                Some(processor) => processor.process(ctx, &record),
                None => Err(ProcessError::Unwritable("the topic that is to be replayed is not read here".into())),
            }
        });
        let step = match outcome {
            Ok(()) => {
                counts.processed += 1;
                Step::Done
            }
            Err(error) => {
                ctx.undo_to(mark);
                if let Some(paused) = retry(failing, counts, what, ctx.wall_clock, &error)? {
                    return Ok(paused);
                }
                let source = source.unwrap_or(entry);
                let letter = DeadLetter {
                    topic: topology.topics[source.topic.0].name.clone(),
                    offset,
                    timestamp: record.timestamp,
                    original: record.headers.to_headers(),
                    ..letter(topology, ctx, &error)
                };
                park(ctx, counts, source.dead_letters, &letter, record.key, record.value);
                Step::Parked
            }
        };
        if failing.as_ref().is_some_and(|failing| failing.what == what) {
            *failing = None;
        }
        inputs[index].advance(offset.next(), after);
        Ok(step)
    }

    /// Runs one punctuator or timer of the domain, if one is due.
    fn fire(&mut self, domain: TimeDomain) -> Result<Option<Step>, ProcessError> {
        let now = match domain {
            TimeDomain::Stream => self.ctx.stream_time,
            TimeDomain::WallClock => self.ctx.wall_clock,
        };
        let topology = Arc::clone(&self.topology);
        let sub = &topology.subs[self.sub];
        let due = |(i, p): &(usize, &Punctuator)| p.domain == domain && self.punctuators_due[*i] <= now;
        if let Some((i, punctuator)) = sub.punctuators.iter().enumerate().find(due) {
            let next = next_due(self.punctuators_due[i], now, punctuator.interval_ms);
            let step = self.attempt(Attempt::Punctuator(i), None, |ctx| {
                ctx.enter(punctuator.node);
                meta::set_punctuator_due(&mut ctx.state, sub.meta.id(), &punctuator.name, next);
                (punctuator.call)(ctx, now)
            })?;
            if !matches!(step, Step::Paused(_)) {
                self.punctuators_due[i] = next;
                meta::set_punctuator_due(&mut self.ctx.state, sub.meta.id(), &punctuator.name, next);
            }
            return Ok(Some(step));
        }
        if !self.ctx.timers.may_fire(domain, now) {
            return Ok(None);
        }
        let first = meta::first_timer(&self.ctx.state, sub.meta.id(), domain)?;
        self.ctx.timers.set(domain, first.as_ref().map(|row| row.at));
        let Some(row) = first.filter(|row| row.at <= now) else { return Ok(None) };
        let handler = sub.timers.get(&row.node);
        let step = self.attempt(Attempt::Timer(domain), Some(row.key()), |ctx| {
            ctx.delete(sub.meta, &row.row);
            let timer = handler.ok_or_else(|| ProcessError::Unwritable(format!("no node {:?} takes this timer", row.node)))?;
            ctx.enter(timer.node);
            (timer.call)(ctx, row.key(), row.at)
        })?;
        if step == Step::Parked {
            self.ctx.delete(sub.meta, &row.row);
        }
        Ok(Some(step))
    }

    /// Calls `f` within a savepoint; a failure is retried and then parked with `key`, for there is no record.
    fn attempt(
        &mut self,
        what: Attempt,
        key: Option<&[u8]>,
        f: impl FnOnce(&mut Context) -> Result<(), ProcessError>,
    ) -> Result<Step, ProcessError> {
        let Task { topology, ctx, counts, failing, .. } = self;
        let mark = ctx.mark();
        let step = match guarded(|| f(ctx)) {
            Ok(()) => Step::Done,
            Err(error) => {
                ctx.undo_to(mark);
                if let Some(paused) = retry(failing, counts, what, ctx.wall_clock, &error)? {
                    return Ok(paused);
                }
                let source = &topology.sources[topology.subs[self.sub].sources[0].0];
                park(ctx, counts, source.dead_letters, &letter(topology, ctx, &error), key, None);
                Step::Parked
            }
        };
        if failing.as_ref().is_some_and(|failing| failing.what == what) {
            *failing = None;
        }
        Ok(step)
    }

    /// How many bytes the running transaction holds in memory.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.ctx.state.dirty_bytes() + self.ctx.outbox.bytes()
    }

    /// What a commit must append for this task; `None` if there is nothing. `now` stamps the changelog records.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub(crate) fn effects(&mut self, now: Timestamp) -> Result<Option<Effects>, ProcessError> {
        let topology = Arc::clone(&self.topology);
        let sub = &topology.subs[self.sub];
        let (state, meta) = (&mut self.ctx.state, sub.meta.id());
        for input in self.inputs.iter().filter(|input| input.changed()) {
            let topic = &topology.topics[topology.sources[input.source.0].topic.0];
            meta::set_offset(state, meta, &topic.name, input.next());
        }
        if self.ctx.stream_time != self.committed_stream_time {
            meta::set_stream_time(state, meta, self.ctx.stream_time);
        }
        for &store in sub.stores.iter().filter(|store| topology.stores[store.0].ttl_ms.is_some()) {
            state.expire(store.id(), EXPIRE_ROWS)?;
        }
        let mut changelogs: Vec<(StoreIndex, RecordBatch)> = Vec::new();
        for row in state.dirty() {
            let store = StoreIndex::of(row.store);
            if changelogs.last().is_none_or(|(last, _)| *last != store) {
                changelogs.push((store, RecordBatch::default()));
            }
            let (_, batch) = changelogs.last_mut().expect("one was just pushed");
            batch.push(now, Some(row.key()), row.value(), &Headers::EMPTY);
        }
        let outputs = self.ctx.outbox.take();
        if changelogs.is_empty() && outputs.is_empty() {
            return Ok(None);
        }
        let offsets = self.next_offsets().collect();
        Ok(Some(Effects { outputs, changelogs, offsets }))
    }

    /// The effects were committed; the changelogs now end at these positions.
    pub(crate) fn committed(&mut self, positions: &[(millstream_state::StoreId, Position)]) {
        self.ctx.state.commit(positions);
        self.inputs.iter_mut().for_each(Input::committed);
        self.committed_stream_time = self.ctx.stream_time;
    }

    /// The transaction did not happen, or nobody knows: everything since the last commit is forgotten, `restore` brings the state to
    /// the end of its changelogs, and the inputs are read again from where it stands.
    ///
    /// # Errors
    /// Of `restore`, or if the state cannot be read.
    pub(crate) fn abort<E: From<ProcessError>>(
        &mut self,
        restore: impl FnOnce(&mut TaskState) -> Result<(), E>,
    ) -> Result<(), E> {
        self.ctx.state.abort();
        self.ctx.outbox.take();
        restore(&mut self.ctx.state)?;
        Ok(self.load()?)
    }
}

/// When a punctuator that was due at `due` and runs at `now` is due again: at the next point of its grid, however many it missed. The
/// grid of stream time begins at 0 (KIP-138).
fn next_due(due: Timestamp, now: Timestamp, interval_ms: i64) -> Timestamp {
    due.plus_ms(((now.0 - due.0).div_euclid(interval_ms) + 1).saturating_mul(interval_ms))
}

/// Runs user code; a panic is a failure like any other, for all that it changed is undone.
fn guarded(f: impl FnOnce() -> Result<(), ProcessError>) -> Result<(), ProcessError> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text =
            panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
        Err(ProcessError::Failed(format!("panicked: {}", text.as_deref().unwrap_or("with no message"))))
    })
}

/// Whether to try again: the pause until then, or `None` if the record is to be parked.
///
/// # Errors
/// The error itself, if the state is at fault and not the record.
fn retry(
    failing: &mut Option<Failing>,
    counts: &mut Counts,
    what: Attempt,
    now: Timestamp,
    error: &ProcessError,
) -> Result<Option<Step>, ProcessError> {
    if let ProcessError::State(error) = error {
        return Err(ProcessError::State(error.clone()));
    }
    let attempts = failing.as_ref().filter(|failing| failing.what == what).map_or(0, |failing| failing.attempts);
    if !error.is_retriable() || attempts == RETRIES {
        return Ok(None);
    }
    counts.retries += 1;
    let retry_at = now.plus_ms(FIRST_BACKOFF_MS << (2 * attempts));
    *failing = Some(Failing { what, attempts: attempts + 1, retry_at });
    Ok(Some(Step::Paused(retry_at)))
}

/// A dead letter about where the context stands.
fn letter(topology: &Topology, ctx: &Context, error: &ProcessError) -> DeadLetter {
    let origin = ctx.origin;
    DeadLetter {
        exception: exception(error).to_owned(),
        message: error.to_string(),
        application: topology.application.clone(),
        node: topology.nodes[ctx.node().0].name.clone(),
        topic: topology.topics[origin.topic.0].name.clone(),
        partition: origin.partition,
        offset: origin.offset,
        timestamp: ctx.wall_clock,
        original: Headers::EMPTY,
    }
}

fn park(ctx: &mut Context, counts: &mut Counts, to: TopicIndex, letter: &DeadLetter, key: Option<&[u8]>, value: Option<&[u8]>) {
    tracing::warn!(
        topic = letter.topic,
        partition = letter.partition.0,
        offset = letter.offset.0,
        node = letter.node,
        cause = letter.message,
        "a record was parked in its dead-letter topic"
    );
    counts.dead_letters += 1;
    ctx.mark();
    let timestamp = Timestamp(letter.timestamp.0.max(0));
    ctx.outbox.push_to(to, letter.partition, key, value, timestamp, &letter.to_headers());
}
