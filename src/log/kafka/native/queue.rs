//! A queue of librdkafka's, from which a partition's records are taken in batches and which says when it is no longer empty.

use super::client::Client;
use super::{Failure, Message, c_string, millis};
use rdkafka::bindings as sys;
use rdkafka::types::RDKafkaErrorCode as Code;
use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::time::Duration;

/// Called when a queue becomes nonempty, on a thread of librdkafka's that holds the queue's lock: it must not call librdkafka.
pub(in super::super) type Wake = Arc<dyn Fn() + Send + Sync>;

pub(in super::super) struct Queue {
    ptr: NonNull<sys::rd_kafka_queue_t>,
    /// Behind a second pointer, for a fat one does not fit into librdkafka's.
    wake: Option<Box<Wake>>,
}

// SAFETY: queues of librdkafka lock inside.
unsafe impl Send for Queue {}

impl Queue {
    /// A queue from a reference that is given to it.
    pub(super) fn of(ptr: NonNull<sys::rd_kafka_queue_t>) -> Queue {
        Queue { ptr, wake: None }
    }

    /// A new queue.
    pub(in super::super) fn new(client: &Client) -> Queue {
        // SAFETY: the client is valid.
        let ptr = unsafe { sys::rd_kafka_queue_new(client.raw()) };
        Queue::of(NonNull::new(ptr).expect("librdkafka makes a queue or ends the process"))
    }

    /// The queue of a partition, for itself: its records no longer go to the queue of the group.
    pub(in super::super) fn of_partition(client: &Client, topic: &str, partition: i32) -> Option<Queue> {
        // SAFETY: client and name are valid; the result is null or a reference that the queue gives back.
        let ptr = unsafe { sys::rd_kafka_queue_get_partition(client.raw(), c_string(topic).as_ptr(), partition) };
        let queue = Queue::of(NonNull::new(ptr)?);
        // SAFETY: the queue is valid; forwarding to nothing is how it is separated.
        unsafe { sys::rd_kafka_queue_forward(queue.raw(), null_mut()) };
        Some(queue)
    }

    pub(super) fn raw(&self) -> *mut sys::rd_kafka_queue_t {
        self.ptr.as_ptr()
    }

    /// Calls `wake` whenever the queue becomes nonempty.
    pub(in super::super) fn on_nonempty(&mut self, wake: Wake) {
        let wake = Box::new(wake);
        // SAFETY: the box lives until the callback is disabled, in `drop`, or replaced here.
        unsafe { sys::rd_kafka_queue_cb_event_enable(self.raw(), Some(nonempty), std::ptr::from_ref(&*wake).cast_mut().cast()) };
        self.wake = Some(wake);
    }

    /// Serves events and takes up to `max` messages, waiting for the first at most so long. How many there were.
    pub(in super::super) fn consume(&self, max: usize, timeout: Duration, mut take: impl FnMut(Message<'_>)) -> usize {
        let mut messages: [*mut sys::rd_kafka_message_t; BATCH] = [null_mut(); BATCH];
        let max = max.min(BATCH);
        // SAFETY: the queue is valid, and the array has room for so many.
        let taken = unsafe { sys::rd_kafka_consume_batch_queue(self.raw(), millis(timeout), messages.as_mut_ptr(), max) };
        let taken = usize::try_from(taken).unwrap_or(0);
        for ptr in messages[..taken].iter().filter_map(|ptr| NonNull::new(*ptr)) {
            // SAFETY: the message is ours until it is destroyed, once, right after it was looked at.
            unsafe {
                take(Message::of(ptr));
                sys::rd_kafka_message_destroy(ptr.as_ptr());
            }
        }
        taken
    }
}

/// A partition that is read without a group, into a queue, until this is dropped.
pub(in super::super) struct Consuming {
    client: Arc<Client>,
    topic: NonNull<sys::rd_kafka_topic_t>,
    partition: i32,
}

// SAFETY: topics of librdkafka are counted references that lock inside.
unsafe impl Send for Consuming {}

impl Consuming {
    /// Starts at an offset. A client reads a partition at one place at a time.
    pub(in super::super) fn start(
        client: &Arc<Client>,
        topic: &str,
        partition: i32,
        from: i64,
        into: &Queue,
    ) -> Result<Consuming, Failure> {
        // SAFETY: client and name are valid; the result is null or a reference that is given back when this is dropped.
        let topic = unsafe { sys::rd_kafka_topic_new(client.raw(), c_string(topic).as_ptr(), null_mut()) };
        let topic = NonNull::new(topic).ok_or(Code::InvalidTopic)?;
        // SAFETY: topic and queue are valid and of this client.
        if unsafe { sys::rd_kafka_consume_start_queue(topic.as_ptr(), partition, from, into.raw()) } == 0 {
            return Ok(Consuming { client: Arc::clone(client), topic, partition });
        }
        // SAFETY: the reference is ours; the error is that of this thread's last call.
        unsafe {
            let failed = sys::rd_kafka_last_error();
            sys::rd_kafka_topic_destroy(topic.as_ptr());
            Err(Code::from(failed).into())
        }
    }
}

impl Drop for Consuming {
    fn drop(&mut self) {
        // SAFETY: the partition was started, and the topic's reference is ours and given back once, while the client lives.
        unsafe {
            sys::rd_kafka_consume_stop(self.topic.as_ptr(), self.partition);
            sys::rd_kafka_topic_destroy(self.topic.as_ptr());
        }
        let _until_now = &self.client;
    }
}

/// How many messages are taken at once at most.
pub(super) const BATCH: usize = 512;

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the queue is valid, and its reference is given back once. The callback is off before its box is freed: librdkafka
        // calls it with the queue's lock, which disabling takes too.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(self.raw(), None, null_mut());
            sys::rd_kafka_queue_destroy(self.raw());
        }
    }
}

extern "C" fn nonempty(_: *mut sys::rd_kafka_t, wake: *mut c_void) {
    // SAFETY: what `on_nonempty` gave, which lives until after the callback is disabled.
    let wake = unsafe { &*wake.cast::<Wake>() };
    wake();
}
