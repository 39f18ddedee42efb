//! The topology `deliveries`: what the carrier is to do for an order.
//!
//! ```text
//! shop.deliveries ──▶ deliveries ── deliveries
//!                         └──▶ shop.saga ──▶ orders
//! ```
//! CREATED -> SHIPPED -> DELIVERED, and CREATED -> CANCELLED. A step that was done is not done again, and whoever asks again hears so.

use millstream::codec::{Codec, Data, Decimal, Json};
use millstream::{Process, ProcessError, Record, Scope, Store, StreamBuilder, Topic};
use serde::{Deserialize, Serialize};

use crate::orders::domain::{Answer, Step};
use crate::orders::topology::{SAGA, SagaMessage};

/// What is to be done, by order.
pub const DELIVERY_COMMANDS: Topic<u64, DeliveryCommand> = Topic::with_codecs("shop.deliveries", &Decimal, &Json).partitions(6);

/// Every delivery, by order.
pub const DELIVERIES: Store<u64, Delivery> = Store::keyed("deliveries");

/// What is to be done with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum DeliveryCommand {
    /// Prepare it.
    Create {
        /// For whom.
        user_id: u64,
    },
    /// There is to be none.
    Cancel,
    /// The carrier has it.
    Ship,
    /// The user has it.
    Deliver,
}

/// Where a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DeliveryStatus {
    /// Prepared.
    Created,
    /// With the carrier.
    Shipped,
    /// With the user.
    Delivered,
    /// There is none.
    Cancelled,
}

/// A delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// The order.
    pub order_id: u64,
    /// For whom.
    pub user_id: u64,
    /// Where it is.
    pub status: DeliveryStatus,
}

impl Data for DeliveryCommand {
    const CODEC: &'static dyn Codec<DeliveryCommand> = &Json;
}

impl Data for Delivery {
    const CODEC: &'static dyn Codec<Delivery> = &Json;
}

/// Adds the topology.
pub fn declare(builder: &mut StreamBuilder) {
    builder.stream(&DELIVERY_COMMANDS).process(Process::new("deliveries", take).store(&DELIVERIES).sink(&SAGA));
}

fn take(ctx: &mut Scope<'_, u64, ()>, record: Record<u64, DeliveryCommand>) -> Result<(), ProcessError> {
    use DeliveryStatus::{Cancelled, Created, Delivered, Shipped};
    let (order_id, at) = (record.key, record.timestamp);
    let before = ctx.store(&DELIVERIES).get(&order_id)?;
    let status = match (before.map(|delivery| delivery.status), record.value) {
        (None, DeliveryCommand::Create { .. }) => Some(Created),
        (Some(Created), DeliveryCommand::Cancel) => Some(Cancelled),
        (Some(Created), DeliveryCommand::Ship) => Some(Shipped),
        (Some(Shipped), DeliveryCommand::Deliver) => Some(Delivered),
        (Some(_), DeliveryCommand::Create { .. })
        | (None | Some(Shipped | Delivered | Cancelled), DeliveryCommand::Cancel)
        | (None | Some(Shipped | Delivered | Cancelled), DeliveryCommand::Ship)
        | (None | Some(Created | Delivered | Cancelled), DeliveryCommand::Deliver) => None,
    };
    let user_id = match record.value {
        DeliveryCommand::Create { user_id } => user_id,
        _ => before.map_or(0, |delivery| delivery.user_id),
    };
    if let Some(status) = status {
        ctx.store(&DELIVERIES).put(&order_id, &Delivery { order_id, user_id, status })?;
    }
    let step = match record.value {
        DeliveryCommand::Create { .. } => Step::CreateDelivery,
        DeliveryCommand::Cancel => Step::CancelDelivery,
        DeliveryCommand::Ship | DeliveryCommand::Deliver => return Ok(()),
    };
    ctx.send(&SAGA, Record::new(order_id, SagaMessage::Answered { step, answer: Answer::Done }, at))
}
