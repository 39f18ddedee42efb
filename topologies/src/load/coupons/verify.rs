//! The end of a load: when nothing is sent any more, what the shop shows has to agree with what it has answered, coupon by
//! coupon and user by user. Everything is read through the public API.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use serde::Deserialize;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Rush;
use super::ledger::Decision;
use super::rush::counts;
use crate::load::caller::Caller;
use crate::load::heard::Heard;
use crate::load::listen::replay;
use crate::load::{Error, POLL, READERS, SETTLE, locked};

/// What was found to hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verified {
    /// Coupons whose counts are right.
    pub coupons: u32,
    /// Users with an accepted claim.
    pub users: u32,
    /// How many coupons those users have.
    pub issued: u64,
    /// Events that those users heard.
    pub events: u64,
}

/// Waits until every claim is decided and every listener has heard, then checks all there is. `each_user` is called as users are done.
pub async fn verify(rush: &Arc<Rush>, each_user: impl Fn() + Send + Sync + 'static) -> Result<Verified, Error> {
    let mut caller = rush.run.caller();
    let coupons = rush.state().ledger.coupons();
    for coupon in 0..coupons {
        settle(rush, &mut caller, coupon).await?;
    }
    hear_out(rush).await;
    let users = rush.users;
    let (next, each_user) = (Arc::new(AtomicU32::new(0)), Arc::new(each_user));
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let (rush, next, each_user) = (Arc::clone(rush), Arc::clone(&next), Arc::clone(&each_user));
        readers.spawn(async move {
            let (mut caller, mut found, mut owners) = (rush.run.caller(), Verified::default(), vec![0; coupons as usize]);
            loop {
                let user = next.fetch_add(1, Relaxed);
                if user >= users {
                    return Ok::<_, Error>((found, owners));
                }
                check_user(&rush, &mut caller, user, &mut found, &mut owners).await?;
                each_user();
            }
        });
    }
    let (mut all, mut all_owners) = (Verified { coupons, ..Verified::default() }, vec![0u64; coupons as usize]);
    while let Some(done) = readers.join_next().await {
        let (found, owners) = done.expect("no reader panics or is aborted")?;
        all.users += found.users;
        all.events += found.events;
        all_owners.iter_mut().zip(owners).for_each(|(sum, n)| *sum += n);
    }
    for (coupon, owners) in (0..).zip(all_owners) {
        let issued = counts(rush, &mut caller, coupon).await?.issued;
        rush.state().ledger.check_coupon(coupon, issued, owners)?;
        all.issued += issued;
    }
    Ok(all)
}

/// Waits until as many are issued as have to be. If that never happens, the checks that follow say so.
async fn settle(rush: &Rush, caller: &mut Caller, coupon: u32) -> Result<(), Error> {
    let due = rush.state().ledger.due(coupon);
    let until = Instant::now() + SETTLE;
    while counts(rush, caller, coupon).await?.issued != due && Instant::now() < until {
        sleep(POLL).await;
    }
    Ok(())
}

/// Waits until every listener has heard as much as is due, likewise.
async fn hear_out(rush: &Rush) {
    let until = Instant::now() + SETTLE;
    for (user, heard) in (0..).zip(&rush.heard) {
        let due = rush.state().ledger.decisions_due(user);
        while locked(heard).all().len() < due && Instant::now() < until {
            sleep(POLL).await;
        }
    }
}

async fn check_user(rush: &Rush, caller: &mut Caller, user: u32, found: &mut Verified, owners: &mut [u64]) -> Result<(), Error> {
    let due = rush.state().ledger.decisions_due(user);
    let live = rush.heard.get(user as usize);
    if due == 0 && live.is_none() {
        return Ok(());
    }
    let id = rush.id(user);
    if let Some(live) = live {
        // What is heard from here on need not be in the view yet.
        let heard = locked(live).all().to_vec();
        agree(rush, caller, user, &heard).await?;
    }
    let mut heard = live.map_or_else(Heard::default, |live| locked(live).clone());
    replay(rush, id, &mut heard, due).await?;
    let owned = agree(rush, caller, user, heard.all()).await?;
    let state = rush.state();
    let ledger = &state.ledger;
    for coupon in owned {
        owners[ledger.coupon_number(coupon)? as usize] += 1;
    }
    found.users += 1;
    found.events += heard.all().len() as u64;
    Ok(())
}

/// The coupons of a user, once they agree with what was heard: a view of a cluster may be a moment behind an event.
async fn agree(rush: &Rush, caller: &mut Caller, user: u32, heard: &[Decision]) -> Result<Vec<u64>, Error> {
    let until = Instant::now() + SETTLE;
    loop {
        let owned = owned(caller, rush.id(user)).await?;
        let checked = rush.state().ledger.check_user(user, &owned, heard);
        match checked {
            Ok(()) => return Ok(owned),
            Err(error) if Instant::now() >= until => return Err(error.into()),
            Err(_) => sleep(POLL).await,
        }
    }
}

#[derive(Deserialize)]
struct Page {
    coupons: Vec<Owned>,
    next: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Owned {
    coupon_id: u64,
}

/// All coupons a user has, page by page.
async fn owned(caller: &mut Caller, user: u64) -> Result<Vec<u64>, Error> {
    let mut owned = Vec::new();
    let mut path = format!("/api/users/{user}/coupons?limit=200");
    loop {
        let page: Page = caller.json(&path).await?;
        owned.extend(page.coupons.iter().map(|c| c.coupon_id));
        match page.next {
            Some(Value::String(next)) => path = format!("/api/users/{user}/coupons?limit=200&before={next}"),
            Some(Value::Null) | None => return Ok(owned),
            Some(next) => path = format!("/api/users/{user}/coupons?limit=200&before={next}"),
        }
    }
}
