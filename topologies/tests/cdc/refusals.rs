//! What cannot be relayed is said in one sentence, and nothing runs.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::database::{Server, shared};
use super::{insert, records_of, relaying, wait_for_marker};
use crate::shop::{FREE, Shop, command, dev, eventually, refusal, run_command};

/// What a shop says that refuses to relay.
#[track_caller]
fn refused(args: &[&str]) -> String {
    let data = TempDir::new().expect("a directory");
    refusal(&run_command(command(&dev(FREE, data.path())).args(args)))
}

#[test]
fn wrong_options_are_told_before_anything_runs() {
    let url = "mysql://app:app@127.0.0.1:1/app";
    for (args, named) in [
        (&["--mysql", "nonsense"][..], "--mysql"),
        (&["--mysql", "mysql://app:app@127.0.0.1:1"], "database"),
        (&["--mysql", url, "--cdc-option", "no.such.option=1"], "no.such.option"),
        (&["--mysql", url, "--cdc-option", "table.expand.json.payload=true"], "table.expand.json.payload"),
        (&["--mysql", url, "--cdc-route", "x"], "--cdc-route"),
        (&["--mysql", url, "--cdc-snapshot", "when_needed"], "--cdc-snapshot"),
        (&["--resnapshot"], "--mysql"),
    ] {
        let said = refused(args);
        assert!(said.contains(named), "{args:?}: {said}");
    }
}

#[test]
fn what_the_server_lacks_is_told() {
    let server = shared();
    let database = server.database();
    server.run("", "CREATE USER poor@'%' IDENTIFIED BY 'poor'; GRANT SELECT, INSERT, UPDATE, DELETE ON *.* TO poor@'%'");
    let check = |url: &str, named: &[&str]| {
        let said = refused(&["--mysql", url]);
        named.iter().for_each(|named| assert!(said.contains(named), "{url}: {said}"));
    };
    let url = server.url("app", &database);
    check(&url.replace(":app@", ":wrong@"), &["denied"]);
    check(&server.url("app", "no_such_database"), &["no_such_database"]);
    check(&server.url("cdc", &database), &["outbox_events", "missing", "cannot be made"]);
    server.run(&database, "CREATE TABLE outbox_events (id CHAR(36) PRIMARY KEY) ENGINE=InnoDB");
    check(&url, &["no column", "aggregate_id"]);
    server.run(&database, "DROP TABLE outbox_events; CREATE TABLE outbox_events (id INT) ENGINE=MyISAM");
    check(&url, &["MyISAM", "InnoDB"]);
    server.run(&database, "DROP TABLE outbox_events");
    drop(relaying(&url, &[]));
    check(&server.url("poor", &database), &["REPLICATION SLAVE"]);

    let (statement, minimal, none) =
        (Server::start(&["--binlog-format=STATEMENT"]), Server::start(&["--binlog-row-image=MINIMAL"]), Server::without_binlog());
    check(&statement.url("app", &statement.database()), &["binlog_format", "ROW"]);
    let compressed = Server::start(&["--log-bin-compress=ON"]);
    check(&compressed.url("app", &compressed.database()), &["log_bin_compress", "OFF"]);
    check(&minimal.url("app", &minimal.database()), &["binlog_row_image", "FULL"]);
    check(&none.url("app", &none.database()), &["binlog", "--log-bin"]);
}

#[test]
fn a_binlog_that_was_purged_is_told_and_a_snapshot_goes_on() {
    let server = Server::start(&[]);
    let database = server.database();
    let url = server.url("app", &database);
    for by in ["gtid", "file"] {
        let args = ["--cdc-position", by, "--cdc-route", "Test=test-events"];
        let shop = relaying(&url, &args);
        let id = format!("seen-{by}");
        server.run(&database, &insert(&id, "1", "Marker", "NULL"));
        wait_for_marker(&shop, &id);
        let data = std::sync::Arc::clone(&shop.data);
        drop(shop);
        server.run(&database, &insert(&format!("missed-{by}"), "1", "Test", "NULL"));
        server.run(&database, "FLUSH BINARY LOGS; FLUSH BINARY LOGS");
        // A file that the killed shop's connection still reads is kept until the server notices.
        eventually(|| {
            let files: Vec<(String, u64)> = server.rows(&database, "SHOW BINARY LOGS");
            server.run(&database, &format!("PURGE BINARY LOGS TO '{}'", files.last().expect("a binlog").0));
            (files.len() == 1).then_some(())
        });

        let output = run_command(command(&dev(FREE, data.path())).args(["--mysql", &url]).args(args));
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains("--resnapshot") && said.contains("binlog"), "{said}");

        let shop = Shop::start_on_with(data, FREE, &[&["--mysql", &url, "--resnapshot"], &args[..]].concat());
        let id = format!("after-{by}");
        server.run(&database, &insert(&id, "1", "Marker", "NULL"));
        wait_for_marker(&shop, &id);
        let records = records_of(shop);
        let missed = format!("missed-{by}");
        assert!(records["test-events"].iter().any(|record| record.header("id") == Some(&missed)));
    }
}

/// A key, and a certificate of 127.0.0.1 that it has signed itself.
fn certificate(dir: &Path, name: &str) -> [String; 2] {
    let files = ["key", "pem"].map(|kind| dir.join(format!("{name}.{kind}")).display().to_string());
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=database",
    ]);
    openssl.args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", &files[0], "-out", &files[1]]);
    let output = openssl.output().expect("openssl runs: the package openssl has it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in &files {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).expect("it is ours");
    }
    files
}

#[test]
fn a_server_that_wants_tls_has_to_show_a_known_certificate() {
    let dir = TempDir::new().expect("a directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let ([key, known], [_, other]) = (certificate(dir.path(), "server"), certificate(dir.path(), "other"));
    let server = Server::start(&[&format!("--ssl-cert={known}"), &format!("--ssl-key={key}")]);
    let database = server.database();
    server.run("", "CREATE USER tls@'%' IDENTIFIED BY 'tls' REQUIRE SSL; GRANT ALL ON *.* TO tls@'%'");
    let (plain, url) = (server.url("tls", &database), format!("{}?require_ssl=true", server.url("tls", &database)));
    assert!(refused(&["--mysql", &plain]).contains("denied"));
    assert!(refused(&["--mysql", &url]).contains("certificate"));
    assert!(refused(&["--mysql", &url, "--mysql-ca", &other]).contains("certificate"));
    assert!(refused(&["--mysql", &url, "--mysql-ca", "/no/such/file"]).contains("--mysql-ca"));
    let shop = relaying(&url, &["--mysql-ca", &known]);
    server.run(&database, &insert("by-tls", "1", "Marker", "NULL"));
    wait_for_marker(&shop, "by-tls");
}
