//! What the ledger finds: a shop that does right passes, and each way of doing wrong is told by its name.

use serde_json::{Value, json};

use super::ledger::{Accepted, Counts, DeliveryStatus, Heard, Ledger, PaymentStatus, Shown, What};
use super::plan::{Order, PLENTY};

const BASE: u64 = 1_000;
const ORDER: u64 = 7;
const PAID: u64 = 70;
const REFUSED: u64 = 71;

/// One order of a user who has 100 points and uses 10, made, paid twice, confirmed.
fn ledger() -> Ledger {
    let mut ledger = Ledger::new(BASE, 1);
    ledger.add_points(0, 100);
    ledger.add_order(ORDER, Order { user: 0, lines: vec![(2, 3)], points: 10, acts: vec![] }).expect("a new id");
    for id in [PAID, REFUSED] {
        ledger.accepted(ORDER, Accepted::Payment { id, failed: false });
    }
    ledger
}

/// That order as a shop shows it which does right.
fn shown() -> Value {
    json!({
        "orderId": ORDER, "userId": BASE, "status": "CONFIRMED", "totalAmount": 600, "usePoints": 10, "amountDue": 590,
        "items": [{"productId": BASE + 2, "quantity": 3, "unitPrice": 200}],
        "payments": [
            {"paymentId": PAID, "amount": 590, "status": "COMPLETED"},
            {"paymentId": REFUSED, "amount": 590, "status": "REFUNDED", "reason": "ORDER_NOT_PAYABLE"},
        ],
        "history": [{"status": "PENDING"}, {"status": "CONFIRMED"}],
        "saga": {"reserve-1002": "DONE", "refund-71": "DONE"},
    })
}

/// What its user hears.
fn heard() -> Vec<Heard> {
    let event = |(what, payment)| Heard { id: 0, what, order: ORDER, payment };
    let events = [(What::PaymentCompleted, PAID), (What::PaymentRefunded, REFUSED), (What::OrderCompleted, 0)].map(event);
    (1..).zip(events).map(|(id, event)| Heard { id, ..event }).collect()
}

fn read(shown: &Value) -> Shown {
    serde_json::from_value(shown.clone()).expect("an order")
}

/// Checks an order that differs from the right one; `expected` is a part of the sentence, or empty where nothing is wrong.
#[track_caller]
fn check(change: impl FnOnce(&mut Ledger, &mut Value, &mut Vec<Heard>), expected: &str) {
    let (mut ledger, mut shown, mut heard) = (ledger(), shown(), heard());
    change(&mut ledger, &mut shown, &mut heard);
    match ledger.check_user(0, &[read(&shown)], 90, &heard) {
        Ok(_) => assert_eq!(expected, "", "nothing was found"),
        Err(sentence) => assert!(!expected.is_empty() && sentence.contains(expected), "{sentence}"),
    }
}

#[test]
fn an_order_that_is_not_right_is_told_by_what_is_wrong() {
    check(|_, _, _| {}, "");
    check(|_, shown, _| shown["totalAmount"] = json!(601), "is not as it was made");
    check(|_, shown, _| shown["items"][0]["quantity"] = json!(4), "is not as it was made");
    check(|_, shown, _| shown["orderId"] = json!(8), "made 1 orders and has 1, or others");
    check(|_, shown, _| shown["saga"]["reserve-1002"] = json!("RUNNING"), "does not come to rest");
    check(|ledger, _, _| ledger.accepted(ORDER, Accepted::Cancel), "does not come to rest");
    check(|_, shown, _| shown["history"] = json!([{"status": "PENDING"}, {"status": "SHIPPED"}]), "impossible history");
    check(|_, shown, _| shown["payments"][0]["paymentId"] = json!(72), "does not come to rest");
    check(
        |ledger, _, _| ledger.accepted(ORDER, Accepted::Payment { id: 72, failed: true }),
        "does not come to rest", // for a payment that it does not know
    );
    let completed = json!([
        {"paymentId": PAID, "amount": 590, "status": "COMPLETED"},
        {"paymentId": REFUSED, "amount": 590, "status": "COMPLETED"},
    ]);
    check(|_, shown, _| shown["payments"] = completed, "keeps more or less than one payment");
    check(|_, shown, _| shown["payments"][0]["amount"] = json!(589), "keeps more or less than one payment");
    check(|_, shown, _| shown["payments"][1]["reason"] = json!("changed my mind"), "was paid more than once");
    check(|ledger, _, _| ledger.uncancellable(ORDER), "can be cancelled, but a cancel was refused");
}

