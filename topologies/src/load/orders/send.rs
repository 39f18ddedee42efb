//! The trade's requests: what they say, and which answers they may get.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::ledger::Accepted;
use super::plan::{self, Act, Bad, Job, Order, PRODUCTS, price};
use super::{Do, State, Todo, Trade, outbox};
use crate::load::Error;
use crate::load::caller::Caller;
use crate::load::schedule::Schedule;
use crate::load::twins::Answered;

/// How often a parcel is handed over that its order is not ready for.
const TRIES: u32 = 8;
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// One request and its answer.
struct Sent<'a> {
    answer: crate::load::caller::Answer<'a>,
    /// Of what has to be the same when the request is repeated.
    at: Instant,
}

/// Makes all products; in a run of its own they are new.
pub async fn make_products(trade: &Trade) -> Result<(), Error> {
    let (mut caller, mut request) = (trade.run.caller(), Vec::new());
    for product in 0..PRODUCTS {
        let id = trade.id(product);
        let stock = if product < PRODUCTS - plan::SCARCE { plan::PLENTY } else { plan::SCARCE_STOCK };
        let body = json!({"productId": id, "name": format!("Load {id}"), "price": price(product), "stock": stock});
        let key = format!("product-{product}");
        let sent = post(trade, &mut caller, &mut request, "/api/products", &key, &body).await?;
        match sent.answer.status {
            201 => {}
            200 | 409 => return Err(Error::UsedBefore { what: "product", id }),
            _ => return Err(sent.answer.unexpected(&format!("the creation of product {id}"))),
        }
    }
    Ok(())
}

/// One connection: makes something new until the time is over.
pub async fn make(trade: Arc<Trade>, schedule: Arc<Schedule>) -> Result<(), Error> {
    let (mut caller, mut request) = (trade.run.caller(), Vec::new());
    while let Some(due) = schedule.next().await {
        let todo = trade.next_made(due).await;
        carry_out(&trade, &mut caller, &mut request, todo).await?;
    }
    trade.state().making -= 1;
    trade.queued.notify_waiters();
    Ok(())
}

/// One connection: does what follows, until nothing more can.
pub async fn act(trade: Arc<Trade>) -> Result<(), Error> {
    let (mut caller, mut request) = (trade.run.caller(), Vec::new());
    while let Some(todo) = trade.next_queued().await {
        carry_out(&trade, &mut caller, &mut request, todo).await?;
        trade.state().in_hand -= 1;
        trade.queued.notify_waiters();
    }
    Ok(())
}

