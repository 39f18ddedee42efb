//! Everything that can happen to one order, in every order of arrival, processed in orders that a seed chooses, without and with a crash
//! after every commit: the books are right, and the crash leaves no trace.

use super::books::Books;
use super::world::{Act, World};
use crate::orders::domain::Status;

const ORDER: u64 = 7;
const USER: u64 = 1;

/// How many orders of processing each order of arrival is tried with.
const SEEDS: usize = 3;

/// One order of 2 and 3 pieces of 10 each, 5 of them paid with points.
fn order() -> Act {
    Act::Order { order: ORDER, user: USER, lines: vec![(1, 2), (2, 3)], points: 5 }
}

fn pay(payment: u64) -> Act {
    Act::Pay { order: ORDER, payment, amount: 45 }
}

const CANCEL: Act = Act::Cancel { order: ORDER };
const SHIP: Act = Act::Ship { order: ORDER };
const DELIVER: Act = Act::Deliver { order: ORDER };

/// Stock and points that suffice.
const ENOUGH: (&[(u64, u64)], &[(u64, u64)]) = (&[(1, 10), (2, 10)], &[(USER, 100)]);
const NO_STOCK: (&[(u64, u64)], &[(u64, u64)]) = (&[(1, 10), (2, 2)], &[(USER, 100)]);
const NO_POINTS: (&[(u64, u64)], &[(u64, u64)]) = (&[(1, 10), (2, 10)], &[(USER, 4)]);

/// Runs the acts in every order, and checks the books and that the order ends in one of these ways (`None`: there is none).
fn check(given: (&[(u64, u64)], &[(u64, u64)]), acts: &[Act], ends: &[Status]) {
    let mut seen = Vec::new();
    let arrivals = permutations(acts).into_iter().flat_map(|arrival| std::iter::repeat_n(arrival, SEEDS));
    for (seed, arrival) in arrivals.enumerate() {
        let run = |crash| {
            println!("SEED={seed} crash={crash} {arrival:?}");
            let mut world = World::new(given.0, given.1, seed as u64, crash);
            for act in &arrival {
                world.act(act);
                world.go_on();
            }
            world.settle();
            world.act(&Act::Wait);
            world.settle();
            let books = Books::of(&mut world);
            books.check(&world);
            books
        };
        let books = run(false);
        seen.push(books.orders[&ORDER].status());
        assert_eq!(run(true), books, "a crash after every commit changes nothing");
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, ends, "the ways in which the order ends");
}

/// All orders of the acts, without those that are the same.
fn permutations(acts: &[Act]) -> Vec<Vec<Act>> {
    let Some((first, rest)) = acts.split_first() else { return vec![Vec::new()] };
    let mut all = Vec::new();
    for shorter in permutations(rest) {
        for at in 0..=shorter.len() {
            let mut longer = shorter.clone();
            longer.insert(at, first.clone());
            if !all.contains(&longer) {
                all.push(longer);
            }
        }
    }
    all
}

#[test]
fn an_order_is_paid_cancelled_shipped_and_delivered_in_any_order_of_arrival() {
    use Status::{Cancelled, Confirmed, Delivered, Shipped};
    check(ENOUGH, &[order(), pay(1), CANCEL, SHIP, DELIVER], &[Confirmed, Shipped, Delivered, Cancelled]);
}

#[test]
fn an_order_is_paid_once_however_often_it_is_paid() {
    use Status::{Cancelled, Confirmed};
    check(ENOUGH, &[order(), pay(1), pay(1), pay(2), CANCEL], &[Confirmed, Cancelled]);
}

#[test]
fn the_first_of_payment_failure_and_timeout_wins() {
    use Status::{Confirmed, Failed};
    let fails = Act::PayFails { order: ORDER, payment: 2, amount: 45 };
    check(ENOUGH, &[order(), pay(1), fails, Act::Wait], &[Confirmed, Failed]);
}

#[test]
fn a_wrong_amount_is_given_back_and_the_right_one_still_counts() {
    use Status::{Cancelled, Confirmed, Failed};
    let wrong = Act::Pay { order: ORDER, payment: 2, amount: 44 };
    check(ENOUGH, &[order(), pay(1), wrong, CANCEL, Act::Wait], &[Confirmed, Cancelled, Failed]);
}

#[test]
fn an_order_that_finds_no_stock_fails_and_leaves_none_reserved() {
    check(NO_STOCK, &[order(), pay(1), CANCEL, SHIP], &[Status::Cancelled, Status::Failed]);
}

#[test]
fn an_order_of_too_many_points_fails_and_the_payment_is_given_back() {
    check(NO_POINTS, &[order(), pay(1), CANCEL, SHIP], &[Status::Cancelled, Status::Failed]);
}
