//! `/why`: what became of requests; `/explain`: what would become of one.

use super::clusters::shown;
use super::query::Params;
use super::reply::{self, Reply};
use super::server::Context;
use crate::cluster::ClusterSlot;
use crate::message::Head;
use crate::model::{Address, runtime};
use crate::router::{ActionSpec, Drawn, Explanation, RouteSpec};
use crate::snapshot::{ChainSpec, FilterSpec, ListenerSpec, Snapshot};
use http::{Method, StatusCode};
use serde_json::{Value as Json, json};
use std::borrow::Cow;

/// Records shown if nobody says how many.
const RECENT: usize = 100;

/// Answers `path`, or `None` if it is none of these.
pub fn answer(context: &Context, method: &Method, path: &str, params: &Params) -> Option<Reply> {
    if !matches!(path, "/why" | "/why/recent" | "/explain") {
        return None;
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Some(reply::text(StatusCode::METHOD_NOT_ALLOWED, format!("Method {method} not allowed.\n")));
    }
    Some(match path {
        "/why" => why(context, params),
        "/why/recent" => recent(context, params),
        _ => explain(&context.source.store.load(), params),
    })
}

fn why(context: &Context, params: &Params) -> Reply {
    let Some(id) = params.get("id").filter(|id| !id.is_empty()) else {
        return reply::text(StatusCode::BAD_REQUEST, "usage: /why?id=<x-request-id>\n");
    };
    let all = context.source.registry.why().recent();
    let records: Vec<_> = all.filter(|record| record.id.as_str() == id).collect();
    if records.is_empty() {
        let text = "no record: it went well, or has been pushed out by later ones\n";
        return reply::text(StatusCode::NOT_FOUND, text);
    }
    reply::json(StatusCode::OK, &json!({ "records": records.iter().map(|r| &**r).collect::<Vec<_>>() }))
}

fn recent(context: &Context, params: &Params) -> Reply {
    let limit = params.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(RECENT);
    let records: Vec<_> = context.source.registry.why().recent().take(limit).collect();
    reply::json(StatusCode::OK, &json!({ "records": records.iter().map(|r| &**r).collect::<Vec<_>>() }))
}

/// The request that is asked about.
struct Asked<'p> {
    method: &'p str,
    host: &'p str,
    path: &'p str,
    headers: Vec<(&'p str, &'p str)>,
}

impl<'p> Asked<'p> {
    fn of(params: &'p Params) -> Result<Self, String> {
        let path = params.get("path").unwrap_or("/");
        let mut headers = Vec::new();
        for (_, pair) in params.iter().filter(|(key, _)| *key == "header") {
            match pair.split_once(':') {
                Some((name, value)) => headers.push((name.trim(), value.trim())),
                None => return Err(format!("header={pair}: expected name:value")),
            }
        }
        let method = params.get("method").unwrap_or("GET");
        Ok(Asked { method, host: params.get("host").unwrap_or(""), path, headers })
    }
}

impl Head for Asked<'_> {
    fn authority(&self) -> Option<&[u8]> {
        Some(self.host.as_bytes()).filter(|host| !host.is_empty())
    }

    fn path_and_query(&self) -> Option<&[u8]> {
        Some(self.path.as_bytes()).filter(|path| !path.is_empty())
    }

    fn method(&self) -> Option<&[u8]> {
        Some(self.method.as_bytes())
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        match name {
            ":method" => self.method().map(Cow::Borrowed),
            ":path" => self.path_and_query().map(Cow::Borrowed),
            ":authority" => self.authority().map(Cow::Borrowed),
            ":scheme" => Some(Cow::Borrowed(b"http")),
            name if name.eq_ignore_ascii_case("host") => self.authority().map(Cow::Borrowed),
            name => {
                let mut values = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
                let first = values.next()?.1.as_bytes();
                let joined = values.fold(Cow::Borrowed(first), |mut all, (_, value)| {
                    all.to_mut().extend_from_slice(b",");
                    all.to_mut().extend_from_slice(value.as_bytes());
                    all
                });
                Some(joined)
            }
        }
    }

    fn each_value(&self, name: &str, each: &mut dyn FnMut(&[u8])) {
        if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
            self.header(name).iter().for_each(|value| each(value));
            return;
        }
        let values = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        values.for_each(|(_, value)| each(value.as_bytes()));
    }
}

fn explain(snapshot: &Snapshot, params: &Params) -> Reply {
    let asked = match Asked::of(params) {
        Ok(asked) => asked,
        Err(why) => return reply::text(StatusCode::BAD_REQUEST, format!("{why}\n")),
    };
    // Shares of requests are drawn as the workers draw them.
    runtime::go_by(&snapshot.runtime);
    let wanted = params.get("listener").unwrap_or("");
    let listeners = snapshot.listeners.values().filter(|spec| is_meant(spec, wanted));
    let found: Vec<Json> = listeners.flat_map(|spec| of_listener(snapshot, spec, &asked)).collect();
    if found.is_empty() {
        let text = "no listener with routes, or none of this name or port\n";
        return reply::text(StatusCode::NOT_FOUND, text);
    }
    reply::json(StatusCode::OK, &json!({ "generation": snapshot.generation, "answers": found }))
}

