//! How many heaps the allocator keeps. glibc gives each thread one of its own, up to eight a core, and what passes from thread to thread, as
//! records on their way to a broker do, leaves holes in each of them.

/// Has all threads share one heap: for a process of few threads, of which one makes what the next frees. Before there are others.
pub fn share() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number of the allocator's, which takes its own lock. If it is refused, heaps stay as they were.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
