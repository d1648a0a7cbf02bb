//! Listener.

use std::collections::HashMap;

use super::MAX_CHAINS;
use super::access_log;
use super::chain::{self, overlap};
use super::listener_filters;
use super::mesh;
use super::values::{Accept, address, enumeration, not_empty};
use crate::model::{Address, Direction, FilterChain, Listener, NetworkFilter};
use crate::proto::envoy::config::core::v3::TrafficDirection;
use crate::proto::envoy::config::listener::v3 as pb;
use crate::translate::finding::{Findings, Path};
use prost_types::value::Kind;

/// `per_connection_buffer_limit_bytes` if absent.
const BUFFER_LIMIT: usize = 1 << 20;
/// Accept queue if absent.
const BACKLOG: u32 = 1024;

pub(super) fn listener(message: &pb::Listener, out: &mut Findings) -> Option<Listener> {
    let root = Path::ROOT;
    let name = not_empty(&root.name("name"), &message.name, out);
    refuse_unbuilt(message, out);
    let inspectors = listener_filters::inspectors(message, out);
    let internal = is_internal(message, out);
    let addresses = if internal { Vec::new() } else { addresses(message, out) };
    let (mut filter_chains, mut default_filter_chain) = chains(message, out);
    if is_lenient(message, out) {
        for chain in filter_chains.iter_mut().chain(&mut default_filter_chain) {
            if let NetworkFilter::Http(manager) = &mut chain.filter {
                manager.http1.lenient = true;
            }
        }
    }
    let direction = match enumeration(&root.name("traffic_direction"), message.traffic_direction, out)? {
        TrafficDirection::Unspecified => Direction::Unspecified,
        TrafficDirection::Inbound => Direction::Inbound,
        TrafficDirection::Outbound => Direction::Outbound,
    };
    filter_chains.iter_mut().chain(&mut default_filter_chain).for_each(|chain| mesh::look(chain, direction));
    let buffer_limit = message.per_connection_buffer_limit_bytes;
    let old_bind = message.deprecated_v1.as_ref().and_then(|old| old.bind_to_port);
    Some(Listener {
        name,
        addresses,
        bind_to_port: !internal && message.bind_to_port.or(old_bind).unwrap_or(true),
        use_original_dst: message.use_original_dst == Some(true),
        internal,
        unlimited: message.ignore_global_conn_limit || message.bypass_overload_manager,
        direction,
        stat_prefix: message.stat_prefix.clone(),
        filter_chains,
        default_filter_chain,
        transparent: transparent(message, out),
        freebind: message.freebind == Some(true),
        buffer_limit: buffer_limit.map_or(BUFFER_LIMIT, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        backlog: message.tcp_backlog_size.unwrap_or(BACKLOG),
        exact_balance: exact_balance(message, out),
        access_log: access_log::logs(&root.name("access_log"), &message.access_log, out),
        inspectors,
    })
}

/// Metadata `mizzen`, key `http1`: `lenient` or `strict`.
fn is_lenient(message: &pb::Listener, out: &mut Findings) -> bool {
    let metadata = message.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get("mizzen"));
    let Some(value) = metadata.and_then(|own| own.fields.get("http1")) else { return false };
    let root = Path::ROOT;
    let at = root.name("metadata");
    let at = at.name("filter_metadata");
    let at = at.name("mizzen");
    match &value.kind {
        Some(Kind::StringValue(word)) if word == "lenient" => return true,
        Some(Kind::StringValue(word)) if word == "strict" => {}
        Some(Kind::StringValue(word)) => out.bad(&at.name("http1"), word, "nearest valid: lenient, strict"),
        _ => out.bad(&at.name("http1"), "", "a text is expected (nearest valid: lenient, strict)"),
    }
    false
}

fn refuse_unbuilt(message: &pb::Listener, out: &mut Findings) {
    let root = Path::ROOT;
    for (field, set) in [
        ("udp_listener_config", message.udp_listener_config.is_some()),
        ("api_listener", message.api_listener.is_some()),
        ("filter_chain_matcher", message.filter_chain_matcher.is_some()),
        ("fcds_config", message.fcds_config.is_some()),
    ] {
        if set {
            out.bad(&root.name(field), "", "not supported (leave it out)");
        }
    }
}

fn transparent(message: &pb::Listener, out: &mut Findings) -> bool {
    let wanted = message.transparent == Some(true);
    if wanted && !listener_filters::may_be_transparent(out) {
        out.bad(&Path::ROOT.name("transparent"), true, listener_filters::NOT_PERMITTED);
    }
    wanted
}

