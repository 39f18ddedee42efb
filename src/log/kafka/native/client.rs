//! A client of librdkafka, producer or consumer, and what it calls back with. Its threads end with it.

use super::queue::Queue;
use super::{Failure, checked, code, millis, text};
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::bindings as sys;
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode as Code;
use std::ffi::{CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Kind {
    Producer,
    Consumer,
}

/// What the group gave or took: partitions of the topics that are subscribed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Rebalance {
    pub kind: Taken,
    pub partitions: Vec<(String, i32)>,
}

/// How partitions came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Taken {
    Assigned,
    Revoked,
    /// Without a chance to commit: others may have them already.
    Lost,
}

type OnError = Box<dyn Fn(Code, &str) + Send + Sync>;
/// Told of a rebalance, answers which of the partitions that are read are to be read no more.
type OnRebalance = Box<dyn Fn(Rebalance) -> Vec<(Arc<str>, i32)> + Send + Sync>;

/// What a client calls back with, while it is polled.
pub(in super::super) struct Events {
    pub on_error: OnError,
    pub on_rebalance: Option<OnRebalance>,
    /// What became of records, by the numbers given to `produce`.
    pub(super) delivered: Mutex<super::Delivered>,
    /// The greatest version of the request that puts offsets into a transaction which all brokers know that have said so.
    txn_offsets: Mutex<Option<i16>>,
    /// Whether the answer to a request did not come in time.
    timed_out: AtomicBool,
}

impl Events {
    pub(in super::super) fn new(on_error: impl Fn(Code, &str) + Send + Sync + 'static) -> Events {
        let (delivered, txn_offsets, timed_out) = Default::default();
        Events { on_error: Box::new(on_error), on_rebalance: None, delivered, txn_offsets, timed_out }
    }
}

/// A client. All of it may be called from any thread: librdkafka locks inside.
pub(in super::super) struct Client {
    ptr: NonNull<sys::rd_kafka_t>,
    pub(super) events: Box<Events>,
    kind: Kind,
}

// SAFETY: a client of librdkafka may be used by any number of threads at once (its INTRODUCTION.md, "Threads and callbacks"),
// and what it calls back with is Send and Sync.
unsafe impl Send for Client {}
// SAFETY: as above.
unsafe impl Sync for Client {}