async fn carry_out(trade: &Trade, caller: &mut Caller, request: &mut Vec<u8>, todo: Todo) -> Result<(), Error> {
    match &todo.what {
        Do::Make(Job::Order(order)) => make_order(trade, caller, request, &todo, order).await,
        Do::Make(Job::AddPoints { user, add }) => {
            let path = format!("/api/users/{}/points", trade.id(*user));
            add_to(trade, caller, request, &todo, &path, *add).await
        }
        Do::Make(Job::AddStock { product, add }) => {
            let path = format!("/api/products/{}/stock", trade.id(*product));
            add_to(trade, caller, request, &todo, &path, *add).await
        }
        Do::Make(Job::Bad(bad)) => be_refused(trade, caller, request, *bad).await,
        Do::Make(Job::Outside(outside)) => outbox::make(trade, trade.outbox(), outside).await,
        Do::Make(Job::Unmatched) => outbox::pay_nothing(trade, trade.outbox()).await,
        Do::Act { order, due, act, tries } => act_on(trade, caller, request, &todo, (*order, *due), *act, *tries).await,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    order_id: u64,
    status: String,
    total_amount: u64,
    use_points: u64,
    amount_due: u64,
}

async fn make_order(trade: &Trade, caller: &mut Caller, request: &mut Vec<u8>, todo: &Todo, order: &Order) -> Result<(), Error> {
    let items: Vec<Value> =
        order.lines.iter().map(|(product, quantity)| json!({"productId": trade.id(*product), "quantity": quantity})).collect();
    let body = json!({"userId": trade.id(order.user), "items": items, "usePoints": order.points});
    let sent = post(trade, caller, request, "/api/orders", &todo.number.to_string(), &body).await?;
    let unexpected = || sent.answer.unexpected(&format!("an order {body}"));
    if sent.answer.status != 201 {
        return Err(unexpected());
    }
    let made: Made = serde_json::from_slice(sent.answer.body()).map_err(|_| unexpected())?;
    let due = order.total() - order.points;
    if (made.status.as_str(), made.total_amount, made.use_points, made.amount_due)
        != ("PENDING", order.total(), order.points, due)
    {
        return Err(unexpected());
    }
    let mut state = trade.state();
    if !state.counts(todo, &sent, true)? {
        return Ok(());
    }
    let now = Instant::now();
    state.measured.post.record(now - todo.due);
    state.ledger.add_order(made.order_id, order.clone())?;
    if trade.is_heard(order.user) && order.is_plain() {
        state.awaited.insert(made.order_id, (todo.due, now));
    }
    for (after_ms, act) in &order.acts {
        let what = Do::Act { order: made.order_id, due, act: *act, tries: 0 };
        let todo = state.numbered(what, now + Duration::from_millis(*after_ms));
        state.enqueue(todo);
    }
    drop(state);
    trade.queued.notify_waiters();
    Ok(())
}

async fn add_to(
    trade: &Trade,
    caller: &mut Caller,
    request: &mut Vec<u8>,
    todo: &Todo,
    path: &str,
    add: u64,
) -> Result<(), Error> {
    let sent = post(trade, caller, request, path, &todo.number.to_string(), &json!({"add": add})).await?;
    if sent.answer.status != 202 {
        return Err(sent.answer.unexpected(&format!("an addition at {path}")));
    }
    let mut state = trade.state();
    if state.counts(todo, &sent, true)? {
        state.measured.additions += 1;
        match &todo.what {
            Do::Make(Job::AddPoints { user, add }) => state.ledger.add_points(*user, *add),
            Do::Make(Job::AddStock { product, add }) => state.ledger.add_stock(*product, *add),
            _ => {}
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Paid {
    payment_id: u64,
}

async fn act_on(
    trade: &Trade,
    caller: &mut Caller,
    request: &mut Vec<u8>,
    todo: &Todo,
    (order, due): (u64, u64),
    act: Act,
    tries: u32,
) -> Result<(), Error> {
    let (path, body) = match act {
        Act::Pay => ("/api/payments".to_owned(), json!({"orderId": order, "amount": due})),
        Act::PayWrong => ("/api/payments".to_owned(), json!({"orderId": order, "amount": due + 1})),
        Act::PayFails => ("/api/payments".to_owned(), json!({"orderId": order, "amount": due, "outcome": "FAILED"})),
        Act::Cancel => (format!("/api/orders/{order}/cancel"), json!({"reason": "changed my mind"})),
        Act::Ship => (format!("/api/orders/{order}/ship"), json!({})),
        Act::Deliver => (format!("/api/orders/{order}/deliver"), json!({})),
        Act::PayOutside => {
            outbox::pay(trade, trade.outbox(), order, due).await?;
            trade.note_paid(&mut trade.state(), todo, tries);
            return Ok(());
        }
    };
    let key = format!("{}-{tries}", todo.number);
    let sent = post(trade, caller, request, &path, &key, &body).await?;
    let code = if sent.answer.status < 300 { String::new() } else { sent.answer.code() };
    let accepted = match (act, sent.answer.status, code.as_str()) {
        (Act::Pay | Act::PayFails, 201, _) => {
            let paid: Paid = serde_json::from_slice(sent.answer.body()).map_err(|_| sent.answer.unexpected(&path))?;
            Some(Accepted::Payment { id: paid.payment_id, failed: act == Act::PayFails })
        }
        (Act::Cancel, 202, _) => Some(Accepted::Cancel),
        (Act::Ship, 202, _) => Some(Accepted::Ship),
        (Act::Deliver, 202, _) => Some(Accepted::Deliver),
        (Act::Pay | Act::PayFails | Act::PayWrong, 409, "ORDER_NOT_PAYABLE")
        | (Act::PayWrong, 422, "AMOUNT_MISMATCH")
        | (Act::Cancel | Act::Ship | Act::Deliver, 409, "ILLEGAL_TRANSITION") => None,
        _ => return Err(sent.answer.unexpected(&format!("{act:?} of order {order}"))),
    };
    let mut state = trade.state();
    trade.note_paid(&mut state, todo, tries);
    if !state.counts(todo, &sent, accepted.is_some())? {
        return Ok(());
    }
    match accepted {
        Some(what) => {
            state.ledger.accepted(order, what);
            let measured = &mut state.measured;
            *match what {
                Accepted::Payment { .. } => &mut measured.payments,
                Accepted::Cancel => &mut measured.cancels,
                Accepted::Ship => &mut measured.ships,
                Accepted::Deliver => &mut measured.delivers,
            } += 1;
        }
        None => {
            state.measured.refused += 1;
            match act {
                Act::Pay => state.ledger.unpayable(order),
                Act::Cancel => state.ledger.uncancellable(order),
                Act::Ship | Act::Deliver if tries < TRIES && !todo.twice => {
                    let what = Do::Act { order, due, act, tries: tries + 1 };
                    state.enqueue(Todo { what, due: Instant::now() + TRY_AGAIN, ..todo.clone() });
                }
                Act::Ship | Act::Deliver | Act::PayWrong | Act::PayFails | Act::PayOutside => {}
            }
        }
    }
    Ok(())
}

impl Trade {
    /// One order less is open, if that was what it waited for.
    fn note_paid(&self, state: &mut State, todo: &Todo, tries: u32) {
        if tries == 0 && todo.pays() {
            state.open = state.open.saturating_sub(1);
            self.paid.notify_one();
        }
    }
}

impl Todo {
    /// Whether this is what an open order waits for: the first thing that happens to it.
    fn pays(&self) -> bool {
        matches!(self.what, Do::Act { act: Act::Pay | Act::PayOutside | Act::PayFails | Act::Cancel, .. })
    }
}

impl State {
    /// Whether an answer counts, or repeats one that counted already.
    fn counts(&mut self, todo: &Todo, sent: &Sent<'_>, accepted: bool) -> Result<bool, Error> {
        if !todo.twice {
            return Ok(true);
        }
        let answered = Answered { accepted, hash: sent.answer.hash(), sent: sent.at, read: Instant::now() };
        let counts = self.twins.take(todo.number, answered);
        let counts =
            counts.map_err(|what| format!("request {} was accepted, and repeated with its key got {what}", todo.number))?;
        if !counts {
            self.measured.repeated += 1;
        }
        Ok(counts)
    }
}

async fn be_refused(trade: &Trade, caller: &mut Caller, request: &mut Vec<u8>, bad: Bad) -> Result<(), Error> {
    let unknown = (1u64 << 53) - 1;
    let (user, product) = (trade.id(0), trade.id(1));
    let order = |items: Value, points: u64| json!({"userId": user, "items": items, "usePoints": points}).to_string();
    let line = |product: u64, quantity: u64| json!({"productId": product, "quantity": quantity});
    let (path, orders) = (|path: &str| path.to_owned(), "/api/orders".to_owned());
    let (method, path, body, status, code) = match bad {
        Bad::NotJson => ("POST", orders, "{".to_owned(), 400, "INVALID_JSON"),
        Bad::NoItems => ("POST", orders, order(json!([]), 0), 400, "INVALID_FIELD"),
        Bad::SameProduct => ("POST", orders, order(json!([line(product, 1), line(product, 2)]), 0), 400, "INVALID_FIELD"),
        Bad::NoQuantity => ("POST", orders, order(json!([line(product, 0)]), 0), 400, "INVALID_FIELD"),
        Bad::UnknownProduct => ("POST", orders, order(json!([line(unknown, 1)]), 0), 404, "PRODUCT_NOT_FOUND"),
        Bad::TooManyPoints => ("POST", orders, order(json!([line(product, 1)]), price(1) + 1), 400, "INVALID_FIELD"),
        Bad::PayUnknown => {
            ("POST", path("/api/payments"), json!({"orderId": unknown, "amount": 1}).to_string(), 404, "ORDER_NOT_FOUND")
        }
        Bad::PayNegative => {
            ("POST", path("/api/payments"), json!({"orderId": unknown, "amount": -1}).to_string(), 400, "INVALID_FIELD")
        }
        Bad::CancelUnknown => ("POST", format!("/api/orders/{unknown}/cancel"), "{}".to_owned(), 404, "ORDER_NOT_FOUND"),
        Bad::WrongMethod => ("PUT", orders, String::new(), 405, "METHOD_NOT_ALLOWED"),
    };
    trade.run.target.write_request(request, method, &path, "", body.as_bytes());
    let answer = caller.call(request).await?;
    if answer.status != status || answer.code() != code {
        return Err(answer.unexpected(&format!("a bad request ({bad:?}) that is to get {status} {code}")));
    }
    trade.state().measured.bad += 1;
    Ok(())
}

/// Posts with an idempotency key of this run.
async fn post<'a>(
    trade: &Trade,
    caller: &'a mut Caller,
    request: &mut Vec<u8>,
    path: &str,
    key: &str,
    body: &Value,
) -> Result<Sent<'a>, Error> {
    let key = format!("idempotency-key: {}-order-{key}\r\n", trade.run.tag);
    trade.run.target.write_request(request, "POST", path, &key, body.to_string().as_bytes());
    let at = Instant::now();
    let answer = caller.call(request).await?;
    if answer.status < 300 && answer.header("x-stream-position").is_none() {
        return Err(answer.unexpected(&format!("POST {path}, without a position,")));
    }
    Ok(Sent { answer, at })
}