fn is_meant(spec: &ListenerSpec, wanted: &str) -> bool {
    let port = |address: &Address| address.ip().is_some_and(|at| at.port().to_string() == wanted);
    wanted.is_empty() || spec.model.name == wanted || spec.model.addresses.iter().any(port)
}

/// One answer per chain that has routes.
fn of_listener(snapshot: &Snapshot, spec: &ListenerSpec, asked: &Asked<'_>) -> Vec<Json> {
    let chains = spec.chains.iter().chain(&spec.default_chain);
    chains.filter_map(|chain| of_chain(snapshot, spec, chain, asked)).collect()
}

fn of_chain(snapshot: &Snapshot, spec: &ListenerSpec, chain: &ChainSpec, asked: &Asked<'_>) -> Option<Json> {
    let routes = match &chain.filter {
        FilterSpec::Tcp { .. } => return None,
        other => other.table_of(snapshot, asked),
    };
    let mut answer = json!({
        "listener": spec.model.name,
        "addresses": spec.model.addresses.iter().map(shown).collect::<Vec<_>>(),
        "filter_chain": chain.model.name,
    });
    let told = match snapshot.route_table(routes) {
        None => json!({ "verdict": "no route table has come: 404" }),
        Some(table) => route(snapshot, &table.explain(asked, 0, None), asked),
    };
    if let (Json::Object(answer), Json::Object(told)) = (&mut answer, told) {
        answer.extend(told);
    }
    Some(answer)
}

fn route(snapshot: &Snapshot, found: &Explanation<'_>, asked: &Asked<'_>) -> Json {
    let Some(host) = found.host else {
        return json!({ "verdict": "no virtual host has a domain for this host: 404 NR" });
    };
    let rejected = found
        .rejected
        .iter()
        .map(|(index, route, why)| json!({ "index": index, "route": route.name(), "why": why }));
    let mut told = json!({
        "virtual_host": host.model.name,
        "rejected": rejected.collect::<Vec<_>>(),
    });
    let more = match found.matched {
        None => json!({ "verdict": "no route of the virtual host matches: 404 NR" }),
        Some((index, route)) => {
            let mut action = action(snapshot, route, asked);
            if let Json::Object(action) = &mut action {
                action.insert("route".into(), json!({ "index": index, "name": route.name() }));
            }
            action
        }
    };
    if let (Json::Object(told), Json::Object(more)) = (&mut told, more) {
        told.extend(more);
    }
    told
}

fn action(snapshot: &Snapshot, route: &RouteSpec, asked: &Asked<'_>) -> Json {
    match &route.action {
        ActionSpec::Direct(direct) => {
            return json!({ "verdict": format!("answered here: {}", direct.status) });
        }
        ActionSpec::Redirect(redirect) => {
            let to = route.location(asked, "http").map(|to| String::from_utf8_lossy(&to).into_owned());
            return json!({ "verdict": format!("redirected: {}", redirect.status), "location": to });
        }
        ActionSpec::Route(_) => {}
    }
    let (id, name) = match route.draw(asked, 0, None) {
        Drawn::Cluster(id, _) => (Some(id), None),
        Drawn::Header(header, _) => {
            let value = asked.header(header);
            let id = value.as_deref().and_then(|name| snapshot.cluster_id(name));
            (id, value.map(|name| String::from_utf8_lossy(&name).into_owned()))
        }
        Drawn::None => (None, None),
    };
    let clusters = route.cluster_names();
    let slot = id.map_or(&ClusterSlot::Absent, |id| snapshot.cluster(id));
    match slot {
        ClusterSlot::Absent => json!({
            "cluster": name.as_deref().unwrap_or(&clusters),
            "verdict": "the cluster does not exist: 503 NC",
        }),
        ClusterSlot::Warming => json!({
            "cluster": name.as_deref().unwrap_or(&clusters),
            "verdict": "the cluster's endpoints have not come yet",
        }),
        ClusterSlot::Ready(entry) => {
            let hosts = entry.endpoints.localities.iter().flat_map(|locality| &locality.endpoints);
            let hosts: Vec<Json> = hosts
                .map(|endpoint| {
                    let state = entry.spec.shared.host(&endpoint.address);
                    let health = state.map_or(endpoint.health, |state| state.health(endpoint.health));
                    json!({ "address": shown(&endpoint.address), "health": format!("{health:?}") })
                })
                .collect();
            let verdict = if hosts.is_empty() { "the cluster has no hosts: 503 UH" } else { "forwarded" };
            json!({
                "cluster": entry.spec.model.name,
                "clusters_of_the_route": clusters,
                "hosts": hosts,
                "verdict": verdict,
            })
        }
    }
}
