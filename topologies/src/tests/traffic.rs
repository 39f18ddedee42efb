//! Random traffic of many orders over few products and users, in random order, with crashes in between: the books are right in the end.

use proptest::prelude::*;

use super::books::Books;
use super::world::{Act, PRICE, World};

const ORDERS: u64 = 12;
const PRODUCTS: u64 = 3;
const USERS: u64 = 3;

/// What may happen to one of the orders; the payments of an order have ids of their own, and some are told twice.
fn act() -> impl Strategy<Value = Act> {
    let order = || 0..ORDERS;
    let lines = prop::collection::btree_map(0..PRODUCTS, 1..4u64, 1..=2).prop_map(|lines| lines.into_iter().collect::<Vec<_>>());
    let payment = (order(), 0..3u64, prop_oneof![4 => Just(None), 1 => (1..60u64).prop_map(Some)]);
    prop_oneof![
        4 => (order(), 0..USERS, lines, 0..10u64).prop_map(|(order, user, lines, points)| Act::Order { order, user, lines, points }),
        4 => payment.prop_map(|(order, nth, amount)| Act::Pay { order, payment: order * 10 + nth, amount: amount.unwrap_or(0) }),
        1 => order().prop_map(|order| Act::PayFails { order, payment: order * 10 + 9, amount: 1 }),
        2 => order().prop_map(|order| Act::Cancel { order }),
        2 => order().prop_map(|order| Act::Ship { order }),
        2 => order().prop_map(|order| Act::Deliver { order }),
        1 => Just(Act::Wait),
    ]
}

/// Most payments are of the right amount, which is known only once the order is chosen: 0 stands for it.
fn with_amounts(acts: Vec<Act>) -> Vec<Act> {
    let mut first = std::collections::BTreeMap::new();
    for act in &acts {
        if let Act::Order { order, lines, points, .. } = act {
            let total: u64 = lines.iter().map(|(_, quantity)| quantity * PRICE).sum();
            first.entry(*order).or_insert(total - points);
        }
    }
    // What the provider once told of a payment it tells again.
    let mut told = std::collections::BTreeMap::new();
    let amount = |order, payment, amount| {
        let right = first.get(&order).copied().unwrap_or(1);
        *told.entry(payment).or_insert(if amount == 0 { right } else { amount })
    };
    let mut amount = amount;
    acts.into_iter()
        .map(|act| match act {
            Act::Pay { order, payment, amount: of } => Act::Pay { order, payment, amount: amount(order, payment, of) },
            other => other,
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_books_are_right(
        acts in prop::collection::vec(act(), 1..60).prop_map(with_amounts),
        seed: u64,
        stock in prop::collection::vec(0..20u64, PRODUCTS as usize),
        points in prop::collection::vec(1..30u64, USERS as usize),
        crash: bool,
    ) {
        let stock: Vec<_> = (0..).zip(stock).collect();
        let points: Vec<_> = (0..).zip(points).collect();
        let mut world = World::new(&stock, &points, seed, crash);
        for act in &acts {
            world.act(act);
            world.go_on();
        }
        world.settle();
        world.act(&Act::Wait);
        world.settle();
        Books::of(&mut world).check(&world);
    }
}
