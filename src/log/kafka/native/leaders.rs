//! What is left out of librdkafka: the leaders that brokers tell of in their answers to fetches (KIP-951).
//!
//! From 2.5 to 2.15 at least, `rd_kafka_handle_Fetch_metadata_update` counts the partitions whose leader has changed, leaves out those that have none
//! just now, and takes what lay in the memory of the rest for partitions, too. Where such bytes name a broker that is known, a partition has an epoch
//! that never was, and its fetches are refused until the process ends; or they lie outside of what is there. Seen where the only broker of a
//! cluster died and came back eight times: an epoch of 32,653, of a partition that had had sixteen.
//!
//! So what brokers tell is not taken: a client asks for the leaders, as it asks older brokers. For this the linker puts the function below in the place of
//! librdkafka's. It must be told to, by the build script of each program.

use rdkafka::bindings as sys;
use std::ffi::{c_int, c_void};

/// Of `rd_kafka_op_res_t`: nothing else is to be done.
const HANDLED: c_int = 1;

/// Called by librdkafka's main thread, which frees the update.
// SAFETY: nothing else has this name, and it looks at neither of its arguments.
#[unsafe(no_mangle)]
extern "C" fn __wrap_rd_kafka_metadata_update_op(_client: *mut sys::rd_kafka_t, _update: *mut c_void) -> c_int {
    tracing::debug!(target: "kafka", "what a broker tells of leaders is left out");
    HANDLED
}

// SAFETY: librdkafka's function of this name has these arguments and this result; it is never called here.
unsafe extern "C" {
    fn rd_kafka_metadata_update_op(client: *mut sys::rd_kafka_t, update: *mut c_void) -> c_int;
}

/// Whether this program is linked so that it is left out: with `-Wl,--wrap=rd_kafka_metadata_update_op`, on Linux by a line of its build script,
/// `println!("cargo:rustc-link-arg=-Wl,--wrap=rd_kafka_metadata_update_op")`. If it is not, partitions whose only broker dies and comes back
/// may stand still until the process is started again.
#[must_use]
pub fn leaves_out_told_leaders() -> bool {
    let (called, ours) = (rd_kafka_metadata_update_op as *const (), __wrap_rd_kafka_metadata_update_op as *const ());
    std::ptr::eq(called, ours)
}
