//! What a product is, and what orders hold of it. Nothing here knows where that is kept.
//!
//! ```text
//!        reserve                sell
//!  (none) ─────▶ Reserved ──────────▶ Sold
//!    │              └────release────────┤
//!    └─ does not suffice ▶ Refused      └─▶ Released
//! ```
//! Whatever is asked for twice is done once. At every moment `available + reserved + sold` is all stock that was ever added.

use serde::{Deserialize, Serialize};

use crate::orders::events::END;

/// What a product is created with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProductTerms {
    /// The product.
    pub product_id: u64,
    /// For people.
    pub name: String,
    /// What one costs at first.
    pub price: u64,
    /// How many there are at first.
    pub stock: u64,
}

/// A product and its stock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Product {
    /// What it was created with.
    pub terms: ProductTerms,
    /// What one costs today.
    pub price: u64,
    /// Can be ordered.
    pub available: u64,
    /// Held for orders that are not confirmed.
    pub reserved: u64,
    /// Gone with orders that are.
    pub sold: u64,
}

impl Product {
    /// A product of which nothing is ordered yet.
    #[must_use]
    pub fn new(terms: ProductTerms) -> Product {
        Product { price: terms.price, available: terms.stock, reserved: 0, sold: 0, terms }
    }

    /// With more stock; `None` if that is more than can be written.
    #[must_use]
    pub fn with_stock(self, add: u64) -> Option<Product> {
        let all = self.available.checked_add(self.reserved)?.checked_add(self.sold)?.checked_add(add)?;
        (all < END).then(|| Product { available: self.available + add, ..self })
    }
}

/// What an order holds of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Held {
    /// So many are reserved for it.
    Reserved(u64),
    /// So many are sold to it.
    Sold(u64),
    /// What it had is back.
    Released,
    /// There were not enough.
    Refused,
}

/// What an order asks of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StockStep {
    /// Keep so many.
    Reserve(u64),
    /// They are sold.
    Sell,
    /// They are back.
    Release,
}

/// What the product and the order's part of it are after a step, and whether the step is done; else it is refused.
#[must_use]
pub fn decide(product: Product, held: Option<Held>, step: StockStep) -> (Product, Held, bool) {
    match (held, step) {
        (None, StockStep::Reserve(n)) if n <= product.available => {
            let product = Product { available: product.available - n, reserved: product.reserved + n, ..product };
            (product, Held::Reserved(n), true)
        }
        (None, StockStep::Reserve(_)) => (product, Held::Refused, false),
        (Some(Held::Reserved(n)), StockStep::Sell) => {
            let product = Product { reserved: product.reserved - n, sold: product.sold + n, ..product };
            (product, Held::Sold(n), true)
        }
        (Some(Held::Reserved(n)), StockStep::Release) => {
            let product = Product { reserved: product.reserved - n, available: product.available + n, ..product };
            (product, Held::Released, true)
        }
        (Some(Held::Sold(n)), StockStep::Release) => {
            let product = Product { sold: product.sold - n, available: product.available + n, ..product };
            (product, Held::Released, true)
        }
        // Nothing was held, and nothing can be any more.
        (None, StockStep::Release) => (product, Held::Released, true),
        (None, StockStep::Sell) => (product, Held::Refused, false),
        (Some(held @ (Held::Released | Held::Refused)), StockStep::Release) => (product, held, true),
        (Some(held @ (Held::Released | Held::Refused)), StockStep::Reserve(_) | StockStep::Sell) => (product, held, false),
        (Some(held @ (Held::Reserved(_) | Held::Sold(_))), StockStep::Reserve(_))
        | (Some(held @ Held::Sold(_)), StockStep::Sell) => (product, held, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_moves_once_and_is_never_lost() {
        use Held::{Refused, Released, Reserved, Sold};
        use StockStep::{Release, Reserve, Sell};
        let product = |available, reserved, sold| {
            let terms = ProductTerms { product_id: 1, name: "x".into(), price: 5, stock: 10 };
            Product { available, reserved, sold, ..Product::new(terms) }
        };
        for (before, held, step, after, expected) in [
            ((10, 0, 0), None, Reserve(3), (7, 3, 0), (Reserved(3), true)),
            ((10, 0, 0), None, Reserve(10), (0, 10, 0), (Reserved(10), true)),
            ((10, 0, 0), None, Reserve(11), (10, 0, 0), (Refused, false)),
            ((10, 0, 0), None, Sell, (10, 0, 0), (Refused, false)),
            ((10, 0, 0), None, Release, (10, 0, 0), (Released, true)),
            ((7, 3, 0), Some(Reserved(3)), Reserve(3), (7, 3, 0), (Reserved(3), true)),
            ((7, 3, 0), Some(Reserved(3)), Sell, (7, 0, 3), (Sold(3), true)),
            ((7, 3, 0), Some(Reserved(3)), Release, (10, 0, 0), (Released, true)),
            ((7, 0, 3), Some(Sold(3)), Reserve(3), (7, 0, 3), (Sold(3), true)),
            ((7, 0, 3), Some(Sold(3)), Sell, (7, 0, 3), (Sold(3), true)),
            ((7, 0, 3), Some(Sold(3)), Release, (10, 0, 0), (Released, true)),
            ((10, 0, 0), Some(Released), Reserve(3), (10, 0, 0), (Released, false)),
            ((10, 0, 0), Some(Released), Release, (10, 0, 0), (Released, true)),
            ((10, 0, 0), Some(Refused), Sell, (10, 0, 0), (Refused, false)),
            ((10, 0, 0), Some(Refused), Release, (10, 0, 0), (Refused, true)),
        ] {
            let (available, reserved, sold) = before;
            let (after_product, held_after, done) = decide(product(available, reserved, sold), held, step);
            let (available, reserved, sold) = after;
            assert_eq!(after_product, product(available, reserved, sold), "{before:?} {held:?} {step:?}");
            assert_eq!((held_after, done), expected, "{before:?} {held:?} {step:?}");
        }
    }
}
