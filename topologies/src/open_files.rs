//! How many connections the process may have open: as many as the system lets it.

/// Lifts the limit of open files as far as the system lets it: every connection is one.
pub fn allow() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid pointer to a whole rlimit. If they fail, the limit stays, and a connection says so.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}
