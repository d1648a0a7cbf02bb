//! One test per rule of the protocol; `model` plays it against a simple model at random.

use bytes::Bytes;

use super::*;
use crate::xds::message::{Item, Rejection, Response, Update};
use ResourceType::{Cluster, Endpoint, Listener, Route};
use Variant::{Delta, Sotw};

mod lifetime;
mod model;
mod rules;
mod verdicts;

/// An encoded resource: the name in field 1, something else in field 2.
fn body(name: &str, payload: &str) -> Bytes {
    let mut out = Vec::new();
    for (key, text) in [(0x0au8, name), (0x12, payload)] {
        if !text.is_empty() {
            out.extend([key, u8::try_from(text.len()).unwrap()]);
            out.extend(text.bytes());
        }
    }
    Bytes::from(out)
}

fn arcs(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

/// The state under test with a hand-driven clock and a minimal server's bookkeeping.
struct Rig {
    state: AdsState,
    now: Now,
    variant: Variant,
    stream: u64,
    nonce: u32,
}

impl Rig {
    fn new(variant: Variant) -> Self {
        Self::with(StateConfig::new(variant))
    }

    fn with(config: StateConfig) -> Self {
        let variant = config.variant;
        let state = AdsState::new(config, Arc::default());
        let now = Now { instant: Instant::now(), unix_ms: 1_000 };
        Self { state, now, variant, stream: 0, nonce: 0 }
    }

    /// Connected, and everything asked for that a fresh start asks for.
    fn connected(variant: Variant) -> Self {
        let mut rig = Self::new(variant);
        rig.connect();
        rig
    }

    /// Connected, with CDS answered by `clusters` and the LDS request gone out.
    fn started(variant: Variant, clusters: &[(&str, &str)]) -> Self {
        let mut rig = Self::connected(variant);
        rig.accept(Cluster, "c1", clusters, &[]);
        rig.take();
        rig
    }

    fn connect(&mut self) -> Vec<Request> {
        self.stream += 1;
        self.state.on_connected(self.now, self.stream);
        self.take()
    }

    fn reconnect(&mut self) -> Vec<Request> {
        self.state.on_disconnected("gone");
        self.connect()
    }

    fn take(&mut self) -> Vec<Request> {
        let (stream, requests) = self.state.take_requests();
        assert!(requests.is_empty() || stream == self.stream);
        requests
    }

    fn pass(&mut self, by: Duration) {
        self.now.instant += by;
        self.now.unix_ms += u64::try_from(by.as_millis()).unwrap();
        self.state.on_timeout(self.now);
    }

    fn items(&self, kind: ResourceType, resources: &[(&str, &str)]) -> Vec<Item> {
        let item = |(name, payload): &(&str, &str)| Item {
            name: if self.variant == Delta { (*name).to_owned() } else { String::new() },
            version: if self.variant == Delta { format!("v-{payload}") } else { String::new() },
            type_url: kind.type_url().into(),
            body: Some(body(name, payload)),
            ttl: None,
        };
        resources.iter().map(item).collect()
    }

    fn raw_response(
        &mut self,
        kind: ResourceType,
        version: &str,
        items: Vec<Item>,
        removed: &[&str],
    ) -> Option<Update> {
        self.nonce += 1;
        let response = Response {
            type_url: kind.type_url().to_owned(),
            nonce: format!("n{}", self.nonce),
            version: version.to_owned(),
            items,
            removed: removed.iter().map(|name| (*name).to_owned()).collect(),
            control_plane: "cp".to_owned(),
        };
        self.state.on_response(self.now, response)
    }

    fn respond(
        &mut self,
        kind: ResourceType,
        version: &str,
        resources: &[(&str, &str)],
        removed: &[&str],
    ) -> Update {
        let items = self.items(kind, resources);
        self.raw_response(kind, version, items, removed).expect("subscribed")
    }

    /// A response all of which is good; the names that changed, and those removed.
    fn accept(
        &mut self,
        kind: ResourceType,
        version: &str,
        resources: &[(&str, &str)],
        removed: &[&str],
    ) -> (Vec<String>, Vec<String>) {
        let update = self.respond(kind, version, resources, removed);
        let seen = (
            names(update.changed.iter().map(|raw| &raw.name)),
            names(update.removed.iter().chain(&update.withdrawn)),
        );
        self.state.on_verdicts(self.now, update, Vec::new());
        seen
    }

    /// A response whose resources with a payload starting `bad` are rejected.
    fn judge(&mut self, kind: ResourceType, version: &str, resources: &[(&str, &str)]) -> Option<Request> {
        let update = self.respond(kind, version, resources, &[]);
        self.judge_update(update)
    }

    fn judge_update(&mut self, update: Update) -> Option<Request> {
        let rejections = rejections(&update);
        self.state.on_verdicts(self.now, update, rejections);
        self.take().pop()
    }

    fn held(&self, kind: ResourceType) -> Vec<(String, String)> {
        let mut all: Vec<_> = self
            .state
            .dump(kind)
            .resources
            .iter()
            .map(|r| (r.name.to_string(), r.version.to_string()))
            .collect();
        all.sort();
        all
    }

    fn held_names(&self, kind: ResourceType) -> Vec<String> {
        self.held(kind).into_iter().map(|(name, _)| name).collect()
    }

    fn interest(&mut self, kind: ResourceType, names: &[&str]) -> Vec<Request> {
        self.state.set_interest(self.now, kind, arcs(names));
        self.take()
    }
}

/// The verdicts of a caller who dislikes payloads that start with `bad`.
fn rejections(update: &Update) -> Vec<Rejection> {
    let bad = update.changed.iter().filter(|raw| raw.bytes.windows(3).any(|window| window == b"bad"));
    bad.map(|raw| Rejection {
        name: raw.name.clone(),
        text: format!("{} {}: field: bad: why", update.kind.noun(), raw.name),
    })
    .collect()
}

fn names<'a>(names: impl Iterator<Item = &'a Arc<str>>) -> Vec<String> {
    let mut names: Vec<_> = names.map(ToString::to_string).collect();
    names.sort();
    names
}

fn kinds(requests: &[Request]) -> Vec<ResourceType> {
    requests.iter().map(|request| request.kind).collect()
}

/// Version and names of a state-of-the-world request.
fn sotw(request: &Request) -> (String, Vec<String>) {
    match &request.body {
        RequestBody::Sotw { version, names: list } => (version.to_string(), names(list.iter())),
        RequestBody::Delta { .. } => panic!("a delta request"),
    }
}

/// Names added, names dropped and versions listed of a delta request.
fn delta(request: &Request) -> (Vec<String>, Vec<String>, Vec<(String, String)>) {
    match &request.body {
        RequestBody::Delta { subscribe, unsubscribe, initial_versions } => {
            let versions =
                initial_versions.iter().map(|(name, version)| (name.to_string(), version.to_string()));
            (names(subscribe.iter()), names(unsubscribe.iter()), versions.collect())
        }
        RequestBody::Sotw { .. } => panic!("a state-of-the-world request"),
    }
}

const NONE: Vec<String> = Vec::new();

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}
