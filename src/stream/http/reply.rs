//! Answers the proxy makes itself, in the form the client understands.

use super::head::edit;
use crate::message::{Reason, grpc_of_http};
use crate::protocol::bolt::Status;
use crate::protocol::bridge;
use crate::stream::Rewritten;
use crate::telemetry::why;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode, request};

/// Why there is no other answer, with `--error-reasons`.
pub fn say_why(response: &mut Response<()>, reason: Reason) {
    if why::error_reasons() {
        response.headers_mut().insert("x-mizzen-reason", HeaderValue::from_static(reason.word()));
    }
}

/// How a client wants to be told of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// By the HTTP status.
    Http,
    /// By `grpc-status` in a response without body.
    Grpc,
    /// By `respstatus`: it is a bolt call another sidecar converted; with its request id.
    Bolt(u32),
}

impl Style {
    /// The style of the client that sent `head`. `converted`: bolt calls may come here.
    pub fn of(head: &request::Parts, converted: bool) -> Self {
        let number = |name: &str| head.headers.get(name)?.to_str().ok()?.parse::<u32>().ok();
        if converted
            && number("cmdtype").is_some()
            && let Some(id) = number("requestid")
        {
            return Style::Bolt(id);
        }
        let grpc = head.headers.get(CONTENT_TYPE).is_some_and(|value| {
            let rest = value.as_bytes().strip_prefix(b"application/grpc");
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        });
        if grpc { Style::Grpc } else { Style::Http }
    }

    /// The answer to a request that failed, and its body.
    pub fn failure(self, reason: Reason) -> (Response<()>, Bytes) {
        let (mut response, body) = self.failure_reply(reason);
        say_why(&mut response, reason);
        (response, body)
    }

    fn failure_reply(self, reason: Reason) -> (Response<()>, Bytes) {
        let status = StatusCode::from_u16(reason.http_status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        match self {
            Style::Http => {
                let mut response = with_status(status);
                let body = Bytes::from_static(reason.details().as_bytes());
                let headers = response.headers_mut();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
                headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
                (response, body)
            }
            Style::Grpc => (grpc(status, reason.details()), Bytes::new()),
            Style::Bolt(id) => {
                let bolt = Status::from_code(reason.bolt_status()).unwrap_or(Status::Unknown);
                let mut response = bridge::failure_to_http2_response(id, bolt);
                *response.status_mut() = status;
                (response, Bytes::new())
            }
        }
    }

    /// A fixed answer with a gRPC status of its own, if there is one.
    pub fn with_code(self, status: u16, code: Option<u32>, body: &[u8]) -> (Response<()>, Bytes) {
        let (mut response, whole) = self.fixed(status, body);
        if let (Style::Grpc, Some(code)) = (self, code) {
            response.headers_mut().insert("grpc-status", HeaderValue::from(code));
        }
        (response, whole)
    }

    /// A fixed answer with an HTTP status and a body.
    pub fn fixed(self, status: u16, body: &[u8]) -> (Response<()>, Bytes) {
        let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        match self {
            Style::Grpc => {
                let text = String::from_utf8_lossy(body);
                (grpc(code, &text), Bytes::new())
            }
            Style::Http | Style::Bolt(_) => {
                let mut response = match self {
                    Style::Bolt(id) => bridge::failure_to_http2_response(id, Status::from_http(status)),
                    _ => Response::new(()),
                };
                *response.status_mut() = code;
                let headers = response.headers_mut();
                headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
                if !body.is_empty() {
                    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
                }
                (response, Bytes::copy_from_slice(body))
            }
        }
    }
}

/// What an answer for a gRPC client would be for others.
#[derive(Clone)]
struct Plain {
    status: u16,
    text: Bytes,
}

/// The status and the text of an answer of our own, whatever form it has.
pub(super) fn own_words(response: &Response<()>, whole: &Bytes) -> (u16, Bytes) {
    match response.extensions().get::<Plain>() {
        Some(plain) => (plain.status, plain.text.clone()),
        None => (response.status().as_u16(), whole.clone()),
    }
}

/// Makes `new` of an answer whose status was `old`, in the form it has.
pub(super) fn rewrite(response: &mut Response<()>, whole: &mut Bytes, old: u16, new: Rewritten) {
    let (Ok(status), Ok(was)) = (StatusCode::from_u16(new.status), StatusCode::from_u16(old)) else { return };
    if response.extensions_mut().remove::<Plain>().is_some() {
        let headers = response.headers_mut();
        // A status of gRPC that somebody chose says more than one of HTTP.
        if headers.get("grpc-status") == Some(&HeaderValue::from(grpc_of_http(was.as_u16()))) {
            headers.insert("grpc-status", HeaderValue::from(grpc_of_http(status.as_u16())));
        }
        let text = percent_encoded(&String::from_utf8_lossy(&new.body));
        match HeaderValue::from_str(&text) {
            Ok(text) if !text.is_empty() => drop(headers.insert("grpc-message", text)),
            _ => drop(headers.remove("grpc-message")),
        }
    } else {
        *response.status_mut() = status;
        *whole = Bytes::from(new.body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(whole.len()));
        let kind = new.content_type.unwrap_or_else(|| "text/plain".to_owned());
        match HeaderValue::try_from(kind) {
            Ok(kind) if !whole.is_empty() => drop(headers.insert(CONTENT_TYPE, kind)),
            _ => drop(headers.remove(CONTENT_TYPE)),
        }
    }
    edit(response.headers_mut(), &new.headers);
}

fn with_status(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

/// Trailers-only, as gRPC calls it: the status is in the head, which is all there is.
fn grpc(status: StatusCode, message: &str) -> Response<()> {
    const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
    const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
    let mut headers = HeaderMap::with_capacity(3);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(grpc_of_http(status.as_u16())));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(message))
        && !message.is_empty()
    {
        headers.insert(GRPC_MESSAGE, message);
    }
    let mut response = Response::new(());
    *response.headers_mut() = headers;
    let text = Bytes::copy_from_slice(message.as_bytes());
    response.extensions_mut().insert(Plain { status: status.as_u16(), text });
    response
}

