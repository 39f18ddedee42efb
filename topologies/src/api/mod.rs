//! The shop over HTTP: routes that append events and read views. What a claim comes to is asked of the domain, with what the views know; what
//! becomes of it for good is decided by the topology. No rule of the business is written here.

pub mod auth;
mod bounds;
mod coupons;
mod page;
mod users;
mod write;

use std::sync::Arc;
use std::time::Duration;

use millstream::serve::{ApiError, Feed, Request, Response, Routes, StatusCode, application_routes};
use millstream::{Handle, Store, TypedView};
use tokio::sync::Mutex;

use crate::coupons::domain::Coupon;
use crate::coupons::topology::{COUPON_CLAIMS, COUPONS, COUPONS_BY_AGE};
use crate::messages::{Language, shown};
use crate::notifications::{HEARD, NOTIFICATION_COUNTS, USER_COUPONS, UserCoupon};

/// The longest wait for the views before a refusal that they could still take back.
const CATCH_UP: Duration = Duration::from_secs(2);

const PAGE: &str = include_str!("../../web/index.html");

/// What the routes are given.
pub struct Api {
    app: Handle,
    coupons: TypedView<u64, Coupon>,
    coupons_by_age: TypedView<(i64, u64), u64>,
    coupon_claims: TypedView<(u64, u64), i64>,
    user_coupons: TypedView<(u64, u64), UserCoupon>,
    feed: Feed,
    /// Creations of one coupon go one after the other, so that of two with different terms the second is told.
    creations: [Mutex<()>; 32],
}

impl Api {
    /// The API of a running shop, whose users are told things in this language.
    ///
    /// # Panics
    /// If the application does not run the shop's topologies: a programming error.
    #[must_use]
    pub fn new(app: &Handle, language: Language) -> Arc<Api> {
        let view = |name| app.view(name).unwrap_or_else(|| panic!("the topology has no store {name:?}"));
        Arc::new(Api {
            coupons: view(COUPONS.name()).typed(&COUPONS),
            coupons_by_age: view(COUPONS_BY_AGE.name()).typed(&COUPONS_BY_AGE),
            coupon_claims: view(COUPON_CLAIMS.name()).typed(&COUPON_CLAIMS),
            user_coupons: view(USER_COUPONS.name()).typed(&USER_COUPONS),
            feed: Feed::new(view(HEARD.name()), view(NOTIFICATION_COUNTS.name()), move |value| shown(value, language)),
            creations: Default::default(),
            app: app.clone(),
        })
    }

    /// Every coupon, for reading.
    #[must_use]
    pub fn coupons(&self) -> &TypedView<u64, Coupon> {
        &self.coupons
    }

    /// Lets the view of a store reach the log's end as it is now.
    async fn catch_up<K, V>(&self, store: &Store<K, V>) -> Result<(), ApiError>
    where
        K: millstream::codec::Data,
        V: millstream::codec::Data,
    {
        let caught_up = self.app.caught_up(store.name(), CATCH_UP).await;
        caught_up.map_err(|behind| ApiError::unavailable("NOT_READY", behind.to_string()))
    }
}

/// All routes: the shop's, and those of every application.
#[must_use]
pub fn routes(api: &Arc<Api>) -> Routes<Arc<Api>> {
    Routes::new(Arc::clone(api))
        .get("/", page)
        .get("/api/coupons", coupons::list)
        .post("/api/coupons", coupons::create)
        .get("/api/coupons/{couponId}", coupons::show)
        .post("/api/coupons/{couponId}/issue", coupons::claim)
        .get("/api/users/{userId}/coupons", users::coupons)
        .get("/api/sse/subscribe/{userId}", users::subscribe)
        .merge(application_routes(&api.app))
}

async fn page(_: Arc<Api>, _: Request) -> Result<Response, ApiError> {
    Ok(Response::bytes(StatusCode::OK, "text/html; charset=utf-8", PAGE))
}
