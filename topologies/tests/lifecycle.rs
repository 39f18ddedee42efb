//! The shop starts, stops and refuses to start as an operator expects.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::shop::{FREE, Shop, command, dev, fresh_id, refusal, run, run_command};

/// The bound of the contract.
const STOP: Duration = Duration::from_secs(10);

#[test]
fn a_signal_stops_it_cleanly_with_clients_connected() {
    for signal in ["TERM", "INT"] {
        let shop = Shop::start();
        let coupon = shop.coupon(10);
        let mut streams: Vec<_> = (0..20).map(|_| shop.subscribe(fresh_id(), None)).collect();
        streams.iter_mut().for_each(|stream| assert_eq!(stream.next().name, "connected"));
        let idle: Vec<_> = (0..20).map(|_| shop.connect()).collect();
        let mut half = shop.connect();
        half.send_raw("POST /api/coupons HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{");
        let user = fresh_id();
        shop.claim_and_wait(coupon, user);

        let (data, began) = (Arc::clone(&shop.data), Instant::now());
        shop.signal(signal);
        assert_eq!(shop.wait(STOP).code(), Some(0), "SIG{signal}");
        assert!(began.elapsed() < STOP, "{:?}", began.elapsed());
        streams.iter_mut().for_each(|stream| assert_eq!(stream.maybe_next(), None));
        drop(idle);

        assert_eq!(Shop::start_on(data, FREE).coupons_of(user), [coupon]);
    }
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind(FREE).expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let data = TempDir::new().expect("a directory");
    let said = refusal(&run(&dev(&address, data.path())));
    assert!(said.contains(&address), "{said}");
}

#[track_caller]
fn refused_directory(data: &Path) {
    let said = refusal(&run(&dev(FREE, data)));
    assert!(said.contains(data.to_str().expect("UTF-8")), "{said}");
}

#[test]
fn a_directory_in_use_is_named_and_left_alone() {
    let shop = Shop::start();
    let coupon = shop.coupon(1);
    refused_directory(shop.data.path());
    shop.claim_and_wait(coupon, 1);
    assert_eq!(shop.kill_and_restart().coupons_of(1), [coupon]);
}

#[test]
fn a_damaged_directory_is_named() {
    let shop = Shop::start();
    for _ in 0..50 {
        shop.coupon(1);
    }
    let data = Arc::clone(&shop.data);
    shop.signal("TERM");
    shop.wait(STOP);
    damage(data.path());
    refused_directory(data.path());
}

fn damage(path: &Path) {
    for entry in fs::read_dir(path).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            damage(&path);
        } else {
            let length = fs::metadata(&path).expect("a file").len();
            fs::write(&path, vec![0xA5; length as usize]).expect("a write");
        }
    }
}

#[test]
fn what_is_no_directory_is_named() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, "x").expect("a write");
    refused_directory(&file);
}

#[test]
fn a_reset_begins_the_inputs_anew() {
    let shop = Shop::start();
    let (coupon, user) = (shop.coupon(10), fresh_id());
    shop.claim_and_wait(coupon, user);
    let data = Arc::clone(&shop.data);
    let dir = data.path().to_str().expect("UTF-8").to_owned();
    assert!(refusal(&run(&["reset", "--data", &dir])).contains("in use"), "it runs");
    shop.signal("TERM");
    assert!(shop.wait(STOP).success());

    let output = run(&["reset", "--data", &dir]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success()
            && said.contains("coupon-issue begins at")
            && said.contains("shop-shop.coupons-changelog forgotten"),
        "{output:?}"
    );
    let shop = Shop::start_on(Arc::clone(&data), FREE);
    // What clients wrote is processed once more.
    assert_eq!(shop.coupons_of(user), [coupon]);
    shop.signal("TERM");
    assert!(shop.wait(STOP).success());

    assert!(run(&["reset", "--data", &dir, "--to", "latest"]).status.success());
    let shop = Shop::start_on(data, FREE);
    assert_eq!(shop.coupons_of(user), [0_u64; 0]);
    assert_eq!(shop.get(&format!("/api/coupons/{coupon}")).status, 404);
    let coupon = shop.coupon(10);
    shop.claim_and_wait(coupon, user);
    assert_eq!(shop.coupons_of(user), [coupon]);
}

#[test]
fn the_environment_is_as_good_as_flags() {
    let data = TempDir::new().expect("a directory");
    let file = data.path().join("file");
    fs::write(&file, "x").expect("a write");
    let output = run_command(command(&[]).env("SHOP_LISTEN", FREE).env("SHOP_DATA", &file));
    assert!(refusal(&output).contains(file.to_str().expect("UTF-8")));
}

#[test]
fn wrong_usage_is_one_sentence_that_names_the_flag() {
    for (args, named) in [
        (&["--listen", "nonsense"][..], "--listen"),
        (&["dev", "--listen", "0.0.0.0:0"], "--auth-secret-file"),
        (&["dev", "--auth-secret-file", "/nonexistent/secret", "--listen", FREE], "--auth-secret-file"),
        (&["dev", "--memory-budget", "x"], "--memory-budget"),
        (&["dev", "--nonsense"], "--nonsense"),
        (&["nonsense"], "nonsense"),
        (&["topology", "nonsense"], "nonsense"),
        (&["topology", "--format", "x"], "--format"),
        (&["load"], "--coupons"),
        (&["dlq", "show"], "TOPIC"),
        (&["reset"], "--brokers"),
        (&["reset", "--data", "/nonexistent/data"], "/nonexistent/data"),
    ] {
        let said = refusal(&run(args));
        assert!(said.contains(named), "{args:?}: {said}");
    }
}

#[test]
fn help_and_version_are_no_failure() {
    for args in [&["--help"][..], &["dev", "--help"], &["load", "--help"], &["dlq", "replay", "--help"], &["--version"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty(), "{args:?}");
    }
}
