//! Payments over HTTP: what the payment provider tells, and showing.

use std::sync::Arc;

use millstream::serve::{ApiError, Request, Response, StatusCode, from_json};
use serde::{Deserialize, Serialize};

use super::orders::{not_found, refused};
use super::write::{Write, carry_out};
use super::{Api, auth, bounds};
use crate::orders::domain::{PaymentStatus, reason};
use crate::orders::machine::Event;
use crate::outbox::NewEvent;
use crate::payments::{PAYMENTS, PaymentTold};
use crate::time::Iso;

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "UPPERCASE")]
enum Outcome {
    #[default]
    Completed,
    Failed,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Creation {
    #[serde(deserialize_with = "bounds::id")]
    order_id: u64,
    #[serde(deserialize_with = "bounds::number")]
    amount: u64,
    #[serde(default)]
    outcome: Outcome,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    payment_id: u64,
    order_id: u64,
    amount: u64,
    status: PaymentStatus,
}

/// `POST /api/payments`
pub async fn create(api: Arc<Api>, mut request: Request) -> Result<Response, ApiError> {
    request.expect_json()?;
    let body = request.body().await?;
    let creation: Creation = from_json(&body)?;
    carry_out(&api, &request, &body, || api.pay(creation)).await
}

/// `GET /api/payments/{paymentId}`
pub async fn show(api: Arc<Api>, request: Request) -> Result<Response, ApiError> {
    let payment_id = request.param_id("paymentId")?;
    request.at_least(&api.app, PAYMENTS.name()).await?;
    let payment =
        api.payments.get(payment_id).await?.durable().await?.filter(|payment| auth::may_see(request.caller(), payment.user_id));
    let payment =
        payment.ok_or_else(|| ApiError::not_found("PAYMENT_NOT_FOUND", format!("payment {payment_id} does not exist")))?;
    Response::json(StatusCode::OK, &payment)
}

impl Api {
    async fn pay(&self, creation: Creation) -> Result<Write, ApiError> {
        let Creation { order_id, amount, outcome } = creation;
        let happening = |payment_id| match outcome {
            Outcome::Completed => Event::Paid { payment_id, amount },
            Outcome::Failed => Event::PaymentFailed { payment_id, amount },
        };
        let order = self.orders.get_if(order_id, |order| order.accepts(&happening(0)).is_ok()).await?;
        let order = order.ahead().ok_or_else(|| not_found(order_id))?;
        order.accepts(&happening(0)).map_err(|refusal| refused(refusal, order_id))?;
        let at = self.app.now();
        let payment_id = self.payment_ids.next(&self.payments, at).await?;
        let (status, reason) = match outcome {
            Outcome::Completed => (PaymentStatus::Completed, None),
            Outcome::Failed => (PaymentStatus::Failed, Some(reason::PAYMENT_FAILED.to_owned())),
        };
        let user_id = order.terms.user_id;
        let told = PaymentTold { payment_id, order_id, user_id, amount, paid_at: Iso(at), reason };
        let event = match outcome {
            Outcome::Completed => NewEvent::paid(told, at),
            Outcome::Failed => NewEvent::not_paid(told, at),
        };
        let event = event.map_err(ApiError::internal)?;
        Write::event(StatusCode::CREATED, &Made { payment_id, order_id, amount, status }, event)
    }
}
