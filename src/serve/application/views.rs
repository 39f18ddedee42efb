//! `/views`: any store of any application, as JSON.

use std::ops::Bound;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::StatusCode;
use millstream_state::Direction;
use serde_json::json;

use super::super::error::ApiError;
use super::super::request::Request;
use super::super::response::Response;
use super::{blocking, watches};
use crate::runtime::{Handle, QueryError, Row, View};

/// The most rows of one answer. One row more is read, to know whether there is one.
const MAX_LIMIT: u64 = 500;

pub(super) async fn list(application: Handle, _request: Request) -> Result<Response, ApiError> {
    let stores = application.stores().into_iter().map(|store| {
        let positions = store.positions.iter().map(|(partition, offset)| json!({"partition": partition.0, "offset": offset.0}));
        json!({
            "name": store.name,
            "keyType": store.key_type,
            "valueType": store.value_type,
            "kind": store.kind,
            "partitions": store.partitions,
            "entries": store.entries,
            "positions": positions.collect::<Vec<_>>(),
        })
    });
    Response::json(StatusCode::OK, &json!({"stores": stores.collect::<Vec<_>>()}))
}

pub(super) async fn row(application: Handle, request: Request) -> Result<Response, ApiError> {
    let view = view(&application, &request)?;
    let key = key(&view, "key", &request.param("key")?)?;
    request.at_least(&application, view.name()).await?;
    if request.wants_events() {
        return watches::key(view, key);
    }
    let Some(value) = view.get(&key)? else {
        return Err(ApiError::not_found("KEY_NOT_FOUND", format!("{} has no value of this key", view.name())));
    };
    let mut body = Vec::with_capacity(value.len() + 64);
    write_row(&view, &key, &value, &mut body)?;
    Ok(Response::bytes(StatusCode::OK, "application/json", body))
}

pub(super) async fn rows(application: Handle, request: Request) -> Result<Response, ApiError> {
    let view = view(&application, &request)?;
    let named = |name: &str| request.query(name)?.map(|text| key(&view, name, &text)).transpose();
    let (prefix, from, to) = (named("prefix")?, named("from")?, named("to")?);
    let limit = request.query_number("limit", 100, 1..=MAX_LIMIT)? as usize;
    let after = request.query("after")?.map(|text| {
        let decoded = URL_SAFE_NO_PAD.decode(text.as_bytes());
        decoded.map_err(|_| ApiError::invalid_field("after", "is not the `next` of an answer"))
    });
    let after = after.transpose()?;
    request.at_least(&application, view.name()).await?;
    if request.wants_events() {
        if from.is_some() || to.is_some() || after.is_some() {
            return Err(ApiError::invalid_field("from, to and after", "do not go with a watch; prefix does"));
        }
        return watches::prefix(view, prefix.unwrap_or_default());
    }
    let range = range(prefix, from, to, after);
    let (view, page) = blocking(move || {
        let page = page(&view, &range, limit + 1);
        (view, page)
    })
    .await?;
    let page = page?;
    let mut body = br#"{"entries":["#.to_vec();
    for (n, (key, value)) in page.iter().take(limit).enumerate() {
        if n > 0 {
            body.push(b',');
        }
        write_row(&view, key, value, &mut body)?;
    }
    body.push(b']');
    if page.len() > limit {
        body.extend_from_slice(br#","next":""#);
        body.extend_from_slice(URL_SAFE_NO_PAD.encode(&page[limit - 1].0).as_bytes());
        body.push(b'"');
    }
    body.push(b'}');
    Ok(Response::bytes(StatusCode::OK, "application/json", body))
}

fn view(application: &Handle, request: &Request) -> Result<View, ApiError> {
    let store = request.param("store")?;
    application.view(&store).ok_or_else(|| ApiError::not_found("STORE_NOT_FOUND", format!("there is no store {store}")))
}

fn key(view: &View, field: &str, text: &str) -> Result<Vec<u8>, ApiError> {
    view.key_from_text(text)
        .map_err(|error| ApiError::invalid_field(field, format_args!("is no key of {}: it {error}", view.name())))
}

pub(super) type Range = (Bound<Vec<u8>>, Bound<Vec<u8>>);

fn range(prefix: Option<Vec<u8>>, from: Option<Vec<u8>>, to: Option<Vec<u8>>, after: Option<Vec<u8>>) -> Range {
    let prefix = prefix.unwrap_or_default();
    let end = match (millstream_state::Range::prefix(&prefix).bounds().1.map(<[u8]>::to_vec), to) {
        (Bound::Excluded(end), Some(to)) => Bound::Excluded(end.min(to)),
        (_, Some(to)) => Bound::Excluded(to),
        (end, None) => end,
    };
    let start = from.map_or(prefix.clone(), |from| from.max(prefix));
    match after {
        Some(after) if after >= start => (Bound::Excluded(after), end),
        _ => (Bound::Included(start), end),
    }
}

/// A page of a range, which is empty where it ends before it starts.
pub(super) fn page(view: &View, (from, to): &Range, limit: usize) -> Result<Vec<Row>, QueryError> {
    let range = millstream_state::Range::new(from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
    view.page(&range, Direction::Forward, limit)
}

/// Appends `{"key":…,"value":…}`.
fn write_row(view: &View, key: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<(), ApiError> {
    out.extend_from_slice(br#"{"key":"#);
    view.key_to_json(key, out).map_err(ApiError::internal)?;
    out.extend_from_slice(br#","value":"#);
    view.value_to_json(value, out).map_err(ApiError::internal)?;
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_what_all_of_its_bounds_allow() {
        let bytes = |text: &str| Some(text.as_bytes().to_vec()).filter(|_| text != "-");
        let check = |[prefix, from, to, after]: [&str; 4], start: Bound<&str>, end: Bound<&str>| {
            let found = range(bytes(prefix), bytes(from), bytes(to), bytes(after));
            let owned = |bound: Bound<&str>| bound.map(|text| text.as_bytes().to_vec());
            assert_eq!(found, (owned(start), owned(end)), "{prefix} {from} {to} {after}");
        };
        use Bound::{Excluded, Included, Unbounded};
        check(["-", "-", "-", "-"], Included(""), Unbounded);
        check(["-", "b", "d", "-"], Included("b"), Excluded("d"));
        check(["b", "-", "-", "-"], Included("b"), Excluded("c"));
        check(["b", "a", "z", "-"], Included("b"), Excluded("c"));
        check(["b", "ba", "bb", "-"], Included("ba"), Excluded("bb"));
        check(["b", "-", "-", "bx"], Excluded("bx"), Excluded("c"));
        check(["b", "-", "-", "a"], Included("b"), Excluded("c"));
        check(["-", "d", "b", "-"], Included("d"), Excluded("b"));
    }
}
