//! Coupons over HTTP: creating, claiming, showing, listing.

use std::sync::Arc;

use millstream::serve::{ApiError, Request, Response, StatusCode, from_json};
use millstream::{Events, Record, Timestamp};
use serde::{Deserialize, Serialize};

use super::page::Page;
use super::write::{Write, carry_out, event_headers};
use super::{Api, auth, bounds};
use crate::coupons::domain::{Coupon, Decision, Refusal, Terms, decide};
use crate::coupons::topology::{CATALOGUE, COUPONS, COUPONS_BY_AGE, CouponIssueRequest};
use crate::gate::Entry;
use crate::outbox::NewEvent;
use crate::time::Iso;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Creation {
    #[serde(deserialize_with = "bounds::id")]
    coupon_id: u64,
    #[serde(deserialize_with = "bounds::name")]
    name: String,
    #[serde(deserialize_with = "bounds::amount")]
    limit: u64,
    opens_at: Option<Iso>,
    closes_at: Option<Iso>,
}

/// `POST /api/coupons`
pub async fn create(api: Arc<Api>, mut request: Request) -> Result<Response, ApiError> {
    request.expect_json()?;
    let body = request.body().await?;
    let Creation { coupon_id, name, limit, opens_at, closes_at } = from_json(&body)?;
    if let (Some(opens), Some(closes)) = (opens_at, closes_at)
        && closes <= opens
    {
        return Err(ApiError::invalid_field("closesAt", "must be later than opensAt"));
    }
    let terms = Terms { coupon_id, name, limit, opens_at, closes_at };
    let _one_at_a_time = api.creation(coupon_id).await;
    carry_out(&api, &request, &body, || api.create(terms)).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claim {
    #[serde(deserialize_with = "bounds::id")]
    user_id: u64,
}

/// `POST /api/coupons/{couponId}/issue`
pub async fn claim(api: Arc<Api>, mut request: Request) -> Result<Response, ApiError> {
    let coupon_id = request.param_id("couponId")?;
    request.expect_json()?;
    let body = request.body().await?;
    let Claim { user_id } = from_json(&body)?;
    auth::acts_for(request.caller(), user_id)?;
    carry_out(&api, &request, &body, || api.claim(coupon_id, user_id)).await
}

/// What a caller sees of a coupon.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    coupon: Coupon,
    remaining: u64,
}

impl From<Coupon> for Shown {
    fn from(coupon: Coupon) -> Shown {
        Shown { remaining: coupon.remaining(), coupon }
    }
}

/// `GET /api/coupons/{couponId}`
pub async fn show(api: Arc<Api>, request: Request) -> Result<Response, ApiError> {
    let coupon_id = request.param_id("couponId")?;
    request.at_least(&api.app, COUPONS.name()).await?;
    let coupon = api.coupons.get(coupon_id).await?.durable().await?.ok_or_else(|| refused(Refusal::NotFound, coupon_id))?;
    Response::json(StatusCode::OK, &Shown::from(coupon))
}

#[derive(Serialize)]
struct Listed {
    coupons: Vec<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// `GET /api/coupons`
pub async fn list(api: Arc<Api>, request: Request) -> Result<Response, ApiError> {
    let page = Page::asked(&request, Page::place_by_age)?;
    request.at_least(&api.app, COUPONS_BY_AGE.name()).await?;
    let (ids, next) = page.read(&api.coupons_by_age, None)?.ahead();
    let coupons = api.coupons.all(&ids)?.into_iter().map(Shown::from).collect();
    api.app.settled().await?;
    Response::json(StatusCode::OK, &Listed { coupons, next: next.map(Page::show_place) })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Accepted<'a> {
    request_id: &'a str,
    coupon_id: u64,
    user_id: u64,
    status: &'static str,
}

impl Api {
    async fn create(&self, terms: Terms) -> Result<Write, ApiError> {
        let coupon_id = terms.coupon_id;
        match self.coupons.get(coupon_id).await?.ahead() {
            None => {
                let at = self.app.now();
                let body = Shown::from(Coupon::new(terms.clone()));
                let event = Record { key: coupon_id, value: terms, timestamp: at, headers: event_headers("CouponCreated", at) };
                Write::new(StatusCode::CREATED, &body, Events::new().with(&CATALOGUE, &event))
            }
            // The terms of the answer are those of the creation; how many are issued by now is for the view to tell.
            Some(coupon) if coupon.has_terms(&terms) => Write::new(StatusCode::OK, &Shown::from(coupon), Events::new()),
            Some(_) => {
                let message = format!("coupon {coupon_id} exists with other terms");
                Err(ApiError::new(StatusCode::CONFLICT, "COUPON_EXISTS", message))
            }
        }
    }

    async fn claim(&self, coupon_id: u64, user_id: u64) -> Result<Write, ApiError> {
        let at = self.app.now();
        let coupon = self.coupons.get(coupon_id).await?.ahead();
        // Refusals of a known coupon need no newer view: that it is issued or sold out is for good, and so are its times.
        self.decide(coupon.clone(), coupon_id, user_id, at)?;
        let admission = match (&self.gate, coupon) {
            (Some(gate), Some(coupon)) => match gate.enter(&coupon, user_id).await? {
                Entry::Passed(admission) => Some(admission),
                Entry::SoldOut => {
                    self.decide(self.coupons.now(coupon_id)?.ahead(), coupon_id, user_id, at)?;
                    return Err(refused(Refusal::SoldOut, coupon_id));
                }
            },
            _ => None,
        };
        let claim = CouponIssueRequest { coupon_id, user_id, requested_at: Iso(at) };
        let event = NewEvent::claim(&claim, at).map_err(ApiError::internal)?;
        let body = Accepted { request_id: &event.id.to_string(), coupon_id, user_id, status: "ACCEPTED" };
        Ok(Write::event(StatusCode::ACCEPTED, &body, event)?.admitted(admission))
    }

    /// What the domain says with what the views know.
    fn decide(&self, coupon: Option<Coupon>, coupon_id: u64, user_id: u64, at: Timestamp) -> Result<(), ApiError> {
        let claimed = |partition| self.coupon_claims.get_in(partition, &(coupon_id, user_id));
        let has_it = coupon.is_some() && claimed(self.coupons.partition(coupon_id)?)?.ahead().is_some();
        match decide(coupon, has_it, at) {
            Decision::Issue(_) => Ok(()),
            Decision::Refuse(refusal) => Err(refused(refusal, coupon_id)),
        }
    }
}

fn refused(refusal: Refusal, coupon_id: u64) -> ApiError {
    let (status, code, why) = match refusal {
        Refusal::NotFound => (StatusCode::NOT_FOUND, "COUPON_NOT_FOUND", "does not exist"),
        Refusal::AlreadyIssued => (StatusCode::CONFLICT, "COUPON_ALREADY_ISSUED", "is issued to this user already"),
        Refusal::SoldOut => (StatusCode::CONFLICT, "COUPON_SOLD_OUT", "is sold out"),
        Refusal::NotOpen => (StatusCode::CONFLICT, "COUPON_NOT_OPEN", "is not open at this time"),
    };
    ApiError::new(status, code, format!("coupon {coupon_id} {why}"))
}
