"""What operators see, and configuration beyond the everyday."""
import re

import manifests as m
from cases_calls import call, eventually
from harness import equal, matches
from lab import VIP, case
from pods import HTTP


def total(pod, family, **labels):
    return sum(value for have, value in pod.metrics(family)
               if all(re.fullmatch(wanted, have.get(key, "")) for key, wanted in labels.items()))


@case
def access_log(lab):
    """Both sidecars write one line for a call, with Istio's default format"""
    mark = "/access-log-case"
    call(lab, path=mark)
    line = r'^\[\d{4}-.*Z\] "GET ' + mark + r' HTTP/1\.1" 200 - via_upstream - "-" 0 \d+ \d+ \d+ "-" "-" "[-0-9a-f]{36}" '
    eventually("the client's line", lambda: lab["client"].access_log(line + r'"web\.demo\.svc\.cluster\.local" '
          r'"10\.77\.0\.1[23]:8080" outbound\|80\|\|web\.demo\.svc\.cluster\.local .* - default$'), 8)
    def inbound():
        return [found for name in ("web-v1", "web-v2")
                for found in lab[name].access_log(line + r'.*inbound\|8080\|\| 127\.0\.0\.6:\d+ ')]
    eventually("the server's line", inbound, 8)
    matches(r"outbound_\.80_\._\.web\.demo\.svc\.cluster\.local default$", inbound()[0], "the server name asked for")


@case(full=True)
def standard_metrics(lab):
    """istio_requests_total on both sides, with the labels of both workloads and mutual TLS"""
    call(lab)
    common = {"source_workload": "client-v1", "destination_workload": "web-v[12]", "response_code": "200",
              "source_workload_namespace": "demo", "destination_service_name": "web", "request_protocol": "http",
              "destination_service": r"web\.demo\.svc\.cluster\.local", "source_app": "client",
              "destination_app": "web", "destination_version": "v[12]", "response_flags": "-"}
    eventually("the client's side", lambda: total(lab["client"], "istio_requests_total", reporter="source", **common), 15)

    def server():
        return sum(total(lab[name], "istio_requests_total", reporter="destination",
                         connection_security_policy="mutual_tls", **common,
                         source_principal="spiffe://cluster.local/ns/demo/sa/client") for name in ("web-v1", "web-v2"))
    eventually("the server's side", server, 15)
    for family in ("istio_request_duration_milliseconds_count", "istio_request_bytes_sum", "istio_response_bytes_sum"):
        eventually(family, lambda family=family: total(lab["client"], family, **common), 10)


@case(full=True)
def tcp_metrics(lab):
    """The metrics of a TCP connection know both workloads through the peers' exchange"""
    with lab["client"].connect(VIP["web"], 9090) as connection:
        connection.sendall(b"hello\n")
        connection.recv(100)
    common = {"source_workload": "client-v1", "destination_workload": "web-v[12]", "request_protocol": "tcp"}
    for family in ("istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total",
                   "istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"):
        eventually(family, lambda family=family: total(lab["client"], family, reporter="source", **common), 20)
    eventually("the server's side", lambda: sum(total(lab[name], "istio_tcp_connections_opened_total",
          reporter="destination", **common) for name in ("web-v1", "web-v2")), 20)


@case(full=True)
def telemetry_overrides(lab):
    """A Telemetry resource removes a label, and turns the access log off"""
    mark = "/telemetry-case"
    changed = m.telemetry("changed", selector=m.selects(app="client"), accessLogging=[{"disabled": True}], metrics=[{
        "providers": [{"name": "prometheus"}], "overrides": [{
            "match": {"metric": "REQUEST_COUNT", "mode": "CLIENT"},
            "tagOverrides": {"request_protocol": {"operation": "REMOVE"}, "shop": {"value": "'north'"}}}]}])
    with lab.applied(changed):
        def seen():
            call(lab, path=mark)
            return any(have.get("shop") == "north" and "request_protocol" not in have
                       for have, _ in lab["client"].metrics("istio_requests_total"))
        eventually("the new label", seen, 15)
        before = len(lab["client"].access_log(mark))
        call(lab, path=mark)
        equal(len(lab["client"].access_log(mark)), before, "lines")
    eventually("lines again", lambda: call(lab, path="/telemetry-over") and lab["client"].access_log("/telemetry-over"), 15)


