//! `/views`: any store of any application, as JSON.

use std::borrow::Cow;
use std::ops::Bound;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::StatusCode;
use millstream_state::{Direction, Entries, Range};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::error::ApiError;
use super::super::request::Request;
use super::super::response::Response;
use super::gather::{Answered, Coded, Cost, Views};
use super::watches;
use crate::record::{Offset, Timestamp};
use crate::runtime::{Handle, QueryError, Row, Seen, TaskPlace, View, Watched};

/// The most rows of one answer. One row more is read, to know whether there is one.
const MAX_LIMIT: u64 = 500;

/// What one task has of one store.
#[derive(Serialize, Deserialize)]
struct Counted {
    store: String,
    rows: u64,
    exact: bool,
    end: u64,
}

pub(super) async fn list(views: Views, request: Request) -> Result<Response, ApiError> {
    let stores = views.application.stores().ahead(); // for their names: what they hold is counted below
    let application = views.application.clone();
    let parts: Vec<View> = stores.iter().filter_map(|store| views.application.view(&store.name)).collect();
    let mut tasks: Vec<TaskPlace> = parts.iter().flat_map(View::tasks_of).collect();
    tasks.sort_unstable();
    tasks.dedup();
    let count = move |task: TaskPlace| {
        let counted = application.counted(&parts, task)?;
        let shown = |(store, Entries { rows, exact }, end): (String, Entries, Offset)| Counted { store, rows, exact, end: end.0 };
        Ok(counted.map(|counted| counted.into_iter().map(shown).collect()))
    };
    let gathered = match views.gather(&request, tasks, None, Cost::Much, count).await? {
        Answered::Peer(response) => return Ok(response),
        Answered::Client(gathered) => gathered,
    };
    let shown = stores.into_iter().map(|store| {
        let parts: Vec<&(u32, Counted)> = gathered.found.iter().filter(|(_, part)| part.store == store.name).collect();
        let all = parts.len() as u64 == u64::from(store.partitions);
        json!({
            "name": store.name,
            "keyType": store.key_type,
            "valueType": store.value_type,
            "kind": store.kind,
            "partitions": store.partitions,
            "entries": parts.iter().map(|(_, part)| part.rows).sum::<u64>(),
            "entriesExact": all && parts.iter().all(|(_, part)| part.exact),
            "positions": parts.iter().map(|(partition, part)| json!({"partition": partition, "offset": part.end})).collect::<Vec<_>>(),
        })
    });
    Response::json(StatusCode::OK, &json!({"stores": shown.collect::<Vec<_>>()})).map(|response| gathered.mark(response))
}

pub(super) async fn row(views: Views, request: Request) -> Result<Response, ApiError> {
    let view = view(&views.application, &request)?;
    let key = key(&view, "key", &request.param("key")?)?;
    if request.wants_events() {
        return watches::begin(views, &request, view, Watched::Key(key)).await;
    }
    let (read, wanted) = (view.clone(), key.clone());
    let get = move |task| Ok(read.of(task).get(&wanted)?.map(|found| found.map(Coded).into_iter().collect()));
    let gathered = match views.gather(&request, view.tasks_of(), Some(view.name()), Cost::Little, get).await? {
        Answered::Peer(response) => return Ok(response),
        Answered::Client(gathered) => gathered,
    };
    // Where it is found counts more than where it cannot be looked for. Of several partitions that have it, the first does.
    let Some((_, Coded(value))) = gathered.found.first() else {
        gathered.complete()?;
        return Err(ApiError::not_found("KEY_NOT_FOUND", format!("{} has no value of this key", view.name())));
    };
    let mut body = Vec::with_capacity(value.len() + 64);
    write_row(&view, &key, value, &mut body)?;
    Ok(gathered.mark(Response::bytes(StatusCode::OK, "application/json", body)))
}

