//! The state against a model: a server with a set of resources, and a plain map of what must be held.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What happens between client and server.
#[derive(Debug, Clone)]
enum Step {
    /// The server's resource gets this payload; an odd one is bad.
    Set(ResourceType, u8, u8),
    /// The server drops the resource.
    Drop(ResourceType, u8),
    /// The server pushes what changed since its last push (delta), or everything.
    Push(ResourceType),
    /// The interest becomes this set of bits.
    Interest(ResourceType, u8),
    Reconnect,
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = || prop::sample::select(ResourceType::ALL.to_vec());
    let named = || prop::sample::select(vec![Endpoint, Route]);
    prop_oneof![
        6 => (kind(), 0u8..6, 0u8..6).prop_map(|(kind, name, payload)| Step::Set(kind, name, payload)),
        2 => (kind(), 0u8..6).prop_map(|(kind, name)| Step::Drop(kind, name)),
        6 => kind().prop_map(Step::Push),
        2 => (named(), 0u8..64).prop_map(|(kind, bits)| Step::Interest(kind, bits)),
        1 => Just(Step::Reconnect),
        1 => (0u16..40_000).prop_map(Step::Pass),
    ]
}

/// One type as the model sees it.
#[derive(Debug, Default)]
struct Side {
    server: BTreeMap<String, u8>,
    /// What the server believes the client has on this stream.
    known: BTreeMap<String, u8>,
    /// What has to be held.
    held: BTreeMap<String, u8>,
    /// What has to be remembered as bad.
    bad: BTreeMap<String, u8>,
    interest: BTreeSet<String>,
    subscribed: bool,
}

struct World {
    rig: Rig,
    sides: BTreeMap<ResourceType, Side>,
    open_nonces: Vec<(ResourceType, String)>,
}

impl World {
    fn new(variant: Variant) -> Self {
        let mut world = Self { rig: Rig::new(variant), sides: BTreeMap::new(), open_nonces: Vec::new() };
        for kind in ResourceType::ALL {
            world.sides.insert(kind, Side::default());
        }
        let requests = world.rig.connect();
        world.serve(requests);
        world
    }

