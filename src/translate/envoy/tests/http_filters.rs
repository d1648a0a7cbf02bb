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
            "principals[0].filter_state: there is no filter state",
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
