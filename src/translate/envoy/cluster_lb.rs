//! Load balancing of a cluster: the enumeration with its options, typed policies, subsets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::endpoints::lb_texts;
use super::extension::Extension;
use super::values::{enumeration, percent, positive, within};
use crate::model::{Cluster, Fallback, HashFunction, LbPolicy, Selector, SlowStart, Subsets};
use crate::proto::envoy::config::cluster::v3 as pb;
use crate::proto::envoy::config::core::v3::RuntimeDouble;
use crate::proto::envoy::extensions::load_balancing_policies as policies;
use crate::proto::envoy::r#type::v3::Percent;
use crate::translate::finding::{Findings, Path};
use policies::common::v3 as common;

/// `choice_count` of least request if absent.
const CHOICES: u32 = 2;
/// Points of a ring if absent, and the most of them.
const RING_MIN: u32 = 1024;
const RING_MAX: u32 = 8 << 20;
/// Slots of a Maglev table if absent, and the most of them.
const MAGLEV: u32 = 65_537;
const MAGLEV_MAX: u32 = 5_000_011;
/// Policies in policies: `WrrLocality` holds a list, whose items might again.
const MAX_NESTING: usize = 4;

/// Applies everything about load balancing.
pub(super) fn apply(message: &pb::Cluster, model: &mut Cluster, out: &mut Findings) {
    let root = Path::ROOT;
    if let Some(config) = &message.common_lb_config {
        common_config(&root.name("common_lb_config"), config, model, out);
    }
    // A typed policy wins over the enumeration, as in Envoy.
    if let Some(policy) = &message.load_balancing_policy {
        let at = root.name("load_balancing_policy");
        typed(&at, policy, model, 0, out);
    } else {
        named(message, model, out);
    }
    if let Some(config) = &message.lb_subset_config {
        model.subsets = subsets(&root.name("lb_subset_config"), config, out).map(Into::into);
    }
}

fn common_config(
    path: &Path<'_>,
    config: &pb::cluster::CommonLbConfig,
    model: &mut Cluster,
    out: &mut Findings,
) {
    use pb::cluster::common_lb_config::LocalityConfigSpecifier as Locality;
    if let Some(threshold) = &config.healthy_panic_threshold {
        model.panic_threshold = percent(&path.name("healthy_panic_threshold"), threshold.value, out);
        model.panic_by_default = false;
    }
    match &config.locality_config_specifier {
        Some(Locality::LocalityWeightedLbConfig(_)) => model.locality_weighted = true,
        // Without a local cluster, which Mizzen has not, Envoy routes by zone nowhere either.
        Some(Locality::ZoneAwareLbConfig(zone)) => model.fail_on_panic = zone.fail_traffic_on_panic,
        None => {}
    }
    if let Some(hashing) = &config.consistent_hashing_lb_config {
        let at = path.name("consistent_hashing_lb_config");
        model.hash_by_hostname = hashing.use_hostname_for_hashing;
        refuse_bounded(&at, hashing.hash_balance_factor, out);
    }
    model.ignore_unchecked = config.ignore_new_hosts_until_first_hc;
}

fn refuse_bounded(path: &Path<'_>, factor: Option<u32>, out: &mut Findings) {
    if let Some(factor) = factor.filter(|factor| *factor != 0) {
        out.bad(
            &path.name("hash_balance_factor"),
            factor,
            "bounded loads are not supported (nearest valid: 0)",
        );
    }
}

fn named(message: &pb::Cluster, model: &mut Cluster, out: &mut Findings) {
    use pb::cluster::{LbConfig, LbPolicy as Policy};
    let root = Path::ROOT;
    let at = root.name("lb_policy");
    let Some(policy) = enumeration(&at, message.lb_policy, out) else { return };
    match (policy, &message.lb_config) {
        (Policy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(config))) => {
            let at = root.name("round_robin_lb_config");
            slow_start(&at, config.slow_start_config.as_ref().map(Slow::from), model, out);
        }
        (Policy::RoundRobin, _) => {}
        (Policy::Random, _) => model.lb = LbPolicy::Random,
        (Policy::LeastRequest, config) => {
            let at = root.name("least_request_lb_config");
            let config = match config {
                Some(LbConfig::LeastRequestLbConfig(config)) => config.clone(),
                _ => Default::default(),
            };
            let bias = config.active_request_bias.as_ref();
            least_request(&at, config.choice_count, bias, false, model, out);
            slow_start(&at, config.slow_start_config.as_ref().map(Slow::from), model, out);
        }
        (Policy::RingHash, config) => {
            use pb::cluster::ring_hash_lb_config::HashFunction as Function;
            let at = root.name("ring_hash_lb_config");
            let config = match config {
                Some(LbConfig::RingHashLbConfig(config)) => *config,
                _ => Default::default(),
            };
            let function = match enumeration(&at.name("hash_function"), config.hash_function, out) {
                Some(Function::MurmurHash2) => HashFunction::MurmurHash2,
                _ => HashFunction::XxHash,
            };
            model.lb = ring(&at, config.minimum_ring_size, config.maximum_ring_size, function, out);
        }
        (Policy::Maglev, config) => {
            let size = match config {
                Some(LbConfig::MaglevLbConfig(config)) => config.table_size,
                _ => None,
            };
            model.lb = maglev(&root.name("maglev_lb_config"), size, out);
        }
        (Policy::ClusterProvided, _) => model.lb = LbPolicy::ClusterProvided,
        (Policy::LoadBalancingPolicyConfig, _) => {
            out.bad(&root.name("load_balancing_policy"), "", "lb_policy points to it, but it is not there");
        }
    }
}

