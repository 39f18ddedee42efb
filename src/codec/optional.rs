//! Values that may be null: Kafka's null is `None`.

use super::{Codec, Data, Error, Format, Presence};

/// `T` or null.
pub struct Optional<T: 'static>(pub &'static dyn Codec<T>);

impl<T: 'static> Format for Optional<T> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn fingerprint(&self) -> String {
        self.0.fingerprint()
    }

    fn to_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        self.0.to_json(bytes, out)
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
        self.0.parse_text(text, out)
    }
}

impl<T: 'static> Codec<Option<T>> for Optional<T> {
    fn encode(&self, value: &Option<T>, out: &mut Vec<u8>) -> Result<Presence, Error> {
        value.as_ref().map_or(Ok(Presence::Null), |value| self.0.encode(value, out))
    }

    fn decode(&self, bytes: Option<&[u8]>) -> Result<Option<T>, Error> {
        bytes.map(|bytes| self.0.decode(Some(bytes))).transpose()
    }
}

impl<T: Data> Data for Option<T> {
    const CODEC: &'static dyn Codec<Option<T>> = &Optional(T::CODEC);
}
