//! Codecs: what is encoded is read back, and the order of the bytes is the order of the values, whatever bytes they have.

use std::fmt::Debug;

use millstream::codec::{self, Codec, Data, Json, Presence};
use proptest::prelude::*;

fn bytes<T: Data>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert_eq!(T::CODEC.encode(value, &mut bytes), Ok(Presence::Present));
    bytes
}

fn check_round_trip<T: Data + PartialEq + Debug>(value: &T) {
    assert_eq!(T::CODEC.decode(Some(&bytes(value))).as_ref(), Ok(value));
}

/// Two values come back, and their bytes compare as they do.
fn check<T: Data + Ord + Debug>(a: &T, b: &T) {
    check_round_trip(a);
    check_round_trip(b);
    assert_eq!(bytes(a).cmp(&bytes(b)), a.cmp(b), "{a:?} and {b:?}");
}

/// Text of the characters that are hard on an encoding, among others.
fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof![Just('\0'), Just('\u{1}'), Just('\u{ff}'), Just('\u{10ffff}'), any::<char>()], 0..6)
        .prop_map(|chars| chars.into_iter().collect())
}

fn raw() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(0), Just(1), Just(0xfe), Just(0xff), any::<u8>()], 0..6)
}

proptest! {
    #[test]
    fn integers_and_strings_keep_their_order(
        a in any::<(u32, u64, i32, i64)>(), b in any::<(u32, u64, i32, i64)>(), s in text(), t in text(), v in raw(), w in raw(),
    ) {
        check(&a.0, &b.0);
        check(&a.1, &b.1);
        check(&a.2, &b.2);
        check(&a.3, &b.3);
        check(&s, &t);
        check(&v, &w);
    }

    #[test]
    fn tuples_keep_the_order_of_their_parts(a in (text(), raw()), b in (text(), raw()), n in any::<i64>(), m in any::<i64>()) {
        check(&a, &b);
        check(&(a.1.clone(), n), &(b.1.clone(), m));
        check(&(n, a.0.clone(), a.1.clone()), &(m, b.0.clone(), b.1.clone()));
        // The same first parts, so that the later ones decide.
        check(&(a.0.clone(), a.1.clone(), n), &(a.0.clone(), b.1.clone(), m));
        check(&((a.0.clone(), n), b.0.clone()), &((b.0.clone(), m), a.0.clone()));
    }

    #[test]
    fn a_prefix_begins_the_tuples_of_its_first_part_and_no_others(a in raw(), b in raw(), rest in text()) {
        let prefix = codec::prefix(&a).expect("it encodes");
        prop_assert!(bytes(&(a.clone(), rest.clone())).starts_with(&prefix));
        prop_assert_eq!(bytes(&(b.clone(), rest)).starts_with(&prefix), a == b);
    }

    #[test]
    fn text_and_json_of_a_key_say_the_same(n in any::<i64>(), m in any::<u64>(), s in "[a-z]{0,5}") {
        let codec = <(i64, u64, String)>::CODEC;
        let mut key = Vec::new();
        codec.parse_text(&format!("{n},{m},{s}"), &mut key).expect("it is a key");
        prop_assert_eq!(&key, &bytes(&(n, m, s.clone())));
        let mut json = Vec::new();
        codec.to_json(&key, &mut json).expect("it is a key");
        prop_assert_eq!(String::from_utf8(json), Ok(format!("[{n},{m},\"{s}\"]")));
    }

    #[test]
    fn the_text_of_first_parts_is_the_beginning_of_the_keys_that_have_them(
        n in any::<i64>(), m in any::<u64>(), s in "[a-z]{1,5}", other in "[a-z]{1,5}", cut in 0usize..5,
    ) {
        let begins = |text: String, key: &(i64, u64, String)| {
            let mut prefix = Vec::new();
            <(i64, u64, String)>::CODEC.parse_prefix(&text, &mut prefix).expect("it begins a key");
            bytes(key).starts_with(&prefix)
        };
        let key = (n, m, s.clone());
        let cut = &s[..cut.min(s.len())];
        for text in [format!("{n}"), format!("{n},{m}"), format!("{n},{m},{cut}"), format!("{n},{m},{s}")] {
            prop_assert!(begins(text, &key));
        }
        let (other_n, other_m) = (n.wrapping_add(1), m.wrapping_add(1));
        for text in [format!("{other_n}"), format!("{n},{other_m}")] {
            prop_assert!(!begins(text, &key));
        }
        prop_assert_eq!(begins(format!("{n},{m},{other}"), &key), s.starts_with(&other));
        // A part that another follows is meant whole.
        let mut prefix = Vec::new();
        <(String, u64)>::CODEC.parse_prefix(&s, &mut prefix).expect("it begins a key");
        prop_assert_eq!(bytes(&(other.clone(), m)).starts_with(&prefix), s == other);
        let mut refused = Vec::new();
        prop_assert!(<(i64, u64, String)>::CODEC.parse_prefix(&s, &mut refused).is_err());
    }

    #[test]
    fn bytes_that_are_no_value_are_an_error(garbage in raw()) {
        // Nothing panics, and what decodes encodes as it was: a value has one encoding.
        if let Ok(value) = <(String, u32)>::CODEC.decode(Some(&garbage)) {
            prop_assert_eq!(bytes(&value), garbage.clone());
        }
        if let Ok(number) = Codec::<u64>::decode(&codec::Decimal, Some(&garbage)) {
            prop_assert_eq!(number.to_string().into_bytes(), garbage);
        }
    }
}

#[test]
fn null_is_none_and_nothing_else() {
    let mut out = Vec::new();
    assert_eq!(Option::<String>::CODEC.encode(&None, &mut out), Ok(Presence::Null));
    assert_eq!(Option::<String>::CODEC.decode(None), Ok(None));
    assert_eq!(Option::<String>::CODEC.decode(Some(b"")), Ok(Some(String::new())));
    assert_eq!(String::CODEC.decode(None), Err(codec::Error::Null("utf-8")));
    assert!(Codec::<u64>::decode(&Json, Some(b"12x")).is_err());
}