pub(super) async fn rows(views: Views, request: Request) -> Result<Response, ApiError> {
    let view = view(&views.application, &request)?;
    let bounds = Bounds::read(&view, &request)?;
    let limit = request.query_number("limit", 100, 1..=MAX_LIMIT)? as usize;
    let after = request
        .query("after")?
        .map(|text| After::read(&text).ok_or_else(|| ApiError::invalid_field("after", "is not the `next` of an answer")));
    let after = after.transpose()?;
    if request.wants_events() {
        if !matches!(bounds.between, Between::Keys(None, None)) || after.is_some() {
            return Err(ApiError::invalid_field("from, to and after", "do not go with a watch; prefix does"));
        }
        return watches::begin(views, &request, view, Watched::Prefix(bounds.prefix.unwrap_or_default())).await;
    }
    let (read, bounds) = (view.clone(), Arc::new(bounds));
    let page = move |task: TaskPlace| {
        let after = after.as_ref().map(|after| after.of(task.1));
        let rows = bounds.page(&read.of(task), after, limit + 1)?;
        Ok(rows.map(|rows| rows.into_iter().map(|(key, value)| (Coded(key), Coded(value))).collect()))
    };
    let mut gathered = match views.gather(&request, view.tasks_of(), Some(view.name()), Cost::Much, page).await? {
        Answered::Peer(response) => return Ok(response),
        Answered::Client(gathered) => gathered,
    };
    gathered.complete()?;
    let page = &mut gathered.found;
    page.sort_by(|(_, (a, _)), (_, (b, _))| a.0.cmp(&b.0));
    let mut body = br#"{"entries":["#.to_vec();
    for (n, (_, (key, value))) in page.iter().take(limit).enumerate() {
        if n > 0 {
            body.push(b',');
        }
        write_row(&view, &key.0, &value.0, &mut body)?;
    }
    body.push(b']');
    if page.len() > limit {
        let (partition, (Coded(key), _)) = &page[limit - 1];
        body.extend_from_slice(format!(r#","next":"{}""#, After { partition: *partition, key: key.to_vec() }.write()).as_bytes());
    }
    body.push(b'}');
    Ok(gathered.mark(Response::bytes(StatusCode::OK, "application/json", body)))
}

fn view(application: &Handle, request: &Request) -> Result<View, ApiError> {
    let store = request.param("store")?;
    application.view(&store).ok_or_else(|| ApiError::not_found("STORE_NOT_FOUND", format!("there is no store {store}")))
}

fn key(view: &View, field: &str, text: &str) -> Result<Vec<u8>, ApiError> {
    view.key_from_text(text)
        .map_err(|error| ApiError::invalid_field(field, format_args!("is no key of {}: it {error}", view.name())))
}

/// What the bytes of keys begin with that begin so as text: with a whole key, or with the first parts of one that has several.
fn beginning(view: &View, field: &str, text: &str) -> Result<Vec<u8>, ApiError> {
    view.prefix_from_text(text)
        .map_err(|error| ApiError::invalid_field(field, format_args!("begins no key of {}: it {error}", view.name())))
}

/// The last row of a page. Several partitions may have its key, and then a page may end between these rows.
#[derive(Clone)]
struct After {
    partition: u32,
    key: Vec<u8>,
}

impl After {
    fn read(text: &str) -> Option<After> {
        let decoded = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (partition, key) = decoded.split_first_chunk()?;
        Some(After { partition: u32::from_be_bytes(*partition), key: key.to_vec() })
    }

    fn write(&self) -> String {
        URL_SAFE_NO_PAD.encode([&self.partition.to_be_bytes()[..], &self.key].concat())
    }

    /// Where the next page begins in a partition: rows are in the order of keys, those of one key in that of partitions.
    fn of(&self, partition: u32) -> Bound<&[u8]> {
        if partition > self.partition { Bound::Included(&self.key) } else { Bound::Excluded(&self.key) }
    }
}

/// Which rows are asked for.
struct Bounds {
    prefix: Option<Vec<u8>>,
    between: Between,
}

/// `from` and `to`: keys or their first parts, or in a window store the times at which windows start, in milliseconds since 1970.
enum Between {
    Keys(Option<Vec<u8>>, Option<Vec<u8>>),
    Times(Timestamp, Timestamp),
}

impl Bounds {
    fn read(view: &View, request: &Request) -> Result<Bounds, ApiError> {
        let beginning = |name, text: Option<Cow<'_, str>>| text.map(|text| beginning(view, name, &text)).transpose();
        let prefix = beginning("prefix", request.query("prefix")?)?;
        let (from, to) = (request.query("from")?, request.query("to")?);
        let between = if view.is_windowed() && (from.is_some() || to.is_some()) {
            let time = |name, text: Option<Cow<'_, str>>, open| match text {
                None => Ok(Timestamp(open)),
                Some(text) => text.parse().map(Timestamp).map_err(|_| {
                    ApiError::invalid_field(name, "is no time: windows are chosen by their start, in milliseconds since 1970")
                }),
            };
            Between::Times(time("from", from, i64::MIN)?, time("to", to, i64::MAX)?)
        } else {
            Between::Keys(beginning("from", from)?, beginning("to", to)?)
        };
        Ok(Bounds { prefix, between })
    }

    fn page(&self, view: &View, after: Option<Bound<&[u8]>>, limit: usize) -> Result<Seen<Vec<Row>>, QueryError> {
        let prefix = self.prefix.as_deref();
        if after.is_some() {
            view.expect_pages();
        }
        match &self.between {
            Between::Keys(from, to) => {
                view.page(&range(prefix, from.as_deref(), to.as_deref(), after), Direction::Forward, limit)
            }
            Between::Times(from, to) => view.windows(&range(prefix, None, None, after), (*from, *to), Direction::Forward, limit),
        }
    }
}

/// What all of these allow.
fn range(prefix: Option<&[u8]>, from: Option<&[u8]>, to: Option<&[u8]>, after: Option<Bound<&[u8]>>) -> Range {
    let prefix = Range::prefix(prefix.unwrap_or_default());
    let (start, end) = prefix.bounds();
    let start = match (start, from) {
        (Bound::Included(start), Some(from)) => Bound::Included(start.max(from)),
        (start, _) => start,
    };
    let start = match (start, after) {
        (Bound::Included(start), Some(Bound::Excluded(after))) if after >= start => Bound::Excluded(after),
        (Bound::Included(start), Some(Bound::Included(at))) if at >= start => Bound::Included(at),
        (start, _) => start,
    };
    let end = match (end, to) {
        (Bound::Excluded(end), Some(to)) => Bound::Excluded(end.min(to)),
        (end, to) => to.map_or(end, Bound::Excluded),
    };
    Range::new(start, end)
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
        fn bytes(text: &str) -> Option<&[u8]> {
            (text != "-").then_some(text.as_bytes())
        }
        let check = |[prefix, from, to, after]: [&str; 4], start: Bound<&str>, end: Bound<&str>| {
            let found = range(bytes(prefix), bytes(from), bytes(to), bytes(after).map(Excluded));
            assert_eq!(found.bounds(), (start.map(str::as_bytes), end.map(str::as_bytes)), "{prefix} {from} {to} {after}");
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

    #[test]
    fn a_page_goes_on_behind_the_last_row_of_the_one_before() {
        let read = After::read(&After { partition: 1, key: b"k".to_vec() }.write()).expect("it was written so");
        let begins = [0, 1, 2].map(|partition| read.of(partition));
        assert_eq!(begins, [Bound::Excluded(&b"k"[..]), Bound::Excluded(b"k"), Bound::Included(b"k")]);
        assert!(["", "AA", "%"].iter().all(|text| After::read(text).is_none()));
    }
}
