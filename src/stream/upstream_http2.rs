//! bolt calls over an HTTP/2 upstream.

use super::http::{Incomplete, Source, collect};
use crate::cluster::pool::http2::{Lease, failure_of};
use crate::message::{Failure, Reason};
use crate::net::{Charge, ReadPool, Unfinished};
use crate::protocol::bridge;
use crate::protocol::rpc::Frame;
use bytes::Bytes;
use h2::SendStream;
use http::Uri;
use std::future::poll_fn;
use std::rc::Rc;

/// Largest answer in bytes, that of the largest bolt frame by default.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// A body up to this size is given to h2 at once, whatever the peer's window.
const SMALL: usize = 16 * 1024;

/// Sends `frame` as one request to `target` on the stream of `lease` and gives the answer as a frame. A one-way call is
/// answered too, which tells that it arrived. Dropping the future resets the stream.
///
/// # Errors
/// The frame or its answer cannot be carried over, the answer is too large, or the stream broke.
pub async fn call(
    frame: Frame,
    target: Uri,
    lease: &Lease,
    reads: Rc<ReadPool>,
    charge: Option<Charge>,
) -> Result<Frame, Failure> {
    let (request, content) =
        bridge::bolt_to_http2_request(frame, target).map_err(|_| Failure::before(Reason::Conversion))?;
    let (answer, mut sink) = lease.send(request, content.is_empty())?;
    if content.len() <= SMALL {
        if !content.is_empty() {
            // An error here is one of the stream; the answer tells it.
            let _ = sink.send_data(content, true);
        }
    } else {
        send_all(&mut sink, content).await;
    }
    drop(charge);
    let (head, body) = answer.await.map_err(|error| failure_of(&error))?.into_parts();
    let mut body = Source::Http2(body);
    let count = Unfinished::new(reads);
    let content = collect(&mut body, MAX_ANSWER, count).await.map_err(|error| match error {
        Incomplete::TooLarge => Failure::after(Reason::TooLarge),
        Incomplete::Broken(fault) => fault.failure(),
    })?;
    bridge::http2_response_to_bolt(head.status, &head.headers, content, true)
        .map_err(|_| Failure::after(Reason::Conversion))
}

/// Sends a large body as the peer takes it. Ends early when the peer takes no more.
async fn send_all(sink: &mut SendStream<Bytes>, mut content: Bytes) {
    while !content.is_empty() {
        sink.reserve_capacity(content.len());
        let mut room = sink.capacity();
        if room == 0 {
            match poll_fn(|cx| sink.poll_capacity(cx)).await {
                Some(Ok(n)) => room = n,
                _ => return,
            }
        }
        let part = content.split_to(room.min(content.len()));
        if sink.send_data(part, content.is_empty()).is_err() {
            return;
        }
    }
}
