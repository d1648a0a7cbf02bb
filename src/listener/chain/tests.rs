use super::*;
use crate::model::{FilterChain, Listener, NetworkFilter, TcpProxy};
use crate::router::WeightedPick;
use crate::snapshot::FilterSpec;

pub(in crate::listener) fn chain(name: &str, matcher: ChainMatch) -> Arc<ChainSpec> {
    let tcp = TcpProxy {
        stat_prefix: String::new(),
        clusters: vec![],
        idle_timeout: None,
        max_connect_attempts: 1,
        access_log: Default::default(),
        max_connection_duration: None,
        hash_source_ip: false,
        criteria: Default::default(),
    };
    let filter = NetworkFilter::Tcp(tcp.clone());
    let model = FilterChain { name: name.into(), matcher, tls: None, guards: Vec::new(), mesh: None, filter };
    Arc::new(ChainSpec {
        model,
        tls: None,
        filter: FilterSpec::Tcp { config: tcp, clusters: WeightedPick::default() },
        filters: None,
        leftover: Default::default(),
    })
}

fn cidr(text: &str, len: u8) -> Cidr {
    Cidr::new(text.parse().unwrap(), len).unwrap()
}

pub(in crate::listener) fn model() -> Arc<Listener> {
    Arc::new(Listener {
        transparent: false,
        freebind: false,
        name: "l".into(),
        addresses: vec![],
        bind_to_port: true,
        direction: Default::default(),
        stat_prefix: String::new(),
        filter_chains: vec![],
        default_filter_chain: None,
        buffer_limit: 0,
        backlog: 0,
        use_original_dst: false,
        internal: false,
        unlimited: false,
        exact_balance: false,
        access_log: Default::default(),
        inspectors: Default::default(),
    })
}

pub(in crate::listener) fn bare() -> ListenerSpec {
    let (leftover, open) = Default::default();
    ListenerSpec { model: model(), chains: Vec::new(), default_chain: None, generation: 1, leftover, open }
}

fn pick(chains: Vec<Arc<ChainSpec>>, default: bool, destination: &str, source: &str) -> Option<String> {
    let default_chain = default.then(|| chain("default", ChainMatch::default()));
    let spec = ListenerSpec { chains, default_chain, ..bare() };
    let inputs =
        Inputs { destination: destination.parse().ok(), source: source.parse().ok(), seen: Seen::default() };
    find(&spec, &inputs).map(|chain| chain.model.name.clone())
}

#[test]
fn the_most_specific_value_wins_and_a_hit_is_not_taken_back() {
    let chains = || {
        vec![
            chain("any", ChainMatch::default()),
            chain("net", ChainMatch { prefix_ranges: vec![cidr("10.0.0.0", 8)], ..Default::default() }),
            chain("host", ChainMatch { prefix_ranges: vec![cidr("10.0.0.1", 32)], ..Default::default() }),
            chain(
                "port",
                ChainMatch {
                    destination_port: Some(80),
                    prefix_ranges: vec![cidr("10.1.0.0", 16)],
                    ..Default::default()
                },
            ),
        ]
    };
    assert_eq!(pick(chains(), true, "10.0.0.1:9", "1.1.1.1:1").as_deref(), Some("host"));
    assert_eq!(pick(chains(), true, "10.0.0.2:9", "1.1.1.1:1").as_deref(), Some("net"));
    assert_eq!(pick(chains(), true, "11.0.0.2:9", "1.1.1.1:1").as_deref(), Some("any"));
    // Port 80 hits `port`; that its prefix then fails does not bring `any` back.
    assert_eq!(pick(chains(), true, "11.0.0.2:80", "1.1.1.1:1").as_deref(), Some("default"));
    assert_eq!(pick(chains(), false, "11.0.0.2:80", "1.1.1.1:1"), None);
}

#[test]
fn sources_and_transport() {
    let near = ChainMatch { source_type: SourceType::SameIpOrLoopback, ..Default::default() };
    let raw = ChainMatch { transport_protocol: "raw_buffer".into(), ..Default::default() };
    let tls = ChainMatch { transport_protocol: "tls".into(), ..Default::default() };
    let port = ChainMatch { source_ports: vec![7], ..Default::default() };
    let near = || vec![chain("near", near.clone()), chain("any", ChainMatch::default())];
    assert_eq!(pick(near(), false, "10.0.0.1:9", "127.0.0.1:1").as_deref(), Some("near"));
    assert_eq!(pick(near(), false, "10.0.0.1:9", "10.0.0.1:1").as_deref(), Some("near"));
    assert_eq!(pick(near(), false, "10.0.0.1:9", "10.0.0.9:1").as_deref(), Some("any"));
    let raw = vec![chain("tls", tls), chain("raw", raw)];
    assert_eq!(pick(raw, false, "10.0.0.1:9", "10.0.0.9:1").as_deref(), Some("raw"));
    assert_eq!(pick(vec![chain("p", port)], false, "10.0.0.1:9", "10.0.0.9:7").as_deref(), Some("p"));
}

#[test]
fn what_the_first_bytes_tell() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let of = |name: &str, server_names: &[&str], transport: &str, protocols: &[&str]| {
        let matcher = ChainMatch {
            server_names: names(server_names),
            transport_protocol: transport.into(),
            application_protocols: names(protocols),
            ..Default::default()
        };
        chain(name, matcher)
    };
    let spec = ListenerSpec {
        chains: vec![
            of("exact", &["a.test"], "tls", &[]),
            of("wild", &["*.test"], "tls", &[]),
            of("wilder", &["*.b.test"], "tls", &[]),
            of("istio", &[], "tls", &["istio", "istio-h2"]),
            of("http", &[], "raw_buffer", &["http/1.1", "h2c"]),
            of("tls", &[], "tls", &[]),
        ],
        ..bare()
    };
    let pick = |name: Option<&str>, tls: bool, protocols: &[&str]| {
        let (server_name, protocols) = (name.map(Into::into), names(protocols).into());
        let seen = Seen { tls, server_name, protocols, ..Seen::default() };
        let inputs = Inputs { destination: None, source: None, seen };
        find(&spec, &inputs).map(|chain| chain.model.name.clone()).unwrap_or_default()
    };
    assert_eq!(pick(Some("a.test"), true, &["istio"]), "exact");
    assert_eq!(pick(Some("x.test"), true, &[]), "wild");
    assert_eq!(pick(Some("x.b.test"), true, &[]), "wilder");
    assert_eq!(pick(Some("test"), true, &["h2", "istio"]), "istio");
    assert_eq!(pick(None, true, &["h2"]), "tls");
    assert_eq!(pick(None, false, &["h2c"]), "http");
    // A name hits the exact chain; that its transport then fails does not bring another back.
    assert_eq!(pick(Some("a.test"), false, &["h2c"]), "");
    let blank = Inputs { destination: None, source: None, seen: Seen::default() };
    assert!(wants_tls(&spec, &blank) && !wants_http(&spec, &blank));
    let plain = ListenerSpec { chains: vec![of("http", &[], "raw_buffer", &["http/1.1"])], ..bare() };
    assert!(!wants_tls(&plain, &blank), "raw_buffer needs no inspector");
}
