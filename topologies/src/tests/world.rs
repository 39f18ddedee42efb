//! A shop in a test: what happens from outside is appended to its topics, and processed step by step in an order that a seed chooses.

use millstream::testing::TestDriver;
use millstream::{Record, Timestamp};

use crate::events::{derived_id, record};
use crate::inventory::domain::ProductTerms;
use crate::inventory::topology::{INVENTORY, InventoryCommand};
use crate::orders::events::{Item, OrderCancelled, OrderCreated, OrderDelivered, OrderEvent, OrderShipped};
use crate::orders::topology::ORDER_EVENTS;
use crate::payments::{PAYMENT_EVENTS, PaymentEvent, PaymentTold};
use crate::points::{POINTS_COMMANDS, PointsCommand};
use crate::time::Iso;
use crate::topology::{Settings, all};

/// Longer than a payment is waited for, and than one waits for its order.
pub const LONG_MS: i64 = 16 * 60_000;

/// Numbers that look random and depend on the seed alone (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % end
    }
}

/// What comes from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// An order of one user, with lines of (product, quantity), each for 10.
    Order { order: u64, user: u64, lines: Vec<(u64, u64)>, points: u64 },
    /// The provider tells of a payment.
    Pay { order: u64, payment: u64, amount: u64 },
    /// The provider tells that a payment failed.
    PayFails { order: u64, payment: u64, amount: u64 },
    /// Somebody cancels.
    Cancel { order: u64 },
    /// The carrier has it.
    Ship { order: u64 },
    /// The user has it.
    Deliver { order: u64 },
    /// So much time passes that nothing is waited for any more.
    Wait,
}

/// The price of every product.
pub const PRICE: u64 = 10;

/// The shop, the stock and the points that it was given, and what has happened to it.
pub struct World {
    pub driver: TestDriver,
    pub stock: Vec<(u64, u64)>,
    pub points: Vec<(u64, u64)>,
    pub acts: Vec<Act>,
    random: Random,
    crash: bool,
    now: i64,
}

impl World {
    /// A shop with products of (id, stock) and users of (id, points). With `crash`, everything in memory and on disk is lost after every
    /// commit, and restored from the log.
    pub fn new(stock: &[(u64, u64)], points: &[(u64, u64)], seed: u64, crash: bool) -> World {
        let driver = TestDriver::new(all(&Settings::default()).expect("the topologies are valid"));
        let (stock, points) = (stock.to_vec(), points.to_vec());
        let mut world = World { driver, stock, points, acts: Vec::new(), random: Random(seed), crash, now: 0 };
        for (product_id, stock) in world.stock.clone() {
            let terms = ProductTerms { product_id, name: format!("product {product_id}"), price: PRICE, stock };
            world.driver.append(&INVENTORY, &Record::new(product_id, InventoryCommand::Create(terms), Timestamp(0)));
        }
        for (user, add) in world.points.clone() {
            world.driver.append(&POINTS_COMMANDS, &Record::new(user, PointsCommand::Add { add }, Timestamp(0)));
        }
        world.settle();
        world
    }

    /// Something comes from outside.
    pub fn act(&mut self, act: &Act) {
        self.now += 1;
        self.driver.pass(1);
        let at = Iso(Timestamp(self.now));
        match act.clone() {
            Act::Order { order, user, lines, points } => {
                let item = |(product_id, quantity)| Item { product_id, quantity, unit_price: PRICE };
                let items: Vec<Item> = lines.into_iter().map(item).collect();
                let terms = OrderCreated {
                    order_id: order,
                    order_number: format!("ORD-{order}"),
                    user_id: user,
                    total_amount: items.iter().map(|item| item.quantity * PRICE).sum(),
                    items,
                    use_points: points,
                    created_at: at,
                };
                self.tell_order(&OrderEvent::Created(terms));
            }
            Act::Pay { order, payment, amount } => self.tell_payment(&PaymentEvent::Completed(told(order, payment, amount))),
            Act::PayFails { order, payment, amount } => self.tell_payment(&PaymentEvent::Failed(told(order, payment, amount))),
            Act::Cancel { order } => {
                let reason = format!("cancel {}", self.acts.len());
                self.tell_order(&OrderEvent::Cancelled(OrderCancelled { order_id: order, reason, cancelled_at: at }));
            }
            Act::Ship { order } => self.tell_order(&OrderEvent::Shipped(OrderShipped { order_id: order, shipped_at: at })),
            Act::Deliver { order } => {
                self.tell_order(&OrderEvent::Delivered(OrderDelivered { order_id: order, delivered_at: at }))
            }
            Act::Wait => {
                self.now += LONG_MS;
                self.driver.pass(LONG_MS);
            }
        }
        self.acts.push(act.clone());
    }

    fn tell_order(&mut self, event: &OrderEvent) {
        let id = derived_id("test", event.order_id(), self.now as u64);
        let event = record(event.order_id(), event, id, Timestamp(self.now)).expect("an event has JSON");
        self.driver.append(&ORDER_EVENTS, &event);
    }

    fn tell_payment(&mut self, event: &PaymentEvent) {
        let (PaymentEvent::Completed(PaymentTold { payment_id, .. }) | PaymentEvent::Failed(PaymentTold { payment_id, .. })) =
            event
        else {
            unreachable!("the provider gives nothing back")
        };
        let event = record(*payment_id, event, derived_id("test", *payment_id, self.now as u64), Timestamp(self.now));
        self.driver.append(&PAYMENT_EVENTS, &event.expect("an event has JSON"));
    }

    /// A few steps, or until nothing is left to do.
    pub fn go_on(&mut self) {
        match self.random.below(5) {
            4 => self.settle(),
            steps => (0..steps).for_each(|_| _ = self.step()),
        }
    }

    /// Until nothing is left to do.
    pub fn settle(&mut self) {
        while self.step() {}
    }

    fn step(&mut self) -> bool {
        let random = &mut self.random;
        let worked = self.driver.step(|tasks| random.below(tasks));
        if worked && self.crash {
            self.driver.restart();
        }
        worked
    }
}

/// Payments of one order are all of one user: which one does not matter here.
fn told(order_id: u64, payment_id: u64, amount: u64) -> PaymentTold {
    PaymentTold { payment_id, order_id, user_id: 1, amount, paid_at: Iso(Timestamp(0)), reason: None }
}
