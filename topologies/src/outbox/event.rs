//! What a request makes happen that other programs know, too: as the record that the topologies read, and as the rows that come to the same
//! record by an outbox.

use millstream::{Events, Record, Timestamp, codec};
use uuid::Uuid;

use crate::coupons::topology::{CLAIM_EVENTS, CouponIssueRequest};
use crate::events::{Event, EventTopic, headers, to_payload};
use crate::orders::events::{OrderCancelled, OrderCreated, OrderEvent};
use crate::orders::topology::ORDER_EVENTS;
use crate::payments::{PAYMENT_EVENTS, PaymentEvent, PaymentTold};

/// An event before it is written.
pub struct NewEvent {
    /// Tells it from every other.
    pub id: Uuid,
    /// When it happens.
    pub at: Timestamp,
    /// What kind of thing it happens to, and which.
    pub aggregate: (&'static str, u64),
    /// The name of its type.
    pub event_type: &'static str,
    /// Its JSON.
    pub payload: Vec<u8>,
    /// What was asked for.
    pub row: Row,
    topic: EventTopic,
}

/// What was asked for, as the database keeps it beside the outbox.
pub enum Row {
    /// A user claims the coupon.
    CouponRequest {
        /// Who.
        user_id: u64,
    },
    /// The order is made.
    Order {
        /// Its name for people.
        order_number: String,
        /// Whose it is.
        user_id: u64,
        /// What it costs.
        total_amount: u64,
        /// How much of that in points.
        use_points: u64,
    },
    /// Something is to become of the order.
    OrderRequest {
        /// What.
        request: &'static str,
        /// Why, if somebody said.
        reason: Option<String>,
    },
    /// The provider told of the payment.
    Payment {
        /// Of which order.
        order_id: u64,
        /// By whom.
        user_id: u64,
        /// How much.
        amount: u64,
        /// What became of it.
        status: &'static str,
    },
}

impl NewEvent {
    /// A user claims a coupon.
    ///
    /// # Errors
    /// If the event has no JSON; it always has. So for all of these.
    pub fn claim(claim: &CouponIssueRequest, at: Timestamp) -> Result<NewEvent, codec::Error> {
        Ok(NewEvent {
            id: Uuid::now_v7(),
            at,
            aggregate: ("Coupon", claim.coupon_id),
            event_type: "CouponIssueRequest",
            payload: to_payload(claim)?,
            row: Row::CouponRequest { user_id: claim.user_id },
            topic: CLAIM_EVENTS,
        })
    }

    /// Something happens to an order.
    ///
    /// # Errors
    /// None.
    pub fn order(event: &OrderEvent, at: Timestamp) -> Result<NewEvent, codec::Error> {
        let request = |request, reason| Row::OrderRequest { request, reason };
        let row = match event {
            OrderEvent::Created(OrderCreated { order_number, user_id, total_amount, use_points, .. }) => {
                let (user_id, total_amount, use_points) = (*user_id, *total_amount, *use_points);
                Row::Order { order_number: order_number.clone(), user_id, total_amount, use_points }
            }
            OrderEvent::Cancelled(OrderCancelled { reason, .. }) => request("CANCEL", Some(reason.clone())),
            OrderEvent::Shipped(_) => request("SHIP", None),
            OrderEvent::Delivered(_) => request("DELIVER", None),
        };
        NewEvent::of("Order", event.order_id(), event, row, ORDER_EVENTS, at)
    }

    /// An order was paid.
    ///
    /// # Errors
    /// None.
    pub fn paid(told: PaymentTold, at: Timestamp) -> Result<NewEvent, codec::Error> {
        let (payment_id, row) = (told.payment_id, payment(&told, "COMPLETED"));
        NewEvent::of("Payment", payment_id, &PaymentEvent::Completed(told), row, PAYMENT_EVENTS, at)
    }

    /// An order could not be paid.
    ///
    /// # Errors
    /// None.
    pub fn not_paid(told: PaymentTold, at: Timestamp) -> Result<NewEvent, codec::Error> {
        let (payment_id, row) = (told.payment_id, payment(&told, "FAILED"));
        NewEvent::of("Payment", payment_id, &PaymentEvent::Failed(told), row, PAYMENT_EVENTS, at)
    }

    fn of<E: Event>(
        kind: &'static str,
        aggregate_id: u64,
        event: &E,
        row: Row,
        topic: EventTopic,
        at: Timestamp,
    ) -> Result<NewEvent, codec::Error> {
        let (event_type, payload) = (event.event_type(), event.payload()?);
        Ok(NewEvent { id: Uuid::now_v7(), at, aggregate: (kind, aggregate_id), event_type, payload, row, topic })
    }

    /// The record, as it is written straight to the log.
    #[must_use]
    pub fn into_events(self) -> Events {
        let headers = headers(self.id, self.event_type, self.at);
        let record = Record { key: self.aggregate.1, value: self.payload, timestamp: self.at, headers };
        Events::new().with(&self.topic, &record)
    }
}

fn payment(told: &PaymentTold, status: &'static str) -> Row {
    Row::Payment { order_id: told.order_id, user_id: told.user_id, amount: told.amount, status }
}
