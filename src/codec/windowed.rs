//! Windowed keys: the key as the first part of a tuple, then start and end of the window. So the windows of a key lie together in a store,
//! in the order of their start, and a range of time of a key is a range of the store.
//!
//! As text a windowed key is `key,start,end`, with times in milliseconds since 1970.

use std::marker::PhantomData;

use super::tuple::{close_part, take_part};
use super::{Codec, Data, Error, Format, Presence};
use crate::record::Timestamp;
use crate::windows::{Window, Windowed};

const NAME: &str = "windowed";
/// Bytes of start and end.
pub(crate) const WINDOW_BYTES: usize = 2 * size_of::<i64>();

/// The codec of windowed keys, over the codec of the key.
#[derive(Debug)]
pub struct WindowedKey<K>(PhantomData<fn() -> K>);

impl<K: Data> Data for Windowed<K> {
    const CODEC: &'static dyn Codec<Windowed<K>> = &WindowedKey(PhantomData);
}

/// Appends what every windowed key of this key begins with, and no other; false if the key is null.
pub(crate) fn push_key<K: Data>(key: &K, out: &mut Vec<u8>) -> Result<bool, Error> {
    let start = out.len();
    if K::CODEC.encode(key, out)? == Presence::Null {
        return Ok(false);
    }
    close_part(K::CODEC.fixed_width(), start, out);
    Ok(true)
}

/// A time as eight bytes that compare as times do.
pub(crate) fn time_bytes(time: Timestamp) -> [u8; 8] {
    (time.0 as u64 ^ 1 << 63).to_be_bytes()
}

/// The time that these eight bytes are.
pub(crate) fn time_of(bytes: &[u8]) -> Option<Timestamp> {
    Some(Timestamp((u64::from_be_bytes(bytes.try_into().ok()?) ^ 1 << 63) as i64))
}

/// Appends start and end of a window.
pub(crate) fn push_window(window: Window, out: &mut Vec<u8>) {
    out.extend_from_slice(&time_bytes(window.start));
    out.extend_from_slice(&time_bytes(window.end));
}

/// The key's part of a windowed key, and its window; `None` if the bytes are too short to have one.
pub(crate) fn split_window(bytes: &[u8]) -> Option<(&[u8], Window)> {
    let (key, bounds) = bytes.split_at_checked(bytes.len().checked_sub(WINDOW_BYTES)?)?;
    Some((key, Window { start: time_of(&bounds[..8])?, end: time_of(&bounds[8..])? }))
}

fn parts<K: Data>(bytes: &[u8]) -> Result<(Vec<u8>, Window), Error> {
    let (key, window) = split_window(bytes).ok_or_else(|| Error::invalid(NAME, "the window is cut off"))?;
    let (key, rest) = take_part(K::CODEC.fixed_width(), key)?;
    if !rest.is_empty() {
        return Err(Error::invalid(NAME, "bytes between key and window"));
    }
    Ok((key, window))
}

impl<K: Data> Format for WindowedKey<K> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn fingerprint(&self) -> String {
        format!("windowed {}", K::CODEC.fingerprint())
    }

    fn to_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let (key, Window { start, end }) = parts::<K>(bytes)?;
        out.extend_from_slice(br#"{"key":"#);
        K::CODEC.to_json(&key, out)?;
        out.extend_from_slice(format!(r#","start":{start},"end":{end}}}"#).as_bytes());
        Ok(())
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut parts = text.rsplitn(3, ',');
        let mut time = || parts.next().and_then(|text| text.parse().ok()).map(Timestamp);
        let (end, start) = (time(), time());
        match (parts.next(), start, end) {
            (Some(key), Some(start), Some(end)) => {
                self.parse_prefix(key, out)?;
                push_window(Window { start, end }, out);
                Ok(())
            }
            _ => Err(Error::invalid(
                NAME,
                format_args!("{text:?} needs a key, start and end in milliseconds, separated by commas"),
            )),
        }
    }

    fn parse_prefix(&self, text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
        let start = out.len();
        K::CODEC.parse_text(text, out)?;
        close_part(K::CODEC.fixed_width(), start, out);
        Ok(())
    }

    fn fixed_width(&self) -> Option<usize> {
        K::CODEC.fixed_width().map(|width| width + WINDOW_BYTES)
    }
}

impl<K: Data> Codec<Windowed<K>> for WindowedKey<K> {
    fn encode(&self, value: &Windowed<K>, out: &mut Vec<u8>) -> Result<Presence, Error> {
        if !push_key(&value.key, out)? {
            return Err(Error::Null(NAME));
        }
        push_window(Window { start: value.start, end: value.end }, out);
        Ok(Presence::Present)
    }

    fn decode(&self, bytes: Option<&[u8]>) -> Result<Windowed<K>, Error> {
        let (key, Window { start, end }) = parts::<K>(super::present(bytes, NAME)?)?;
        Ok(Windowed { key: K::CODEC.decode(Some(&key))?, start, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windowed<K>(key: K, start: i64, end: i64) -> Windowed<K> {
        Windowed { key, start: Timestamp(start), end: Timestamp(end) }
    }

    #[test]
    fn the_windows_of_a_key_lie_together_in_order() {
        let mut keys = Vec::new();
        for key in ["", "a", "a\0", "a\0b", "ab", "b"] {
            for (start, end) in [(-1, 5), (0, 1), (0, 2), (256, 300), (i64::MAX - 1, i64::MAX)] {
                keys.push(windowed(key.to_owned(), start, end));
            }
        }
        let encode = |key: &Windowed<String>| {
            let mut bytes = Vec::new();
            Windowed::<String>::CODEC.encode(key, &mut bytes).expect("it encodes");
            bytes
        };
        let bytes: Vec<_> = keys.iter().map(encode).collect();
        assert!(bytes.is_sorted() && keys.is_sorted());
        for (key, bytes) in keys.iter().zip(&bytes) {
            assert_eq!(&Windowed::<String>::CODEC.decode(Some(bytes)).expect("it decodes"), key);
        }
    }

    #[test]
    fn people_see_and_write_key_start_and_end() {
        let check = |text: &str, json: &str| {
            let (mut bytes, mut shown) = (Vec::new(), Vec::new());
            Windowed::<String>::CODEC.parse_text(text, &mut bytes).expect("it is a key");
            Windowed::<String>::CODEC.to_json(&bytes, &mut shown).expect("it can be shown");
            assert_eq!(String::from_utf8_lossy(&shown), json);
        };
        check("tea,0,60000", r#"{"key":"tea","start":0,"end":60000}"#);
        check("a,b,-5,7", r#"{"key":"a,b","start":-5,"end":7}"#);
        for wrong in ["", "tea", "tea,0", "tea,x,1", "tea,0,"] {
            let error = Windowed::<String>::CODEC.parse_text(wrong, &mut Vec::new()).expect_err(wrong);
            assert!(error.to_string().contains("needs a key, start and end"), "{error}");
        }
        assert!(Windowed::<u64>::CODEC.parse_text("x,0,1", &mut Vec::new()).is_err());
        assert!(Windowed::<u64>::CODEC.decode(Some(&[0; 20])).is_err());
    }
}
