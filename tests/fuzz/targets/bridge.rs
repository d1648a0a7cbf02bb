//! bolt ⇄ HTTP/2. As a frame: what comes back is the same frame, byte for byte. As header lines: no head makes
//! the conversion panic, and no side channel adds, drops or renames a header.
#![no_main]

use bytes::{Bytes, BytesMut};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use libfuzzer_sys::fuzz_target;
use mizzen::protocol::bridge::{self, BridgeError};
use mizzen::protocol::rpc::{Decoder, Frame};

fn round_trip(frame: Frame) -> Result<Frame, BridgeError> {
    if frame.head().is_response() {
        let (response, content) = bridge::bolt_to_http2_response(frame)?;
        bridge::http2_response_to_bolt(response.status(), response.headers(), content, true)
    } else {
        let target = bridge::target(Scheme::HTTP, "a").unwrap();
        let (request, content) = bridge::bolt_to_http2_request(frame, target)?;
        bridge::http2_request_to_bolt(request.headers(), content, true)
    }
}

fn as_frame(data: &[u8]) {
    let mut buf = BytesMut::from(data);
    let Ok(Some(frame)) = Decoder::default().decode(&mut buf) else { return };
    let bytes = &data[..data.len() - buf.len()];
    match round_trip(frame) {
        Ok(again) => assert_eq!(again.into_bytes(), bytes),
        // A key too long for a header name, or a value that outgrows a header when escaped.
        Err(error) => assert_eq!(error, BridgeError::Headers),
    }
}

/// Lines of `name:value`; lines HTTP could not carry are left out.
fn headers(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|&byte| byte == b'\n').take(200) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]))
        {
            headers.append(name, value);
        }
    }
    headers
}

/// Keys in lower case, sorted; a null one is empty.
fn keys(frame: &Frame) -> Vec<Vec<u8>> {
    let mut keys: Vec<_> =
        frame.headers().map(|(key, _)| key.unwrap_or_default().to_ascii_lowercase()).collect();
    keys.sort();
    keys
}

fn as_head(data: &[u8]) {
    let mut headers = headers(data);
    let _ = bridge::http2_response_to_bolt(StatusCode::OK, &headers, Bytes::new(), true);
    let _ = bridge::http2_request_to_bolt(&headers, Bytes::new(), false);
    let Ok(told) = bridge::http2_request_to_bolt(&headers, Bytes::new(), true) else { return };
    headers.remove("x-mizzen-bolt");
    let untold = bridge::http2_request_to_bolt(&headers, Bytes::new(), true);
    // Escapes undone make a map smaller: without them it may not fit.
    if let Ok(untold) = untold {
        assert_eq!(keys(&told), keys(&untold));
    }
}

fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((1, _)) => as_frame(data),
        Some((_, lines)) => as_head(lines),
        None => {}
    }
});