/// `grpc-message` carries printable ASCII but `%`, everything else as `%XX`.
fn percent_encoded(message: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b'%' | 0..0x20 | 0x7f.. => drop(write!(out, "%{byte:02X}")),
            _ => out.push(char::from(byte)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(pairs: &[(&'static str, &'static str)]) -> request::Parts {
        let mut request = http::Request::new(());
        for (name, value) in pairs {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request.into_parts().0
    }

    #[test]
    fn the_client_is_told_in_its_own_way() {
        let style = |pairs: &[(&'static str, &'static str)], converted| Style::of(&head(pairs), converted);
        assert_eq!(style(&[("content-type", "application/grpc+proto")], true), Style::Grpc);
        assert_eq!(style(&[("content-type", "application/grpc-web")], true), Style::Http);
        let bolt = [("cmdtype", "1"), ("requestid", "77")];
        assert_eq!(style(&bolt, true), Style::Bolt(77));
        assert_eq!(style(&bolt, false), Style::Http, "an ordinary listener knows no bolt");

        let (response, body) = Style::Http.failure(Reason::NoRoute);
        assert_eq!((response.status().as_u16(), &body[..]), (404, &b"route_not_found"[..]));
        let (response, body) = Style::Grpc.failure(Reason::NoEndpoints);
        assert_eq!((response.status().as_u16(), body.len()), (200, 0));
        assert_eq!(response.headers()["grpc-status"], "14");
        let (response, _) = Style::Bolt(9).failure(Reason::Timeout);
        assert_eq!(
            (response.status().as_u16(), &response.headers()["respstatus"]),
            (504, &"7".parse().unwrap())
        );
        let (response, _) = Style::Grpc.fixed(403, "nö%".as_bytes());
        assert_eq!(
            (&response.headers()["grpc-status"], &response.headers()["grpc-message"]),
            (&"7".parse().unwrap(), &"n%C3%B6%25".parse().unwrap())
        );
    }
}
