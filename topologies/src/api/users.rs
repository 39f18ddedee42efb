//! What users have and hear.

use std::sync::Arc;

use millstream::serve::{ApiError, Request, Response, StatusCode, from_json};
use millstream::{Events, Record};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::page::Page;
use super::write::{Write, carry_out, event_headers};
use super::{Api, auth, bounds, orders};
use crate::coupons::topology::{USER_COUPONS, UserCoupon};
use crate::orders::topology::ORDERS_BY_USER;
use crate::points::{POINTS, POINTS_COMMANDS, PointsCommand};
use crate::time::Iso;

#[derive(Serialize)]
struct Coupons {
    coupons: Vec<UserCoupon>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// `GET /api/users/{userId}/coupons`
pub async fn coupons(api: Arc<Api>, request: Request) -> Result<Response, ApiError> {
    let user_id = request.param_id("userId")?;
    auth::acts_for(request.caller(), user_id)?;
    let page = Page::asked(&request, |text| Some((user_id, Page::place_by_age(text)?)))?;
    request.at_least(&api.app, USER_COUPONS.name()).await?;
    let (coupons, next) = page.read(&api.user_coupons, Some(&user_id))?.durable().await?;
    let next = next.map(|(_, place)| Page::show_place(place));
    Response::json(StatusCode::OK, &Coupons { coupons, next })
}

/// `GET /api/sse/subscribe/{userId}`
pub async fn subscribe(api: Arc<Api>, request: Request) -> Result<Response, ApiError> {
    let user_id = request.param_id("userId")?;
    auth::acts_for(request.caller(), user_id)?;
    let greeting = format!(r#"{{"userId":{user_id},"timestamp":"{}"}}"#, Iso(api.app.now()));
    api.feed.subscribe(&request, &user_id, greeting).await
}

#[derive(Serialize)]
struct Orders {
    orders: Vec<orders::Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// `GET /api/users/{userId}/orders`
pub async fn orders(api: Arc<Api>, request: Request) -> Result<Response, ApiError> {
    let user_id = request.param_id("userId")?;
    auth::reads_for(request.caller(), user_id)?;
    let page = Page::asked(&request, |text| Some((user_id, text.parse().ok()?)))?;
    request.at_least(&api.app, ORDERS_BY_USER.name()).await?;
    let (ids, next) = page.read(&api.orders_by_user, Some(&user_id))?.ahead();
    let orders = api.orders.all(&ids)?.into_iter().map(orders::Shown::from).collect();
    api.app.settled().await?;
    let next = next.map(|(_, order_id): (u64, u64)| order_id.to_string());
    Response::json(StatusCode::OK, &Orders { orders, next })
}

/// `GET /api/users/{userId}/points`
pub async fn points(api: Arc<Api>, request: Request) -> Result<Response, ApiError> {
    let user_id = request.param_id("userId")?;
    auth::acts_for(request.caller(), user_id)?;
    request.at_least(&api.app, POINTS.name()).await?;
    Response::json(StatusCode::OK, &api.points.now(user_id)?.durable().await?.unwrap_or_default())
}

#[derive(Deserialize)]
struct Addition {
    #[serde(deserialize_with = "bounds::amount")]
    add: u64,
}

/// `POST /api/users/{userId}/points`
pub async fn add_points(api: Arc<Api>, mut request: Request) -> Result<Response, ApiError> {
    let user_id = request.param_id("userId")?;
    request.expect_json()?;
    let body = request.body().await?;
    let Addition { add } = from_json(&body)?;
    let decide = || async {
        if !api.points.now(user_id)?.ahead().unwrap_or_default().takes(add) {
            return Err(ApiError::invalid_field("add", "must leave the user with fewer than 2^53"));
        }
        let at = api.app.now();
        let (value, headers) = (PointsCommand::Add { add }, event_headers("PointsAdded", at));
        let events = Events::new().with(&POINTS_COMMANDS, &Record { key: user_id, value, timestamp: at, headers });
        Write::new(StatusCode::ACCEPTED, &json!({"userId": user_id, "add": add}), events)
    };
    carry_out(&api, &request, &body, decide).await
}
