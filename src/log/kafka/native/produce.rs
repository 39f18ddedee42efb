//! What a transactional producer does: records, offsets, and the steps of a transaction.

use super::client::{Client, events, partitions};
use super::{Failure, c_string, checked, code, millis, text};
use crate::log::RecordRef;
use rdkafka::bindings as sys;
use rdkafka::types::RDKafkaErrorCode as Code;
use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A topic to produce to.
pub(in super::super) struct Topic(NonNull<sys::rd_kafka_topic_t>);

// SAFETY: topics of librdkafka are counted references that lock inside.
unsafe impl Send for Topic {}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: the reference is ours and given back once.
        unsafe { sys::rd_kafka_topic_destroy(self.0.as_ptr()) };
    }
}

/// What became of the records since it was last taken.
#[derive(Debug, Default)]
pub(in super::super) struct Delivered {
    /// By number: the offset of the record that was produced with it.
    pub offsets: Vec<(usize, i64)>,
    /// Why a record was not appended, the first of them.
    pub failed: Option<Code>,
    /// Which of those with a number were not appended, why, and whether that is known: else they may have been.
    pub lost: Vec<(usize, Code, bool)>,
}

impl Delivered {
    /// What became of the record of this number, if that is known.
    fn take(&mut self, number: usize) -> Option<Result<i64, Code>> {
        if let Some(place) = self.offsets.iter().position(|(of, _)| *of == number) {
            return Some(Ok(self.offsets.swap_remove(place).1));
        }
        let place = self.lost.iter().position(|(of, ..)| *of == number)?;
        Some(Err(self.lost.swap_remove(place).1))
    }
}

/// What names a member of a group to those who check offsets.
pub(in super::super) struct GroupMetadata(NonNull<sys::rd_kafka_consumer_group_metadata_t>);

// SAFETY: it is plain memory that nothing changes once it is made; librdkafka only reads and copies it.
unsafe impl Send for GroupMetadata {}
// SAFETY: as above.
unsafe impl Sync for GroupMetadata {}

impl GroupMetadata {
    /// Of a group without members, or of somebody who is none.
    pub(in super::super) fn of(group: &str) -> GroupMetadata {
        // SAFETY: the name is valid and copied.
        let ptr = unsafe { sys::rd_kafka_consumer_group_metadata_new(c_string(group).as_ptr()) };
        GroupMetadata(NonNull::new(ptr).expect("librdkafka makes it or ends the process"))
    }

    /// Of this consumer as it is now, or nothing while it is not a member.
    pub(in super::super) fn of_member(consumer: &Client) -> Option<GroupMetadata> {
        // SAFETY: the client is valid; the result is null or ours.
        let metadata = GroupMetadata(NonNull::new(unsafe { sys::rd_kafka_consumer_group_metadata(consumer.raw()) })?);
        metadata.generation().is_some_and(|generation| generation > 0).then_some(metadata)
    }

    /// librdkafka tells the generation only in what it writes: `CGMDv2:`, then the number as this machine has it. With a member
    /// id but no generation a broker would take offsets without checking anything, so it must be known.
    fn generation(&self) -> Option<i32> {
        const MAGIC: &[u8] = b"CGMDv2:";
        let (mut buffer, mut len) = (null_mut(), 0);
        // SAFETY: the metadata is valid; the buffer is filled on success, read within its length, and freed once.
        unsafe {
            checked(sys::rd_kafka_consumer_group_metadata_write(self.0.as_ptr(), &raw mut buffer, &raw mut len)).ok()?;
            let bytes = std::slice::from_raw_parts(buffer.cast::<u8>(), len);
            let generation =
                bytes.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk()).map(|number| i32::from_ne_bytes(*number));
            sys::rd_kafka_mem_free(null_mut(), buffer);
            generation
        }
    }
}

impl Drop for GroupMetadata {
    fn drop(&mut self) {
        // SAFETY: ours, and given back once.
        unsafe { sys::rd_kafka_consumer_group_metadata_destroy(self.0.as_ptr()) };
    }
}

impl Client {
    /// Becomes the only producer of its transactional id: whoever was it before is fenced, and what it left open is ended.
    pub(in super::super) fn init_transactions(&self, timeout: Duration) -> Result<(), Failure> {
        // SAFETY: the client is valid, here and below.
        checked(unsafe { sys::rd_kafka_init_transactions(self.raw(), millis(timeout)) })
    }

    pub(in super::super) fn begin_transaction(&self) -> Result<(), Failure> {
        // SAFETY: as above.
        checked(unsafe { sys::rd_kafka_begin_transaction(self.raw()) })
    }

    pub(in super::super) fn send_offsets(
        &self,
        offsets: &[(Arc<str>, i32, i64)],
        group: &GroupMetadata,
        timeout: Duration,
    ) -> Result<(), Failure> {
        let list = partitions(offsets);
        // SAFETY: all three are valid; list and metadata are copied.
        checked(unsafe { sys::rd_kafka_send_offsets_to_transaction(self.raw(), list.ptr(), group.0.as_ptr(), millis(timeout)) })
    }

    /// Sends what is queued and commits. After a timeout it may be called again and goes on where it was.
    pub(in super::super) fn commit_transaction(&self, timeout: Duration) -> Result<(), Failure> {
        // SAFETY: as above.
        checked(unsafe { sys::rd_kafka_commit_transaction(self.raw(), millis(timeout)) })
    }

    /// As `commit_transaction`, to the other end.
    pub(in super::super) fn abort_transaction(&self, timeout: Duration) -> Result<(), Failure> {
        // SAFETY: as above.
        checked(unsafe { sys::rd_kafka_abort_transaction(self.raw(), millis(timeout)) })
    }

