//! `stream_filters` of listeners, and what routes say about them in `per_filter_config`.

use super::headers;
use super::read::{Context, Object, brief};
use crate::model::{
    AbortWith, Algorithm, Cidr, Compression, Compressor, Fault, FaultAbort, FaultDelay, FilterConfig,
    FilterRule, Fraction, HeaderRule, HeaderToMetadata, HttpFilter, IpAccess, MetadataValue, RouteFilter,
    RouteFilters, RuleSource,
};
use std::net::IpAddr;

/// Where load balancers look for what hosts must say.
const LB: &str = "envoy.lb";

/// Filters whose absence opens a door or changes what is sent.
const NEEDED: &[&str] =
    &["jwt_authn", "rbac", "flowControlFilter", "payload_limit", "transcoder", "proxywasm", "mixer", "dsl"];

/// The filters of a listener, in order, and how many copies of a request the mirrors of its routes get. MOSN runs
/// those that act before the route is known first.
pub(super) fn stream_filters(ctx: &mut Context<'_>, listener: &mut Object<'_>) -> (Vec<HttpFilter>, usize) {
    let (mut read, mut amplification) = (Vec::new(), 0);
    for mut filter in listener.objects(ctx, "stream_filters") {
        let kind = filter.text(ctx, "type").unwrap_or_default().to_owned();
        let plugin = filter.value(ctx, "go_plugin_config").is_some();
        let path = filter.at("type");
        let config = filter.object(ctx, "config");
        let known = match kind.as_str() {
            _ if plugin => {
                ctx.error(&path, &kind, "Go plugins are not supported");
                None
            }
            "fault" => with(ctx, config, &filter, fault),
            "ip_access" => with(ctx, config, &filter, ip_access),
            "header_to_metadata" => with(ctx, config, &filter, header_to_metadata),
            "gzip" => with(ctx, config, &filter, gzip),
            "mirror" => {
                amplification = mirror(ctx, config);
                None
            }
            _ if NEEDED.contains(&kind.as_str()) => {
                ctx.error(
                    &path,
                    &kind,
                    "this stream filter comes later, and traffic would differ without it",
                );
                None
            }
            _ => {
                ctx.warn(&path, &kind, "unknown or not built stream filter, skipped");
                None
            }
        };
        read.extend(known.map(|config| HttpFilter {
            name: kind,
            disabled: false,
            rule: FilterRule::new(config),
        }));
    }
    // Before the route is known; the order within each half is the configured one.
    read.sort_by_key(|filter| !matches!(filter.rule.config, FilterConfig::IpAccess(_)));
    (read, amplification)
}

/// The most copies of one request.
const MOST_COPIES: u32 = 100;

fn mirror(ctx: &mut Context<'_>, config: Option<Object<'_>>) -> usize {
    let Some(mut config) = config else { return 1 };
    let copies = config.number(ctx, "amplification").filter(|copies| *copies > 0).unwrap_or(1);
    if copies > MOST_COPIES {
        ctx.error(&config.at("amplification"), copies, format!("expected 1 to {MOST_COPIES}"));
    }
    if config.flag(ctx, "broadcast") == Some(true) {
        let why = "not supported: clients would get an answer that no host gave (nearest valid false)";
        ctx.error(&config.at("broadcast"), true, why);
    }
    config.finish(ctx);
    copies as usize
}

fn with(
    ctx: &mut Context<'_>,
    config: Option<Object<'_>>,
    filter: &Object<'_>,
    read: fn(&mut Context<'_>, Object<'_>) -> Option<FilterConfig>,
) -> Option<FilterConfig> {
    match config {
        Some(config) => read(ctx, config),
        None => {
            ctx.error(&filter.at("config"), "", "missing");
            None
        }
    }
}

/// `per_filter_config`: only `fault` can be said anew.
pub(super) fn per_filter(ctx: &mut Context<'_>, of: &mut Object<'_>) -> RouteFilters {
    let mut filters = RouteFilters::new();
    let Some(mut all) = of.object(ctx, "per_filter_config") else { return filters };
    if let Some(config) = all.object(ctx, "fault")
        && let Some(config) = fault(ctx, config)
    {
        filters.insert("fault".to_owned(), RouteFilter::Rule(FilterRule::new(config)));
    }
    for key in ["payload_limit", "rbac", "jwt_authn"] {
        all.refuse(ctx, key, "this stream filter comes later, and traffic would differ without it");
    }
    all.finish(ctx);
    filters
}

fn share(ctx: &mut Context<'_>, of: &mut Object<'_>, key: &str) -> Fraction {
    let percent = of.number(ctx, key).unwrap_or(0);
    if percent > 100 {
        ctx.error(&of.at(key), percent, "expected 0 to 100");
    }
    Fraction { numerator: percent.min(100), denominator: 100, runtime_key: String::new() }
}