#[test]
fn an_order_that_nobody_ships_or_cancels_stays() {
    let shipped = |_: &mut Ledger, shown: &mut Value, heard: &mut Vec<Heard>| {
        shown["status"] = json!("SHIPPED");
        shown["history"] = json!([{"status": "PENDING"}, {"status": "CONFIRMED"}, {"status": "SHIPPED"}]);
        heard.push(Heard { id: 4, what: What::OrderShipped, order: ORDER, payment: 0 });
    };
    check(shipped, "is where nobody brought it");
    let sent = |ledger: &mut Ledger, shown: &mut Value, heard: &mut Vec<Heard>| {
        ledger.accepted(ORDER, Accepted::Ship);
        shipped(ledger, shown, heard);
    };
    check(sent, "");
}

#[test]
fn what_is_heard_is_what_happened() {
    check(|_, _, heard| _ = heard.pop(), "became Confirmed 1 times, and its user heard so 0 times");
    check(|_, _, heard| _ = heard.remove(1), "has payment 71, of which its user heard otherwise");
    check(|_, _, heard| heard.push(Heard { id: 4, ..heard[1] }), "has payment 71, of which its user heard otherwise");
    check(|_, _, heard| heard.swap(0, 2), "was completed before it was paid");
    check(|_, _, heard| heard.push(Heard { id: 4, order: 8, ..heard[1] }), "heard of order 8, which it did not make");
    check(
        |_, _, heard| heard.push(Heard { id: 4, what: What::CancelRejected, order: ORDER, payment: 0 }),
        "was to refuse 0 cancels, and its user heard so 1 times",
    );
}

#[test]
fn points_stock_deliveries_and_payments_of_nothing_add_up() {
    let (mut ledger, order) = (ledger(), read(&shown()));
    let sentence = ledger.check_user(0, &[], 100, &[]).err().expect("an order is gone");
    assert!(sentence.contains("made 1 orders and has 0"), "{sentence}");
    let sentence = ledger.check_user(0, std::slice::from_ref(&order), 91, &heard()).err().expect("a point too much");
    assert!(sentence.contains("was given 100 points, has 91, and its orders use 10"), "{sentence}");

    let holdings = ledger.check_user(0, std::slice::from_ref(&order), 90, &heard()).expect("all is right");
    let product = |available: u64, reserved: u64, sold: u64| {
        let counts: Counts =
            serde_json::from_value(json!({"available": available, "reserved": reserved, "sold": sold})).expect("counts");
        ledger.check_product(2, &counts, &holdings).err().unwrap_or_default()
    };
    assert_eq!(product(PLENTY - 3, 0, 3), "");
    assert!(product(PLENTY - 2, 0, 3).contains("were added"));
    assert!(product(PLENTY - 3, 3, 0).contains("pending orders hold 0 and live ones 3"));

    for (delivery, right) in [
        (Some(DeliveryStatus::Created), true),
        (Some(DeliveryStatus::Shipped), false),
        (Some(DeliveryStatus::Cancelled), false),
        (None, false),
    ] {
        assert_eq!(Ledger::check_delivery(&order, delivery).is_ok(), right, "{delivery:?}");
    }

    ledger.add_unmatched(5, 6);
    assert_eq!(ledger.unmatched(), [(5, 6)]);
    let unmatched = |status, reason| ledger.check_unmatched(5, status, reason).is_ok();
    assert!(unmatched(PaymentStatus::Completed, None), "it waits for its order");
    assert!(!unmatched(PaymentStatus::Refunded, Some("ORDER_NOT_FOUND")), "given back before its order could come");
    assert!(!unmatched(PaymentStatus::Failed, None));
}