/// Whether it is reached from inside only: such a listener has no address, or one that is a name in the process.
fn is_internal(message: &pb::Listener, out: &mut Findings) -> bool {
    use crate::proto::envoy::config::core::v3::address::Address as Kind;
    if message.listener_specifier.is_none() {
        return false;
    }
    let root = Path::ROOT;
    let address = message.address.as_ref().and_then(|address| address.address.as_ref());
    if !matches!(address, None | Some(Kind::EnvoyInternalAddress(_))) {
        out.bad(&root.name("address"), "", "an internal listener has no address of a socket (leave it out)");
    }
    if !message.additional_addresses.is_empty() {
        out.bad(&root.name("additional_addresses"), "", "an internal listener has none (leave it out)");
    }
    if message.use_original_dst == Some(true) {
        out.bad(&root.name("use_original_dst"), true, "not on internal listeners (nearest valid false)");
    }
    true
}

fn addresses(message: &pb::Listener, out: &mut Findings) -> Vec<Address> {
    let root = Path::ROOT;
    let mut found = Vec::new();
    found.extend(address(&root.name("address"), message.address.as_ref(), Accept::Sockets, out));
    let list = root.name("additional_addresses");
    for (i, item) in message.additional_addresses.iter().enumerate() {
        let at = list.index(i);
        let at = at.name("address");
        if let Some(read) = address(&at, item.address.as_ref(), Accept::Sockets, out) {
            if found.contains(&read) {
                out.bad(&at, &read, "this listener has the address already");
            }
            found.push(read);
        }
    }
    found
}

fn chains(message: &pb::Listener, out: &mut Findings) -> (Vec<FilterChain>, Option<FilterChain>) {
    let root = Path::ROOT;
    let list = root.name("filter_chains");
    let count = message.filter_chains.len();
    if count > MAX_CHAINS {
        let why = format!("a listener has {MAX_CHAINS} filter chains at most (nearest valid {MAX_CHAINS})");
        out.bad(&list, count, why);
        return (Vec::new(), None);
    }
    if count == 0 && message.default_filter_chain.is_none() {
        out.bad(&list, "", "at least one filter chain, or default_filter_chain");
    }
    // Positions in the resource are kept beside the chains: a chain that is refused leaves no gap in paths.
    let mut read = Vec::with_capacity(count);
    for (i, message) in message.filter_chains.iter().enumerate() {
        if let Some(chain) = chain::filter_chain(&list.index(i), message, out) {
            read.push((i, chain));
        }
    }
    check_overlaps(&list, &read, out);
    let at = root.name("default_filter_chain");
    let default = message.default_filter_chain.as_ref().and_then(|c| chain::filter_chain(&at, c, out));
    (read.into_iter().map(|(_, chain)| chain).collect(), default)
}

/// Two chains that some connection would match equally well: Envoy refuses them too.
fn check_overlaps(list: &Path<'_>, chains: &[(usize, FilterChain)], out: &mut Findings) {
    // Chains of different destination ports or server names never meet: near linear for real listeners.
    let mut met = HashMap::<_, Vec<&(usize, FilterChain)>>::new();
    for entry in chains {
        let (index, FilterChain { matcher, name, .. }) = entry;
        let names = matcher.server_names.iter().map(String::as_str);
        let names = names.chain(matcher.server_names.is_empty().then_some(""));
        let keys: Vec<_> = names.map(|name| (matcher.destination_port, name)).collect();
        let earlier = keys.iter().filter_map(|key| met.get(key)).flatten();
        let first = earlier.filter(|(_, c)| overlap(&c.matcher, matcher)).map(|(i, _)| i).min();
        if let Some(first) = first {
            let why = format!("matches the same connections as filter_chains[{first}]");
            out.bad(&list.index(*index).name("filter_chain_match"), name, why);
        }
        for key in keys {
            met.entry(key).or_default().push(entry);
        }
    }
}

fn exact_balance(message: &pb::Listener, out: &mut Findings) -> bool {
    use pb::listener::connection_balance_config::BalanceType;
    let root = Path::ROOT;
    let at = root.name("connection_balance_config");
    match message.connection_balance_config.as_ref().map(|c| c.balance_type.as_ref()) {
        None => false,
        Some(Some(BalanceType::ExactBalance(_))) => true,
        Some(Some(BalanceType::ExtendBalance(config))) => {
            let url = config.typed_config.as_ref().map_or("", |any| &any.type_url);
            out.bad(&at.name("extend_balance").name("typed_config"), url, "nearest valid: exact_balance");
            false
        }
        Some(None) => {
            out.bad(&at, "", "no balance type (nearest valid: exact_balance)");
            false
        }
    }
}
