"""What is pushed and asked: filters, routes and requests by name, and configurations that one should refuse."""
HTTP = "type.googleapis.com/envoy.extensions.filters.http."


def typed(kind, **fields):
    return {"@type": HTTP + kind, **fields}


def share(numerator, denominator="HUNDRED"):
    return {"numerator": numerator, "denominator": denominator}


def exact(name, value):
    return {"name": name, "string_match": {"exact": value}}


def put(key, value, action="APPEND_IF_EXISTS_OR_ADD"):
    return {"append": {"header": {"key": key, "value": value}, "append_action": action}}


def bucket(tokens, **more):
    return typed("local_ratelimit.v3.LocalRateLimit", stat_prefix="rl",
                 token_bucket={"max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": "1000s"},
                 filter_enabled={"default_value": share(100)}, filter_enforced={"default_value": share(100)}, **more)


def gzip(**more):
    library = {"name": "text", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip"}}
    return typed("compressor.v3.Compressor", compressor_library=library, **more)


def rbac(action, **policies):
    return typed("rbac.v3.RBAC", rules={"action": action, "policies": policies})


def policy(permission, principal=None):
    return {"permissions": [permission], "principals": [principal or {"any": True}]}


def get(path="/", method="GET", body=None, **headers):
    return method, path, {name.replace("_", "-"): value for name, value in headers.items()}, body


CORS = typed("cors.v3.CorsPolicy", allow_origin_string_match=[
    {"exact": "http://a.test"}, {"safe_regex": {"regex": "https://[a-z]+\\.b\\.test"}}], allow_methods="GET, PUT",
    allow_headers="x-one, x-two", expose_headers="x-shown", max_age="600", allow_credentials=True)
PREFLIGHT = {"access_control_request_method": "PUT", "access_control_request_headers": "x-one"}

# Name: the filter, what its route says, the requests, and the counters to compare.
CASES = {
    "fault abort": (typed("fault.v3.HTTPFault", abort={"http_status": 418, "percentage": share(100)},
                          headers=[exact("x-fault", "1")]), None,
                    [get(), get(x_fault="1"), get(x_fault="1", content_type="application/grpc"), get(x_fault="2"),
                     get("/", "HEAD", x_fault="1")],
                    ["http.h.fault.aborts_injected", "http.h.fault.delays_injected", "http.h.fault.active_faults"]),
    "fault abort by header": (typed("fault.v3.HTTPFault", abort={"header_abort": {}, "percentage": share(100)}), None,
                              [get(), get(x_envoy_fault_abort_request="503"), get(x_envoy_fault_abort_request="99"),
                               get(x_envoy_fault_abort_request="429", x_envoy_fault_abort_request_percentage="0"),
                               get(x_envoy_fault_abort_grpc_request="5", content_type="application/grpc")],
                              ["http.h.fault.aborts_injected"]),
    "fault grpc": (typed("fault.v3.HTTPFault", abort={"grpc_status": 14, "percentage": share(100)}), None,
                   [get(), get(content_type="application/grpc")], ["http.h.fault.aborts_injected"]),
    "fault delay": (typed("fault.v3.HTTPFault", delay={"fixed_delay": "0.05s", "percentage": share(100)},
                          upstream_cluster="other"), None, [get(), get("/x")], ["http.h.fault.delays_injected"]),
    "cors": (typed("cors.v3.Cors"), CORS,
             [get(), get(origin="http://a.test"), get(origin="http://c.test"), get(origin="https://sub.b.test"),
              get("/", "OPTIONS", origin="http://a.test", **PREFLIGHT), get("/", "OPTIONS", origin="http://a.test"),
              get("/", "OPTIONS", origin="http://c.test", **PREFLIGHT), get("/", "OPTIONS", **PREFLIGHT),
              get("/", "PUT", "x", origin="https://x.b.test")],
             ["http.h.cors.origin_valid", "http.h.cors.origin_invalid"]),
    "header_mutation": (typed("header_mutation.v3.HeaderMutation", mutations={
        "request_mutations": [put("x-new", "%REQ(x-in)%!"), put("x-in", "more"), {"remove": "x-gone"},
                              put("x-set", "s", "OVERWRITE_IF_EXISTS_OR_ADD"), put("x-abs", "a", "ADD_IF_ABSENT"),
                              put("x-over", "o", "OVERWRITE_IF_EXISTS")],
        "response_mutations": [put("x-status", "%RESPONSE_CODE%"), {"remove": "x-old"}, put("x-up", "2")]}), None,
        [get(), get(x_in="i", x_gone="g", x_set="0", x_abs="0", x_over="0")], []),
    "rbac allow": (rbac("ALLOW", ok=policy({"header": exact("x-ok", "yes")}), path=policy(
        {"url_path": {"path": {"prefix": "/open"}}}), put=policy({"and_rules": {"rules": [
            {"header": exact(":method", "PUT")}, {"not_rule": {"header": exact("x-no", "1")}}]}})), None,
        [get(), get(x_ok="yes"), get(x_ok="no"), get("/open/x?y"), get("/", "PUT", "b"), get("/", "PUT", "b", x_no="1"),
         get(content_type="application/grpc")], ["http.h.rbac.allowed", "http.h.rbac.denied"]),
    "rbac deny": (rbac("DENY", who=policy({"any": True}, {"header": exact("x-who", "evil")}), ip=policy(
        {"url_path": {"path": {"exact": "/ip"}}}, {"direct_remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}})),
        None, [get(), get(x_who="evil"), get("/ip"), get("/ip/")], ["http.h.rbac.allowed", "http.h.rbac.denied"]),
    "local_ratelimit": (bucket(2), None, [get(), get(), get(), get(content_type="application/grpc")],
                        ["rl.http_local_rate_limit.enabled", "rl.http_local_rate_limit.ok",
                         "rl.http_local_rate_limit.rate_limited", "rl.http_local_rate_limit.enforced"]),
    "local_ratelimit told": (bucket(1, status={"code": "ServiceUnavailable"}, enable_x_ratelimit_headers="DRAFT_VERSION_03",
                                    response_headers_to_add=[{"header": {"key": "x-limited", "value": "1"}}]), None,
                             [get(), get(), get()], ["rl.http_local_rate_limit.rate_limited"]),
    "local_ratelimit on its route": (typed("local_ratelimit.v3.LocalRateLimit", stat_prefix="none"), bucket(1),
                                     [get(), get()], ["rl.http_local_rate_limit.rate_limited"]),
    "buffer": (typed("buffer.v3.Buffer", max_request_bytes=10), None,
               [get(), get("/", "POST", "short"), get("/", "POST", "x" * 10), get("/", "POST", "x" * 11),
                get("/", "POST", "x" * 5000, content_type="application/grpc")], []),
    "buffer off on its route": (typed("buffer.v3.Buffer", max_request_bytes=3),
                                typed("buffer.v3.BufferPerRoute", disabled=True), [get("/", "POST", "longer")], []),
    "compressor": (gzip(), None,
                   [get("/long"), get("/long", accept_encoding="gzip"), get("/long", accept_encoding="br, gzip;q=0.5"),
                    get("/long", accept_encoding="gzip;q=0"), get("/long", accept_encoding="*"),
                    get("/short", accept_encoding="gzip"), get("/long/image", accept_encoding="gzip"),
                    get("/long/etag", accept_encoding="gzip"), get("/long", accept_encoding="identity, *;q=0")],
                   ["http.h.compressor.text.gzip.compressed", "http.h.compressor.text.gzip.not_compressed"]),
    "compressor off on its route": (gzip(), typed("compressor.v3.CompressorPerRoute", disabled=True),
                                    [get("/long", accept_encoding="gzip")], []),
}

# Whether these are taken, Envoy says.
VERDICTS = {
    "fault without an error": typed("fault.v3.HTTPFault", abort={"percentage": share(1)}),
    "fault with status 99": typed("fault.v3.HTTPFault", abort={"http_status": 99}),
    "fault with nothing": typed("fault.v3.HTTPFault"),
    "delay without a time": typed("fault.v3.HTTPFault", delay={"percentage": share(1)}),
    "delay of nothing": typed("fault.v3.HTTPFault", delay={"fixed_delay": "0s"}),
    "limit without a prefix": typed("local_ratelimit.v3.LocalRateLimit"),
    "limit that fills too often": typed("local_ratelimit.v3.LocalRateLimit", stat_prefix="x", token_bucket={
        "max_tokens": 1, "fill_interval": "0.01s"}),
    "limit without tokens": typed("local_ratelimit.v3.LocalRateLimit", stat_prefix="x", token_bucket={
        "fill_interval": "1s"}),
    "buffer without a limit": typed("buffer.v3.Buffer"),
    "buffer of nothing": typed("buffer.v3.Buffer", max_request_bytes=0),
    "policy without permissions": rbac("ALLOW", p={"principals": [{"any": True}]}),
    "policy without principals": rbac("ALLOW", p={"permissions": [{"any": True}]}),
    "permission of nothing": rbac("ALLOW", p=policy({})),
    "permission any false": rbac("ALLOW", p=policy({"any": False})),
    "rbac without rules": typed("rbac.v3.RBAC"),
    "path removed": typed("header_mutation.v3.HeaderMutation", mutations={"request_mutations": [{"remove": ":path"}]}),
    "path written": typed("header_mutation.v3.HeaderMutation", mutations={"request_mutations": [put(":path", "/x")]}),
    "unknown operator": typed("header_mutation.v3.HeaderMutation", mutations={
        "request_mutations": [put("x", "%NO_SUCH_THING%")]}),
    "mutation of nothing": typed("header_mutation.v3.HeaderMutation", mutations={"request_mutations": [{}]}),
    "compressor without a library": typed("compressor.v3.Compressor"),
    "cors": typed("cors.v3.Cors"),
    "the router twice": typed("router.v3.Router"),
    "no such filter": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"},
}
