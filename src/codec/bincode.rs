//! Bincode: compact and fast, for types that only this program reads. The only place that names the `bincode` crate, whose 2.x line is
//! frozen, so that it can be replaced here alone.

use std::marker::PhantomData;

use ::bincode::config::{Configuration, standard};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, Error, Format, Presence, present};

const NAME: &str = "bincode2";
const CONFIG: Configuration = standard();

/// Bincode 2 in its standard configuration: little-endian variable-length integers, no field names.
/// Adding, removing or reordering fields makes old bytes unreadable.
pub struct Bincode<T>(PhantomData<fn() -> T>);

impl<T> Bincode<T> {
    /// The codec of `T`.
    pub const CODEC: Bincode<T> = Bincode(PhantomData);
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let (value, read) = ::bincode::serde::decode_from_slice(bytes, CONFIG).map_err(|e| Error::invalid(NAME, e))?;
    if read != bytes.len() {
        return Err(Error::invalid(NAME, format_args!("{} bytes are left over", bytes.len() - read)));
    }
    Ok(value)
}

impl<T: Serialize + DeserializeOwned + 'static> Format for Bincode<T> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn to_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        super::json(&decode::<T>(bytes)?, out)
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
        let value = serde_json::from_str::<T>(text).map_err(|e| Error::invalid(NAME, e))?;
        self.encode(&value, out).map(drop)
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Codec<T> for Bincode<T> {
    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<Presence, Error> {
        ::bincode::serde::encode_into_std_write(value, out, CONFIG).map_err(|e| Error::invalid(NAME, e))?;
        Ok(Presence::Present)
    }

    fn decode(&self, bytes: Option<&[u8]>) -> Result<T, Error> {
        decode(present(bytes, NAME)?)
    }
}
