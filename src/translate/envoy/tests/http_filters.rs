//! HTTP filters that cannot be acted upon in full are refused, and the refusal says where.

use super::listeners::manager;
use super::*;

fn refused_filter(config: &Json, wanted: &str) {
    let router = json!({"name": "router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}});
    let filters = json!([{"name": "f", "typed_config": config}, router]);
    refused(read_listener(manager(json!({"http_filters": filters}))), &[wanted]);
}

#[test]
fn policies_that_are_not_understood_are_refused() {
    let rbac = |policy: Json| {
        json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"policies": {"p": policy}}})
    };
    let any = json!([{"any": true}]);
    for (policy, wanted) in [
        (json!({"permissions": [], "principals": any}), "permissions: at least one"),
        (json!({"permissions": [{}], "principals": any}), "permissions[0]: no rule that is known"),
        (
            json!({"permissions": [{"any": false}], "principals": any}),
            "permissions[0].any: false: must be true",
        ),
        (
            json!({"permissions": any, "principals": [{"filter_state": {}}]}),
            "principals[0].filter_state.key: there is no such filter state to match (nearest valid: io.istio.peer_principal)",
        ),
        (
            json!({"permissions": [{"matcher": {"name": "m"}}], "principals": any}),
            "permissions[0].matcher: m: this matcher is not supported",
        ),
        (
            json!({"permissions": [{"not_rule": {"and_rules": {"rules": [{}]}}}], "principals": any}),
            "permissions[0].not_rule.and_rules.rules[0]: no rule that is known",
        ),
        (
            json!({"permissions": any, "principals": [{"remote_ip": {"address_prefix": "nowhere"}}]}),
            "remote_ip.address_prefix: nowhere: must be an IP address",
        ),
    ] {
        refused_filter(&rbac(policy), wanted);
    }
    let tree =
        json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "matcher": {}});
    refused_filter(&tree, "matcher: matching trees are not supported");
}

#[test]
fn filters_say_what_is_wrong_with_them() {
    let http = |kind: &str, config: &Json| {
        let mut typed = config.clone();
        typed["@type"] = format!("type.googleapis.com/envoy.extensions.filters.http.{kind}").into();
        typed
    };
    for (kind, config, wanted) in [
        ("fault.v3.HTTPFault", json!({"delay": {}}), "delay: no delay"),
        ("fault.v3.HTTPFault", json!({"abort": {"http_status": 99}}), "http_status: 99: must be 200 to 599"),
        ("buffer.v3.Buffer", json!({}), "max_request_bytes: is required"),
        (
            "local_ratelimit.v3.LocalRateLimit",
            json!({"stat_prefix": "s", "token_bucket": {"max_tokens": 1, "fill_interval": "0.01s"}}),
            "fill_interval: 0.010s: must be at least 50 ms",
        ),
        ("health_check.v3.HealthCheck", json!({}), "pass_through_mode: is required"),
        (
            "set_metadata.v3.Config",
            json!({"metadata": [{"metadata_namespace": "n"}]}),
            "metadata[0].value: is required",
        ),
        ("header_to_metadata.v3.Config", json!({}), "no rules"),
        ("compressor.v3.Compressor", json!({}), "compressor_library: is required"),
        ("header_mutation.v3.HeaderMutation", json!({"mutations": {"request_mutations": [{}]}}), "no action"),
    ] {
        refused_filter(&http(kind, &config), wanted);
    }
}

#[test]
fn istios_filters_are_read_or_say_why_not() {
    let stats =
        |metric: Json| json!({"@type": "type.googleapis.com/stats.PluginConfig", "metrics": [metric]});
    let alpn = "type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig";
    let filter = |kind: &str| {
        json!({"@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "value": {},
            "type_url": format!("type.googleapis.com/envoy.extensions.filters.http.{kind}")})
    };
    for (config, wanted) in [
        (
            stats(json!({"dimensions": {"a": "request.time"}})),
            "metrics[0].dimensions[\"a\"]: request.time: the attribute request.time is not known here",
        ),
        (
            json!({"@type": alpn, "alpn_override": [{"upstream_protocol": "HTTP2", "alpn_override": [""]}]}),
            "alpn_override[0].alpn_override[0]: must have 1 to 255 bytes",
        ),
        (filter("wasm.v3.Wasm"), "Wasm: WebAssembly is not run here"),
        (filter("lua.v3.Lua"), "Lua: Lua is not run here"),
    ] {
        refused_filter(&config, wanted);
    }
    let router = json!({"name": "router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}});
    let discovered = |url: &str| {
        json!({"name": "f", "config_discovery": {"config_source": {"ads": {}, "resource_api_version": "V3"},
            "type_urls": [format!("type.googleapis.com/envoy.extensions.filters.http.{url}")]}})
    };
    for (url, wanted) in [
        (
            "wasm.v3.Wasm",
            "config_discovery.type_urls: envoy.extensions.filters.http.wasm.v3.Wasm: none of these can be served",
        ),
        ("cors.v3.Cors", "extensions are not discovered here (nearest valid: typed_config)"),
    ] {
        let filters = json!([discovered(url), router]);
        refused(read_listener(manager(json!({"http_filters": filters}))), &[wanted]);
    }
}
