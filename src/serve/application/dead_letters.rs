//! `/dlq`: records that could not be processed, with their cause, and their replay.
//!
//! A key, value or header that is JSON is shown as JSON, other UTF-8 text as a string, and other bytes as `{"$base64":"…"}`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::error::ApiError;
use super::super::request::Request;
use super::super::response::Response;
use super::blocking;
use crate::record::{Offset, Partition, Timestamp};
use crate::runtime::{Handle, ParkedRecord, Selection};

pub(super) async fn topics(application: Handle, _request: Request) -> Result<Response, ApiError> {
    let topics = blocking(move || application.dead_letters().topics()).await??;
    let topics: Vec<Value> = topics.into_iter().map(|(topic, records)| json!({"topic": topic, "records": records})).collect();
    Response::json(StatusCode::OK, &json!({"topics": topics}))
}

pub(super) async fn records(application: Handle, request: Request) -> Result<Response, ApiError> {
    let topic = request.param("topic")?.into_owned();
    let limit = request.query_number("limit", 50, 1..=500)? as usize;
    let after = request.query("after")?;
    let place = |text: &str| {
        let (partition, offset) = text.split_once(':')?;
        Some((Partition(partition.parse().ok()?), Offset(offset.parse().ok()?)))
    };
    let after = after.map(|text| place(&text).ok_or_else(|| ApiError::invalid_field("after", "is not the `next` of an answer")));
    let after = after.transpose()?;
    let name = topic.clone();
    let records = blocking(move || application.dead_letters().read(&name, after, limit + 1)).await??;
    let records = records.ok_or_else(|| unknown(&topic))?;
    let mut body = json!({"records": records.iter().take(limit).map(show).collect::<Vec<_>>()});
    if records.len() > limit {
        let last = &records[limit - 1];
        body["next"] = Value::String(format!("{}:{}", last.partition, last.offset));
    }
    Response::json(StatusCode::OK, &body)
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Replay {
    from: Option<i64>,
    to: Option<i64>,
    key: Option<String>,
    dry_run: bool,
}

pub(super) async fn replay(application: Handle, mut request: Request) -> Result<Response, ApiError> {
    let Replay { from, to, key, dry_run } = request.json_or_default().await?;
    let topic = request.param("topic")?;
    let selection = Selection { from: from.map(Timestamp), to: to.map(Timestamp), key: key.map(String::into_bytes) };
    let replayed = application.dead_letters().replay(&topic, &selection, dry_run).await.map_err(ApiError::from)?;
    let replayed = replayed.ok_or_else(|| unknown(&topic))?;
    Response::json(StatusCode::OK, &json!({"matched": replayed.matched, "replayed": replayed.replayed}))
}

fn unknown(topic: &str) -> ApiError {
    ApiError::not_found("TOPIC_NOT_FOUND", format!("there is no dead-letter topic {topic}"))
}

/// A dead letter as it is shown in JSON.
#[must_use]
pub fn show(record: &ParkedRecord) -> Value {
    let headers: Map<String, Value> = record.headers.iter().map(|(name, value)| (name.to_owned(), show_bytes(value))).collect();
    let mut shown = json!({
        "partition": record.partition.0,
        "offset": record.offset.0,
        "timestamp": record.timestamp.0,
        "key": record.key.as_deref().map_or(Value::Null, show_bytes),
        "value": record.value.as_deref().map_or(Value::Null, show_bytes),
        "headers": headers,
    });
    if let Some(failure) = &record.failure {
        shown["cause"] = failure.cause.clone().into();
        shown["application"] = failure.application.clone().into();
        shown["node"] = failure.node.clone().into();
        shown["sourceTopic"] = failure.topic.clone().into();
        shown["sourcePartition"] = failure.partition.0.into();
        shown["sourceOffset"] = failure.offset.0.into();
    }
    shown
}

fn show_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        Err(_) => json!({"$base64": STANDARD.encode(bytes)}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_what_they_are() {
        let check = |bytes: &[u8], expected: Value| assert_eq!(show_bytes(bytes), expected, "{bytes:?}");
        check(b"{\"a\":1}", json!({"a": 1}));
        check(b"17", json!(17));
        check(b"{not json", json!("{not json"));
        check(b"", json!(""));
        check("쿠폰".as_bytes(), json!("쿠폰"));
        check(&[0xff, 0], json!({"$base64": "/wA="}));
    }
}