    fn side(&mut self, kind: ResourceType) -> &mut Side {
        self.sides.get_mut(&kind).unwrap()
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Set(kind, name, payload) => {
                self.side(kind).server.insert(format!("r{name}"), payload);
            }
            Step::Drop(kind, name) => {
                self.side(kind).server.remove(&format!("r{name}"));
            }
            Step::Push(kind) => self.push(kind),
            Step::Interest(kind, bits) => {
                let wanted: BTreeSet<String> =
                    (0..6).filter(|n| bits & (1 << n) != 0).map(|n| format!("r{n}")).collect();
                let side = self.side(kind);
                side.held.retain(|name, _| wanted.contains(name));
                side.bad.retain(|name, _| wanted.contains(name));
                side.interest.clone_from(&wanted);
                let list: Vec<&str> = wanted.iter().map(String::as_str).collect();
                let requests = self.rig.interest(kind, &list);
                self.serve(requests);
            }
            Step::Reconnect => self.reconnect(),
            Step::Pass(ms) => {
                self.rig.pass(Duration::from_millis(ms.into()));
                let requests = self.rig.take();
                self.serve(requests);
            }
        }
        self.check();
    }

    fn reconnect(&mut self) {
        self.open_nonces.clear();
        for side in self.sides.values_mut() {
            side.subscribed = false;
            side.known.clear();
        }
        let requests = self.rig.reconnect();
        assert_eq!(requests.iter().filter(|request| request.with_node).count(), 1);
        assert!(requests[0].with_node);
        let order = kinds(&requests);
        assert!(order.is_sorted(), "{order:?}");
        self.serve(requests);
    }

    /// The server's side of a request.
    fn serve(&mut self, requests: Vec<Request>) {
        for request in requests {
            let kind = request.kind;
            self.check_nonce(&request);
            let side = self.sides.get_mut(&kind).unwrap();
            match &request.body {
                RequestBody::Sotw { names: list, .. } => {
                    assert!(
                        side.subscribed || kind.is_wildcard() || !list.is_empty(),
                        "an accidental wildcard"
                    );
                }
                RequestBody::Delta { subscribe, unsubscribe, initial_versions } => {
                    assert!(
                        side.subscribed || kind.is_wildcard() || !subscribe.is_empty(),
                        "an accidental wildcard"
                    );
                    assert!(request.nonce.is_empty() || (subscribe.is_empty() && unsubscribe.is_empty()));
                    for (name, version) in initial_versions {
                        let payload: u8 =
                            version.strip_prefix("v-").unwrap().trim_start_matches("bad").parse().unwrap();
                        side.known.insert(name.to_string(), payload);
                    }
                    for name in unsubscribe.iter().chain(subscribe.iter().filter(|_| side.subscribed)) {
                        side.known.remove(&**name);
                    }
                }
            }
            side.subscribed = true;
        }
    }

    fn check_nonce(&mut self, request: &Request) {
        if request.nonce.is_empty() {
            return;
        }
        let at =
            self.open_nonces.iter().position(|(of, nonce)| *of == request.kind && **nonce == *request.nonce);
        if let Some(at) = at {
            let earlier = self.open_nonces[..at].iter().any(|(of, _)| *of == request.kind);
            assert!(!earlier, "answered out of order");
            self.open_nonces.remove(at);
        } else {
            assert_eq!(self.rig.variant, Sotw, "only state of the world repeats a nonce");
        }
    }

    fn push(&mut self, kind: ResourceType) {
        let variant = self.rig.variant;
        let side = self.sides.get_mut(&kind).unwrap();
        if !side.subscribed {
            return;
        }
        let shown =
            side.server.iter().filter(|(name, _)| kind.is_wildcard() || side.interest.contains(*name));
        let visible: BTreeMap<String, u8> = shown.map(|(name, payload)| (name.clone(), *payload)).collect();
        let mut removed: Vec<String> = Vec::new();
        let mut given = visible.clone();
        if variant == Delta {
            removed = side.known.keys().filter(|name| !visible.contains_key(*name)).cloned().collect();
            given.retain(|name, payload| side.known.get(name) != Some(payload));
        }
        side.known.clone_from(&visible);
        // The model: good ones are held, bad ones remembered, complete types lose what is not there.
        for (name, payload) in &given {
            if payload % 2 == 1 {
                side.bad.insert(name.clone(), *payload);
            } else {
                side.bad.remove(name);
                side.held.insert(name.clone(), *payload);
            }
        }
        let absent = |name: &String| variant == Sotw && kind.is_wildcard() && !visible.contains_key(name);
        let gone = |name: &String| removed.contains(name) || absent(name);
        side.bad.retain(|name, _| !gone(name));
        if kind.is_wildcard() {
            side.held.retain(|name, _| !gone(name));
        }
        self.deliver(kind, &given, &removed);
    }

    fn deliver(&mut self, kind: ResourceType, given: &BTreeMap<String, u8>, removed: &[String]) {
        let any_bad = given.values().any(|payload| payload % 2 == 1);
        let text: Vec<(String, String)> =
            given.iter().map(|(name, payload)| (name.clone(), payload_text(*payload))).collect();
        let list: Vec<(&str, &str)> =
            text.iter().map(|(name, payload)| (name.as_str(), payload.as_str())).collect();
        let removed: Vec<&str> = removed.iter().map(String::as_str).collect();
        let update = self.rig.respond(kind, "v", &list, &removed);
        let nonce = update.ticket.nonce.to_string();
        self.open_nonces.push((kind, nonce.clone()));
        let rejections = rejections(&update);
        assert_eq!(any_bad, !rejections.is_empty());
        self.rig.state.on_verdicts(self.rig.now, update, rejections);
        let requests = self.rig.take();
        match requests.iter().rev().find(|request| *request.nonce == *nonce) {
            Some(answer) => assert_eq!(answer.error.is_some(), any_bad),
            None => assert!(any_bad, "an ACK is never held back"),
        }
        self.serve(requests);
    }

    fn check(&self) {
        let bytes = |payloads: &BTreeMap<String, u8>| -> BTreeMap<String, Bytes> {
            payloads
                .iter()
                .map(|(name, payload)| (name.clone(), body(name, &payload_text(*payload))))
                .collect()
        };
        for (kind, side) in &self.sides {
            let dump = self.rig.state.dump(*kind);
            let held: BTreeMap<_, _> =
                dump.resources.into_iter().map(|r| (r.name.to_string(), r.bytes)).collect();
            assert_eq!(held, bytes(&side.held), "{kind:?}");
            let bad: BTreeMap<_, _> =
                dump.rejected.into_iter().map(|r| (r.name.to_string(), r.bytes)).collect();
            assert_eq!(bad, bytes(&side.bad), "{kind:?}");
            let stats = self.rig.state.stats().of(*kind);
            assert_eq!((stats.held.get(), stats.rejected.get()), (held.len() as u64, bad.len() as u64));
        }
    }
}

fn payload_text(payload: u8) -> String {
    if payload % 2 == 1 { format!("bad{payload}") } else { payload.to_string() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn state_of_the_world_holds_what_the_model_holds(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new(Sotw);
        for step in steps {
            world.play(step);
        }
    }

    #[test]
    fn delta_holds_what_the_model_holds(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new(Delta);
        for step in steps {
            world.play(step);
        }
    }
}
