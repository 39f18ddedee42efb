//! Percent-encoded text in paths and queries. Borrows what has no escapes; text that is not UTF-8 or is cut off is no text.

use std::borrow::Cow;

/// The decoded text, or `None` if an escape is malformed or the bytes are not UTF-8. In a query, `+` is a space.
pub(super) fn decode(text: &str, in_query: bool) -> Option<Cow<'_, str>> {
    if !(text.contains('%') || in_query && text.contains('+')) {
        return Some(Cow::Borrowed(text));
    }
    let hex = |digit: Option<u8>| digit.and_then(|d| (d as char).to_digit(16)).map(|d| d as u8);
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex(bytes.next())? << 4 | hex(bytes.next())?,
            b'+' if in_query => b' ',
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

/// The raw value of a parameter's first occurrence in a query string.
pub(super) fn find<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key, true)? == name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_and_malformed_ones_refused() {
        let check = |text: &str, in_query: bool, expected: Option<&str>| {
            assert_eq!(decode(text, in_query).as_deref(), expected, "{text:?}");
        };
        check("plain", false, Some("plain"));
        check("a%20b%2fc", false, Some("a b/c"));
        check("%EC%BF%A0", true, Some("쿠"));
        check("a+b", false, Some("a+b"));
        check("a+b", true, Some("a b"));
        for malformed in ["%", "%4", "%zz", "%-1", "%ff"] {
            check(malformed, true, None);
        }
    }

    #[test]
    fn the_first_occurrence_counts() {
        let check = |query: &str, expected: Option<&str>| assert_eq!(find(query, "at"), expected, "{query:?}");
        check("at=1&at=2", Some("1"));
        check("cat=1&%61t=2", Some("2"));
        check("at", Some(""));
        check("at=a=b", Some("a=b"));
        check("", None);
    }
}
