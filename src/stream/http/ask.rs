//! What filters ask other services: a request to a cluster, with its load balancing, limits and numbers.

use super::bodies::Held;
use super::own;
use crate::cluster::PickContext;
use crate::filter::{Ask, Heard, Keeper, Told};
use crate::message::{Failure, Reason};
use crate::model::UpstreamProtocol;
use crate::net::Unfinished;
use crate::snapshot::View;
use crate::stream::Local;
use crate::stream::exchange::{Attempt, Tries, within};
use bytes::{Bytes, BytesMut};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, request};
use std::rc::Rc;
use tokio::task::spawn_local;
use tokio::time::Instant;

/// Asks, as often as the question may be repeated. Dropped, the question is given up.
///
/// # Errors
/// The cluster is not there or has nobody to ask, nobody answered in time, or the answer is too long.
pub async fn ask(local: &Rc<Local>, view: &View, ask: &Ask) -> Heard {
    let head = head(ask).ok_or(Failure::before(Reason::LocalReset))?;
    let deadline = ask.timeout.map(|limit| Instant::now() + limit);
    within(local, deadline, Reason::Timeout, async {
        let (mut pause, mut left) = (ask.retries.base, ask.retries.count);
        loop {
            let heard = try_hosts(local, view, ask, &head).await;
            let failed = heard.as_ref().map_or(true, |told| told.status >= 500);
            if !failed || left == 0 {
                return heard;
            }
            left -= 1;
            local.env.wheel.sleep(pause).await;
            pause = (pause * 2).min(ask.retries.most);
        }
    })
    .await
}

/// Keeps keys fresh that filters use, each set in a task of its own that ends with its last user.
pub fn keep(local: &Rc<Local>, keepers: Vec<Keeper>) {
    for keeper in keepers {
        let local = local.clone();
        spawn_local(async move {
            while let Some(turn) = keeper.fetch() {
                if let Some((fetch, question)) = turn {
                    let heard = ask(&local, &local.view(), &question).await;
                    keeper.heard(fetch, heard);
                }
                let Some(pause) = keeper.pause() else { return };
                local.env.wheel.sleep(pause).await;
            }
        });
    }
}

/// One try, and another one on a new connection where that one met a connection that its host was closing.
async fn try_hosts(local: &Rc<Local>, view: &View, ask: &Ask, head: &request::Parts) -> Heard {
    let id = view.cluster_id(ask.cluster.as_bytes()).ok_or(Failure::before(Reason::UnknownCluster))?;
    let cluster = local.cluster(id, view).map_err(Failure::before)?;
    let mut fresh = false;
    loop {
        let mut tries = Tries::default();
        let attempt = Attempt::begin(&cluster, PickContext::default(), &mut tries)?;
        let heard = try_host(local, &attempt, ask, head, fresh).await;
        attempt.count(&heard);
        match heard {
            Ok(told) => {
                cluster.stats.upstream_rq.record(told.status);
                attempt.answered(told.status);
                return Ok(told);
            }
            Err(failure) if !failure.sent && failure.reason == Reason::UpstreamClosed && !fresh => {
                fresh = true;
            }
            Err(failure) => return Err(failure),
        }
    }
}

async fn try_host(
    local: &Rc<Local>,
    attempt: &Attempt,
    ask: &Ask,
    head: &request::Parts,
    fresh: bool,
) -> Heard {
    let version = if ask.http2 { UpstreamProtocol::Http2 } else { attempt.state.spec.model.protocol };
    let whole = Held::new(vec![ask.body.clone()], None);
    let mut sent = own::send(attempt, (version, None), head, whole, fresh).await?;
    let mut count = Unfinished::new(local.env.reads.clone());
    let mut body = BytesMut::new();
    let mut take = |part: Bytes| {
        if body.len() + part.len() > ask.most || !count.add(part.len()) {
            return Err(Failure::after(Reason::TooLarge));
        }
        body.extend_from_slice(&part);
        Ok(())
    };
    let trailers = sent.answer(&mut take).await?.unwrap_or_default();
    Ok(Told {
        status: sent.head.status.as_u16(),
        headers: fields(&sent.head.headers),
        trailers: fields(&trailers),
        body: body.freeze(),
    })
}

fn fields(map: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

/// `None`: there is no such request.
fn head(ask: &Ask) -> Option<request::Parts> {
    let uri = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(Authority::try_from(ask.authority.as_str()).ok()?)
        .path_and_query(PathAndQuery::try_from(ask.path.as_str()).ok()?)
        .build()
        .ok()?;
    let mut request = Request::new(());
    *request.uri_mut() = uri;
    *request.method_mut() = Method::from_bytes(ask.method.as_bytes()).ok()?;
    for (name, value) in &ask.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        request.headers_mut().try_append(name, HeaderValue::from_bytes(value).ok()?).ok()?;
    }
    Some(request.into_parts().0)
}
