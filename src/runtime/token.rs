//! A position in the log as a client carries it: what a write appended, or how far a view must have come.

use std::fmt;
use std::str::FromStr;

use crate::record::{Offset, Partition};

/// Identifies a topic across restarts: the beginning of its unique id.
pub(crate) type TopicTag = [u8; 4];

/// What the bytes of a token begin with: what the rest is.
const OFFSETS: u8 = 1;
const UPSTREAM: u8 = 2;
const ENTRY: usize = 4 + 4 + 8;

/// A position that something must have come to, as opaque URL-safe text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token(pub(crate) Place);

/// Where a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Offsets of the log.
    Log(Vec<(TopicTag, Partition, Offset)>),
    /// A place in what feeds the log, in its own words.
    Upstream(String),
}

impl Token {
    /// A place in what feeds the log: see [`Upstream`](super::Upstream).
    #[must_use]
    pub fn upstream(place: impl Into<String>) -> Token {
        Token(Place::Upstream(place.into()))
    }
}

/// The text is not a token that this log gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a stream position")]
pub struct UnreadableToken;

/// FNV-1a, 32 bits: enough to tell a mistyped token.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)).to_be_bytes()
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::new();
        match &self.0 {
            Place::Log(offsets) => {
                bytes.push(OFFSETS);
                for (topic, partition, offset) in offsets {
                    bytes.extend_from_slice(topic);
                    bytes.extend_from_slice(&partition.0.to_be_bytes());
                    bytes.extend_from_slice(&offset.0.to_be_bytes());
                }
            }
            Place::Upstream(place) => {
                bytes.push(UPSTREAM);
                bytes.extend_from_slice(place.as_bytes());
            }
        }
        bytes.extend_from_slice(&checksum(&bytes));
        let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or('0');
        let text: String = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
        f.write_str(&text)
    }
}

impl FromStr for Token {
    type Err = UnreadableToken;

    fn from_str(text: &str) -> Result<Token, UnreadableToken> {
        if !text.len().is_multiple_of(2) || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(UnreadableToken);
        }
        let digit = |c: u8| (c as char).to_digit(16).unwrap_or(0) as u8;
        let bytes: Vec<u8> = text.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect();
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(UnreadableToken)?;
        if *sum != checksum(body) {
            return Err(UnreadableToken);
        }
        match body {
            [OFFSETS, entries @ ..] if entries.len().is_multiple_of(ENTRY) => {
                let offsets = entries.chunks_exact(ENTRY).map(|entry| {
                    let topic = *entry.first_chunk()?;
                    let partition = u32::from_be_bytes(*entry[4..].first_chunk()?);
                    Some((topic, Partition(partition), Offset(u64::from_be_bytes(*entry[8..].first_chunk()?))))
                });
                Ok(Token(Place::Log(offsets.collect::<Option<_>>().ok_or(UnreadableToken)?)))
            }
            [UPSTREAM, place @ ..] => Ok(Token::upstream(std::str::from_utf8(place).map_err(|_| UnreadableToken)?)),
            _ => Err(UnreadableToken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_token_is_read_back_from_its_text(offsets in prop::collection::vec(any::<([u8; 4], u32, u64)>(), 0..5)) {
            let offsets = offsets.into_iter().map(|(topic, partition, offset)| (topic, Partition(partition), Offset(offset)));
            let token = Token(Place::Log(offsets.collect()));
            let text = token.to_string();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{text} is safe in a URL");
            prop_assert_eq!(text.parse(), Ok(token));
        }

        #[test]
        fn so_is_one_of_what_feeds_the_log(place in "\\PC{0,40}") {
            let token = Token::upstream(place);
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn a_mistyped_token_is_told(offset in any::<u64>(), at in any::<prop::sample::Index>(), typed in "[0-9a-f]") {
            let token = Token(Place::Log(vec![([1, 2, 3, 4], Partition(5), Offset(offset))]));
            let mut text = token.to_string();
            let at = at.index(text.len());
            text.replace_range(at..=at, &typed);
            prop_assert_eq!(text.parse::<Token>().is_ok(), text == token.to_string());
        }

        #[test]
        fn any_other_text_is_told(text in "\\PC{0,40}") {
            if let Ok(token) = text.parse::<Token>() {
                prop_assert_eq!(token.to_string(), text.to_lowercase());
            }
        }
    }
}
