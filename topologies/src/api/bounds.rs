//! What numbers and names in a body may be. Read by serde, so that an error names the field.

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::orders::events::{END, MAX_ITEMS, MAX_QUANTITY};

const NAME_CHARACTERS: usize = 200;

/// An id.
pub fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    between(deserializer, 0, END - 1)
}

/// A number of things or of money, 0 or more.
pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    between(deserializer, 0, END - 1)
}

/// A number of things, 1 or more.
pub fn amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    between(deserializer, 1, END - 1)
}

/// How many of one product an order may take.
pub fn quantity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    between(deserializer, 1, MAX_QUANTITY)
}

fn between<'de, D: Deserializer<'de>>(deserializer: D, least: u64, most: u64) -> Result<u64, D::Error> {
    let number = u64::deserialize(deserializer)?;
    if (least..=most).contains(&number) {
        Ok(number)
    } else if most == END - 1 {
        Err(D::Error::custom(format_args!("must be from {least} to 2^53 - 1")))
    } else {
        Err(D::Error::custom(format_args!("must be from {least} to {most}")))
    }
}

/// The lines of an order.
pub fn items<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let items = Vec::deserialize(deserializer)?;
    if (1..=MAX_ITEMS).contains(&items.len()) {
        Ok(items)
    } else {
        Err(D::Error::custom(format_args!("must have 1 to {MAX_ITEMS} lines")))
    }
}

/// A name.
pub fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    checked(String::deserialize(deserializer)?)
}

/// A reason, if there is one.
pub fn reason<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(deserializer)?.map(checked).transpose()
}

fn checked<E: Error>(text: String) -> Result<String, E> {
    match text.chars().count() {
        1..=NAME_CHARACTERS => Ok(text),
        _ => Err(E::custom(format_args!("must have 1 to {NAME_CHARACTERS} characters"))),
    }
}
