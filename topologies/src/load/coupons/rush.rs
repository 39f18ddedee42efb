//! The rush itself: coupons made ahead of their claims, connections that each send one request after the other, at fixed times
//! or as fast as answers come, and a look at the counts while they change.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Rush;
use super::ledger::Counts;
use super::plan::{Bad, Claim, Job, OPEN};
use crate::load::Error;
use crate::load::caller::Caller;
use crate::load::random::Random;
use crate::load::schedule::Schedule;
use crate::load::twins::Answered;

/// Coupons that are kept ready, so that no claim waits for one.
pub const READY: usize = 2 * OPEN;
/// How often the counts of some coupon are looked at while they change.
const LOOK: Duration = Duration::from_millis(50);

/// One connection: sends until the rush is over.
pub async fn send(rush: Arc<Rush>, mut caller: Caller, schedule: Arc<Schedule>) -> Result<(), Error> {
    let mut request = Vec::new();
    while let Some(due) = schedule.next().await {
        match rush.next_job().await {
            Job::Claim(claim) => claim_coupon(&rush, &mut caller, &mut request, claim, due).await?,
            Job::Bad(bad) => be_refused(&rush, &mut caller, &mut request, bad).await?,
        }
    }
    Ok(())
}

/// One connection: sends a second time what was not yet, once the rush is over.
pub async fn repeat(rush: Arc<Rush>) -> Result<(), Error> {
    let mut caller = rush.run.caller();
    let mut request = Vec::new();
    loop {
        let Some(claim) = rush.state().plan.next_twin() else { return Ok(()) };
        claim_coupon(&rush, &mut caller, &mut request, claim, Instant::now()).await?;
    }
}

async fn claim_coupon(rush: &Rush, caller: &mut Caller, request: &mut Vec<u8>, claim: Claim, due: Instant) -> Result<(), Error> {
    let (coupon, user) = (rush.id(claim.coupon), rush.id(claim.user));
    let path = format!("/api/coupons/{coupon}/issue");
    let body = format!("{{\"userId\":{user}}}");
    let key = format!("idempotency-key: {}-{}\r\n", rush.run.tag, claim.seq);
    rush.run.target.write_request(request, "POST", &path, &key, body.as_bytes());
    rush.sends(&claim, due);
    let sent = Instant::now();
    let answer = caller.call(request).await?;
    let position = answer.header("x-stream-position");
    let refusal = match answer.status {
        202 if position.is_some() => None,
        409 => Some(answer.code()),
        _ => return Err(answer.unexpected(&format!("the claim of coupon {coupon} by user {user}"))),
    };
    let hash = if claim.twice { answer.hash() } else { 0 };
    let answered = Answered { accepted: refusal.is_none(), hash, sent, read: Instant::now() };
    rush.answered(&claim, refusal.as_deref(), answered, due)
}

async fn be_refused(rush: &Rush, caller: &mut Caller, request: &mut Vec<u8>, bad: Bad) -> Result<(), Error> {
    let known = rush.id(0);
    let unknown = (1u64 << 53) - 1;
    let json = "";
    let text = "content-type: text/plain\r\ncontent-length: 2\r\n";
    let mut write = |method, coupon, extra, body: &str| {
        rush.run.target.write_request(request, method, &format!("/api/coupons/{coupon}/issue"), extra, body.as_bytes());
    };
    let expected = match bad {
        Bad::NotJson => (write("POST", known, json, "{"), 400, "INVALID_JSON"),
        Bad::NoUser => (write("POST", known, json, "{}"), 400, "INVALID_FIELD"),
        Bad::NegativeUser => (write("POST", known, json, "{\"userId\":-1}"), 400, "INVALID_FIELD"),
        Bad::UnknownCoupon => (write("POST", unknown, json, "{\"userId\":1}"), 404, "COUPON_NOT_FOUND"),
        Bad::NotJsonType => (write("POST", known, text, ""), 415, "UNSUPPORTED_MEDIA_TYPE"),
        Bad::WrongMethod => (write("PUT", known, json, ""), 405, "METHOD_NOT_ALLOWED"),
    };
    if bad == Bad::NotJsonType {
        request.extend_from_slice(b"{}");
    }
    let answer = caller.call(request).await?;
    let ((), status, code) = expected;
    if answer.status != status || answer.code() != code {
        return Err(answer.unexpected(&format!("a bad request ({bad:?}) that is to get {status} {code}")));
    }
    rush.state().measured.bad += 1;
    Ok(())
}

/// Makes coupons ahead of their claims until it is aborted.
pub async fn make_coupons(rush: Arc<Rush>) -> Result<(), Error> {
    let mut caller = rush.run.caller();
    let mut request = Vec::new();
    loop {
        while rush.state().plan.waiting() < READY {
            let coupon = rush.state().ledger.coupons();
            let id = rush.id(coupon);
            let body = format!("{{\"couponId\":{id},\"name\":\"Load {id}\",\"limit\":{}}}", rush.limit);
            let key = format!("idempotency-key: {}-coupon-{coupon}\r\n", rush.run.tag);
            rush.run.target.write_request(&mut request, "POST", "/api/coupons", &key, body.as_bytes());
            let answer = caller.call(&request).await?;
            match answer.status {
                201 => rush.add_coupon(coupon),
                200 | 409 => return Err(Error::UsedBefore { what: "coupon", id }),
                _ => return Err(answer.unexpected(&format!("the creation of coupon {id}"))),
            }
        }
        rush.coupon_taken.notified().await;
    }
}

/// Looks at the counts of one coupon after the other until it is aborted.
pub async fn watch_counts(rush: Arc<Rush>) -> Result<(), Error> {
    let mut caller = rush.run.caller();
    let mut random = Random(0);
    loop {
        sleep(LOOK).await;
        let coupon = random.below(rush.state().ledger.coupons().into()) as u32;
        counts(&rush, &mut caller, coupon).await?;
    }
}

/// The counts of a coupon, which have to add up at any moment.
pub async fn counts(rush: &Rush, caller: &mut Caller, coupon: u32) -> Result<Counts, Error> {
    let counts: Counts = caller.json(&format!("/api/coupons/{}", rush.id(coupon))).await?;
    counts.check()?;
    Ok(counts)
}
