//! A commit whose answer is lost, at each moment at which it can be: what the client is told is what the database then has.

use serde_json::json;

use super::proxy::{Fate, Proxy};
use super::{nothing_is_half_done, rows, through};
use crate::cdc::database::{Server, shared};
use crate::shop::fresh_id;

#[test]
fn a_commit_without_an_answer_is_looked_up() {
    are_looked_up(shared());
}

pub fn are_looked_up(server: &Server) {
    let database = server.database();
    let proxy = Proxy::before(server.port);
    let shop = through(&server.url("app", &database).replace(&server.port.to_string(), &proxy.port().to_string()));
    let coupon = shop.coupon(100);
    let path = format!("/api/coupons/{coupon}/issue");
    let mut written = 0;
    for (nth, (fate, key)) in [
        (Fate::LostBefore, false),
        (Fate::LostAfter, false),
        (Fate::LostBefore, true),
        (Fate::LostAfter, true),
        (Fate::GoneAfter, true),
        (Fate::GoneAfter, false),
    ]
    .into_iter()
    .enumerate()
    {
        let user = fresh_id();
        let key = if key { format!("key-{nth}") } else { String::new() };
        let send = || match key.as_str() {
            "" => shop.claim(coupon, user),
            key => shop.post_with_key(&path, key, &json!({"userId": user})),
        };
        proxy.next_commit(fate);
        let answer = send();
        match fate {
            Fate::LostBefore => {
                answer.refused(503, "LOG_UNAVAILABLE");
            }
            Fate::LostAfter => {
                answer.ok(202);
                written += 1;
            }
            Fate::GoneAfter => {
                answer.refused(504, "OUTCOME_UNKNOWN");
                written += 1;
                proxy.come_back();
            }
        }
        assert_eq!(rows(server, &database, "outbox_events"), written, "{fate:?} {key}");
        if !key.is_empty() {
            // Repeated, it is what it was, or happens now.
            let again = crate::shop::eventually(|| Some(send()).filter(|answer| answer.status == 202));
            written += u64::from(fate == Fate::LostBefore);
            if fate == Fate::LostAfter {
                assert_eq!((again.text(), again.position()), (answer.text(), answer.position()));
            }
            assert_eq!(rows(server, &database, "outbox_events"), written, "{fate:?} {key}");
            shop.get(&format!("/api/users/{user}/coupons?at_least={}&wait_ms=10000", again.position())).ok(200);
            assert_eq!(shop.coupons_of(user), [coupon]);
        }
    }
    nothing_is_half_done(server, &database);
}
