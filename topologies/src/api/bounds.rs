//! What numbers and names in a body may be. Read by serde, so that an error names the field.

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// Numbers below this are exact in every JSON reader.
const END: u64 = 1 << 53;
const NAME_CHARACTERS: usize = 200;

/// An id.
pub fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    number(deserializer, 0)
}

/// A number of things, 1 or more.
pub fn amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    number(deserializer, 1)
}

fn number<'de, D: Deserializer<'de>>(deserializer: D, least: u64) -> Result<u64, D::Error> {
    let number = u64::deserialize(deserializer)?;
    if (least..END).contains(&number) {
        Ok(number)
    } else {
        Err(D::Error::custom(format_args!("must be from {least} to 2^53 - 1")))
    }
}

/// A name.
pub fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    match name.chars().count() {
        1..=NAME_CHARACTERS => Ok(name),
        _ => Err(D::Error::custom(format_args!("must have 1 to {NAME_CHARACTERS} characters"))),
    }
}
