//! Keys made of parts, as bytes whose order is the natural order of the parts: integers by value, strings by their bytes, tuples by their first
//! part that differs. So ranges and prefixes over them mean something: the rows of one user are the prefix `encode(user)` of keys
//! `encode(&(user, sequence))`.
//!
//! Integers are big-endian, signed ones with the sign bit flipped. Byte strings end with `00 00`, and a zero within is `00 ff`, so that a
//! string is less than what it is the beginning of, whatever comes behind it.
//!
//! ```
//! use millstream_state::keys;
//!
//! let key = keys::encode(&("user-7", 42_u64));
//! assert!(key.starts_with(&keys::encode("user-7")));
//! assert!(key < keys::encode(&("user-7", 1000_u64)));
//! assert_eq!(keys::decode::<(String, u64)>(&key)?, ("user-7".to_owned(), 42));
//! # Ok::<(), keys::Malformed>(())
//! ```

/// What has an order-preserving form.
pub trait ToKey {
    /// Appends the form.
    fn encode(&self, out: &mut Vec<u8>);
}

/// What can be read back from its form.
pub trait FromKey: Sized {
    /// Takes the form from the front of `input`.
    fn decode(input: &mut &[u8]) -> Result<Self, Malformed>;
}

/// Bytes that are not a key of the type that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the bytes are not a key of this type")]
pub struct Malformed;

/// The form of a key.
pub fn encode<K: ToKey + ?Sized>(key: &K) -> Vec<u8> {
    let mut out = Vec::new();
    key.encode(&mut out);
    out
}

/// The key whose form these bytes are, all of them.
pub fn decode<K: FromKey>(mut bytes: &[u8]) -> Result<K, Malformed> {
    let key = K::decode(&mut bytes)?;
    if bytes.is_empty() { Ok(key) } else { Err(Malformed) }
}

fn take<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (first, rest) = input.split_first_chunk().ok_or(Malformed)?;
    *input = rest;
    Ok(*first)
}

macro_rules! integers {
    ($($type:ty, $sign_bit:expr;)*) => {$(
        impl ToKey for $type {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&(self ^ $sign_bit).to_be_bytes());
            }
        }

        impl FromKey for $type {
            fn decode(input: &mut &[u8]) -> Result<Self, Malformed> {
                Ok(<$type>::from_be_bytes(take(input)?) ^ $sign_bit)
            }
        }
    )*};
}

integers! {
    u8, 0; u16, 0; u32, 0; u64, 0; u128, 0;
    i8, i8::MIN; i16, i16::MIN; i32, i32::MIN; i64, i64::MIN; i128, i128::MIN;
}

impl ToKey for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl FromKey for bool {
    fn decode(input: &mut &[u8]) -> Result<Self, Malformed> {
        match take(input)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Malformed),
        }
    }
}

impl ToKey for [u8] {
    fn encode(&self, out: &mut Vec<u8>) {
        for byte in self {
            out.push(*byte);
            if *byte == 0 {
                out.push(0xff);
            }
        }
        out.extend_from_slice(&[0, 0]);
    }
}

impl ToKey for Vec<u8> {
    fn encode(&self, out: &mut Vec<u8>) {
        self[..].encode(out);
    }
}

impl FromKey for Vec<u8> {
    fn decode(input: &mut &[u8]) -> Result<Self, Malformed> {
        let mut bytes = Vec::new();
        loop {
            match take(input)? {
                [0] => match take(input)? {
                    [0] => return Ok(bytes),
                    [0xff] => bytes.push(0),
                    _ => return Err(Malformed),
                },
                [byte] => bytes.push(byte),
            }
        }
    }
}

impl ToKey for str {
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_bytes().encode(out);
    }
}

impl ToKey for String {
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_bytes().encode(out);
    }
}

impl FromKey for String {
    fn decode(input: &mut &[u8]) -> Result<Self, Malformed> {
        String::from_utf8(Vec::decode(input)?).map_err(|_| Malformed)
    }
}

/// `None` comes first.
impl<K: ToKey> ToKey for Option<K> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.is_some().encode(out);
        if let Some(key) = self {
            key.encode(out);
        }
    }
}

impl<K: FromKey> FromKey for Option<K> {
    fn decode(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(if bool::decode(input)? { Some(K::decode(input)?) } else { None })
    }
}

/// Bytes of a fixed number, as they are.
impl<const N: usize> ToKey for [u8; N] {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl<const N: usize> FromKey for [u8; N] {
    fn decode(input: &mut &[u8]) -> Result<Self, Malformed> {
        take(input)
    }
}

impl<K: ToKey + ?Sized> ToKey for &K {
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
}

macro_rules! tuples {
    ($(($($part:ident)+))*) => {$(
        #[expect(non_snake_case, reason = "a part is named as its type")]
        impl<$($part: ToKey),+> ToKey for ($($part,)+) {
            fn encode(&self, out: &mut Vec<u8>) {
                let ($($part,)+) = self;
                $($part.encode(out);)+
            }
        }

        impl<$($part: FromKey),+> FromKey for ($($part,)+) {
            fn decode(input: &mut &[u8]) -> Result<Self, Malformed> {
                Ok(($($part::decode(input)?,)+))
            }
        }
    )*};
}

tuples! { (A) (A B) (A B C) (A B C D) (A B C D E) }