fn least_request(
    path: &Path<'_>,
    choices: Option<u32>,
    bias: Option<&RuntimeDouble>,
    full_scan: bool,
    model: &mut Cluster,
    out: &mut Findings,
) {
    let choices = within(&path.name("choice_count"), choices.unwrap_or(CHOICES), 2, u32::MAX, out);
    if let Some(bias) = bias.filter(|bias| !bias.runtime_key.is_empty()) {
        Arc::make_mut(model.lb_keys.get_or_insert_default()).bias.clone_from(&bias.runtime_key);
    }
    let bias = bias.map_or(1.0, |bias| bias.default_value);
    if bias.is_nan() || bias < 0.0 {
        out.bad(&path.name("active_request_bias"), bias, "must not be negative (nearest valid 0)");
    }
    model.lb = LbPolicy::LeastRequest { choices, bias: bias.max(0.0), full_scan };
}

fn ring(
    path: &Path<'_>,
    min: Option<u64>,
    max: Option<u64>,
    function: HashFunction,
    out: &mut Findings,
) -> LbPolicy {
    let mut size = |field: &str, value: Option<u64>, default: u32| {
        let value = u32::try_from(value.unwrap_or(default.into())).unwrap_or(u32::MAX);
        within(&path.name(field), value, 0, RING_MAX, out)
    };
    let (min, max) = (size("minimum_ring_size", min, RING_MIN), size("maximum_ring_size", max, RING_MAX));
    if min > max {
        out.bad(
            &path.name("minimum_ring_size"),
            min,
            format_args!("above maximum_ring_size (nearest valid {max})"),
        );
    }
    LbPolicy::RingHash { min: min.max(1), max: max.max(1), function }
}

fn maglev(path: &Path<'_>, size: Option<u64>, out: &mut Findings) -> LbPolicy {
    let at = path.name("table_size");
    let size = u32::try_from(size.unwrap_or(MAGLEV.into())).unwrap_or(u32::MAX);
    let size = within(&at, size, 2, MAGLEV_MAX, out);
    let prime = size == 2
        || (!size.is_multiple_of(2)
            && (3..).step_by(2).take_while(|d| d * d <= size).all(|d| !size.is_multiple_of(d)));
    if !prime {
        out.bad(&at, size, "must be a prime number (nearest usual: 65537)");
    }
    LbPolicy::Maglev { table_size: size }
}

/// Slow start of either API.
struct Slow<'a> {
    window: Option<&'a prost_types::Duration>,
    aggression: Option<&'a RuntimeDouble>,
    min_weight: Option<&'a Percent>,
}

impl<'a> From<&'a pb::cluster::SlowStartConfig> for Slow<'a> {
    fn from(config: &'a pb::cluster::SlowStartConfig) -> Self {
        Slow {
            window: config.slow_start_window.as_ref(),
            aggression: config.aggression.as_ref(),
            min_weight: config.min_weight_percent.as_ref(),
        }
    }
}

impl<'a> From<&'a common::SlowStartConfig> for Slow<'a> {
    fn from(config: &'a common::SlowStartConfig) -> Self {
        Slow {
            window: config.slow_start_window.as_ref(),
            aggression: config.aggression.as_ref(),
            min_weight: config.min_weight_percent.as_ref(),
        }
    }
}

