//! The topology `inventory`: products, and what orders reserve, buy and give back of them.
//!
//! ```text
//! shop.inventory ──▶ inventory ── products, products-by-age, stock-of-orders
//!                        └──▶ shop.saga ──▶ orders
//! ```
//! All that happens to a product goes through its partition, in order, so that stock is never counted twice and never below zero.

use millstream::codec::{Codec, Data, Decimal, Json};
use millstream::{Process, ProcessError, Record, Scope, Store, StreamBuilder, Timestamp, Topic};
use serde::{Deserialize, Serialize};

use super::domain::{Held, Product, ProductTerms, StockStep, decide};
use crate::events::{expect_key, undecodable};
use crate::orders::domain::{Answer, Step, reason};
use crate::orders::topology::{SAGA, SagaMessage};

/// What is to be done with a product, by product.
pub const INVENTORY: Topic<u64, InventoryCommand> = Topic::with_codecs("shop.inventory", &Decimal, &Json).partitions(3);

/// Every product.
pub const PRODUCTS: Store<u64, Product> = Store::keyed("products");

/// The products by when they were created, for listing.
pub const PRODUCTS_BY_AGE: Store<(i64, u64), u64> = Store::ordered("products-by-age");

/// What orders hold, by (product, order).
pub const STOCK_OF_ORDERS: Store<(u64, u64), Held> = Store::keyed("stock-of-orders");

/// What is to be done with a product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum InventoryCommand {
    /// It exists from now on. The first terms hold.
    Create(ProductTerms),
    /// There are more of it.
    AddStock {
        /// How many, 1 or more.
        add: u64,
    },
    /// It costs this from now on.
    SetPrice {
        /// What one costs.
        price: u64,
    },
    /// A step of an order.
    ForOrder {
        /// The order.
        order_id: u64,
        /// The step.
        step: StockStep,
    },
}

impl Data for InventoryCommand {
    const CODEC: &'static dyn Codec<InventoryCommand> = &Json;
}

impl Data for Product {
    const CODEC: &'static dyn Codec<Product> = &Json;
}

impl Data for Held {
    const CODEC: &'static dyn Codec<Held> = &Json;
}

/// Adds the topology.
pub fn declare(builder: &mut StreamBuilder) {
    let inventory = Process::new("inventory", take).store(&PRODUCTS).store(&PRODUCTS_BY_AGE).store(&STOCK_OF_ORDERS).sink(&SAGA);
    builder.stream(&INVENTORY).process(inventory);
}

type Inventory<'a> = Scope<'a, u64, ()>;

fn take(ctx: &mut Inventory<'_>, record: Record<u64, InventoryCommand>) -> Result<(), ProcessError> {
    let (product_id, at) = (record.key, record.timestamp);
    let product = ctx.store(&PRODUCTS).get(&product_id)?;
    let known = || undecodable("command", format_args!("there is no product {product_id}"));
    let product = match record.value {
        InventoryCommand::Create(terms) => {
            expect_key(product_id, "productId", terms.product_id)?;
            if product.is_some() {
                return Ok(());
            }
            ctx.store(&PRODUCTS_BY_AGE).put(&(at.0, product_id), &product_id)?;
            Product::new(terms)
        }
        InventoryCommand::AddStock { add } => {
            let product = product.ok_or_else(known)?.with_stock(add);
            product.ok_or_else(|| undecodable("stock", "a product has fewer than 2^53"))?
        }
        InventoryCommand::SetPrice { price } => Product { price, ..product.ok_or_else(known)? },
        InventoryCommand::ForOrder { order_id, step } => return for_order(ctx, product_id, product, order_id, step, at),
    };
    ctx.store(&PRODUCTS).put(&product_id, &product)
}

/// Does what an order asks for, once, and answers.
fn for_order(
    ctx: &mut Inventory<'_>,
    product_id: u64,
    product: Option<Product>,
    order_id: u64,
    step: StockStep,
    at: Timestamp,
) -> Result<(), ProcessError> {
    let key = (product_id, order_id);
    let before = ctx.store(&STOCK_OF_ORDERS).get(&key)?;
    let done = match product {
        Some(product) => {
            let (product, held, done) = decide(product, before, step);
            if before != Some(held) {
                ctx.store(&PRODUCTS).put(&product_id, &product)?;
                ctx.store(&STOCK_OF_ORDERS).put(&key, &held)?;
            }
            done
        }
        // Nobody holds anything of what does not exist.
        None => step == StockStep::Release,
    };
    let answer = if done { Answer::Done } else { Answer::Refused(reason::OUT_OF_STOCK.into()) };
    let step = match step {
        StockStep::Reserve(_) => Step::Reserve(product_id),
        StockStep::Sell => Step::Sell(product_id),
        StockStep::Release => Step::Release(product_id),
    };
    ctx.send(&SAGA, Record::new(order_id, SagaMessage::Answered { step, answer }, at))
}
