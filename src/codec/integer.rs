//! Integers as fixed-width big-endian bytes, signed ones with the sign bit flipped: the order of the bytes is the order of the numbers.

use super::{Codec, Data, Error, Format, Presence, present};

/// Fixed-width big-endian integers.
#[derive(Clone, Copy, Debug, Default)]
pub struct BigEndian<T>(std::marker::PhantomData<fn() -> T>);

macro_rules! integers {
    ($($t:ty, $unsigned:ty, $flip:expr, $name:literal;)*) => {$(
        impl BigEndian<$t> {
            const CODEC: BigEndian<$t> = BigEndian(std::marker::PhantomData);

            fn number(bytes: &[u8]) -> Result<$t, Error> {
                let bytes = bytes.try_into().map_err(|_| Error::invalid($name, format_args!("{} bytes", bytes.len())))?;
                Ok((<$unsigned>::from_be_bytes(bytes) ^ $flip) as $t)
            }
        }

        impl Format for BigEndian<$t> {
            fn name(&self) -> &'static str {
                $name
            }

            fn to_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
                super::json(&Self::number(bytes)?, out)
            }

            fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
                let number = text.parse::<$t>().map_err(|e| Error::invalid($name, e))?;
                self.encode(&number, out).map(drop)
            }

            fn fixed_width(&self) -> Option<usize> {
                Some(size_of::<$t>())
            }
        }

        impl Codec<$t> for BigEndian<$t> {
            fn encode(&self, value: &$t, out: &mut Vec<u8>) -> Result<Presence, Error> {
                out.extend_from_slice(&(*value as $unsigned ^ $flip).to_be_bytes());
                Ok(Presence::Present)
            }

            fn decode(&self, bytes: Option<&[u8]>) -> Result<$t, Error> {
                Self::number(present(bytes, $name)?)
            }
        }

        impl Data for $t {
            const CODEC: &'static dyn Codec<$t> = &BigEndian::<$t>::CODEC;
        }
    )*};
}

integers! {
    u32, u32, 0, "u32";
    u64, u64, 0, "u64";
    i32, u32, 1 << 31, "i32";
    i64, u64, 1 << 63, "i64";
}
