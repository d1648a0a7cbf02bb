//! HTTP requests to bolt servers.

use super::Settings;
use super::exchange::{Answer, Exchange};
use super::source::{Incomplete, Source, collect};
use crate::message::{Failure, Reason};
use crate::model::Protocol;
use crate::net::Unfinished;
use crate::protocol::bolt::Status;
use crate::protocol::bridge;
use crate::protocol::rpc::Frame;
use crate::stream::call::Call;
use crate::stream::exchange::Forward;
use bytes::Bytes;
use http::request;
use tokio::time::Instant;

impl Exchange {
    /// Sends the request as a bolt call and the answer back as a response.
    pub(super) async fn convert(
        &mut self,
        to: Forward<'_>,
        settings: &Settings<'_>,
        head: &request::Parts,
        body: &mut Source,
    ) -> Result<Answer, Failure> {
        let frame = self.request_frame(settings, head, body).await?;
        let id = frame.request_id();
        let local = self.down.local.clone();
        let mut call = Call::new(frame, None);
        let answer = self.watched(call.forward(&local, to, Protocol::Bolt, Instant::now())).await;
        self.trail = std::mem::take(&mut call.trail);
        let answer = answer?;
        self.record.answered(Instant::now());
        let (response, whole) = match answer {
            Some(mut frame) => {
                frame.set_request_id(id);
                bridge::bolt_to_http2_response(frame).map_err(|_| Failure::after(Reason::Conversion))?
            }
            // Nobody waits for more than the certainty that it was sent.
            None => (bridge::failure_to_http2_response(id, Status::Success), Bytes::new()),
        };
        Ok(Answer::whole(response, whole))
    }

    async fn request_frame(
        &mut self,
        settings: &Settings<'_>,
        head: &request::Parts,
        body: &mut Source,
    ) -> Result<Frame, Failure> {
        let limit = settings.max_frame;
        let count = Unfinished::new(self.down.local.env.reads.clone());
        let collecting = async {
            collect(body, limit, count).await.map_err(|error| match error {
                Incomplete::TooLarge => Failure::before(Reason::TooLarge),
                Incomplete::Broken(_) => Failure::before(Reason::DownstreamReset),
            })
        };
        let content = self.watched(collecting).await?;
        bridge::http2_request_to_bolt(&head.headers, content, settings.rpc)
            .map_err(|_| Failure::before(Reason::BadRequest))
    }
}
