//! What users have and hear.

use std::sync::Arc;

use millstream::serve::{ApiError, Request, Response, StatusCode};
use serde::Serialize;

use super::page::Page;
use super::{Api, auth};
use crate::notifications::{USER_COUPONS, UserCoupon};
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
    let page = Page::asked(&request, |text| Some((user_id, text.parse().ok()?)))?;
    request.at_least(&api.app, USER_COUPONS.name()).await?;
    let (coupons, next) = page.read(&api.user_coupons, Some(&user_id))?;
    let next = next.map(|(_, number): (u64, u64)| number.to_string());
    Response::json(StatusCode::OK, &Coupons { coupons, next })
}

/// `GET /api/sse/subscribe/{userId}`
pub async fn subscribe(api: Arc<Api>, request: Request) -> Result<Response, ApiError> {
    let user_id = request.param_id("userId")?;
    auth::acts_for(request.caller(), user_id)?;
    let greeting = format!(r#"{{"userId":{user_id},"timestamp":"{}"}}"#, Iso(api.app.now()));
    api.feed.subscribe(&request, &user_id, greeting)
}
