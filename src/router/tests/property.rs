//! The indexes give what a plain scan gives.

use super::*;
use proptest::prelude::*;

fn half() -> Fraction {
    Fraction { numerator: 50, denominator: 100, runtime_key: String::new() }
}

fn arb_matcher() -> impl Strategy<Value = RouteMatch> {
    let path = (arb_path(), 0..9u8, any::<bool>()).prop_map(|(value, kind, ignore_case)| match kind {
        0..3 => PathMatch::Prefix { value, ignore_case },
        3..5 => PathMatch::Exact { value, ignore_case },
        5 => PathMatch::SeparatedPrefix { value, ignore_case },
        6 => PathMatch::Regex(Regex::full(&format!("{value}.*")).unwrap()),
        7 => PathMatch::Connect,
        _ => PathMatch::Any,
    });
    let header = (0..3u8, 0..3u8, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(name, value, invert, treat_missing_as_empty, present)| {
            let mut made = exact_header(&format!("h{name}"), ["", "x", "y"][usize::from(value)]);
            (made.invert, made.treat_missing_as_empty) =
                (invert && present, treat_missing_as_empty && !present);
            made
        },
    );
    (path, prop::collection::vec(header, 0..3), prop::option::of(Just(half()))).prop_map(
        |(path, headers, fraction)| RouteMatch {
            path,
            headers,
            query: vec![],
            grpc: false,
            fraction: fraction.map(Box::new),
        },
    )
}

/// Few letters, so that many begin with others.
fn arb_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["/", "/", "a", "b", "A", "ab"]), 0..6)
        .prop_map(|v| v.concat())
}

fn arb_request() -> impl Strategy<Value = Request> {
    let authority = prop::option::of(arb_authority());
    let path = prop::option::of((arb_path(), any::<bool>()).prop_map(|(p, q)| if q { p + "?q" } else { p }));
    let method = prop::option::of(Just("CONNECT".to_owned()));
    let headers = prop::collection::vec((0..3u8, prop::sample::select(vec!["", "x", "y"])), 0..3);
    (authority, path, method, headers).prop_map(|(authority, path, method, headers)| Request {
        authority,
        path,
        method,
        headers: headers.into_iter().map(|(n, v)| (format!("h{n}"), v.to_owned())).collect(),
    })
}

fn arb_authority() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "B", "b", ".", ":80"]), 0..4)
        .prop_map(|v| v.concat())
}

fn arb_domain() -> impl Strategy<Value = String> {
    (arb_authority(), 0..4u8).prop_map(|(text, kind)| {
        let text = text.to_ascii_lowercase();
        match kind {
            0 => format!("*{text}"),
            1 => format!("{text}*"),
            _ => text,
        }
    })
}

/// The virtual host by Envoy's rule, read off the list of domains.
fn scan_host<'a>(hosts: &'a [Arc<VirtualHost>], authority: Option<&str>) -> Option<&'a Arc<VirtualHost>> {
    let authority = authority.map(str::to_ascii_lowercase);
    let rank = |domain: &str| -> Option<(u8, usize)> {
        if domain == "*" {
            return Some((0, 0));
        }
        let text = authority.as_deref()?;
        if let Some(fixed) = domain.strip_prefix('*') {
            return (text.len() > fixed.len() && text.ends_with(fixed)).then_some((2, fixed.len()));
        }
        if let Some(fixed) = domain.strip_suffix('*') {
            return (text.len() > fixed.len() && text.starts_with(fixed)).then_some((1, fixed.len()));
        }
        (domain == text).then_some((3, 0))
    };
    let mut best: Option<((u8, usize), &Arc<VirtualHost>)> = None;
    for host in hosts {
        for score in host.domains.iter().filter_map(|domain| rank(domain)) {
            if best.is_none_or(|(held, _)| score > held) {
                best = Some((score, host));
            }
        }
    }
    best.map(|(_, host)| host)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn route_index_equals_a_scan(
        matchers in prop::collection::vec(arb_matcher(), 0..60),
        requests in prop::collection::vec((arb_request(), any::<u64>()), 1..8),
    ) {
        let routes: Vec<_> =
            matchers.iter().enumerate().map(|(at, m)| route(&at.to_string(), m.clone())).collect();
        let table = table(vec![host("h", &["*"], routes)]);
        for (request, random) in requests {
            let target = matcher::Target::new(&request, random, false);
            let scan = matchers.iter().position(|m| matcher::matches(m, &request, &target));
            let index = table.find(&request, random).map(|route| route.name().parse::<usize>().unwrap());
            prop_assert_eq!(index, scan, "{:?}", request);
        }
    }

    #[test]
    fn host_index_equals_a_scan(
        domains in prop::collection::vec(prop::collection::vec(arb_domain(), 1..3), 0..8),
        authorities in prop::collection::vec(prop::option::of(arb_authority()), 1..8),
    ) {
        let hosts: Vec<_> = domains
            .iter()
            .enumerate()
            .map(|(at, list)| {
                let list: Vec<&str> = list.iter().map(String::as_str).collect();
                host(&at.to_string(), &list, vec![])
            })
            .collect();
        let table = table(hosts.clone());
        for authority in authorities {
            let wanted = scan_host(&hosts, authority.as_deref()).map(|host| host.name.clone());
            let index = table.host(authority.as_deref().map(str::as_bytes)).map(|host| host.model.name.clone());
            prop_assert_eq!(index, wanted, "{:?}", authority);
        }
    }
}
