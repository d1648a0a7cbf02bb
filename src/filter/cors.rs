//! Cross-origin requests: preflights are answered here, other responses say who may read them.

use super::chain::{Outgoing, State as Held, Verdict};
use super::context::{Context, Reply, World};
use super::stats::Counters;
use crate::model::{Cors, FilterConfig};

const NAMES: &[&str] = &["origin_valid", "origin_invalid"];

/// The origin that was found good.
pub(super) struct State(Vec<u8>);

/// The policies that hold for a route, most specific first; each field is that of the first that has it.
struct Policies<'a>(Vec<&'a Cors>);

impl<'a> Policies<'a> {
    fn of(world: &World<'a>, name: &'a str) -> Self {
        let policy = |rule: &'a crate::model::FilterRule| match &rule.config {
            FilterConfig::Cors(policy) => policy.as_ref(),
            _ => None,
        };
        Policies(world.route_rules(name).filter_map(policy).collect())
    }

    fn first<T>(&self, field: impl Fn(&'a Cors) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(|policy| field(policy))
    }

    fn text(&self, field: impl Fn(&'a Cors) -> &'a str) -> Option<&'a [u8]> {
        self.first(|policy| Some(field(policy)).filter(|text| !text.is_empty())).map(str::as_bytes)
    }

    fn allows(&self, origin: &[u8]) -> bool {
        let origins = self.first(|policy| Some(&policy.origins).filter(|list| !list.is_empty()));
        origins.is_some_and(|list| {
            list.iter().any(|one| {
                let any = matches!(one, crate::model::StringMatch::Exact { value, .. } if value == "*");
                any || one.matches(origin)
            })
        })
    }

    fn credentials(&self) -> bool {
        self.first(|policy| policy.credentials).unwrap_or(false)
    }
}

pub(super) fn on_request(name: &str, place: usize, held: &mut Held, ctx: &mut Context<'_>) -> Verdict {
    let policies = Policies::of(&ctx.world, name);
    let Some(first) = policies.0.first() else { return Verdict::Continue };
    let random = ctx.world.random;
    let enabled = first.enabled.as_ref().is_none_or(|share| share.holds(random.next()));
    let shadow = !enabled && first.shadow.as_ref().is_some_and(|share| share.holds(random.next()));
    if !enabled && !shadow {
        return Verdict::Continue;
    }
    let Some(origin) = ctx.request.header("origin").filter(|origin| !origin.is_empty()) else {
        return Verdict::Continue;
    };
    let origin = origin.into_owned();
    let group = ctx.world.stats.own(place, || Counters::new("cors.", NAMES));
    let asks = ctx.request.header("access-control-request-method").is_some_and(|method| !method.is_empty());
    let preflight = ctx.request.method() == Some(b"OPTIONS") && asks;
    if !policies.allows(&origin) {
        group.inc(1);
        let forwards = policies.first(|policy| policy.forward_not_matching).unwrap_or(true);
        if preflight && !forwards && enabled {
            return Verdict::Reply(Box::new(answer(&policies, None, ctx)));
        }
        return Verdict::Continue;
    }
    group.inc(0);
    if !enabled {
        return Verdict::Continue;
    }
    if !preflight {
        *held = Held::Cors(State(origin));
        return Verdict::Continue;
    }
    Verdict::Reply(Box::new(answer(&policies, Some(origin), ctx)))
}

/// The answer to a preflight; only a good origin is told that it may.
fn answer(policies: &Policies<'_>, origin: Option<Vec<u8>>, ctx: &Context<'_>) -> Reply {
    let mut reply = Reply::bare(200, "cors_response");
    let headers = &mut reply.headers;
    headers.extend(origin.map(|origin| ("access-control-allow-origin", origin)));
    if policies.credentials() {
        headers.push(("access-control-allow-credentials", b"true".to_vec()));
    }
    for (field, text) in [
        ("access-control-allow-methods", policies.text(|policy| &policy.methods)),
        ("access-control-allow-headers", policies.text(|policy| &policy.headers)),
        ("access-control-expose-headers", policies.text(|policy| &policy.expose)),
        ("access-control-max-age", policies.text(|policy| &policy.max_age)),
    ] {
        headers.extend(text.map(|text| (field, text.to_vec())));
    }
    let private = ctx.request.header("access-control-request-private-network");
    if private.is_some_and(|asked| *asked == *b"true")
        && policies.first(|policy| policy.private_network).unwrap_or(false)
    {
        headers.push(("access-control-allow-private-network", b"true".to_vec()));
    }
    reply
}

pub(super) fn on_response(name: &str, held: &Held, response: &mut Outgoing<'_>, world: &World<'_>) {
    let Held::Cors(State(origin)) = held else { return };
    let policies = Policies::of(world, name);
    response.headers.set("access-control-allow-origin", origin);
    if policies.credentials() {
        response.headers.set("access-control-allow-credentials", b"true");
    }
    if let Some(expose) = policies.text(|policy| &policy.expose) {
        response.headers.set("access-control-expose-headers", expose);
    }
}
