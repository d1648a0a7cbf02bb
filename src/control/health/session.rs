//! The connection checks are made on.

use super::probe::Target;
use crate::model::Http2Options;
use crate::net::{Conn, h2 as settings};
use crate::tls::Wish;
use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::io;

/// Nothing, or a connection that is open.
#[derive(Default)]
pub(super) struct Session {
    http1: Option<http1::SendRequest<Empty<Bytes>>>,
    http2: Option<h2::client::SendRequest<Bytes>>,
    raw: Option<Split>,
}

/// Connects as requests to the host do: within TLS if they are. `offer`: protocols, where none are configured.
pub(super) async fn connect(target: &Target, offer: &'static [&'static str]) -> io::Result<Conn> {
    let io = Conn::connect(&target.address).await?;
    let Some(secure) = &target.secure else { return Ok(io) };
    let wish = Wish { alpn_fallback: offer, ..secure.wish.clone() };
    io.open_tls(&secure.context, &wish).await.map_err(io::Error::other)
}

/// A raw connection and the number used last on it.
pub(super) struct Split {
    pub(super) conn: Conn,
    pub(super) id: u32,
}

/// Head with trailers, start of the body, and whether the connection can go on.
pub(super) type Answer = (Response<()>, Bytes, bool);

impl Session {
    /// The raw connection.
    pub(super) async fn raw(&mut self, target: &Target) -> io::Result<&mut Split> {
        if self.raw.is_none() {
            self.raw = Some(Split { conn: connect(target, &[]).await?, id: 0 });
        }
        self.raw.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// One HTTP/1 request. At most `limit` bytes of the answer's body are read.
    pub(super) async fn http1(
        &mut self,
        target: &Target,
        request: Request<()>,
        limit: usize,
    ) -> io::Result<Answer> {
        let open = self.http1.take().filter(|open| !open.is_closed());
        let mut open = match open {
            Some(open) => open,
            None => {
                let conn = TokioIo::new(connect(target, &["http/1.1"]).await?);
                let (open, work) = http1::handshake(conn).await.map_err(io::Error::other)?;
                // Ends with the last use of `open`.
                tokio::spawn(async move { drop(work.await) });
                open
            }
        };
        open.ready().await.map_err(io::Error::other)?;
        let answer = open.send_request(request.map(|()| Empty::new())).await.map_err(io::Error::other)?;
        let (head, mut rest) = answer.into_parts();
        let mut body = BytesMut::new();
        let mut whole = true;
        while let Some(frame) = rest.frame().await {
            if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
                body.extend_from_slice(&data);
            }
            if body.len() >= limit {
                body.truncate(limit);
                whole = false;
                break;
            }
        }
        self.http1 = Some(open);
        Ok((Response::from_parts(head, ()), body.freeze(), whole))
    }

    /// One HTTP/2 request with its whole body.
    pub(super) async fn http2(
        &mut self,
        target: &Target,
        request: Request<()>,
        content: Bytes,
        limit: usize,
    ) -> io::Result<Answer> {
        let open = match self.http2.take() {
            Some(open) => open,
            None => {
                let conn = connect(target, &["h2"]).await?;
                let builder = settings::client(&Http2Options::default());
                let (open, work) = builder.handshake(conn).await.map_err(io::Error::other)?;
                tokio::spawn(async move { drop(work.await) });
                open
            }
        };
        let mut open = open.ready().await.map_err(io::Error::other)?;
        let (answer, mut sink) = open.send_request(request, content.is_empty()).map_err(io::Error::other)?;
        if !content.is_empty() {
            sink.send_data(content, true).map_err(io::Error::other)?;
        }
        let (mut head, mut rest) = answer.await.map_err(io::Error::other)?.into_parts();
        let mut body = BytesMut::new();
        while let Some(part) = rest.data().await {
            let part = part.map_err(io::Error::other)?;
            let _ = rest.flow_control().release_capacity(part.len());
            let room = limit.saturating_sub(body.len());
            body.extend_from_slice(part.get(..room).unwrap_or(&part));
        }
        let trailers = poll_fn(|cx| rest.poll_trailers(cx)).await.map_err(io::Error::other)?;
        head.headers.extend(trailers.unwrap_or_default());
        self.http2 = Some(open);
        Ok((Response::from_parts(head, ()), body.freeze(), true))
    }
}
