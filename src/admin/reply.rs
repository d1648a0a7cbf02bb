//! Replies: small ones whole, large ones by a thread of their own.

use super::body::{AdminBody, Producer};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::Value as Json;

/// What a handler answers.
pub type Reply = Response<AdminBody>;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A short text.
pub fn text(status: StatusCode, text: impl Into<String>) -> Reply {
    build(status, TEXT, AdminBody::whole(text.into()))
}

/// `200 OK\n`.
pub fn ok() -> Reply {
    text(StatusCode::OK, "OK\n")
}

/// A short JSON document.
pub fn json(status: StatusCode, json: &Json) -> Reply {
    let mut body = super::json::pretty(json, 0);
    body.push('\n');
    build(status, JSON, AdminBody::whole(body))
}

/// JSON already written.
pub fn json_text(status: StatusCode, body: String) -> Reply {
    build(status, JSON, AdminBody::whole(body))
}

/// Text written piece by piece by `write` on another thread.
pub fn stream_text(write: impl FnOnce(&mut Producer) + Send + 'static) -> Reply {
    streamed(TEXT, write)
}

/// JSON written piece by piece by `write` on another thread.
pub fn stream_json(write: impl FnOnce(&mut Producer) + Send + 'static) -> Reply {
    streamed(JSON, write)
}

/// Any content type, piece by piece.
pub fn stream_as(content_type: &'static str, write: impl FnOnce(&mut Producer) + Send + 'static) -> Reply {
    streamed(HeaderValue::from_static(content_type), write)
}

fn streamed(content_type: HeaderValue, write: impl FnOnce(&mut Producer) + Send + 'static) -> Reply {
    match AdminBody::produced(write) {
        Ok(body) => build(StatusCode::OK, content_type, body),
        Err(e) => text(StatusCode::SERVICE_UNAVAILABLE, format!("no thread for this answer: {e}\n")),
    }
}

fn build(status: StatusCode, content_type: HeaderValue, body: AdminBody) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}
