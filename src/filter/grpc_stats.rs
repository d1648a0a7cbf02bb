//! gRPC calls counted by service and method, with their messages.

use super::body::{Body, Pipeline};
use super::chain::{Outgoing, State as Held, Verdict};
use super::context::Context;
use super::mesh::Messages;
use super::stats::{Counters, Group, counters};
use crate::message::{Failure, Headers};
use crate::model::GrpcStats;
use crate::telemetry::Scope;
use bytes::Bytes;
use std::rc::Rc;

// The statuses by number, then sums, then messages.
counters! {
    NAMES:
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "8",
    "9",
    "10",
    "11",
    "12",
    "13",
    "14",
    "15",
    "16",
    "success" = SUCCESS,
    "failure" = FAILURE,
    "total" = TOTAL,
    "request_message_count" = REQUESTS,
    "response_message_count" = RESPONSES,
}

/// Where the call counts, and for whom else its messages are counted.
pub(super) struct State(Option<Group>, Option<Rc<Messages>>);

pub(super) fn on_request(
    config: &GrpcStats,
    held: &mut Held,
    messages: Option<Rc<Messages>>,
    ctx: &mut Context<'_>,
    bodies: &mut Pipeline,
) -> Verdict {
    if !ctx.request.is_grpc() {
        return Verdict::Continue;
    }
    let group = group(config, ctx);
    bodies.push(Box::new(Counting {
        group: group.clone(),
        messages: messages.clone(),
        frames: Frames::default(),
        at: REQUESTS,
        last: false,
    }));
    *held = Held::GrpcStats(State(group, messages));
    Verdict::Continue
}

/// Where a call counts; `None`: it goes to no cluster.
fn group(config: &GrpcStats, ctx: &Context<'_>) -> Option<Group> {
    let (_, cluster) = ctx.world.cluster?;
    let method = crate::router::path_of(ctx.request.head()).and_then(|path| named(config, path));
    let method = method.unwrap_or_default();
    Some(ctx.world.stats.named(&format!("{cluster} {method}"), true, |key| {
        let method = key.split_once(' ').map_or(key, |(_, method)| method);
        let dot = if method.is_empty() { "" } else { "." };
        (Some(Scope::cluster(cluster)), Counters::new(format!("grpc.{method}{dot}"), NAMES))
    }))
}

/// `service.method`, if it is to be counted by itself.
fn named(config: &GrpcStats, path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let listed = config.methods.as_ref().is_some_and(|services| {
        services.iter().any(|(name, methods)| name == service && methods.iter().any(|one| one == method))
    });
    if !config.all_methods && !listed {
        return None;
    }
    let service = if config.replace_dots { service.replace('.', "_") } else { service.to_owned() };
    Some(format!("{service}.{method}"))
}

pub(super) fn on_response(held: &Held, response: &mut Outgoing<'_>, bodies: &mut Pipeline) {
    let Held::GrpcStats(State(group, messages)) = held else { return };
    if response.ends || response.headers.value("grpc-status").is_some() {
        return group.iter().for_each(|group| judge(group, response.headers));
    }
    bodies.push(Box::new(Counting {
        group: group.clone(),
        messages: messages.clone(),
        frames: Frames::default(),
        at: RESPONSES,
        last: true,
    }));
}

/// Counts what the call came to.
fn judge(group: &Group, headers: &dyn Headers) {
    let status = headers.value("grpc-status");
    let status = status.and_then(|value| std::str::from_utf8(&value).ok()?.trim().parse::<usize>().ok());
    let Some(status) = status else { return };
    if status < SUCCESS {
        group.inc(status);
    }
    group.inc(if status == 0 { SUCCESS } else { FAILURE });
    group.inc(TOTAL);
}

/// Finds where gRPC's messages begin.
#[derive(Default)]
pub(super) struct Frames {
    /// Bytes of the present header that came.
    header: usize,
    /// The length as far as it is known; then what is left of the message.
    length: u64,
}

impl Frames {
    /// How many messages begin in `data`.
    pub(super) fn count(&mut self, mut data: &[u8]) -> u64 {
        let mut begun = 0;
        while let Some((first, rest)) = data.split_first() {
            if self.header < 5 {
                begun += u64::from(self.header == 0);
                self.length = if self.header == 0 { 0 } else { (self.length << 8) | u64::from(*first) };
                self.header += 1;
                data = rest;
            } else {
                let skip = usize::try_from(self.length).unwrap_or(usize::MAX).min(data.len());
                self.length -= skip as u64;
                data = data.get(skip..).unwrap_or_default();
            }
            if self.header == 5 && self.length == 0 {
                self.header = 0;
            }
        }
        begun
    }

    /// Whether the next byte begins a message.
    pub(super) fn at_start(&self) -> bool {
        self.header == 0
    }
}

struct Counting {
    group: Option<Group>,
    messages: Option<Rc<Messages>>,
    frames: Frames,
    at: usize,
    /// The trailers tell what the call came to.
    last: bool,
}

impl Body for Counting {
    fn data(&mut self, data: Bytes) -> Result<Bytes, Failure> {
        let begun = self.frames.count(&data);
        self.group.iter().for_each(|group| group.add(self.at, begun));
        if let Some(messages) = &self.messages {
            let count = if self.at == REQUESTS { &messages.requests } else { &messages.responses };
            count.set(count.get() + begun);
        }
        Ok(data)
    }

    fn end(&mut self, trailers: &mut dyn Headers) -> Result<Bytes, Failure> {
        if self.last {
            self.group.iter().for_each(|group| judge(group, trailers));
        }
        Ok(Bytes::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_are_counted_however_they_are_cut(
            lengths in proptest::collection::vec(0usize..300, 0..20),
            cuts in proptest::collection::vec(1usize..40, 1..50),
        ) {
            let mut bytes = Vec::new();
            for length in &lengths {
                bytes.push(0);
                bytes.extend_from_slice(&(*length as u32).to_be_bytes());
                bytes.resize(bytes.len() + length, 1);
            }
            let (mut frames, mut count, mut rest) = (Frames::default(), 0, bytes.as_slice());
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let (part, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                count += frames.count(part);
                rest = after;
            }
            prop_assert_eq!(count as usize, lengths.len());
            prop_assert!(frames.at_start());
        }
    }

    #[test]
    fn methods_are_named_where_they_are_listed() {
        let listed =
            GrpcStats { methods: Some(vec![("a.S".into(), vec!["M".into()])]), ..GrpcStats::default() };
        assert_eq!(named(&listed, b"/a.S/M").unwrap(), "a.S.M");
        assert_eq!(named(&listed, b"/a.S/N"), None);
        let all = GrpcStats { all_methods: true, replace_dots: true, ..GrpcStats::default() };
        assert_eq!(named(&all, b"/a.S/N").unwrap(), "a_S.N");
        assert_eq!(named(&all, b"nothing"), None);
    }
}
