//! The task itself: chooses the next thing to do, does it within a savepoint, and gathers what a commit needs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use millstream_state::{Position, TaskState};

use super::changelog;
use super::clocks::Clocks;
use super::context::{Context, Origin};
use super::dead_letter::{DeadLetter, Event, exception};
use super::input::Input;
use super::meta::{self, TimeDomain};
use super::outbox::{Outbox, Outgoing};
use super::replay::{Replayed, call_timer};
use super::sweep::Sweep;
use crate::error::ProcessError;
use crate::log::{Limits, RecordBatch, StoredBatch, TopicInfo};
use crate::record::{Headers, Offset, Partition, Timestamp};
use crate::topology::{Punctuator, StoreIndex, TopicIndex, Topology};

/// How often a failing record is tried again before it is parked.
const RETRIES: u32 = 3;
/// The pause before the first retry; each further one is four times as long.
const FIRST_BACKOFF_MS: i64 = 50;
/// A step that writes so much is the record's failure: no transaction could carry it. In bytes.
const MAX_STEP_BYTES: usize = 512 << 20;
/// Later than this stream time does not get, so that there is always a later time for a punctuator to be due.
const LATEST: Timestamp = Timestamp(i64::MAX - 1);

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
    /// There are records, and others that come before them may still come, until this wall-clock time.
    Waiting(Timestamp),
}

/// What a commit appends for a task.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Records for topics, in order for each partition.
    pub outputs: Vec<Outgoing>,
    /// One record for each key that changed.
    pub changelog: RecordBatch,
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
    /// The least timestamp of the records that were processed.
    pub oldest: Option<Timestamp>,
}