@case
def sidecar_scoping(lab):
    """A Sidecar resource takes services out of sight: fewer clusters, and back"""
    def clusters():
        return lab["client"].admin("/clusters")[1].count("::default_priority::max_connections")
    before = clusters()
    scoped = m.sidecar("scoped", workloadSelector={"labels": {"app": "client"}},
                       egress=[{"hosts": ["./web.demo.svc.cluster.local"]}])
    with lab.applied(scoped):
        eventually("fewer clusters", lambda: clusters() < before, 15)
        call(lab)
    eventually("all clusters", lambda: clusters() >= before, 15)


@case
def unknown_filter_is_named(lab):
    """An EnvoyFilter with an unknown filter: the refusal names it, what ran goes on, other listeners still change"""
    unknown = m.envoy_filter("unknown", workloadSelector={"labels": {"app": "client"}}, configPatches=[{
        "applyTo": "HTTP_FILTER",
        "match": {"context": "SIDECAR_OUTBOUND", "listener": {"portNumber": 80, "filterChain": {"filter": {
            "name": "envoy.filters.network.http_connection_manager",
            "subFilter": {"name": "envoy.filters.http.router"}}}}},
        "patch": {"operation": "INSERT_BEFORE", "value": {
            "name": "lab.unknown", "typed_config": {
                "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
                "type_url": "type.googleapis.com/lab.test.Unknown", "value": {"a": 1}}}}}])
    known = len(lab.istiod.refusals())
    with lab.applied(unknown):
        def named():
            return [text for kind, _, text in lab.istiod.refusals()[known:] if kind == "LDS" and "lab." in text]
        eventually("istiod heard of it", named, 15)
        matches(r"lab\.(unknown|test\.Unknown)", named()[0], "the reason")
        call(lab)
        with lab["client"].connect(VIP["web"], 9090) as connection:
            connection.sendall(b"hello\n")
            assert connection.recv(10), "TCP"
    lab.settled("client")
    call(lab)


@case
def local_rate_limit(lab):
    """A local rate limit by EnvoyFilter holds back what is too much"""
    everything = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}, "runtime_key": "none"}
    limit = m.envoy_filter("limit", workloadSelector={"labels": {"app": "web"}}, configPatches=[{
        "applyTo": "HTTP_FILTER",
        "match": {"context": "SIDECAR_INBOUND", "listener": {"filterChain": {"filter": {
            "name": "envoy.filters.network.http_connection_manager"}}}},
        "patch": {"operation": "INSERT_BEFORE", "value": {
            "name": "envoy.filters.http.local_ratelimit", "typed_config": {
                "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
                "type_url": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
                "value": {"stat_prefix": "limit", "filter_enabled": everything, "filter_enforced": everything,
                          "token_bucket": {"max_tokens": 3, "tokens_per_fill": 3, "fill_interval": "600s"}}}}}}])
    plain, web = lab["plain"], lab["web-v1"].address
    with lab.applied(limit):
        eventually("held back", lambda: plain.http(web, HTTP).status == 429, 20)
    eventually("free again", lambda: plain.http(web, HTTP).status == 200, 15)


@case
def merged_metrics(lab):
    """The agent's merged page holds the sidecar's metrics, Envoy's names with Istio's tags"""
    call(lab)
    status, text = lab["client"].admin("/stats/prometheus", port=15020)
    equal(status, 200, "scrape")
    matches(r"(?m)^envoy_server_live(\{\})? 1$", text, "server.live")
    matches(r"(?m)^envoy_cluster_manager_cds_update_success(\{\})? [1-9]", text, "cds.update_success")
    families = re.findall(r"(?m)^# TYPE (envoy_\S+|istio_\S+)", text)
    equal(len(families), len(set(families)), "a family is declared once")
    status, text = lab["client"].admin("/stats/prometheus", port=15090)
    equal(status, 200, "port 15090")
