//! The shop over HTTP: routes that append events and read views. What a request comes to is asked of the domain, with what the views know;
//! what becomes of it for good is decided by the topologies. No rule of the business is written here.

pub mod auth;
mod bounds;
mod coupons;
mod ids;
pub(crate) mod known;
mod orders;
mod page;
mod payments;
mod products;
mod stats;
mod users;
pub(crate) mod write;

use std::sync::Arc;

use millstream::serve::{ApiError, Feed, Request, Response, Routes, StatusCode, application_routes};
use millstream::{Handle, TypedView};
use tokio::sync::{Mutex, MutexGuard};

use self::ids::Ids;
use self::known::{Known, view};
use self::write::Home;
use crate::coupons::domain::Coupon;
use crate::coupons::topology::{COUPON_CLAIMS, COUPON_ISSUE, COUPONS, COUPONS_BY_AGE, USER_COUPONS, UserCoupon};
use crate::deliveries::{DELIVERIES, DELIVERY_COMMANDS, Delivery};
use crate::gate::Gate;
use crate::inventory::domain::Product;
use crate::inventory::topology::{INVENTORY, PRODUCTS, PRODUCTS_BY_AGE};
use crate::messages::{Language, shown};
use crate::notifications::{HEARD, NOTIFICATIONS, Notification};
use crate::orders::domain::Order;
use crate::orders::topology::{ORDER_COUNTS, ORDER_EVENTS, ORDERS, ORDERS_BY_USER};
use crate::payments::{PAYMENT_EVENTS, PAYMENTS, Payment};
use crate::points::{Balance, POINTS, POINTS_COMMANDS};
use crate::statistics::{COUPON_STATISTICS, Figures, ORDER_STATISTICS};

const PAGE: &str = include_str!("../../web/index.html");

/// What the routes are given.
pub struct Api {
    app: Handle,
    home: Home,
    gate: Option<Arc<Gate>>,
    coupons: Known<Coupon>,
    coupons_by_age: TypedView<(i64, u64), u64>,
    coupon_claims: TypedView<(u64, u64), i64>,
    user_coupons: TypedView<(u64, (i64, u64)), UserCoupon>,
    products: Known<Product>,
    products_by_age: TypedView<(i64, u64), u64>,
    orders: Known<Order>,
    orders_by_user: TypedView<(u64, u64), u64>,
    order_counts: TypedView<String, u64>,
    payments: Known<Payment>,
    deliveries: Known<Delivery>,
    points: Known<Balance>,
    order_statistics: TypedView<i64, Figures>,
    coupon_statistics: TypedView<i64, Figures>,
    feed: Feed<u64, Notification>,
    order_ids: Ids,
    payment_ids: Ids,
    /// Creations of one coupon or product go one after the other, so that of two with different terms the second is told.
    creations: [Mutex<()>; 32],
}

impl Api {
    /// The API of a running shop, whose users are told things in this language, with a gate before its coupons if there is one.
    ///
    /// # Panics
    /// If the application does not run the shop's topologies: a programming error.
    #[must_use]
    pub fn new(app: &Handle, language: Language, home: Home, gate: Option<Arc<Gate>>) -> Arc<Api> {
        Arc::new(Api {
            home,
            gate,
            coupons: Known::new(app, &COUPONS, COUPON_ISSUE),
            coupons_by_age: view(app, &COUPONS_BY_AGE),
            coupon_claims: view(app, &COUPON_CLAIMS),
            user_coupons: view(app, &USER_COUPONS),
            products: Known::new(app, &PRODUCTS, INVENTORY),
            products_by_age: view(app, &PRODUCTS_BY_AGE),
            orders: Known::new(app, &ORDERS, ORDER_EVENTS),
            orders_by_user: view(app, &ORDERS_BY_USER),
            order_counts: view(app, &ORDER_COUNTS),
            payments: Known::new(app, &PAYMENTS, PAYMENT_EVENTS),
            deliveries: Known::new(app, &DELIVERIES, DELIVERY_COMMANDS),
            points: Known::new(app, &POINTS, POINTS_COMMANDS),
            order_statistics: view(app, &ORDER_STATISTICS),
            coupon_statistics: view(app, &COUPON_STATISTICS),
            feed: Feed::new(app, &NOTIFICATIONS, &HEARD, move |value| shown(value, language)),
            order_ids: Ids::of_process(app.start_number()),
            payment_ids: Ids::of_process(app.start_number()),
            creations: Default::default(),
            app: app.clone(),
        })
    }

    /// Every coupon, for reading.
    #[must_use]
    pub fn coupons(&self) -> &TypedView<u64, Coupon> {
        self.coupons.view()
    }

    /// What was counted of orders, for reading.
    #[must_use]
    pub fn order_counts(&self) -> &TypedView<String, u64> {
        &self.order_counts
    }

    /// Held while something of this id is created.
    async fn creation(&self, id: u64) -> MutexGuard<'_, ()> {
        self.creations[id as usize % self.creations.len()].lock().await
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
        .get("/api/products", products::list)
        .post("/api/products", products::create)
        .get("/api/products/{productId}", products::show)
        .post("/api/products/{productId}/stock", products::add_stock)
        .post("/api/products/{productId}/price", products::set_price)
        .post("/api/orders", orders::create)
        .get("/api/orders/{orderId}", orders::show)
        .post("/api/orders/{orderId}/cancel", orders::cancel)
        .post("/api/orders/{orderId}/ship", orders::ship)
        .post("/api/orders/{orderId}/deliver", orders::deliver)
        .post("/api/payments", payments::create)
        .get("/api/payments/{paymentId}", payments::show)
        .get("/api/deliveries/{orderId}", orders::delivery)
        .get("/api/users/{userId}/orders", users::orders)
        .get("/api/users/{userId}/coupons", users::coupons)
        .get("/api/users/{userId}/points", users::points)
        .post("/api/users/{userId}/points", users::add_points)
        .get("/api/sse/subscribe/{userId}", users::subscribe)
        .get("/api/stats", stats::show)
        .merge(application_routes(&api.app))
}

async fn page(_: Arc<Api>, _: Request) -> Result<Response, ApiError> {
    Ok(Response::bytes(StatusCode::OK, "text/html; charset=utf-8", PAGE))
}