fn slow_start(path: &Path<'_>, config: Option<Slow<'_>>, model: &mut Cluster, out: &mut Findings) {
    let Some(config) = config else { return };
    let at = path.name("slow_start_config");
    let Some(window) = config.window else { return };
    let window = positive(&at.name("slow_start_window"), Some(window), Duration::ZERO, out);
    if let Some(given) = config.aggression.filter(|given| !given.runtime_key.is_empty()) {
        Arc::make_mut(model.lb_keys.get_or_insert_default()).aggression.clone_from(&given.runtime_key);
    }
    let aggression = config.aggression.map_or(1.0, |value| value.default_value);
    if aggression.is_nan() || aggression <= 0.0 {
        out.bad(&at.name("aggression"), aggression, "must be above 0 (nearest usual: 1)");
    }
    let share = config.min_weight.map_or(10.0, |share| share.value);
    percent(&at.name("min_weight_percent"), share, out);
    let min_weight = share.clamp(0.0, 100.0) / 100.0;
    model.slow_start = Some(Box::new(SlowStart { window, aggression, min_weight }));
}

/// The first policy of a known type.
fn typed(
    path: &Path<'_>,
    policy: &pb::LoadBalancingPolicy,
    model: &mut Cluster,
    depth: usize,
    out: &mut Findings,
) {
    let list = path.name("policies");
    let mut refused = Vec::new();
    for (i, item) in policy.policies.iter().enumerate() {
        let at = list.index(i);
        let at = at.name("typed_extension_config");
        let at = at.name("typed_config");
        let Some(any) = item.typed_extension_config.as_ref().and_then(|c| c.typed_config.as_ref()) else {
            out.bad(&at, "", "no typed_config");
            return;
        };
        let Some(extension) = Extension::open(&at, any, out) else { return };
        if known(&at, &extension, model, depth, out) {
            return;
        }
        refused.push(extension.type_url.into_owned());
    }
    let why = "none of these policies is supported (nearest valid: LeastRequest, RoundRobin, Random, RingHash, \
               Maglev, WrrLocality)";
    out.bad(&list, refused.join(", "), why);
}

/// Applies a policy; `false`: it is of no known type.
fn known(
    at: &Path<'_>,
    extension: &Extension<'_>,
    model: &mut Cluster,
    depth: usize,
    out: &mut Findings,
) -> bool {
    use policies::least_request::v3::{LeastRequest, least_request::SelectionMethod};
    use policies::maglev::v3::Maglev;
    use policies::random::v3::Random;
    use policies::ring_hash::v3::{RingHash, ring_hash::HashFunction as Function};
    use policies::round_robin::v3::RoundRobin;
    use policies::wrr_locality::v3::WrrLocality;
    if extension.is::<RoundRobin>() {
        let Some(config) = extension.decode::<RoundRobin>(at, out) else { return true };
        model.lb = LbPolicy::RoundRobin;
        slow_start(at, config.slow_start_config.as_ref().map(Slow::from), model, out);
        locality(config.locality_lb_config.as_ref(), model);
    } else if extension.is::<Random>() {
        let Some(config) = extension.decode::<Random>(at, out) else { return true };
        model.lb = LbPolicy::Random;
        locality(config.locality_lb_config.as_ref(), model);
    } else if extension.is::<LeastRequest>() {
        let Some(config) = extension.decode::<LeastRequest>(at, out) else { return true };
        let method = enumeration(&at.name("selection_method"), config.selection_method, out);
        let scan = method == Some(SelectionMethod::FullScan);
        least_request(at, config.choice_count, config.active_request_bias.as_ref(), scan, model, out);
        slow_start(at, config.slow_start_config.as_ref().map(Slow::from), model, out);
        locality(config.locality_lb_config.as_ref(), model);
    } else if extension.is::<RingHash>() {
        let Some(config) = extension.decode::<RingHash>(at, out) else { return true };
        let function = match enumeration(&at.name("hash_function"), config.hash_function, out) {
            Some(Function::MurmurHash2) => HashFunction::MurmurHash2,
            _ => HashFunction::XxHash,
        };
        model.lb = ring(at, config.minimum_ring_size, config.maximum_ring_size, function, out);
        model.locality_weighted |= config.locality_weighted_lb_config.is_some();
        model.hash_by_hostname = config.use_hostname_for_hashing;
        refuse_bounded(at, config.hash_balance_factor, out);
        hashing(at, config.consistent_hashing_lb_config.as_ref(), model, out);
    } else if extension.is::<Maglev>() {
        let Some(config) = extension.decode::<Maglev>(at, out) else { return true };
        model.lb = maglev(at, config.table_size, out);
        model.locality_weighted |= config.locality_weighted_lb_config.is_some();
        hashing(at, config.consistent_hashing_lb_config.as_ref(), model, out);
    } else if extension.is::<WrrLocality>() {
        let Some(config) = extension.decode::<WrrLocality>(at, out) else { return true };
        let path = at.name("endpoint_picking_policy");
        match config.endpoint_picking_policy.filter(|_| depth < MAX_NESTING) {
            Some(inner) => typed(&path, &inner, model, depth + 1, out),
            None => out.bad(&path, "", "is required"),
        }
        model.locality_weighted = true;
    } else {
        return false;
    }
    true
}

