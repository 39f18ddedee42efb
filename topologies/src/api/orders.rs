//! Orders over HTTP: making, cancelling, shipping, delivering, showing. Whether an order may do so is asked of the order itself.

use std::sync::Arc;

use millstream::Timestamp;
use millstream::serve::{ApiError, Request, Response, StatusCode, from_json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::write::{Write, carry_out};
use super::{Api, auth, bounds};
use crate::deliveries::DELIVERIES;
use crate::orders::domain::{Change, Order, OrderPayment, Progress, Status, Step};
use crate::orders::events::{Item, OrderCancelled, OrderCreated, OrderDelivered, OrderEvent, OrderShipped, total};
use crate::orders::machine::{Event, Refusal};
use crate::orders::topology::ORDERS;
use crate::outbox::NewEvent;
use crate::time::Iso;

/// What a cancel is for if nobody says.
const NO_REASON: &str = "CUSTOMER_REQUEST";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(deserialize_with = "bounds::id")]
    product_id: u64,
    #[serde(deserialize_with = "bounds::quantity")]
    quantity: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Creation {
    #[serde(deserialize_with = "bounds::id")]
    user_id: u64,
    #[serde(deserialize_with = "bounds::items")]
    items: Vec<Line>,
    #[serde(default, deserialize_with = "bounds::number")]
    use_points: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made<'a> {
    order_id: u64,
    order_number: &'a str,
    status: Status,
    total_amount: u64,
    use_points: u64,
    amount_due: u64,
}

/// `POST /api/orders`
pub async fn create(api: Arc<Api>, mut request: Request) -> Result<Response, ApiError> {
    request.expect_json()?;
    let body = request.body().await?;
    let creation: Creation = from_json(&body)?;
    let mut products: Vec<u64> = creation.items.iter().map(|line| line.product_id).collect();
    products.sort_unstable();
    if let Some(twice) = products.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(ApiError::invalid_field("items", format!("product {} has more than one line", twice[0])));
    }
    auth::acts_for(request.caller(), creation.user_id)?;
    carry_out(&api, &request, &body, || api.make_order(creation)).await
}

#[derive(Deserialize, Default)]
struct Cancellation {
    #[serde(default, deserialize_with = "bounds::reason")]
    reason: Option<String>,
}

/// `POST /api/orders/{orderId}/cancel`
pub async fn cancel(api: Arc<Api>, mut request: Request) -> Result<Response, ApiError> {
    let body = request.body_or_empty_object().await?;
    let Cancellation { reason } = from_json(&body)?;
    let reason = reason.unwrap_or_else(|| NO_REASON.to_owned());
    let event = |order_id, at| OrderEvent::Cancelled(OrderCancelled { order_id, reason: reason.clone(), cancelled_at: Iso(at) });
    api.happen(&request, &body, Event::Cancel { reason: reason.clone() }, event).await
}

/// `POST /api/orders/{orderId}/ship`
pub async fn ship(api: Arc<Api>, mut request: Request) -> Result<Response, ApiError> {
    let body = request.body_or_empty_object().await?;
    let event = |order_id, at| OrderEvent::Shipped(OrderShipped { order_id, shipped_at: Iso(at) });
    api.happen(&request, &body, Event::Ship, event).await
}

/// `POST /api/orders/{orderId}/deliver`
pub async fn deliver(api: Arc<Api>, mut request: Request) -> Result<Response, ApiError> {
    let body = request.body_or_empty_object().await?;
    let event = |order_id, at| OrderEvent::Delivered(OrderDelivered { order_id, delivered_at: Iso(at) });
    api.happen(&request, &body, Event::Deliver, event).await
}

/// What a caller sees of an order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    order_id: u64,
    order_number: String,
    user_id: u64,
    status: Status,
    items: Vec<Item>,
    total_amount: u64,
    use_points: u64,
    amount_due: u64,
    payments: Vec<OrderPayment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    history: Vec<Change>,
    saga: Map<String, Value>,
}

impl From<Order> for Shown {
    fn from(order: Order) -> Shown {
        let (status, amount_due) = (order.status(), order.terms.amount_due());
        let saga = order.steps.iter().map(|(step, progress)| (step_name(*step), Value::from(progress_name(*progress)))).collect();
        let Order { terms, payments, reason, history, .. } = order;
        let OrderCreated { order_id, order_number, user_id, items, total_amount, use_points, .. } = terms;
        Shown {
            order_id,
            order_number,
            user_id,
            status,
            items,
            total_amount,
            use_points,
            amount_due,
            payments,
            reason,
            history,
            saga,
        }
    }
}

fn step_name(step: Step) -> String {
    match step {
        Step::Reserve(product_id) => format!("reserve-{product_id}"),
        Step::Sell(product_id) => format!("sell-{product_id}"),
        Step::Release(product_id) => format!("release-{product_id}"),
        Step::TakePoints => "takePoints".into(),
        Step::ReturnPoints => "returnPoints".into(),
        Step::CreateDelivery => "createDelivery".into(),
        Step::CancelDelivery => "cancelDelivery".into(),
        Step::Refund(payment_id) => format!("refund-{payment_id}"),
    }
}

