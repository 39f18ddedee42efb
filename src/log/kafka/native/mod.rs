//! librdkafka as this log uses it: all unsafe code of the log lies in this directory, behind functions that can't be used wrongly.
//! The safe layer of `rdkafka` is not enough: it has no topic ids, no committed ends, no batches of records, and its producer
//! waits up to 100 ms for a flush. Nothing here decides what an error means for a transaction or a task.

mod admin;
mod client;
mod leaders;
mod message;
mod produce;
mod queue;

pub(super) use admin::{Described, Isolation, Offsets, Resource, Settings};
pub(super) use client::{Client, Events, Kind, Rebalance, Taken};
pub use leaders::leaves_out_told_leaders;
pub(super) use message::Message;
pub(super) use produce::{Delivered, GroupMetadata, Topic};
pub(super) use queue::{Consuming, Queue, Wake};

use rdkafka::bindings as sys;
use rdkafka::types::RDKafkaErrorCode as Code;
use std::ffi::{CStr, CString, c_char};
use std::time::Duration;

/// What librdkafka said no with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub code: Code,
    /// The same call may succeed if it is repeated.
    pub retriable: bool,
    /// The transaction must be aborted; another one may succeed.
    pub abortable: bool,
    /// The client is of no use any more.
    pub fatal: bool,
    /// For people.
    pub text: String,
}

impl From<Code> for Failure {
    fn from(code: Code) -> Failure {
        Failure { code, retriable: false, abortable: false, fatal: false, text: code.to_string() }
    }
}

/// Nothing, or what is wrong; librdkafka's error is given back to it.
fn checked(error: *mut sys::rd_kafka_error_t) -> Result<(), Failure> {
    if error.is_null() {
        return Ok(());
    }
    let failure = described(error);
    // SAFETY: the caller owns the error that it was given and does not use it again.
    unsafe { sys::rd_kafka_error_destroy(error) };
    match failure {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// What an error says that belongs to somebody else.
fn described(error: *const sys::rd_kafka_error_t) -> Option<Failure> {
    if error.is_null() {
        return None;
    }
    // SAFETY: `error` is not null and lives as long as the result it is part of, which the caller holds.
    let failure = unsafe {
        Failure {
            code: sys::rd_kafka_error_code(error).into(),
            retriable: sys::rd_kafka_error_is_retriable(error) != 0,
            abortable: sys::rd_kafka_error_txn_requires_abort(error) != 0,
            fatal: sys::rd_kafka_error_is_fatal(error) != 0,
            text: text(sys::rd_kafka_error_string(error)),
        }
    };
    (failure.code != Code::NoError).then_some(failure)
}

/// Nothing, or the code as a failure.
fn code(code: sys::rd_kafka_resp_err_t) -> Result<(), Failure> {
    match Code::from(code) {
        Code::NoError => Ok(()),
        code => Err(code.into()),
    }
}

/// A string of librdkafka's, copied; null is empty.
fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: librdkafka's strings end with a zero byte, and this one is not null.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}

/// A string for librdkafka. Names come checked (topics) or from the configuration; none of those holds a zero byte.
fn c_string(string: &str) -> CString {
    let until_zero = string.split('\0').next().unwrap_or_default();
    CString::new(until_zero).expect("cut before the first zero byte")
}

/// As librdkafka counts: whole milliseconds, rounded up so that a short wait is not none.
fn millis(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
}