fn fault(ctx: &mut Context<'_>, mut config: Object<'_>) -> Option<FilterConfig> {
    let delay = config.object(ctx, "delay").map(|mut delay| {
        let fixed = delay.duration(ctx, "fixed_delay").unwrap_or_default();
        let share = share(ctx, &mut delay, "percentage");
        delay.skip(ctx, &["type"]);
        delay.finish(ctx);
        FaultDelay { fixed: Some(fixed), share, duration_key: String::new() }
    });
    let abort = config.object(ctx, "abort").map(|mut abort| {
        let status = abort.number(ctx, "status").unwrap_or(0);
        let path = abort.at("status");
        let share = share(ctx, &mut abort, "percentage");
        abort.finish(ctx);
        let status = u16::try_from(status).ok().filter(|status| (200..600).contains(status));
        if status.is_none() {
            ctx.error(&path, "", "expected a status from 200 to 599");
        }
        FaultAbort { with: AbortWith::Http(status.unwrap_or(503)), share, with_key: String::new() }
    });
    if delay.is_none() && abort.is_none() {
        ctx.error(&config.path, "", "neither delay nor abort");
    }
    let fault = Fault {
        delay,
        abort,
        upstream_cluster: config.text(ctx, "upstream_cluster").unwrap_or_default().to_owned(),
        headers: headers::matchers(ctx, &mut config, false),
        ..Fault::default()
    };
    config.finish(ctx);
    Some(FilterConfig::Fault(fault))
}

fn ip_access(ctx: &mut Context<'_>, mut config: Object<'_>) -> Option<FilterConfig> {
    let action = |ctx: &mut Context<'_>, of: &mut Object<'_>, key: &str| -> Option<bool> {
        match of.text(ctx, key) {
            Some("allow") => Some(true),
            Some("deny") => Some(false),
            other => {
                ctx.error(&of.at(key), other.unwrap_or_default(), "expected allow or deny");
                None
            }
        }
    };
    let allow_by_default = action(ctx, &mut config, "default_action");
    let mut lists = Vec::new();
    for mut list in config.objects(ctx, "ips") {
        let allow = action(ctx, &mut list, "action");
        let mut ranges = Vec::new();
        for (text, path) in list.texts(ctx, "addrs") {
            match range(text) {
                Some(range) => ranges.push(range),
                None => ctx.error(&path, format!("{text:?}"), "expected an IP address or ip/bits"),
            }
        }
        list.finish(ctx);
        lists.push((allow?, ranges));
    }
    let header = config.text(ctx, "header").unwrap_or_default().to_owned();
    config.finish(ctx);
    Some(FilterConfig::IpAccess(IpAccess { allow_by_default: allow_by_default?, header, lists }))
}

fn range(text: &str) -> Option<Cidr> {
    let (ip, bits) = match text.split_once('/') {
        Some((ip, bits)) => (ip.parse::<IpAddr>().ok()?, bits.parse().ok()?),
        None => {
            let ip = text.parse::<IpAddr>().ok()?;
            (ip, if ip.is_ipv4() { 32 } else { 128 })
        }
    };
    Cidr::new(ip, bits)
}

fn header_to_metadata(ctx: &mut Context<'_>, mut config: Object<'_>) -> Option<FilterConfig> {
    let mut request = Vec::new();
    for mut rule in config.objects(ctx, "request_rules") {
        let header = rule.text(ctx, "header").unwrap_or_default().to_owned();
        if header.is_empty() {
            ctx.error(&rule.at("header"), "", "missing");
        }
        let present = value(ctx, &mut rule, "on_header_present");
        let missing = value(ctx, &mut rule, "on_header_missing");
        if present.is_some() == missing.is_some() {
            ctx.error(&rule.path, "", "expected either on_header_present or on_header_missing");
        }
        let remove = rule.flag(ctx, "remove").unwrap_or(false);
        rule.finish(ctx);
        request.push(HeaderRule { source: RuleSource::Header(header), present, missing, remove });
    }
    config.finish(ctx);
    Some(FilterConfig::HeaderToMetadata(HeaderToMetadata { request, response: Vec::new() }))
}

fn value(ctx: &mut Context<'_>, rule: &mut Object<'_>, key: &str) -> Option<MetadataValue> {
    let mut pair = rule.object(ctx, key)?;
    let read = MetadataValue {
        namespace: LB.to_owned(),
        key: pair.text(ctx, "key").unwrap_or_default().to_owned(),
        value: pair.text(ctx, "value").unwrap_or_default().to_owned(),
        rewrite: None,
        number: false,
        base64: false,
    };
    if read.key.is_empty() {
        ctx.error(&pair.at("key"), "", "missing");
    }
    pair.finish(ctx);
    Some(read)
}

fn gzip(ctx: &mut Context<'_>, mut config: Object<'_>) -> Option<FilterConfig> {
    let level = config.number(ctx, "gzip_level").filter(|level| *level > 0).unwrap_or(6);
    if level > 9 {
        ctx.error(&config.at("gzip_level"), level, "expected 1 to 9");
    }
    let least = config.number(ctx, "content_length").unwrap_or(0);
    let mut types = Vec::new();
    for (kind, path) in config.texts(ctx, "content_types") {
        if kind.is_empty() {
            ctx.error(&path, brief(&kind.into()), "expected a media type");
        }
        types.push(kind.to_ascii_lowercase());
    }
    if types.is_empty() {
        types.push("text/html".to_owned());
    }
    config.finish(ctx);
    Some(FilterConfig::Compressor(Compressor {
        algorithm: Algorithm::Gzip { level: u8::try_from(level.min(9)).unwrap_or(6) },
        library: "gzip".to_owned(),
        response: Some(Compression { enabled: true.into(), least: least.into(), types }),
        request: None,
        keep_etag: false,
        remove_accept_encoding: false,
        not_codes: Vec::new(),
        choose_first: false,
        directions_in_names: false,
    }))
}
