//! The encoding of keys against the natural order of what they are made of.

use std::fmt::Debug;

use millstream_state::keys::{FromKey, Malformed, ToKey, decode, encode};
use proptest::prelude::*;

fn check<K: ToKey + FromKey + Ord + Debug>(a: &K, b: &K) {
    assert_eq!(encode(a).cmp(&encode(b)), a.cmp(b), "{a:?} against {b:?}");
    assert_eq!(decode::<K>(&encode(a)).as_ref(), Ok(a));
}

/// Two values that often share their beginning.
fn pair<T: Clone + Debug>(one: impl Strategy<Value = T> + Clone) -> impl Strategy<Value = (T, T)> {
    (one.clone(), one, any::<bool>()).prop_map(|(a, b, same)| if same { (a.clone(), a) } else { (a, b) })
}

/// Bytes from an alphabet in which escapes and terminators are frequent.
fn bytes() -> impl Strategy<Value = Vec<u8>> + Clone {
    prop::collection::vec(prop::sample::select(vec![0, 1, 0x7f, 0xfe, 0xff]), 0..5)
}

proptest! {
    #[test]
    fn integers(u in pair(any::<u64>()), i in pair(any::<i64>()), s in pair(-3_i32..3), b in pair(any::<u8>()), w in pair(any::<i128>())) {
        check(&u.0, &u.1);
        check(&i.0, &i.1);
        check(&s.0, &s.1);
        check(&b.0, &b.1);
        check(&w.0, &w.1);
    }

    #[test]
    fn strings((a, b) in pair(bytes()), (c, d) in pair(".{0,3}")) {
        check(&a, &b);
        check(&c, &d);
    }

    #[test]
    fn tuples(
        (a, b) in pair(bytes()),
        (c, d) in pair(bytes()),
        (i, j) in pair(-2_i64..2),
        (s, t) in pair("[a\0]{0,2}"),
        (o, p) in pair(prop::option::of(0_u16..3)),
    ) {
        check(&(a.clone(), c.clone()), &(b.clone(), d.clone()));
        check(&(i, a.clone(), o), &(j, b.clone(), p));
        check(&(o, s, a, i, true), &(p, t, b, j, false));
        check(&(o, [c.len() as u8; 3]), &(p, [d.len() as u8; 3]));
    }

    #[test]
    fn the_first_parts_are_a_prefix(a in bytes(), b in bytes(), number in any::<u64>()) {
        assert!(encode(&(&a, number)).starts_with(&encode(&a)));
        assert_eq!(encode(&(&b, number)).starts_with(&encode(&a)), a == b);
    }

    #[test]
    fn what_is_no_key_is_refused(bytes in bytes()) {
        // Whatever the bytes are: either they are refused, or they are exactly the form of what was read.
        fn check<K: ToKey + FromKey>(bytes: &[u8]) {
            if let Ok(key) = decode::<K>(bytes) {
                assert_eq!(encode(&key), bytes);
            }
        }
        check::<String>(&bytes);
        check::<(Vec<u8>, u8)>(&bytes);
        check::<(bool, Option<u16>)>(&bytes);
    }
}

#[test]
fn malformed_keys_are_refused() {
    assert_eq!(decode::<u64>(&[0; 7]), Err(Malformed));
    assert_eq!(decode::<u64>(&[0; 9]), Err(Malformed));
    assert_eq!(decode::<bool>(&[2]), Err(Malformed));
    assert_eq!(decode::<Vec<u8>>(&[1, 0]), Err(Malformed));
    assert_eq!(decode::<Vec<u8>>(&[1, 0, 1]), Err(Malformed));
    assert_eq!(decode::<String>(&[0xc3, 0, 0]), Err(Malformed));
}
