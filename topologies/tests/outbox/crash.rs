//! The database is killed under load, and the shop with it: every promise holds in the end.

use std::process::Stdio;
use std::sync::Arc;

use serde_json::Value;

use super::{nothing_is_half_done, rows, through};
use crate::cdc::database::Server;
use crate::shop::{Shop, command, eventually, id_of};

#[test]
fn a_load_through_a_database_that_is_killed_keeps_every_promise() {
    let mut server = Server::start(&[]);
    let database = server.database();
    let url = server.url("app", &database);
    let mut shop = through(&url);
    let address = shop.address.to_string();
    let at = shop.url();
    let args = ["load", "--coupons", "--orders", "--url", &at, "--json", "--seconds", "6", "--users", "200", "--rate", "100"];
    let mut load = command(&args);
    load.args(["--connections", "24", "--listeners", "20"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let load = load.spawn().expect("the binary runs");
    for kill in 1..=4 {
        let written = || rows(&server, &database, "outbox_events");
        let enough = written() + 120;
        eventually(|| (written() >= enough).then_some(()));
        if kill % 2 == 1 {
            server.kill_and_restart();
        } else {
            let data = Arc::clone(&shop.data);
            drop(shop); // by kill -9
            shop = Shop::start_on_with(data, &address, &["--mysql", &url]);
        }
    }
    let output = load.wait_with_output().expect("a child");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for kind in ["coupons", "orders"] {
        assert!(result[kind]["repeated"].as_u64() > Some(0), "{result}");
    }
    assert!(id_of(&result["orders"]["verified"], "live") > 0, "{result}");
    nothing_is_half_done(&server, &database);
    drop(shop);
}
