//! One consumed record, or one error that comes in its place.

use rdkafka::bindings as sys;
use rdkafka::types::RDKafkaErrorCode as Code;
use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::ptr::{NonNull, null, null_mut};

/// A message that is borrowed from the batch it came in.
pub(in super::super) struct Message<'a> {
    ptr: NonNull<sys::rd_kafka_message_t>,
    batch: PhantomData<&'a ()>,
}

impl<'a> Message<'a> {
    /// # Safety
    /// `ptr` is a message that lives for `'a`.
    pub(super) unsafe fn of(ptr: NonNull<sys::rd_kafka_message_t>) -> Message<'a> {
        Message { ptr, batch: PhantomData }
    }

    fn get(&self) -> &'a sys::rd_kafka_message_t {
        // SAFETY: what `of` was promised.
        unsafe { self.ptr.as_ref() }
    }

    /// What is wrong; only the partition and the offset mean something then.
    pub(in super::super) fn error(&self) -> Option<Code> {
        let code = Code::from(self.get().err);
        (code != Code::NoError).then_some(code)
    }

    pub(in super::super) fn offset(&self) -> i64 {
        self.get().offset
    }

    /// In milliseconds since 1970, or negative for a record that has none.
    pub(in super::super) fn timestamp(&self) -> i64 {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is valid, and the kind outlives the call.
        unsafe { sys::rd_kafka_message_timestamp(self.ptr.as_ptr(), &raw mut kind) }
    }

    pub(in super::super) fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: key and length belong together and live as long as the message.
        unsafe { bytes(self.get().key, self.get().key_len) }
    }

    pub(in super::super) fn value(&self) -> Option<&'a [u8]> {
        // SAFETY: as above.
        unsafe { bytes(self.get().payload, self.get().len) }
    }

    /// Names and values in order. A name is text; a value that is null counts as empty.
    pub(in super::super) fn headers(&self) -> Headers<'a> {
        let mut headers = null_mut();
        // SAFETY: the message is valid; the headers are parsed into it and live as long as it does.
        let found = unsafe { sys::rd_kafka_message_headers(self.ptr.as_ptr(), &raw mut headers) };
        let headers = if Code::from(found) == Code::NoError { headers } else { null_mut() };
        Headers { headers, next: 0, message: PhantomData }
    }
}

/// The headers of a message.
#[derive(Clone)]
pub(in super::super) struct Headers<'a> {
    headers: *const sys::rd_kafka_headers_t,
    next: usize,
    message: PhantomData<&'a ()>,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (std::borrow::Cow<'a, str>, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.headers.is_null() {
            return None;
        }
        let (mut name, mut value, mut len) = (null(), null(), 0);
        // SAFETY: the headers live as long as the message. The call fails at the end of them, and else fills all three.
        let (name, value) = unsafe {
            let found = sys::rd_kafka_header_get_all(self.headers, self.next, &raw mut name, &raw mut value, &raw mut len);
            if Code::from(found) != Code::NoError {
                return None;
            }
            (CStr::from_ptr(name).to_string_lossy(), bytes(value, len).unwrap_or_default())
        };
        self.next += 1;
        Some((name, value))
    }
}

/// # Safety
/// `first` is null or points to `len` bytes that live for `'a`.
unsafe fn bytes<'a>(first: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: what the caller promises; null is no value, and a length of 0 with a pointer is an empty one.
    (!first.is_null()).then(|| unsafe { std::slice::from_raw_parts(first.cast::<u8>(), len) })
}
