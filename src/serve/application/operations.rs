//! What an operator looks at: the topology, metrics, health.

use hyper::StatusCode;
use prometheus_client::encoding::text::encode;
use serde_json::json;

use super::super::error::ApiError;
use super::super::request::Request;
use super::super::response::Response;
use super::blocking;
use crate::runtime::{AppState, Handle, Health};

pub(super) async fn topology(application: Handle, request: Request) -> Result<Response, ApiError> {
    let topology = application.topology();
    let text = match request.query("format")?.as_deref() {
        None | Some("text") => topology.to_text(""),
        Some("mermaid") => topology.to_mermaid(""),
        Some("dot") => topology.to_dot(""),
        Some(_) => return Err(ApiError::invalid_field("format", "must be text, mermaid or dot")),
    };
    Ok(Response::bytes(StatusCode::OK, "text/plain; charset=utf-8", text))
}

pub(super) async fn metrics(application: Handle, _request: Request) -> Result<Response, ApiError> {
    let text = blocking(move || {
        let mut text = String::new();
        encode(&mut text, &application.registry().read()).map(|()| text)
    });
    let text = text.await?.map_err(ApiError::internal)?;
    Ok(Response::bytes(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text))
}

pub(super) async fn health(application: Handle, _request: Request) -> Result<Response, ApiError> {
    match application.health() {
        Health::Up => Response::json(StatusCode::OK, &json!({"status": "up"})),
        Health::Degraded(reason) => Response::json(StatusCode::OK, &json!({"status": "degraded", "reason": reason})),
        Health::Failed(reason) => Err(ApiError::unavailable("FAILED", reason)),
    }
}

pub(super) async fn ready(application: Handle, _request: Request) -> Result<Response, ApiError> {
    match application.health() {
        Health::Degraded(reason) => Err(ApiError::unavailable("LOG_UNAVAILABLE", reason)),
        Health::Failed(reason) => Err(ApiError::unavailable("FAILED", reason)),
        Health::Up if application.ready() => {
            Response::json(StatusCode::OK, &json!({"status": "ready", "state": application.state().name()}))
        }
        Health::Up if application.state() == AppState::Paused => Err(ApiError::unavailable(
            "NOT_READY",
            "processing is paused, and the views have not processed yet what the log held at the start",
        )),
        Health::Up => Err(ApiError::unavailable("NOT_READY", "the views have not processed yet what the log held at the start")),
    }
}

pub(super) async fn pause(application: Handle, _request: Request) -> Result<Response, ApiError> {
    application.pause();
    state(&application)
}

pub(super) async fn resume(application: Handle, _request: Request) -> Result<Response, ApiError> {
    application.resume();
    state(&application)
}

fn state(application: &Handle) -> Result<Response, ApiError> {
    Response::json(StatusCode::OK, &json!({"state": application.state().name()}))
}
