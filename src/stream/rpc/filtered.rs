//! Calls through the filters of their listener, and what hosts answer back through them.

use super::Downstream;
use super::request::{Course, Ticket, status_of_http};
use crate::filter::{Chain, Given, Outgoing, Part, Reply, Step, Stream};
use crate::message::{Failure, Head, Headers, Reason, Request};
use crate::protocol::bolt::{self, Status};
use crate::protocol::rpc::{Frame, HeaderEdit};
use crate::stream::around::{Around, NoHead, Picked};
use crate::stream::exchange::{Plan, Unplanned};
use crate::stream::http::ask;
use bytes::Bytes;
use std::borrow::Cow;
use std::sync::Arc;

/// What becomes of a call.
#[expect(clippy::large_enum_variant, reason = "one at a time, in a future that is boxed")]
pub(super) enum Passed<'v> {
    /// It goes on.
    On(Through<'v>),
    /// A filter has answered it; nobody waits for the answer to a one-way call.
    Answered(Option<Frame>),
}

/// A call that went through all filters: they look at its answer too.
pub(super) struct Through<'v> {
    chain: &'v Arc<Chain>,
    around: Around<'v>,
    stream: Stream,
    /// What was asked, for filters whose changes may have it in them.
    request: Option<Frame>,
}

impl Through<'_> {
    /// The answer as the filters leave it.
    ///
    /// # Errors
    /// It became too large, or a filter cannot read it.
    pub(super) fn answer(mut self, mut frame: Frame) -> Result<Frame, Failure> {
        let status = Status::from_code(frame.status()).map_or(500, Status::http_status);
        let ends = frame.content().is_empty();
        let Through { chain, around, stream, request } = &mut self;
        let mut body = around.with(chain, &mut |world| {
            let request = request.as_ref().map_or(&NoHead as &dyn Head, |frame| frame);
            let headers = &mut Changing(&mut frame);
            chain.response(stream, request, &mut Outgoing { status, headers, own: false, ends }, world)
        });
        if body.is_empty() {
            return Ok(frame);
        }
        let begin = body.data(Bytes::copy_from_slice(frame.content()))?;
        let rest = body.end(&mut Changing(&mut frame))?;
        let whole = frame.with_content(&[begin, rest].concat());
        whole.map_err(|_| Failure::after(Reason::TooLarge))
    }
}

/// The headers of a call. Each change writes the block anew.
struct Changing<'a>(&'a mut Frame);

impl Changing<'_> {
    /// A block that would be too long stays as it is.
    fn edit(&mut self, edit: HeaderEdit<'_>) {
        if let Ok(edited) = self.0.edit_headers([edit]) {
            *self.0 = edited;
        }
    }
}

impl Head for Changing<'_> {
    fn authority(&self) -> Option<&[u8]> {
        None
    }
    fn path_and_query(&self) -> Option<&[u8]> {
        None
    }
    fn method(&self) -> Option<&[u8]> {
        None
    }
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        Head::header(&*self.0, name)
    }
}

impl Headers for Changing<'_> {
    fn value(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        Head::header(&*self.0, name)
    }

    fn each(&self, each: &mut dyn FnMut(&str, &[u8])) {
        for (name, value) in self.0.headers() {
            let name = name.and_then(|name| std::str::from_utf8(name).ok());
            name.into_iter().for_each(|name| each(name, value.unwrap_or_default()));
        }
    }

    fn set(&mut self, name: &str, value: &[u8]) {
        self.edit(HeaderEdit::Set(name.as_bytes(), value));
    }

    fn append(&mut self, name: &str, value: &[u8]) {
        self.edit(HeaderEdit::Append(name.as_bytes(), value));
    }

    fn remove(&mut self, name: &str) -> bool {
        let there = Head::header(&*self.0, name).is_some();
        if there {
            self.edit(HeaderEdit::Remove(name.as_bytes()));
        }
        there
    }
}

impl Request for Changing<'_> {
    fn head(&self) -> &dyn Head {
        self
    }
}

/// Through all filters of `chain`. What load balancers are to be told is appended to `criteria`.
pub(super) async fn pass<'v>(
    chain: &'v Arc<Chain>,
    planned: &Result<Plan<'v>, Unplanned<'v>>,
    frame: &mut Frame,
    (down, course): (&Downstream, &'v Course),
    ticket: &mut Ticket,
    criteria: &mut Vec<(Box<str>, Box<str>)>,
) -> Result<Passed<'v>, Failure> {
    let picked = Picked::of(planned);
    let remote = exchange_peer(down);
    let around = Around::new(&down.local, &down.handle, &course.view, picked, remote, ticket.begin, "bolt");
    let mut stream = chain.begin(around.route(), around.share());
    let (mut held, mut heard) = (None, None);
    loop {
        let length = frame.content().len();
        let step = around.with(chain, &mut |world| {
            let given = Given { ends: length == 0, held: held.clone(), heard: heard.take() };
            chain.request(&mut stream, &mut Changing(frame), world, given)
        });
        match step {
            Step::Done => break,
            Step::Wait(time) => down.local.env.wheel.sleep(time).await,
            // A frame is always whole.
            Step::Hold(most) if length > most => {
                return Err(Failure::before(Reason::TooLarge));
            }
            Step::Hold(_) => held = Some(Part { data: Bytes::copy_from_slice(frame.content()), whole: true }),
            Step::Peek(most) => {
                let data = frame.content().get(..most).unwrap_or(frame.content());
                held = Some(Part { data: Bytes::copy_from_slice(data), whole: length <= most });
            }
            Step::Ask(question) => heard = Some(Box::pin(ask(&down.local, &course.view, &question)).await),
            Step::Until(until) => until.0.await,
            // A call's route was chosen by what it came with.
            Step::Reroute => {}
            Step::Reply(reply) => {
                around.route().into_iter().for_each(|route| ticket.route(route));
                return answered(down, *reply, ticket).map(Passed::Answered);
            }
        }
    }
    around.criteria(&stream.metadata, criteria);
    let request = chain.asks_for_request().then(|| frame.copy());
    Ok(Passed::On(Through { chain, around, stream, request }))
}

fn exchange_peer(down: &Downstream) -> Option<std::net::IpAddr> {
    crate::stream::exchange::Caller::of(&down.handle).ip
}

fn answered(down: &Downstream, reply: Reply, ticket: &mut Ticket) -> Result<Option<Frame>, Failure> {
    if let Some(reason) = reply.reason {
        ticket.refused(down, reason);
    }
    if ticket.oneway {
        return Ok(None);
    }
    let status = if reply.status < 400 { Status::Success } else { status_of_http(reply.status) };
    let frame = bolt::response(ticket.id, status, b"", [], &reply.body[..]);
    frame.map(Some).map_err(|_| Failure::before(Reason::TooLarge))
}
