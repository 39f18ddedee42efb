//! Pairs and triples as keys: parts in order, so that the tuples of one first part lie together and a prefix scan finds them.
//!
//! A part of fixed width stands as it is. Any other part but the last is escaped: a 0 byte becomes `00 ff`, and `00 00` ends the part.
//! No part's bytes then begin another's, and the order of the whole is the order of the parts (as in FoundationDB's tuple layer).

use std::marker::PhantomData;

use super::{Codec, Data, Error, Format, Presence};

const NAME: &str = "tuple";

/// Appends the codec's bytes of `value` as a part that another part follows.
fn push_part<A: Data>(value: &A, out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    not_null(A::CODEC.encode(value, out)?)?;
    close_part(A::CODEC.fixed_width(), start, out);
    Ok(())
}

pub(super) fn close_part(fixed_width: Option<usize>, start: usize, out: &mut Vec<u8>) {
    if fixed_width.is_some() {
        return;
    }
    if out[start..].contains(&0) {
        let plain = out.split_off(start);
        for byte in plain {
            out.push(byte);
            if byte == 0 {
                out.push(0xff);
            }
        }
    }
    out.extend_from_slice(&[0, 0]);
}

/// The first part of `bytes`, unescaped, and what follows it.
pub(super) fn take_part(fixed_width: Option<usize>, bytes: &[u8]) -> Result<(Vec<u8>, &[u8]), Error> {
    if let Some(width) = fixed_width {
        let (part, rest) = bytes.split_at_checked(width).ok_or_else(|| Error::invalid(NAME, "a part is cut off"))?;
        return Ok((part.to_vec(), rest));
    }
    let mut part = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        rest = match rest {
            [0, 0, tail @ ..] => return Ok((part, tail)),
            [0, 0xff, tail @ ..] => {
                part.push(0);
                tail
            }
            [0, ..] | [] => return Err(Error::invalid(NAME, "a part does not end")),
            [byte, tail @ ..] => {
                part.push(*byte);
                tail
            }
        };
    }
}

fn not_null(presence: Presence) -> Result<(), Error> {
    match presence {
        Presence::Present => Ok(()),
        Presence::Null => Err(Error::Null(NAME)),
    }
}

/// The bytes that every encoded tuple with this first part begins with, and no other: the prefix of a scan.
///
/// ```
/// use millstream::codec::{self, Codec, Data};
/// let mut key = Vec::new();
/// <(u64, String)>::CODEC.encode(&(7, "a".to_owned()), &mut key).unwrap();
/// assert!(key.starts_with(&codec::prefix(&7u64).unwrap()));
/// ```
pub fn prefix<A: Data>(first: &A) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    push_part(first, &mut out)?;
    Ok(out)
}

/// The codec of pairs and triples. As text, parts are separated by commas; only the last may hold one.
#[derive(Debug)]
pub struct Tuple<T>(PhantomData<fn() -> T>);

/// Shows or reads the parts, each by its own format.
fn parts_to_json(formats: &[&dyn Format], mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    for (i, format) in formats.iter().enumerate() {
        out.push(if i == 0 { b'[' } else { b',' });
        if i + 1 == formats.len() {
            format.to_json(bytes, out)?;
        } else {
            let (part, rest) = take_part(format.fixed_width(), bytes)?;
            format.to_json(&part, out)?;
            bytes = rest;
        }
    }
    out.push(b']');
    Ok(())
}

fn parts_from_text(formats: &[&dyn Format], text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
    let parts = text.splitn(formats.len(), ',').count();
    if parts != formats.len() {
        return Err(Error::invalid(NAME, format_args!("{text:?} needs {} parts separated by commas", formats.len())));
    }
    first_parts_from_text(formats, text, |last, text, out| last.parse_text(text, out), out)
}

/// What all tuples begin with that begin with these parts, of which the last of all may itself be a beginning.
fn prefix_from_text(formats: &[&dyn Format], text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
    first_parts_from_text(formats, text, |last, text, out| last.parse_prefix(text, out), out)
}

