//! An application with nothing to do does next to nothing.

use std::time::Duration;

use millstream::{StreamBuilder, Topic};

use super::support::{alone, append, catch_up, pass, start, sums};

/// CPU time of this process so far.
fn cpu_time() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call fills the struct it is given, which may also be all zeros.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |time: libc::timeval| Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64);
    time(usage.ru_utime) + time(usage.ru_stime)
}

#[test]
fn thirty_idle_tasks_take_less_than_a_hundredth_of_a_core() {
    alone("app::idle::thirty_idle_tasks_take_less_than_a_hundredth_of_a_core", || {
        let dir = tempfile::tempdir().expect("a directory");
        let wide: Topic<String, i64> = Topic::new("wide").partitions(21);
        let mut builder: StreamBuilder = sums();
        builder.stream(&wide).group_by_key().count("wide-counts");
        let app = start(builder, dir.path());
        append(&app.handle(), "a", 1);
        catch_up(&app.handle(), "counts");
        // What the state writes down when it becomes idle is not the rest that is measured.
        pass(Duration::from_millis(2_000));
        let before = cpu_time();
        pass(Duration::from_millis(2_000));
        let used = cpu_time() - before;
        println!("{used:?} of CPU time in 2 s");
        assert!(used < Duration::from_millis(20), "{used:?}");
        app.stop();
    });
}
