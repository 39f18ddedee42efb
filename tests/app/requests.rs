//! Requests with a key are carried out once, and answered alike each time: in parallel, given up half way, and across a restart.

use std::convert::Infallible;
use std::time::Duration;

use millstream::{Accepted, Answer, Handle, RequestError, RequestKey};

use super::support::{IN, catch_up, events, read, start, sum, sums, wait};

fn request(key: &str, fingerprint: u8) -> RequestKey {
    RequestKey { key: key.as_bytes().to_vec(), fingerprint: [fingerprint; 32], keep_ms: 3_600_000 }
}

/// Adds `value` to the request's own key, and answers with it.
async fn add(handle: &Handle, key: &str, value: i64) -> Result<Answer, RequestError<Infallible>> {
    let accepted =
        || async move { Ok(Accepted { events: events([(key.to_owned(), value)]), answer: value.to_string().into_bytes() }) };
    handle.once(&request(key, 0), accepted).await
}

#[test]
fn a_repeated_request_has_one_effect_and_one_answer_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    let first = wait(add(&app.handle(), "a", 1)).expect("it is carried out");
    assert_eq!(wait(add(&app.handle(), "a", 2)).expect("it was carried out"), first);
    app.stop();
    let app = start(sums(), dir.path());
    assert_eq!(wait(add(&app.handle(), "a", 3)).expect("it was carried out"), first);
    wait(app.handle().at_least(&first.position, "sums", super::support::LONG)).expect("the position is still readable");
    assert_eq!(sum(&app.handle(), "a"), Some(1));
    app.stop();
    assert_eq!(read(dir.path(), &IN).len(), 1);
}

#[test]
fn requests_of_one_key_at_once_have_one_effect_and_one_answer() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    let handle = app.handle();
    wait(async {
        let mut running = tokio::task::JoinSet::new();
        for n in 0..200 {
            let handle = handle.clone();
            running.spawn(async move { (n % 10, add(&handle, &format!("key-{}", n % 10), n).await.expect("an answer")) });
        }
        let mut answers: Vec<_> = running.join_all().await;
        answers.sort_by_key(|(key, _)| *key);
        assert!(answers.chunks(20).all(|alike| alike.iter().all(|answer| answer == &alike[0])));
    });
    drop(handle);
    app.stop();
    assert_eq!(read(dir.path(), &IN).len(), 10);
}

#[test]
fn a_request_that_was_given_up_is_answered_when_it_is_repeated() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    let handle = app.handle();
    wait(async {
        for n in 0..50 {
            let key = format!("key-{n}");
            // Polled once: its transaction is queued, and nobody waits for the outcome any more.
            let _ = tokio::time::timeout(Duration::ZERO, add(&handle, &key, 1)).await;
            let answer = add(&handle, &key, 2).await.expect("an answer");
            assert_eq!(answer.answer, b"1", "the first one's");
        }
    });
    drop(handle);
    app.stop();
    assert_eq!(read(dir.path(), &IN).len(), 50);
}

#[test]
fn a_key_is_for_one_request_and_a_refusal_frees_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    let handle = app.handle();
    wait(async {
        let refused = handle.once(&request("a", 0), || async { Err::<Accepted, _>("no") }).await;
        assert!(matches!(refused, Err(RequestError::Refused("no"))));
        add(&handle, "a", 1).await.expect("the key is free");
        let other = handle.once(&request("a", 1), || async { Err::<Accepted, _>("it is not asked") }).await;
        assert!(matches!(other, Err(RequestError::Reused)));
    });
    catch_up(&handle, "sums");
    assert_eq!(sum(&handle, "a"), Some(1));
}