/// Reads as many parts as the text has, and the last of all by `read_last`.
fn first_parts_from_text(
    formats: &[&dyn Format],
    text: &str,
    read_last: impl Fn(&dyn Format, &str, &mut Vec<u8>) -> Result<(), Error>,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    for (i, (format, part)) in formats.iter().zip(text.splitn(formats.len(), ',')).enumerate() {
        if i + 1 == formats.len() {
            return read_last(*format, part, out);
        }
        let start = out.len();
        format.parse_text(part, out)?;
        close_part(format.fixed_width(), start, out);
    }
    Ok(())
}

impl<A: Data, B: Data> Format for Tuple<(A, B)> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn fingerprint(&self) -> String {
        format!("({}, {})", A::CODEC.fingerprint(), B::CODEC.fingerprint())
    }

    fn to_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        parts_to_json(&[A::CODEC as &dyn Format, B::CODEC as &dyn Format], bytes, out)
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
        parts_from_text(&[A::CODEC as &dyn Format, B::CODEC as &dyn Format], text, out)
    }

    fn parse_prefix(&self, text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
        prefix_from_text(&[A::CODEC as &dyn Format, B::CODEC as &dyn Format], text, out)
    }
}

impl<A: Data, B: Data> Codec<(A, B)> for Tuple<(A, B)> {
    fn encode(&self, (a, b): &(A, B), out: &mut Vec<u8>) -> Result<Presence, Error> {
        push_part(a, out)?;
        not_null(B::CODEC.encode(b, out)?)?;
        Ok(Presence::Present)
    }

    fn decode(&self, bytes: Option<&[u8]>) -> Result<(A, B), Error> {
        let (a, b) = take_part(A::CODEC.fixed_width(), super::present(bytes, NAME)?)?;
        Ok((A::CODEC.decode(Some(&a))?, B::CODEC.decode(Some(b))?))
    }
}

impl<A: Data, B: Data> Data for (A, B) {
    const CODEC: &'static dyn Codec<(A, B)> = &Tuple(PhantomData);
}

impl<A: Data, B: Data, C: Data> Format for Tuple<(A, B, C)> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn fingerprint(&self) -> String {
        format!("({}, {}, {})", A::CODEC.fingerprint(), B::CODEC.fingerprint(), C::CODEC.fingerprint())
    }

    fn to_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        parts_to_json(&[A::CODEC as &dyn Format, B::CODEC as &dyn Format, C::CODEC as &dyn Format], bytes, out)
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
        parts_from_text(&[A::CODEC as &dyn Format, B::CODEC as &dyn Format, C::CODEC as &dyn Format], text, out)
    }

    fn parse_prefix(&self, text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
        prefix_from_text(&[A::CODEC as &dyn Format, B::CODEC as &dyn Format, C::CODEC as &dyn Format], text, out)
    }
}

impl<A: Data, B: Data, C: Data> Codec<(A, B, C)> for Tuple<(A, B, C)> {
    fn encode(&self, (a, b, c): &(A, B, C), out: &mut Vec<u8>) -> Result<Presence, Error> {
        push_part(a, out)?;
        push_part(b, out)?;
        not_null(C::CODEC.encode(c, out)?)?;
        Ok(Presence::Present)
    }

    fn decode(&self, bytes: Option<&[u8]>) -> Result<(A, B, C), Error> {
        let (a, rest) = take_part(A::CODEC.fixed_width(), super::present(bytes, NAME)?)?;
        let (b, c) = take_part(B::CODEC.fixed_width(), rest)?;
        Ok((A::CODEC.decode(Some(&a))?, B::CODEC.decode(Some(&b))?, C::CODEC.decode(Some(c))?))
    }
}

impl<A: Data, B: Data, C: Data> Data for (A, B, C) {
    const CODEC: &'static dyn Codec<(A, B, C)> = &Tuple(PhantomData);
}
