//! `shop dev --demo`: a small catalogue, and steady made-up claims and orders, over HTTP as any client's.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;
use uuid::Uuid;

use crate::client::{Connection, Target};

/// Coupons that can be claimed at a time: name and limit.
const CATALOGUE: [(&str, u64); 5] = [
    ("Morning coffee for free", 50),
    ("10% off everything", 500),
    ("Free delivery", 200),
    ("Two for one", 100),
    ("Birthday cake", 20),
];
/// Products that can be ordered: name and price.
const PRODUCTS: [(&str, u64); 4] = [("Green tea", 4_500), ("Teapot", 32_000), ("Cup", 9_000), ("Biscuits", 3_200)];
/// How many there are of each at first.
const STOCK: u64 = 1_000_000;
const USERS: u64 = 200;
/// Between two claims, and between two orders.
const PAUSE: Duration = Duration::from_millis(250);
/// After a request that failed.
const REST: Duration = Duration::from_secs(1);

/// Claims one coupon and makes one order after the other until the task is aborted. A coupon that is sold out is followed by its next edition.
pub async fn run(address: SocketAddr, token: Option<String>) {
    let target: Target = format!("http://{address}").parse().expect("an address makes a URL");
    let target = target.with_token(token);
    let mut editions = [0; CATALOGUE.len()];
    loop {
        let Err(error) = trade(&target, &mut editions).await;
        tracing::debug!(%error, "the demo's connection broke");
        sleep(REST).await;
    }
}

async fn trade(target: &Target, editions: &mut [u64; CATALOGUE.len()]) -> io::Result<std::convert::Infallible> {
    let mut shop = Shop { connection: Connection::open(target).await?, target, request: Vec::new() };
    for (item, edition) in editions.iter().enumerate() {
        shop.create(item, *edition).await?;
    }
    for (product, (name, price)) in (1..).zip(PRODUCTS) {
        let terms = json!({"productId": product, "name": name, "price": price, "stock": STOCK});
        shop.post("/api/products", &terms).await?;
    }
    loop {
        let random = Uuid::new_v4().as_u128();
        let (item, user) = ((random % CATALOGUE.len() as u128) as usize, 1 + (random >> 64) as u64 % USERS);
        shop.order(1 + (random >> 32) as u64 % PRODUCTS.len() as u64, user).await?;
        let path = format!("/api/coupons/{}/issue", id(item, editions[item]));
        let refused = shop.post(&path, &json!({"userId": user})).await? == 409;
        if refused && shop.connection.body().windows(8).any(|word| word == b"SOLD_OUT") {
            editions[item] += 1;
            shop.create(item, editions[item]).await?;
        }
        sleep(PAUSE).await;
    }
}

fn id(item: usize, edition: u64) -> u64 {
    1 + item as u64 + edition * CATALOGUE.len() as u64
}

struct Shop<'a> {
    connection: Connection,
    target: &'a Target,
    request: Vec<u8>,
}

impl Shop<'_> {
    async fn create(&mut self, item: usize, edition: u64) -> io::Result<()> {
        let (name, limit) = CATALOGUE[item];
        let name = if edition == 0 { name.to_owned() } else { format!("{name}, edition {}", edition + 1) };
        self.post("/api/coupons", &json!({"couponId": id(item, edition), "name": name, "limit": limit})).await?;
        Ok(())
    }

    /// Orders something; nine of ten orders are paid.
    async fn order(&mut self, product: u64, user: u64) -> io::Result<()> {
        let items = json!([{"productId": product, "quantity": 1 + user % 3}]);
        let made = self.post("/api/orders", &json!({"userId": user, "items": items})).await? == 201;
        if made && !user.is_multiple_of(10) {
            let order: serde_json::Value = serde_json::from_slice(self.connection.body())?;
            self.post("/api/payments", &json!({"orderId": order["orderId"], "amount": order["amountDue"]})).await?;
        }
        Ok(())
    }

    async fn post(&mut self, path: &str, body: &serde_json::Value) -> io::Result<u16> {
        self.target.write_request(&mut self.request, "POST", path, "", body.to_string().as_bytes());
        self.connection.send(&self.request).await
    }
}