fn progress_name(progress: Progress) -> &'static str {
    match progress {
        Progress::Running => "RUNNING",
        Progress::Done => "DONE",
        Progress::Refused => "REFUSED",
    }
}

/// `GET /api/orders/{orderId}`
pub async fn show(api: Arc<Api>, request: Request) -> Result<Response, ApiError> {
    let order_id = request.param_id("orderId")?;
    request.at_least(&api.app, ORDERS.name()).await?;
    let order = api.orders.get(order_id).await?.durable().await?;
    let order = order.filter(|order| auth::may_see(request.caller(), order.terms.user_id)).ok_or_else(|| not_found(order_id))?;
    Response::json(StatusCode::OK, &Shown::from(order))
}

/// `GET /api/deliveries/{orderId}`
pub async fn delivery(api: Arc<Api>, request: Request) -> Result<Response, ApiError> {
    let order_id = request.param_id("orderId")?;
    request.at_least(&api.app, DELIVERIES.name()).await?;
    let delivery =
        api.deliveries.get(order_id).await?.durable().await?.filter(|delivery| auth::may_see(request.caller(), delivery.user_id));
    let delivery =
        delivery.ok_or_else(|| ApiError::not_found("DELIVERY_NOT_FOUND", format!("there is no delivery of order {order_id}")))?;
    Response::json(StatusCode::OK, &json!({"orderId": delivery.order_id, "status": delivery.status}))
}

pub(super) fn not_found(order_id: u64) -> ApiError {
    refused(Refusal::NotFound, order_id)
}

/// What an order refuses, as an answer.
pub(super) fn refused(refusal: Refusal, order_id: u64) -> ApiError {
    let (status, why) = match refusal {
        Refusal::NotFound => (StatusCode::NOT_FOUND, "does not exist"),
        Refusal::Exists => (StatusCode::CONFLICT, "exists already"),
        Refusal::IllegalTransition => (StatusCode::CONFLICT, "cannot do this in its state"),
        Refusal::NotPayable => (StatusCode::CONFLICT, "awaits no payment"),
        Refusal::AmountMismatch => (StatusCode::UNPROCESSABLE_ENTITY, "awaits another amount"),
    };
    ApiError::new(status, refusal.code(), format!("order {order_id} {why}"))
}

impl Api {
    async fn make_order(&self, creation: Creation) -> Result<Write, ApiError> {
        let Creation { user_id, items: lines, use_points } = creation;
        let mut items = Vec::with_capacity(lines.len());
        for Line { product_id, quantity } in lines {
            let unit_price = self.product(product_id).await?.price;
            items.push(Item { product_id, quantity, unit_price });
        }
        let total_amount = total(items.iter().map(|item| (item.quantity, item.unit_price)));
        let total_amount = total_amount.ok_or_else(|| ApiError::invalid_field("items", "must cost less than 2^53"))?;
        if use_points > total_amount {
            return Err(ApiError::invalid_field("usePoints", format!("must be at most totalAmount, {total_amount}")));
        }
        let at = self.app.now();
        let order_id = self.order_ids.next(&self.orders, at).await?;
        let order_number = order_number(order_id, at);
        let terms = OrderCreated { order_id, order_number, user_id, items, total_amount, use_points, created_at: Iso(at) };
        let (status, amount_due) = (Status::Pending, terms.amount_due());
        let answer = Made { order_id, order_number: &terms.order_number, status, total_amount, use_points, amount_due };
        let body = serde_json::to_value(&answer).map_err(ApiError::internal)?;
        Write::event(StatusCode::CREATED, &body, order_event(&OrderEvent::Created(terms), at)?)
    }

    /// Lets something happen to the order of the path, if the order agrees.
    async fn happen(
        &self,
        request: &Request,
        body: &[u8],
        happening: Event,
        event: impl FnOnce(u64, Timestamp) -> OrderEvent,
    ) -> Result<Response, ApiError> {
        let order_id = request.param_id("orderId")?;
        let decide = || async {
            // What the view refuses may be allowed by what it has not heard yet.
            let order = self.orders.get_if(order_id, |order| order.accepts(&happening).is_ok()).await?;
            let order = order.ahead().filter(|order| auth::may_see(request.caller(), order.terms.user_id));
            let order = order.ok_or_else(|| not_found(order_id))?;
            order.accepts(&happening).map_err(|refusal| refused(refusal, order_id))?;
            let at = self.app.now();
            Write::event(
                StatusCode::ACCEPTED,
                &json!({"orderId": order_id, "status": "ACCEPTED"}),
                order_event(&event(order_id, at), at)?,
            )
        };
        carry_out(self, request, body, decide).await
    }
}

fn order_event(event: &OrderEvent, at: Timestamp) -> Result<NewEvent, ApiError> {
    NewEvent::order(event, at).map_err(ApiError::internal)
}

/// The order's name for people: its day and its id.
fn order_number(order_id: u64, at: Timestamp) -> String {
    let day: String = Iso(at).to_string().chars().take_while(|c| *c != 'T').filter(|c| *c != '-').collect();
    format!("ORD-{day}-{order_id}")
}
