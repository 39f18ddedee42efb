//! `/views/…` as a stream: what is there now, then every committed change, each as an event `change {key, value, position}`.
//!
//! `position` names the end of the store's changelog as `partition:offset`; what is there now has those of all partitions, by commas. A value
//! is never followed by an older one of the same key: changes up to the position that was read first are left out. A change that was committed
//! while a long prefix was read may come twice.

use std::fmt::Write as _;
use std::ops::Bound;

use millstream_state::{Direction, Range};

use super::super::error::ApiError;
use super::super::events::{Event, Events};
use super::super::response::Response;
use crate::record::{Offset, Partition};
use crate::runtime::{QueryError, View, Watch, Watched};

const PAGE: usize = 100;

/// How often a value is read anew because a commit came between, before an overlap is accepted.
const TRIES: usize = 16;

type Positions = Vec<(Partition, Offset)>;

/// A watch of one key.
pub(super) async fn key(view: View, key: Vec<u8>) -> Result<Response, ApiError> {
    let watch = view.watch(Watched::Key(key.clone()));
    let mut positions = view.positions();
    let mut value = view.get(&key)?;
    for _ in 0..TRIES {
        let now = view.positions();
        if now.peek() == positions.peek() {
            break;
        }
        (positions, value) = (now, view.get(&key)?);
    }
    let (positions, value) = (positions.durable().await?, value.durable().await?);
    Ok(Response::events(move |mut events| async move {
        let shown = show(&view, &key, value.as_deref(), &positions);
        if let Ok(data) = &shown {
            events.send(&Event::new("change", data)).await;
        }
        let outcome = match shown {
            Ok(_) => follow(&view, watch, &positions, &mut events).await,
            Err(error) => Err(error),
        };
        end(&view, events, outcome);
    }))
}

/// A watch of all keys that begin so.
pub(super) async fn prefix(view: View, prefix: Vec<u8>) -> Result<Response, ApiError> {
    let watch = view.watch(Watched::Prefix(prefix.clone()));
    let positions = view.positions().durable().await?;
    Ok(Response::events(move |mut events| async move {
        let mut outcome = rows(&view, prefix, &positions, &mut events).await;
        if outcome.is_ok() {
            outcome = follow(&view, watch, &positions, &mut events).await;
        }
        end(&view, events, outcome);
    }))
}

async fn rows(view: &View, prefix: Vec<u8>, positions: &Positions, events: &mut Events) -> Result<(), QueryError> {
    let all = Range::prefix(&prefix);
    let mut range = all.clone();
    loop {
        let rows = view.page(&range, Direction::Forward, PAGE)?.durable().await?;
        for (key, value) in &rows {
            events.send(&Event::new("change", &show(view, key, Some(value), positions)?)).await;
        }
        match rows.last() {
            Some((last, _)) if rows.len() == PAGE => range = Range::new(Bound::Excluded(last), all.bounds().1),
            _ => return Ok(()),
        }
    }
}

/// Sends changes until the client is too slow.
async fn follow(view: &View, mut watch: Watch, shown: &Positions, events: &mut Events) -> Result<(), QueryError> {
    while let Some(change) = watch.next().await {
        if shown.iter().any(|(partition, end)| *partition == change.partition && change.position <= *end) {
            continue;
        }
        let value = view.changed_value(&change);
        let data = show(view, &change.key, value.as_deref(), &[(change.partition, change.position)])?;
        events.send(&Event::new("change", &data)).await;
    }
    Ok(())
}

fn end(view: &View, events: Events, outcome: Result<(), QueryError>) {
    match outcome {
        Ok(()) => events.cut_off(),
        Err(error) => tracing::error!(store = view.name(), %error, "a watch ends"),
    }
}

/// `{"key":…,"value":…,"position":…}`
fn show(view: &View, key: &[u8], value: Option<&[u8]>, positions: &[(Partition, Offset)]) -> Result<Vec<u8>, QueryError> {
    let unreadable = |error| QueryError::Codec { store: view.name().to_owned(), error };
    let mut out = br#"{"key":"#.to_vec();
    view.key_to_json(key, &mut out).map_err(unreadable)?;
    out.extend_from_slice(br#","value":"#);
    match value {
        Some(value) => view.value_to_json(value, &mut out).map_err(unreadable)?,
        None => out.extend_from_slice(b"null"),
    }
    let mut position = String::new();
    for (n, (partition, offset)) in positions.iter().enumerate() {
        let comma = if n > 0 { "," } else { "" };
        let _ = write!(position, "{comma}{partition}:{offset}"); // writing to a string does not fail
    }
    out.extend_from_slice(format!(r#","position":"{position}"}}"#).as_bytes());
    Ok(out)
}
