//! What tasks have made of what is not durable yet: it is there, and nobody is told of it before the sync, however they ask.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use millstream::{Accepted, Events, Handle, RequestError, RequestKey, Seen, Watched};

use super::support::{LONG, SUMS, alone, append, catch_up, events, eventually, record, start, sums, wait};
use crate::power;

type Asked = Pin<Box<dyn Future<Output = String>>>;

/// Whether none of these has an answer now; those that have one say so.
async fn all_wait(asked: &mut [(&'static str, Asked)]) {
    for (what, future) in asked {
        let answer = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        assert!(answer.is_pending(), "{what} was told before the sync: {answer:?}");
    }
}

fn key(name: &str) -> RequestKey {
    RequestKey { key: name.into(), fingerprint: [0; 32], keep_ms: 60_000 }
}

async fn once(handle: Handle, name: &'static str) -> String {
    let accept = async || {
        Ok::<_, ()>(Accepted { events: Events::new().with(&super::support::IN, &record("a", 1)), answer: b"yes".to_vec() })
    };
    format!("{:?}", handle.once(&key(name), accept).await.map(|answer| answer.answer))
}

#[test]
fn nothing_is_told_before_it_is_durable() {
    alone("app::ahead::nothing_is_told_before_it_is_durable", || {
        let dir = tempfile::tempdir().expect("a directory");
        let app = start(sums(), dir.path());
        let handle = app.handle();
        append(&handle, "a", 1);
        catch_up(&handle, "counts");
        let view = handle.view("sums").expect("a store of the topology");
        let typed = view.clone().typed(&SUMS);
        wait(async {
            assert_eq!(typed.get(&"a".into()).expect("the view answers").durable().await.expect("it is durable"), Some(1));
        });
        let mut watch = view.watch(Watched::Key(b"a".to_vec()));

        let gate = power::hold_syncs();
        // Whoever asks first goes away before there is an answer.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let first = runtime.spawn(once(handle.clone(), "key"));
        eventually("the task goes on", || typed.get(&"a".into()).expect("the view answers").ahead() == Some(2));
        first.abort();

        runtime.block_on(async {
            let (h, t, v) = (handle.clone(), typed.clone(), view.clone());
            let stores = handle.clone();
            let refused = handle.clone();
            let mut asked: Vec<(&'static str, Asked)> = vec![
                (
                    "a row",
                    Box::pin(async move { format!("{:?}", t.get(&"a".into()).expect("the view answers").durable().await) }),
                ),
                (
                    "a page",
                    Box::pin(async move {
                        let page =
                            v.page(&millstream::Range::all(), millstream::Direction::Forward, 9).expect("the view answers");
                        format!("{:?} rows", page.durable().await.map(|rows| rows.len()))
                    }),
                ),
                ("a change", Box::pin(async move { format!("{:?}", watch.next().await.map(|change| change.key.clone())) })),
                (
                    "what stores hold",
                    Box::pin(async move { format!("{:?} stores", stores.stores().durable().await.map(|all| all.len())) }),
                ),
                ("a request of the same key", Box::pin(once(h, "key"))),
                (
                    "a refusal",
                    Box::pin(async move {
                        let refuse = async || Err::<Accepted, _>("sold out");
                        match refused.once(&key("other"), refuse).await {
                            Err(RequestError::Refused(why)) => why.to_owned(),
                            other => format!("{other:?}"),
                        }
                    }),
                ),
                (
                    "an append",
                    Box::pin({
                        let handle = handle.clone();
                        async move { format!("{}", handle.append(events([("b".to_owned(), 1)])).await.is_ok()) }
                    }),
                ),
            ];
            for _ in 0..20 {
                all_wait(&mut asked).await;
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            gate.open();
            let told = tokio::time::timeout(LONG, async {
                let mut told = Vec::new();
                for (_, future) in asked {
                    told.push(future.await);
                }
                told
            });
            let told = told.await.expect("all are told once it is durable");
            let expected =
                ["Ok(Some(2))", "Ok(1) rows", "Some(b\"a\")", "Ok(2) stores", "Ok([121, 101, 115])", "sold out", "true"];
            assert_eq!(told, expected);
        });
        // The request was carried out once.
        catch_up(&handle, "counts");
        assert_eq!(typed.get(&"a".into()).and_then(Seen::wait).expect("the view answers"), Some(2));
        drop((handle, typed, view));
        assert_eq!(app.stop(), None);
    });
}