    /// Waits until all that was produced is acknowledged or refused, at most for so long.
    pub(in super::super) fn flush(&self, timeout: Duration) -> Result<(), Failure> {
        // SAFETY: as above.
        code(unsafe { sys::rd_kafka_flush(self.raw(), millis(timeout)) })
    }

    /// A topic to produce to.
    pub(in super::super) fn topic(&self, name: &str) -> Result<Topic, Failure> {
        // SAFETY: client and name are valid; the result is null or a reference that the topic gives back.
        let ptr = unsafe { sys::rd_kafka_topic_new(self.raw(), c_string(name).as_ptr(), null_mut()) };
        NonNull::new(ptr).map(Topic).ok_or_else(|| Code::InvalidTopic.into())
    }

    /// Queues a record, of which everything is copied. The offset of one with a number above 0 is told in [`Delivered`].
    ///
    /// # Errors
    /// [`Code::QueueFull`] until what is queued was sent, or why the record can't be sent at all.
    pub(in super::super) fn produce(
        &self,
        topic: &Topic,
        partition: i32,
        record: &RecordRef<'_>,
        number: usize,
    ) -> Result<(), Failure> {
        let (key, key_len) = raw(record.key);
        let (value, value_len) = raw(record.value);
        // librdkafka takes 0 for "now"; Kafka's way to say that there is no time is what is read as 0 again.
        let timestamp: i64 = if record.timestamp.0 == 0 { -1 } else { record.timestamp.0 };
        let headers = headers(record);
        // SAFETY: the arguments are what the tags before them announce, the last tag ends them, and all pointers are valid during
        // the call. Headers are taken over if it succeeds, and are ours to free if not.
        unsafe {
            let error = sys::rd_kafka_producev(
                self.raw(),
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_RKT,
                topic.0.as_ptr(),
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_PARTITION,
                partition,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS,
                sys::RD_KAFKA_MSG_F_COPY,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE,
                value,
                value_len,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY,
                key,
                key_len,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_OPAQUE,
                number as *mut c_void,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_TIMESTAMP,
                timestamp,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADERS,
                headers,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_END,
            );
            let result = code(error);
            if result.is_err() && !headers.is_null() {
                sys::rd_kafka_headers_destroy(headers);
            }
            result
        }
    }

    /// Appends a record by itself and answers with its offset. Any number of threads may do so at once, of a client that is used for nothing
    /// else that produces, and whose `message.timeout.ms` is shorter than this timeout. After an error it may be there.
    pub(in super::super) fn append(
        &self,
        (topic, partition): (&str, i32),
        record: &RecordRef<'_>,
        timeout: Duration,
    ) -> Result<i64, Failure> {
        static NUMBERS: AtomicUsize = AtomicUsize::new(1);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        self.produce(&self.topic(topic)?, partition, record, number)?;
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(outcome) = self.events.delivered.lock().take(number) {
                return outcome.map_err(Failure::from);
            }
            if Instant::now() >= deadline {
                return Err(Code::OperationTimedOut.into());
            }
            // Whoever polls is told of all; who was told by another looks again soon.
            self.poll(Duration::from_millis(1));
        }
    }

    /// Why a record was not appended, since what became of them was last taken.
    pub(in super::super) fn take_failed(&self) -> Option<Code> {
        self.events.delivered.lock().failed.take()
    }

    /// Why the client is of no use any more, if it is of none.
    pub(in super::super) fn fatal(&self) -> Option<Failure> {
        let mut reason = [0; 256];
        // SAFETY: the client is valid, and the reason has the length that is given.
        let found = unsafe { sys::rd_kafka_fatal_error(self.raw(), reason.as_mut_ptr(), reason.len()) };
        let failed = code(found).err()?;
        Some(Failure { fatal: true, text: text(reason.as_ptr()), ..failed })
    }

    /// What became of the records since this was last called.
    pub(in super::super) fn take_delivered(&self) -> Delivered {
        std::mem::take(&mut *self.events.delivered.lock())
    }
}

/// No bytes are a null pointer; empty ones are not.
fn raw(bytes: Option<&[u8]>) -> (*mut c_void, usize) {
    bytes.map_or((null_mut(), 0), |bytes| (bytes.as_ptr().cast_mut().cast(), bytes.len()))
}

/// The record's headers as librdkafka has them, or null if there are none.
fn headers(record: &RecordRef<'_>) -> *mut sys::rd_kafka_headers_t {
    if record.headers.is_empty() {
        return null_mut();
    }
    // SAFETY: the headers are new; names and values are valid with their lengths, and copied.
    unsafe {
        let headers = sys::rd_kafka_headers_new(8);
        for (name, value) in record.headers.iter() {
            sys::rd_kafka_header_add(
                headers,
                name.as_ptr().cast(),
                name.len() as isize,
                value.as_ptr().cast(),
                value.len() as isize,
            );
        }
        headers
    }
}

/// Called for each record while its producer is polled or flushed.
pub(super) extern "C" fn on_delivery(_: *mut sys::rd_kafka_t, message: *const sys::rd_kafka_message_t, opaque: *mut c_void) {
    // SAFETY: the message is valid during the call, and the opaque pointer is that of the client.
    let (message, events) = unsafe { (&*message, events(opaque)) };
    let number = message._private as usize;
    let code = Code::from(message.err);
    if code == Code::NoError && number == 0 {
        return;
    }
    let mut delivered = events.delivered.lock();
    if code == Code::NoError {
        delivered.offsets.push((number, message.offset));
    } else {
        delivered.failed.get_or_insert(code);
        if number > 0 {
            // SAFETY: the message is valid.
            let status = unsafe { sys::rd_kafka_message_status(message) };
            delivered.lost.push((number, code, status == sys::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED));
        }
    }
}
