//! JSON by serde: readable by every other program, and the codec of the external topics.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, Error, Format, Presence, present};

/// JSON text, compact, fields in the order of the Rust type.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl Format for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn to_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        out.extend_from_slice(bytes);
        Ok(())
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
        match serde_json::from_str::<serde_json::Value>(text) {
            Ok(value) => super::json(&value, out),
            Err(_) => super::json(text, out),
        }
    }
}

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<Presence, Error> {
        super::json(value, out)?;
        Ok(Presence::Present)
    }

    fn decode(&self, bytes: Option<&[u8]>) -> Result<T, Error> {
        serde_json::from_slice(present(bytes, "json")?).map_err(|e| Error::invalid("json", e))
    }
}