impl Client {
    /// A client with these properties.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(in super::super) fn new(kind: Kind, config: &ClientConfig, events: Events) -> Result<Client, String> {
        let native = config.create_native_config().map_err(|e| e.to_string())?;
        let events = Box::new(events);
        let mut reason = [0 as c_char; 512];
        let type_ = match kind {
            Kind::Producer => sys::rd_kafka_type_t::RD_KAFKA_PRODUCER,
            Kind::Consumer => sys::rd_kafka_type_t::RD_KAFKA_CONSUMER,
        };
        // SAFETY: the configuration is valid until rd_kafka_new takes it over, which it does only when it succeeds (else it is
        // dropped below). `events` is boxed and outlives the client, so the pointer to it stays good for every callback.
        let ptr = unsafe {
            let conf = native.ptr();
            sys::rd_kafka_conf_set_opaque(conf, std::ptr::from_ref(&*events).cast_mut().cast::<c_void>());
            sys::rd_kafka_conf_set_error_cb(conf, Some(on_error));
            sys::rd_kafka_conf_set_log_cb(conf, Some(on_log));
            match kind {
                Kind::Producer => sys::rd_kafka_conf_set_dr_msg_cb(conf, Some(super::produce::on_delivery)),
                Kind::Consumer if events.on_rebalance.is_some() => sys::rd_kafka_conf_set_rebalance_cb(conf, Some(on_rebalance)),
                Kind::Consumer => {}
            }
            sys::rd_kafka_new(type_, conf, reason.as_mut_ptr(), reason.len())
        };
        let Some(ptr) = NonNull::new(ptr) else { return Err(text(reason.as_ptr())) };
        let _taken_over = ManuallyDrop::new(native);
        let client = Client { ptr, events, kind };
        if client.events.on_rebalance.is_some() {
            // SAFETY: the client is a consumer; its own events then come with those of the group, on one queue.
            unsafe { sys::rd_kafka_poll_set_consumer(client.raw()) };
        }
        Ok(client)
    }

    pub(super) fn raw(&self) -> *mut sys::rd_kafka_t {
        self.ptr.as_ptr()
    }

    /// Serves callbacks, at most for so long, and returns after the first if there was one.
    pub(in super::super) fn poll(&self, timeout: Duration) {
        // SAFETY: the client is valid.
        unsafe { sys::rd_kafka_poll(self.raw(), millis(timeout)) };
    }

    /// The greatest version of the request that puts offsets into a transaction (TxnOffsetCommit) which all brokers know that this client has
    /// spoken with. Only of a client whose `debug` names `feature`: librdkafka tells it in its log and nowhere else.
    pub(in super::super) fn txn_offsets_version(&self) -> Option<i16> {
        *self.events.txn_offsets.lock()
    }

    /// Whether a broker answers within this time.
    pub(in super::super) fn reaches_broker(&self, timeout: Duration) -> Result<(), Failure> {
        self.topic_names(timeout).map(drop)
    }

    /// Connects to a broker that the cluster names, and tells whether it answered within this time. librdkafka 2.12 knows the brokers that it
    /// is configured with until the first answer alone, and connects to those which that names when one is needed: a new producer that looks
    /// for a broker in between looks again half a second later. With each answer it looks at once.
    pub(in super::super) fn meet_broker(&self, timeout: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + timeout;
        self.some_broker(timeout)?;
        self.some_broker(deadline.saturating_duration_since(Instant::now())).map(drop)
    }

    /// The names of all topics.
    pub(in super::super) fn topic_names(&self, timeout: Duration) -> Result<Vec<String>, Failure> {
        let mut metadata = std::ptr::null();
        // SAFETY: `metadata` is written only on success, read while it is valid and destroyed once.
        unsafe {
            code(sys::rd_kafka_metadata(self.raw(), 1, std::ptr::null_mut(), &raw mut metadata, millis(timeout)))?;
            let topics = slice((*metadata).topics, (*metadata).topic_cnt as usize);
            let names = topics.iter().map(|topic| text(topic.topic)).collect();
            sys::rd_kafka_metadata_destroy(metadata);
            Ok(names)
        }
    }

    /// The number of some broker.
    pub(in super::super) fn some_broker(&self, timeout: Duration) -> Result<Option<i32>, Failure> {
        let mut metadata = std::ptr::null();
        // SAFETY: as in `topic_names`; no topic is asked for.
        unsafe {
            code(sys::rd_kafka_metadata(self.raw(), 0, std::ptr::null_mut(), &raw mut metadata, millis(timeout)))?;
            let brokers = slice((*metadata).brokers, (*metadata).broker_cnt as usize);
            let found = brokers.first().map(|broker| broker.id);
            sys::rd_kafka_metadata_destroy(metadata);
            Ok(found)
        }
    }

    // -- consumers of a group --

    /// Subscribes to these topics.
    pub(in super::super) fn subscribe(&self, topics: &[Arc<str>]) -> Result<(), Failure> {
        let mut list = TopicPartitionList::new();
        for topic in topics {
            list.add_topic_unassigned(topic);
        }
        // SAFETY: client and list are valid; the list is copied.
        code(unsafe { sys::rd_kafka_subscribe(self.raw(), list.ptr()) })
    }

    /// Leaves the group, and gives all partitions back.
    pub(in super::super) fn unsubscribe(&self) -> Result<(), Failure> {
        // SAFETY: the client is valid.
        code(unsafe { sys::rd_kafka_unsubscribe(self.raw()) })
    }

    /// The name of this member in its group, once it has one.
    pub(super) fn member_id(&self) -> Option<String> {
        // SAFETY: the client is valid; what is not null is a string of ours, given back once.
        unsafe {
            let id = sys::rd_kafka_memberid(self.raw());
            let read = (!id.is_null()).then(|| text(id));
            sys::rd_kafka_mem_free(self.raw(), id.cast());
            read
        }
    }

    /// Whether the answer to a request, any one, did not come in time since this was asked last: librdkafka tells it in its log and nowhere
    /// else.
    pub(in super::super) fn timed_out(&self) -> bool {
        self.events.timed_out.swap(false, Ordering::AcqRel)
    }

    /// The queue of the group: serves rebalances, and gives errors as messages.
    pub(in super::super) fn group_queue(&self) -> Option<Queue> {
        // SAFETY: the client is valid; the result is null for one without a group, else a reference that the queue gives back.
        NonNull::new(unsafe { sys::rd_kafka_queue_get_consumer(self.raw()) }).map(Queue::of)
    }

    /// Starts to read these partitions from these offsets.
    pub(in super::super) fn incremental_assign(&self, from: &[(Arc<str>, i32, i64)]) -> Result<(), Failure> {
        // SAFETY: client and list are valid; the list is copied.
        checked(unsafe { sys::rd_kafka_incremental_assign(self.raw(), partitions(from).ptr()) })
    }

    /// Stops to read these partitions.
    pub(in super::super) fn incremental_unassign(&self, of: &[(Arc<str>, i32, i64)]) -> Result<(), Failure> {
        // SAFETY: as above.
        checked(unsafe { sys::rd_kafka_incremental_unassign(self.raw(), partitions(of).ptr()) })
    }

    /// Reads these partitions from these offsets from now on; what was fetched before is dropped.
    pub(in super::super) fn seek(&self, to: &[(Arc<str>, i32, i64)], timeout: Duration) -> Result<(), Failure> {
        let list = partitions(to);
        // SAFETY: client and list are valid, and results are written to the list.
        checked(unsafe { sys::rd_kafka_seek_partitions(self.raw(), list.ptr(), millis(timeout)) })?;
        list.elements().iter().try_for_each(|one| one.error()).map_err(|e| match e.rdkafka_error_code() {
            Some(code) => code.into(),
            None => Code::Fail.into(),
        })
    }

    /// The offset after everything that was consumed of a partition, transaction markers included, or none since it was started.
    pub(in super::super) fn position(&self, topic: &str, partition: i32) -> Option<i64> {
        let list = partitions(&[(Arc::from(topic), partition, sys::RD_KAFKA_OFFSET_BEGINNING.into())]);
        // SAFETY: client and list are valid, and results are written to the list.
        code(unsafe { sys::rd_kafka_position(self.raw(), list.ptr()) }).ok()?;
        list.elements().first().and_then(|one| one.offset().to_raw()).filter(|at| *at >= 0)
    }

    /// The partition's end as the last fetch saw it: the read-uncommitted one.
    pub(in super::super) fn last_seen_end(&self, topic: &CString, partition: i32) -> Option<i64> {
        let (mut low, mut high) = (-1, -1);
        // SAFETY: the client and the name are valid, and both numbers outlive the call.
        let result =
            unsafe { sys::rd_kafka_get_watermark_offsets(self.raw(), topic.as_ptr(), partition, &raw mut low, &raw mut high) };
        code(result).ok().and((high >= 0).then_some(high))
    }

    /// Leaves the group: gives all partitions back, and returns when that is done or the time is over.
    pub(in super::super) fn close(&self, timeout: Duration) {
        let Some(queue) = self.group_queue() else { return };
        let deadline = Instant::now() + timeout;
        // SAFETY: the client is a consumer and the queue is its own.
        if checked(unsafe { sys::rd_kafka_consumer_close_queue(self.raw(), queue.raw()) }).is_err() {
            return;
        }
        // SAFETY: the client is valid.
        while unsafe { sys::rd_kafka_consumer_closed(self.raw()) } == 0 && Instant::now() < deadline {
            queue.consume(1, Duration::from_millis(10), |_| {});
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.kind == Kind::Producer {
            let flags = sys::RD_KAFKA_PURGE_F_QUEUE | sys::RD_KAFKA_PURGE_F_INFLIGHT;
            // SAFETY: the client is valid; what waits is of no use, for its transaction is over.
            unsafe { sys::rd_kafka_purge(self.raw(), flags) };
        }
        // SAFETY: nobody else has the client. Whoever wanted to leave its group has called `close`; waiting for it here could block.
        unsafe { sys::rd_kafka_destroy_flags(self.raw(), sys::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE) };
    }
}

