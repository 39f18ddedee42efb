//! Products over HTTP: creating, adding stock, pricing, showing, listing.

use std::sync::Arc;

use millstream::serve::{ApiError, Request, Response, StatusCode, from_json};
use millstream::{Events, Record};
use serde::{Deserialize, Serialize};

use super::page::Page;
use super::write::{Write, carry_out, event_headers};
use super::{Api, bounds};
use crate::inventory::domain::{Product, ProductTerms};
use crate::inventory::topology::{INVENTORY, InventoryCommand, PRODUCTS, PRODUCTS_BY_AGE};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Creation {
    #[serde(deserialize_with = "bounds::id")]
    product_id: u64,
    #[serde(deserialize_with = "bounds::name")]
    name: String,
    #[serde(deserialize_with = "bounds::number")]
    price: u64,
    #[serde(deserialize_with = "bounds::number")]
    stock: u64,
}

/// What a caller sees of a product.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    product_id: u64,
    name: String,
    price: u64,
    available: u64,
    reserved: u64,
    sold: u64,
}

impl From<Product> for Shown {
    fn from(product: Product) -> Shown {
        let Product { terms: ProductTerms { product_id, name, .. }, price, available, reserved, sold } = product;
        Shown { product_id, name, price, available, reserved, sold }
    }
}

/// `POST /api/products`
pub async fn create(api: Arc<Api>, mut request: Request) -> Result<Response, ApiError> {
    request.expect_json()?;
    let body = request.body().await?;
    let Creation { product_id, name, price, stock } = from_json(&body)?;
    let terms = ProductTerms { product_id, name, price, stock };
    let _one_at_a_time = api.creation(product_id).await;
    let decide = || async {
        match api.products.get(product_id).await?.ahead() {
            None => {
                let body = Shown::from(Product::new(terms.clone()));
                let command = InventoryCommand::Create(terms);
                Write::new(StatusCode::CREATED, &body, api.inventory_command(product_id, command, "ProductCreated"))
            }
            Some(product) if product.terms == terms => {
                Write::new(StatusCode::OK, &Shown::from(Product::new(terms)), Events::new())
            }
            Some(_) => {
                let message = format!("product {product_id} exists with other terms");
                Err(ApiError::new(StatusCode::CONFLICT, "PRODUCT_EXISTS", message))
            }
        }
    };
    carry_out(&api, &request, &body, decide).await
}

#[derive(Deserialize)]
struct Addition {
    #[serde(deserialize_with = "bounds::amount")]
    add: u64,
}

/// `POST /api/products/{productId}/stock`
pub async fn add_stock(api: Arc<Api>, mut request: Request) -> Result<Response, ApiError> {
    let product_id = request.param_id("productId")?;
    request.expect_json()?;
    let body = request.body().await?;
    let Addition { add } = from_json(&body)?;
    let decide = || async {
        let product = api.product(product_id).await?;
        if product.with_stock(add).is_none() {
            return Err(ApiError::invalid_field("add", "must leave the product with fewer than 2^53"));
        }
        let events = api.inventory_command(product_id, InventoryCommand::AddStock { add }, "StockAdded");
        Write::new(StatusCode::ACCEPTED, &serde_json::json!({"productId": product_id, "add": add}), events)
    };
    carry_out(&api, &request, &body, decide).await
}

#[derive(Deserialize)]
struct Pricing {
    #[serde(deserialize_with = "bounds::number")]
    price: u64,
}

/// `POST /api/products/{productId}/price`
pub async fn set_price(api: Arc<Api>, mut request: Request) -> Result<Response, ApiError> {
    let product_id = request.param_id("productId")?;
    request.expect_json()?;
    let body = request.body().await?;
    let Pricing { price } = from_json(&body)?;
    let decide = || async {
        api.product(product_id).await?;
        let events = api.inventory_command(product_id, InventoryCommand::SetPrice { price }, "PriceChanged");
        Write::new(StatusCode::ACCEPTED, &serde_json::json!({"productId": product_id, "price": price}), events)
    };
    carry_out(&api, &request, &body, decide).await
}

/// `GET /api/products/{productId}`
pub async fn show(api: Arc<Api>, request: Request) -> Result<Response, ApiError> {
    let product_id = request.param_id("productId")?;
    request.at_least(&api.app, PRODUCTS.name()).await?;
    let product = api.product(product_id).await;
    api.app.settled().await?;
    Response::json(StatusCode::OK, &Shown::from(product?))
}

#[derive(Serialize)]
struct Listed {
    products: Vec<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// `GET /api/products`
pub async fn list(api: Arc<Api>, request: Request) -> Result<Response, ApiError> {
    let page = Page::asked(&request, Page::place_by_age)?;
    request.at_least(&api.app, PRODUCTS_BY_AGE.name()).await?;
    let (ids, next) = page.read(&api.products_by_age, None)?.ahead();
    let products = api.products.all(&ids)?.into_iter().map(Shown::from).collect();
    api.app.settled().await?;
    Response::json(StatusCode::OK, &Listed { products, next: next.map(Page::show_place) })
}

impl Api {
    /// The product, durable or not.
    ///
    /// # Errors
    /// 404 if there is none.
    pub(super) async fn product(&self, product_id: u64) -> Result<Product, ApiError> {
        let product = self.products.get(product_id).await?.ahead();
        product.ok_or_else(|| ApiError::not_found("PRODUCT_NOT_FOUND", format!("product {product_id} does not exist")))
    }

    fn inventory_command(&self, product_id: u64, command: InventoryCommand, event_type: &str) -> Events {
        let at = self.app.now();
        let record = Record { key: product_id, value: command, timestamp: at, headers: event_headers(event_type, at) };
        Events::new().with(&INVENTORY, &record)
    }
}
