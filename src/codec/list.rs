//! Several values in one: how the values lie that one key of a store has at one time.
//!
//! Each is its length, as four bytes, and its bytes.

use std::marker::PhantomData;

use super::{Codec, Data, Error, Format, Presence};

const NAME: &str = "list";

/// Values of one type, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct List<T>(pub Vec<T>);

#[derive(Debug)]
struct Values<T>(PhantomData<fn() -> T>);

impl<T: Data> Data for List<T> {
    const CODEC: &'static dyn Codec<List<T>> = &Values(PhantomData);
}

/// Appends a value's bytes to a list's.
pub(crate) fn push_item(item: &[u8], list: &mut Vec<u8>) {
    list.extend_from_slice(&(item.len() as u32).to_be_bytes());
    list.extend_from_slice(item);
}

/// Whether a list has more than one value.
pub(crate) fn has_second(list: &[u8]) -> bool {
    items(list).nth(1).is_some()
}

fn items(mut bytes: &[u8]) -> impl Iterator<Item = Result<&[u8], Error>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let item =
            bytes.split_first_chunk::<4>().and_then(|(len, rest)| rest.split_at_checked(u32::from_be_bytes(*len) as usize));
        let Some((item, rest)) = item else {
            bytes = &[];
            return Some(Err(Error::invalid(NAME, "a value is cut off")));
        };
        bytes = rest;
        Some(Ok(item))
    })
}

impl<T: Data> Format for Values<T> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn fingerprint(&self) -> String {
        format!("list of {}", T::CODEC.fingerprint())
    }

    fn to_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        out.push(b'[');
        for (n, item) in items(bytes).enumerate() {
            if n > 0 {
                out.push(b',');
            }
            T::CODEC.to_json(item?, out)?;
        }
        out.push(b']');
        Ok(())
    }

    fn parse_text(&self, text: &str, _: &mut Vec<u8>) -> Result<(), Error> {
        Err(Error::invalid(NAME, format_args!("{text:?}, for a list has no text")))
    }
}

impl<T: Data> Codec<List<T>> for Values<T> {
    fn encode(&self, value: &List<T>, out: &mut Vec<u8>) -> Result<Presence, Error> {
        let mut item = Vec::new();
        for value in &value.0 {
            item.clear();
            if T::CODEC.encode(value, &mut item)? == Presence::Null {
                return Err(Error::Null(NAME));
            }
            push_item(&item, out);
        }
        Ok(Presence::Present)
    }

    fn decode(&self, bytes: Option<&[u8]>) -> Result<List<T>, Error> {
        let items = items(super::present(bytes, NAME)?);
        items.map(|item| T::CODEC.decode(Some(item?))).collect::<Result<_, _>>().map(List)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_in_order_and_a_cut_is_noticed() {
        for values in [vec![], vec![""], vec!["a", "", "bc"]] {
            let list = List(values.into_iter().map(str::to_owned).collect());
            let mut bytes = Vec::new();
            List::<String>::CODEC.encode(&list, &mut bytes).expect("it encodes");
            assert_eq!(List::<String>::CODEC.decode(Some(&bytes)).expect("it decodes"), list);
            let mut json = Vec::new();
            List::<String>::CODEC.to_json(&bytes, &mut json).expect("it can be shown");
            assert_eq!(json, serde_json::to_vec(&list.0).expect("strings are JSON"));
            for cut in 1..bytes.len() {
                let whole = List::<String>::CODEC.decode(Some(&bytes[..cut])).is_ok_and(|part| list.0.starts_with(&part.0));
                assert!(whole || List::<String>::CODEC.decode(Some(&bytes[..cut])).is_err(), "cut at {cut}");
            }
        }
    }
}