fn locality(config: Option<&common::LocalityLbConfig>, model: &mut Cluster) {
    use common::locality_lb_config::LocalityConfigSpecifier as Locality;
    match config.and_then(|config| config.locality_config_specifier.as_ref()) {
        Some(Locality::LocalityWeightedLbConfig(_)) => model.locality_weighted = true,
        Some(Locality::ZoneAwareLbConfig(zone)) => model.fail_on_panic = zone.fail_traffic_on_panic,
        None => {}
    }
}

fn hashing(
    at: &Path<'_>,
    config: Option<&common::ConsistentHashingLbConfig>,
    model: &mut Cluster,
    out: &mut Findings,
) {
    let Some(config) = config else { return };
    model.hash_by_hostname |= config.use_hostname_for_hashing;
    refuse_bounded(&at.name("consistent_hashing_lb_config"), config.hash_balance_factor, out);
}

fn subsets(path: &Path<'_>, config: &pb::cluster::LbSubsetConfig, out: &mut Findings) -> Option<Subsets> {
    use pb::cluster::lb_subset_config::{LbSubsetFallbackPolicy as Policy, LbSubsetMetadataFallbackPolicy};
    if config.subset_selectors.is_empty() {
        return None;
    }
    for (field, set) in [
        ("locality_weight_aware", config.locality_weight_aware),
        ("scale_locality_weight", config.scale_locality_weight),
        ("list_as_any", config.list_as_any),
    ] {
        if set {
            out.bad(&path.name(field), true, "not supported (nearest valid false)");
        }
    }
    let at = path.name("metadata_fallback_policy");
    let list = enumeration(&at, config.metadata_fallback_policy, out);
    if list == Some(LbSubsetMetadataFallbackPolicy::FallbackList) {
        out.bad(&at, "FALLBACK_LIST", "not supported (nearest valid METADATA_NO_FALLBACK)");
    }
    let fallback = match enumeration(&path.name("fallback_policy"), config.fallback_policy, out)? {
        Policy::NoFallback => Fallback::None,
        Policy::AnyEndpoint => Fallback::Any,
        Policy::DefaultSubset => Fallback::DefaultSubset,
    };
    let at = path.name("subset_selectors");
    let selectors = config.subset_selectors.iter().enumerate();
    let default_subset = config.default_subset.as_ref().map_or_else(BTreeMap::new, lb_texts);
    Some(Subsets {
        fallback,
        default_subset,
        selectors: selectors.filter_map(|(i, item)| selector(&at.index(i), item, out)).collect(),
        panic_mode_any: config.panic_mode_any,
    })
}

fn selector(
    path: &Path<'_>,
    item: &pb::cluster::lb_subset_config::LbSubsetSelector,
    out: &mut Findings,
) -> Option<Selector> {
    use pb::cluster::lb_subset_config::lb_subset_selector::LbSubsetSelectorFallbackPolicy as Policy;
    let sorted = |keys: &[String]| {
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        keys.dedup();
        keys
    };
    let (keys, fallback_keys) = (sorted(&item.keys), sorted(&item.fallback_keys_subset));
    let fallback = match enumeration(&path.name("fallback_policy"), item.fallback_policy, out)? {
        Policy::NotDefined => None,
        Policy::NoFallback => Some(Fallback::None),
        Policy::AnyEndpoint => Some(Fallback::Any),
        Policy::DefaultSubset => Some(Fallback::DefaultSubset),
        Policy::KeysSubset => Some(Fallback::Keys),
    };
    if fallback == Some(Fallback::Keys) {
        let inside = fallback_keys.iter().all(|key| keys.contains(key));
        if fallback_keys.is_empty() || !inside || fallback_keys == keys {
            let why = "must be some of the selector's keys, and fewer";
            out.bad(&path.name("fallback_keys_subset"), fallback_keys.join(", "), why);
        }
    }
    Some(Selector { keys, fallback, fallback_keys, single_host: item.single_host_per_subset })
}
