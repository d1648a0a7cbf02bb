//! Listener filters: what looks at a connection before its filter chain is known.

use std::time::Duration;

use super::extension::Extension;
use super::values::timeout;
use crate::model::{Inspector, Inspectors, OriginalSource, Predicate};
use crate::proto::envoy::config::listener::v3 as pb;
use crate::proto::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use crate::proto::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use crate::proto::envoy::extensions::filters::listener::original_src::v3::OriginalSrc;
use crate::proto::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use crate::translate::finding::{Findings, Path};

/// `listener_filters_timeout` if absent.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How deep predicates may lie in one another.
const DEPTH: usize = 16;

pub(super) fn inspectors(message: &pb::Listener, out: &mut Findings) -> Inspectors {
    use pb::listener_filter::ConfigType;
    let root = Path::ROOT;
    let limit = message.listener_filters_timeout.as_ref();
    let limit = timeout(&root.name("listener_filters_timeout"), limit, Some(TIMEOUT), out);
    let mut read = Inspectors {
        timeout: limit,
        continue_on_timeout: message.continue_on_listener_filters_timeout,
        ..Inspectors::default()
    };
    let list = root.name("listener_filters");
    for (i, filter) in message.listener_filters.iter().enumerate() {
        let at = list.index(i);
        let any = match &filter.config_type {
            Some(ConfigType::TypedConfig(any)) => any,
            Some(ConfigType::ConfigDiscovery(_)) => {
                out.bad(&at.name("config_discovery"), &filter.name, "not supported (use typed_config)");
                continue;
            }
            None => {
                out.bad(&at.name("typed_config"), &filter.name, "no typed_config");
                continue;
            }
        };
        let config = at.name("typed_config");
        let Some(extension) = Extension::open(&config, any, out) else { continue };
        let disabled = match &filter.filter_disabled {
            Some(rule) => match predicate(&at.name("filter_disabled"), rule, DEPTH, out) {
                Some(rule) => Some(rule),
                None => continue,
            },
            None => None,
        };
        if extension.is::<TlsInspector>() {
            tls_inspector(&config, &extension, out);
            read.tls = Some(Inspector { disabled });
        } else if extension.is::<HttpInspector>() {
            read.http = Some(Inspector { disabled });
        } else if extension.is::<OriginalDst>() {
            read.original = Some(Inspector { disabled });
        } else if extension.is::<OriginalSrc>() {
            read.source = original_source(&config, &extension, Inspector { disabled }, out);
        } else {
            let why = "this listener filter is not supported (nearest valid: OriginalDst, OriginalSrc, \
                       TlsInspector, HttpInspector)";
            out.bad(&config, &extension.type_url, why);
        }
    }
    read
}

/// Why sockets cannot be made transparent.
pub(super) const NOT_PERMITTED: &str = "this process lacks CAP_NET_ADMIN, which that needs (leave it out)";

/// Whether this process may use addresses that are not the machine's as if they were.
pub(super) fn may_be_transparent(out: &mut Findings) -> bool {
    /// CAP_NET_ADMIN and CAP_NET_RAW: either is enough.
    const RIGHTS: u64 = 1 << 12 | 1 << 13;
    out.looked_outside();
    // Where the system does not tell, the socket will.
    let Ok(status) = std::fs::read_to_string("/proc/thread-self/status") else { return true };
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = held.and_then(|held| u64::from_str_radix(held.trim(), 16).ok());
    held.is_none_or(|held| held & RIGHTS != 0)
}

fn original_source(
    path: &Path<'_>,
    extension: &Extension<'_>,
    inspector: Inspector,
    out: &mut Findings,
) -> Option<OriginalSource> {
    let config = extension.decode::<OriginalSrc>(path, out)?;
    if config.bind_port {
        out.bad(&path.name("bind_port"), true, "not supported: ports are the system's (nearest valid false)");
    }
    if !may_be_transparent(out) {
        out.bad(path, &extension.type_url, NOT_PERMITTED);
    }
    Some(OriginalSource { inspector, mark: config.mark })
}

fn tls_inspector(path: &Path<'_>, extension: &Extension<'_>, out: &mut Findings) {
    let Some(config) = extension.decode::<TlsInspector>(path, out) else { return };
    for (field, set) in [
        ("enable_ja3_fingerprinting", config.enable_ja3_fingerprinting == Some(true)),
        ("enable_ja4_fingerprinting", config.enable_ja4_fingerprinting == Some(true)),
        ("initial_read_buffer_size", config.initial_read_buffer_size.is_some()),
        ("max_client_hello_size", config.max_client_hello_size.is_some()),
        (
            "close_connection_on_client_hello_parsing_errors",
            config.close_connection_on_client_hello_parsing_errors,
        ),
    ] {
        if set {
            out.note(&path.name(field));
        }
    }
}

fn predicate(
    path: &Path<'_>,
    message: &pb::ListenerFilterChainMatchPredicate,
    depth: usize,
    out: &mut Findings,
) -> Option<Predicate> {
    use pb::listener_filter_chain_match_predicate::{MatchSet, Rule};
    if depth == 0 {
        out.bad(path, "", format_args!("more than {DEPTH} rules in one another"));
        return None;
    }
    let all = |field: &str, set: &MatchSet, out: &mut Findings| -> Option<Vec<Predicate>> {
        let at = path.name(field);
        let at = at.name("rules");
        set.rules.iter().enumerate().map(|(i, rule)| predicate(&at.index(i), rule, depth - 1, out)).collect()
    };
    match &message.rule {
        Some(Rule::OrMatch(set)) => all("or_match", set, out).map(Predicate::Or),
        Some(Rule::AndMatch(set)) => all("and_match", set, out).map(Predicate::And),
        Some(Rule::NotMatch(inner)) => {
            let inner = predicate(&path.name("not_match"), inner, depth - 1, out)?;
            Some(Predicate::Not(Box::new(inner)))
        }
        Some(Rule::AnyMatch(_)) => Some(Predicate::Any),
        Some(Rule::DestinationPortRange(range)) => Some(Predicate::Ports {
            start: u32::try_from(range.start).unwrap_or(0),
            end: u32::try_from(range.end).unwrap_or(0),
        }),
        None => {
            out.bad(path, "", "no rule (nearest valid: destination_port_range)");
            None
        }
    }
}