/// What failed and is tried again. The task does nothing else until it has succeeded or is parked.
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
    sweeps: Vec<Sweep>,
    committed_stream_time: Timestamp,
    /// The window stores, and at which times they were committed.
    store_times: Vec<(StoreIndex, Timestamp)>,
    /// How long empty inputs are waited for while others have records.
    max_idle_ms: u64,
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
        let mut ctx = Context::new(Arc::clone(&topology), state, meta, outbox);
        ctx.wall_clock = now;
        let mut task = Task {
            topology,
            sub,
            partition,
            topics,
            ctx,
            inputs: Vec::new(),
            punctuators_due: Vec::new(),
            sweeps: Vec::new(),
            committed_stream_time: Timestamp::UNKNOWN,
            store_times: Vec::new(),
            max_idle_ms: 0,
            failing: None,
            counts: Counts::default(),
        };
        task.load()?;
        Ok(task)
    }

    /// The same, waiting so long for inputs that are empty while others are not.
    pub(crate) fn with_max_idle_ms(mut self, max_idle_ms: u64) -> Task {
        self.max_idle_ms = max_idle_ms;
        self
    }

    /// Reads what the task knows about itself from its committed state.
    fn load(&mut self) -> Result<(), ProcessError> {
        let topology = Arc::clone(&self.topology);
        let sub = &topology.subs[self.sub];
        self.failing = None;
        self.take_counts();
        let (state, store) = (&mut self.ctx.state, sub.meta.id());
        self.committed_stream_time = meta::stream_time(state, store)?;
        state.set_stream_time_ms(self.committed_stream_time.0);
        let clock = |name: &Option<String>| match name {
            Some(name) => meta::clock(state, store, name),
            None => Ok(Timestamp(i64::MIN)),
        };
        self.ctx.clocks = Clocks::new(topology.clocks.iter().map(clock).collect::<Result<_, _>>()?);
        self.store_times.clear();
        for window_store in sub.stores.iter().filter(|store| topology.stores[store.0].kind.is_windowed()) {
            let time = meta::store_time(state, store, &topology.stores[window_store.0].name)?;
            state.set_time_ms(window_store.id(), time.0);
            self.store_times.push((*window_store, time));
        }
        // A commit of nothing: readers, too, must know the time by which rows have expired.
        state.commit(&[]);
        self.inputs.clear();
        for &source in &sub.sources {
            let topic = topology.sources[source.0].topic;
            if self.partition.0 < self.topics[topic.0].partitions {
                let next = meta::offset(state, store, &topology.topics[topic.0].name)?;
                self.inputs.push(Input::new(source, next));
            }
        }
        self.punctuators_due.clear();
        for punctuator in &sub.punctuators {
            let stored = meta::punctuator_due(state, store, &punctuator.name)?;
            let now = match punctuator.domain {
                TimeDomain::Stream => self.committed_stream_time,
                TimeDomain::WallClock => self.ctx.wall_clock,
            };
            let due = match (stored, punctuator.anchor, punctuator.domain) {
                (Some(due), ..) => due,
                (None, None, TimeDomain::Stream) => Timestamp(0),
                (None, anchor, _) => {
                    let due = match anchor {
                        None => now.plus_ms(punctuator.interval_ms),
                        // An anchor in the past is no reason to run at once, but the grid to run on.
                        Some(anchor) if anchor < now => punctuator.next_due(anchor, now),
                        Some(anchor) => anchor,
                    };
                    // Committed with whatever comes first, so that restarts do not put it off for ever.
                    meta::set_punctuator_due(state, store, &punctuator.name, due);
                    due
                }
            };
            self.punctuators_due.push(due);
        }
        let with_ttl = sub.stores.iter().filter_map(|store| Some((*store, topology.stores[store.0].ttl_ms?)));
        self.sweeps = with_ttl.map(|(store, ttl_ms)| Sweep::new(store, ttl_ms)).collect();
        self.ctx.timers = Default::default();
        let first = &self.inputs[0];
        self.ctx.origin =
            Origin { topic: topology.sources[first.source.0].topic, partition: self.partition, offset: first.next() };
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
        &self.ctx.state
    }

    /// Whether an input has moved since the last commit, be it only past records that are gone.
    pub(crate) fn has_moved(&self) -> bool {
        self.inputs.iter().any(Input::changed)
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

    /// Processes the next record, timer or punctuation. Punctuators on the wall clock wait until it has moved, as the test driver's has not at first.
    ///
    /// # Errors
    /// If the state cannot be read: nothing of the step remains, and the transaction must be aborted.
    pub(crate) fn step(&mut self, now: Timestamp, has_moved: bool) -> Result<Step, ProcessError> {
        self.ctx.wall_clock = now;
        if let Some(Failing { what, retry_at, .. }) = self.failing {
            let step = match what {
                _ if now < retry_at => return Ok(Step::Paused(retry_at)),
                Attempt::Record(index) => Some(self.process(index)?),
                Attempt::Punctuator(index) => Some(self.punctuate(index)?),
                Attempt::Timer(domain) => self.fire_timer(domain)?,
            };
            if let Some(step) = step {
                return Ok(step);
            }
        }
        for domain in TimeDomain::ALL {
            let (now, sub) = (self.now(domain), &self.topology.subs[self.sub]);
            let looks = has_moved || domain == TimeDomain::Stream;
            let due = |(i, p): &(usize, &Punctuator)| looks && p.domain == domain && self.punctuators_due[*i] <= now;
            if let Some((index, _)) = sub.punctuators.iter().enumerate().find(due) {
                return self.punctuate(index);
            }
            if let Some(step) = self.fire_timer(domain)? {
                return Ok(step);
            }
        }
        if let Some(until) = self.waits_until(now) {
            return Ok(Step::Waiting(until));
        }
        match self.next_input() {
            Some(next) => self.process(next),
            None => Ok(Step::Idle),
        }
    }

    fn now(&self, domain: TimeDomain) -> Timestamp {
        match domain {
            TimeDomain::Stream => self.ctx.stream_time(),
            TimeDomain::WallClock => self.ctx.wall_clock,
        }
    }

    /// Until when records have to wait for inputs that are empty, each of which is waited for since it became so (KIP-695); one that is
    /// empty for ever delays nothing but the first of them.
    fn waits_until(&mut self, now: Timestamp) -> Option<Timestamp> {
        if self.max_idle_ms == 0 {
            return None;
        }
        let Task { topology, inputs, max_idle_ms, .. } = self;
        let ordered = inputs.iter_mut().filter(|input| !topology.sources[input.source.0].replays);
        let until: Vec<_> = ordered.map(|input| Some(input.empty_since(now)?.0.saturating_add_unsigned(*max_idle_ms))).collect();
        let waiting = until.contains(&None);
        until.into_iter().flatten().max().map(Timestamp).filter(|until| waiting && now < *until)
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
        let Task { topology, ctx, inputs, counts, failing, .. } = self;
        let Some((queued, after)) = inputs[index].head() else { return Ok(Step::Idle) };
        let next = queued.offset.next();
        let entry = &topology.sources[inputs[index].source.0];
        // A dead letter that is replayed is taken as the record it was, from where it was, or as the timer.
        let replayed = if entry.replays { Replayed::read(topology, self.sub, &queued) } else { None };
        let (source, record) = match &replayed {
            Some(replayed) => (replayed.source, replayed.record()),
            None => (entry, queued),
        };
        let event = replayed.as_ref().map_or(&Event::Record, |replayed| &replayed.event);
        ctx.origin = Origin { topic: source.topic, partition: self.partition, offset: record.offset };
        let mark = ctx.mark();
        let outcome = guarded(ctx, |ctx| match (event, &source.processor) {
            (Event::Timer { node, at }, _) => {
                call_timer(ctx, &topology.subs[self.sub], node, record.key.unwrap_or_default(), *at)
            }
            (Event::Record, Some(processor)) => {
                ctx.set_stream_time(ctx.stream_time().max(record.timestamp).min(LATEST));
                processor.process(ctx, &record)
            }
            _ => Err(ProcessError::Unwritable("what is to be replayed was not read here".into())),
        });
        let step = match outcome {
            Ok(()) => {
                counts.processed += 1;
                counts.oldest = Some(counts.oldest.map_or(record.timestamp, |oldest| oldest.min(record.timestamp)));
                *failing = None;
                Step::Done
            }
            Err(error) => {
                ctx.undo_to(mark);
                if let Some(paused) = retry(failing, counts, Attempt::Record(index), ctx.wall_clock, &error)? {
                    return Ok(paused);
                }
                let (original, event) = (record.headers.to_headers(), event.clone());
                let letter = DeadLetter { timestamp: record.timestamp, original, ..letter(topology, ctx, &error, event) };
                // A foreign record in the replay topic has no source; the dead letters of the first input are as good as any.
                let fallback = topology.sources[inputs[0].source.0].dead_letters;
                let to = if source.processor.is_some() { source.dead_letters } else { fallback };
                park(ctx, counts, to, &letter, record.key, record.value);
                Step::Parked
            }
        };
        inputs[index].advance(next, after);
        Ok(step)
    }

    /// Runs a punctuator, which is due.
    fn punctuate(&mut self, index: usize) -> Result<Step, ProcessError> {
        let topology = Arc::clone(&self.topology);
        let sub = &topology.subs[self.sub];
        let punctuator = &sub.punctuators[index];
        let now = self.now(punctuator.domain);
        let step = self.attempt(Attempt::Punctuator(index), Event::Punctuation, None, |ctx| {
            ctx.enter(punctuator.node);
            (punctuator.call)(ctx, now)
        })?;
        if !matches!(step, Step::Paused(_)) {
            let next = punctuator.next_due(self.punctuators_due[index], now);
            self.punctuators_due[index] = next;
            meta::set_punctuator_due(&mut self.ctx.state, sub.meta.id(), &punctuator.name, next);
        }
        Ok(step)
    }

    /// Fires the first timer of the domain, if it is due.
    fn fire_timer(&mut self, domain: TimeDomain) -> Result<Option<Step>, ProcessError> {
        let (now, next) = (self.now(domain), self.ctx.timers.next(domain));
        if now < next {
            return Ok(None);
        }
        let topology = Arc::clone(&self.topology);
        let sub = &topology.subs[self.sub];
        let first = meta::first_timer(&self.ctx.state, sub.meta.id(), domain, next)?;
        self.ctx.timers.set(domain, first.as_ref().map(|row| row.at));
        let Some(row) = first.filter(|row| row.at <= now) else { return Ok(None) };
        let event = Event::Timer { node: row.node.clone(), at: row.at };
        let step = self.attempt(Attempt::Timer(domain), event, Some(row.key()), |ctx| {
            ctx.delete(sub.meta, &row.row);
            call_timer(ctx, sub, &row.node, row.key(), row.at)
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
        event: Event,
        key: Option<&[u8]>,
        f: impl FnOnce(&mut Context) -> Result<(), ProcessError>,
    ) -> Result<Step, ProcessError> {
        let Task { topology, ctx, counts, failing, inputs, .. } = self;
        let mark = ctx.mark();
        match guarded(ctx, f) {
            Ok(()) => {
                *failing = None;
                Ok(Step::Done)
            }
            Err(error) => {
                ctx.undo_to(mark);
                if let Some(paused) = retry(failing, counts, what, ctx.wall_clock, &error)? {
                    return Ok(paused);
                }
                let to = topology.sources[inputs[0].source.0].dead_letters;
                park(ctx, counts, to, &letter(topology, ctx, &error, event), key, None);
                Ok(Step::Parked)
            }
        }
    }

    /// How many bytes the running transaction holds in memory.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.ctx.pending_bytes()
    }

    /// What a commit must append for this task; `None` if there is nothing. `now` stamps the changelog records.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub(crate) fn effects(&mut self, now: Timestamp) -> Result<Option<Effects>, ProcessError> {
        let topology = Arc::clone(&self.topology);
        let sub = &topology.subs[self.sub];
        let stream_time = self.ctx.stream_time();
        let (state, meta) = (&mut self.ctx.state, sub.meta.id());
        for input in self.inputs.iter().filter(|input| input.changed()) {
            let topic = &topology.topics[topology.sources[input.source.0].topic.0];
            meta::set_offset(state, meta, &topic.name, input.next());
        }
        if stream_time != self.committed_stream_time {
            meta::set_stream_time(state, meta, stream_time);
        }
        for (clock, time) in self.ctx.clocks.changed() {
            if let Some(name) = &topology.clocks[clock.0] {
                meta::set_clock(state, meta, name, time);
            }
        }
        for (store, committed) in &self.store_times {
            let time = Timestamp(state.time_ms(store.id()));
            if time != *committed {
                meta::set_store_time(state, meta, &topology.stores[store.0].name, time);
            }
        }
        for sweep in &mut self.sweeps {
            sweep.go_on(state)?;
        }
        let mut changelog = RecordBatch::default();
        let mut key = Vec::new();
        for row in state.dirty() {
            key.clear();
            changelog::push_key(&mut key, &topology.stores[StoreIndex::of(row.store).0].name, row.key());
            changelog.push(now, Some(&key), row.value(), &Headers::EMPTY);
        }
        let outputs = self.ctx.outbox.take();
        if changelog.is_empty() && outputs.is_empty() {
            return Ok(None);
        }
        let offsets = self.next_offsets().collect();
        Ok(Some(Effects { outputs, changelog, offsets }))
    }

    /// The effects were committed; this is where the changelog ends now, if anything was appended to it.
    pub(crate) fn committed(&mut self, position: Option<Position>) {
        let stores = &self.topology.subs[self.sub].stores;
        let positions: Vec<_> = position.into_iter().flat_map(|at| stores.iter().map(move |store| (store.id(), at))).collect();
        self.ctx.state.commit(&positions);
        self.inputs.iter_mut().for_each(Input::committed);
        self.committed_stream_time = self.ctx.stream_time();
        self.ctx.clocks.committed();
        for (store, committed) in &mut self.store_times {
            *committed = Timestamp(self.ctx.state.time_ms(store.id()));
        }
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

/// Runs user code. A panic is a failure like any other, for all that it changed is undone; a failure of the state is one of the state,
/// whatever user code made of it.
fn guarded(ctx: &mut Context, f: impl FnOnce(&mut Context) -> Result<(), ProcessError>) -> Result<(), ProcessError> {
    let outcome = catch_unwind(AssertUnwindSafe(|| f(ctx))).unwrap_or_else(|panic| Err(ProcessError::panicked(&*panic)));
    if let Some(error) = ctx.take_state_error() {
        return Err(ProcessError::State(error));
    }
    outcome?;
    match ctx.pending_bytes() {
        bytes if bytes > MAX_STEP_BYTES => Err(ProcessError::Unwritable(format!("what it writes takes {bytes} bytes"))),
        _ => Ok(()),
    }
}

/// Whether to try again: the pause until then, or `None` if the failure is to be parked, and is no longer counted.
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
    let attempts = failing.take().map_or(0, |failing| failing.attempts);
    if !error.is_retriable() || attempts == RETRIES {
        return Ok(None);
    }
    counts.retries += 1;
    let retry_at = now.plus_ms(FIRST_BACKOFF_MS << (2 * attempts));
    *failing = Some(Failing { what, attempts: attempts + 1, retry_at });
    Ok(Some(Step::Paused(retry_at)))
}

/// A dead letter about where the context stands.
fn letter(topology: &Topology, ctx: &Context, error: &ProcessError, event: Event) -> DeadLetter {
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
        event,
        omitted: None,
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
    let timestamp = Timestamp(letter.timestamp.0.max(0));
    let (key, value, headers) = letter.write(key, value, ctx.outbox.topic(to));
    ctx.outbox.push_to(to, letter.partition, key, value, timestamp, &headers);
}