/// What librdkafka has as pointer and length.
///
/// # Safety
/// `first` points to `len` elements that live for `'a`, or `len` is 0.
pub(super) unsafe fn slice<'a, T>(first: *const T, len: usize) -> &'a [T] {
    if len == 0 {
        return &[];
    }
    // SAFETY: what the caller promises.
    unsafe { std::slice::from_raw_parts(first, len) }
}

pub(super) fn partitions(of: &[(Arc<str>, i32, i64)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(of.len());
    for (topic, partition, offset) in of {
        list.add_partition_offset(topic, *partition, At::from_raw(*offset)).expect("every raw offset is one");
    }
    list
}

/// What librdkafka gave as a list of partitions; null is an empty one.
pub(super) fn listed(list: *const sys::rd_kafka_topic_partition_list_t) -> Vec<(String, i32, i64, Code)> {
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: a list of librdkafka's that is not null has `cnt` elements, and lives as long as what the caller holds.
    let elements = unsafe { slice((*list).elems, (*list).cnt as usize) };
    elements.iter().map(|one| (text(one.topic), one.partition, one.offset, one.err.into())).collect()
}

/// The events of the client that calls back.
///
/// # Safety
/// `opaque` is what `Client::new` set.
pub(super) unsafe fn events<'a>(opaque: *mut c_void) -> &'a Events {
    // SAFETY: set by Client::new to its box, which lives until after the client's threads have ended.
    unsafe { &*opaque.cast::<Events>() }
}

/// What a broker said of TxnOffsetCommit, by its number in Kafka's protocol: `…(28) Versions 0..5`.
fn txn_offsets_version(message: &str) -> Option<i16> {
    let (_, versions) = message.split_once("(28) Versions ")?;
    versions.split_once("..")?.1.trim().parse().ok()
}

extern "C" fn on_error(_: *mut sys::rd_kafka_t, error: c_int, reason: *const c_char, opaque: *mut c_void) {
    // SAFETY: librdkafka calls back with codes of this enum, which has its C type, and with the opaque pointer of the client.
    let (code, events) = unsafe { (std::mem::transmute::<c_int, sys::rd_kafka_resp_err_t>(error), events(opaque)) };
    (events.on_error)(code.into(), &text(reason));
}

extern "C" fn on_log(client: *const sys::rd_kafka_t, level: c_int, facility: *const c_char, message: *const c_char) {
    let (facility, message) = (text(facility), text(message));
    // SAFETY: the client that logs is valid, and so is its opaque pointer, which it was made with.
    let events = || unsafe { events(sys::rd_kafka_opaque(client)) };
    if facility == "REQTMOUT" {
        events().timed_out.store(true, Ordering::Release);
    }
    if facility == "APIVERSION" {
        if let Some(version) = txn_offsets_version(&message) {
            let mut known = events().txn_offsets.lock();
            *known = Some(known.map_or(version, |known| known.min(version)));
        }
        return;
    }
    match level {
        0..=3 => tracing::warn!(target: "kafka", facility, "{message}"),
        4..=5 => tracing::info!(target: "kafka", facility, "{message}"),
        _ => tracing::debug!(target: "kafka", facility, "{message}"),
    }
}

extern "C" fn on_rebalance(
    client: *mut sys::rd_kafka_t,
    error: sys::rd_kafka_resp_err_t,
    list: *mut sys::rd_kafka_topic_partition_list_t,
    opaque: *mut c_void,
) {
    // SAFETY: the opaque pointer is that of the client.
    let events = unsafe { events(opaque) };
    let Some(tell) = &events.on_rebalance else { return };
    let assigned = Code::from(error) == Code::AssignPartitions;
    // SAFETY: the client that calls back is valid.
    let kind = match (assigned, unsafe { sys::rd_kafka_assignment_lost(client) }) {
        (true, _) => Taken::Assigned,
        (false, 0) => Taken::Revoked,
        (false, _) => Taken::Lost,
    };
    let partitions_of = listed(list).into_iter().map(|(topic, partition, ..)| (topic, partition)).collect();
    let stop: Vec<_> = tell(Rebalance { kind, partitions: partitions_of }).into_iter().map(|(t, p)| (t, p, 0)).collect();
    // The group waits for an answer. What was given is not read before the task is restored, so nothing is assigned yet.
    let result = if assigned {
        // SAFETY: client and list are valid; the list is copied.
        unsafe { sys::rd_kafka_incremental_assign(client, partitions(&[]).ptr()) }
    } else {
        // SAFETY: as above.
        unsafe { sys::rd_kafka_incremental_unassign(client, partitions(&stop).ptr()) }
    };
    if let Err(failure) = checked(result) {
        tracing::error!(target: "kafka", "group's change {kind:?} can't be answered: {}", failure.text);
    }
}
