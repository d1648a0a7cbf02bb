"""The stream on the wire and what a push does: verdicts, warming, removals, reconnects. SotW and delta."""
import json
import time

from google.protobuf import any_pb2

from ads import CDS, EDS, LDS, RDS, TYPE, Ads, packed
from envoy.service.discovery.v3 import discovery_pb2
from harness import Folder, Mizzen, bootstrap, case, equal, free_port, matches, until
from resources import (STARTTLS, cluster, endpoints, hcm_filter, listener, routes, rpc_by_hand, rpc_filter,
                       tcp_filter, to)
from wire import Bolt, BoltServer, TcpServer, call, greeting, refused

VARIANTS = (False, True)


def both(function):
    """A case in both variants of the protocol."""
    for delta in VARIANTS:
        def variant(delta=delta):
            function(delta)
        variant.__name__ = f"{function.__name__}_{'delta' if delta else 'sotw'}"
        variant.__doc__ = function.__doc__
        case(variant)
    return function


class Lab:
    """A control plane and a proxy on it."""

    def __init__(self, delta, *args, silent=(), hold=(), fetch_timeout="0s", **more):
        self.ads = Ads(delta)
        self.ads.silent = set(silent)
        for kind, resource in hold:
            self.ads.hold(kind, resource)
        self.proxy = Mizzen(bootstrap(free_port(), ads_port=self.ads.port, delta=delta,
                                      fetch_timeout=fetch_timeout, **more), *args)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.proxy.__exit__(*error)
        self.ads.stop()

    def ack(self, nonce):
        equal(self.ads.answer(nonce).error, "", "error_detail")

    def nack(self, nonce):
        seen = self.ads.answer(nonce)
        assert seen.error, "was an ACK"
        return seen.error

    def good(self, kind, *resources, **more):
        self.ack(self.ads.put(kind, *resources, **more))


def bolt_world(port, ports, delta=False, cluster_name="up"):
    """Everything for one bolt listener."""
    return [(CDS, cluster(cluster_name)), (EDS, endpoints(cluster_name, ports)),
            (LDS, listener("bolt", port, rpc_filter("table"))), (RDS, routes("table", to(cluster_name)))]


@both
def first_requests(delta):
    """node on the first request only; CDS, EDS, LDS, RDS in this order; nonces and versions as they came"""
    port = free_port()
    with BoltServer() as up, Lab(delta, hold=bolt_world(port, [up.port])) as lab:
        lab.proxy.live()
        equal(call(port).status, 0, "a call")
        seen = lab.ads.of(stream=1)
        first = []
        for s in seen:
            if s.type not in first:
                first.append(s.type)
        equal(first, [CDS, EDS, LDS, RDS], "order of first requests")
        equal(seen[0].request.node.id, "interop~1", "node of the first request")
        assert not any(s.request.HasField("node") for s in seen[1:]), "node again"
        matches("(?i)mizzen", seen[0].request.node.user_agent_name, "user_agent_name")
        for s in seen:
            if s.request.response_nonce:
                equal(s.error, "")
                if not delta:
                    assert s.request.version_info.startswith("v"), s.request
                else:
                    assert not s.request.resource_names_subscribe, f"subscribe rides on an ACK: {s.request}"
        eds = next(s for s in seen if s.type == EDS).request
        equal(list(eds.resource_names_subscribe if delta else eds.resource_names), ["up"], "EDS names")


@both
def eds_service_name(delta):
    """EDS is asked for by service_name; two clusters share one assignment; unneeded names are let go"""
    port = free_port()
    with TcpServer() as up, Lab(delta, hold=[
            (CDS, cluster("a", service="svc")), (CDS, cluster("b", service="svc")), (EDS, endpoints("svc", [up.port])),
            (LDS, listener("l", port, tcp_filter("b")))]) as lab:
        lab.proxy.live()
        equal(greeting(port), "one")
        lab.good(LDS, listener("l", port, tcp_filter("a")))
        until("switched", lambda: lab.proxy.stat("listener_manager.listener_modified") >= 1)
        lab.good(CDS, removed=["b"])
        if delta:
            lab.good(LDS, removed=["l"])
            lab.good(CDS, removed=["a"])
            lab.ads.wait("unsubscribe", lambda s: s.type == EDS and "svc" in s.request.resource_names_unsubscribe)


BAD_NAMES = [
    ("regex", lambda: routes("table", {"match": {"safe_regex": {"regex": "(["}}, "route": {"cluster": "up"}}),
     r"table: virtual_hosts\[0\]\.routes\[0\]\.match\.safe_regex\.regex: .*\(\["),
]


@both
def nack_names_the_field(delta):
    """NACK text is `type name: field.path[i].to: value: why`; good ones of the response apply and are not named"""
    port = free_port()
    with TcpServer("good") as up, Lab(delta) as lab:
        lab.proxy.wait_admin()
        lab.ads.wait("CDS request", lambda s: s.type == CDS)
        bad = cluster("bad", [1])
        bad.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address = "not-an-ip"
        text = lab.nack(lab.ads.put(CDS, cluster("fine", [up.port]), bad))
        matches(r"(?i)^cluster bad: load_assignment\.endpoints\[0\]\.lb_endpoints\[0\]\.endpoint\.address\."
                r"socket_address\.address: .*not-an-ip.*: ", text)
        assert "fine" not in text, f"a good resource is named: {text}"
        seen = lab.ads.of(CDS)[-1]
        assert seen.request.error_detail.code in (3, 13), seen.request.error_detail.code
        if not delta:  # the empty answer to the first request was accepted
            equal(seen.request.version_info, "v1", "version of a NACK is the last accepted")
        lab.ads.held[CDS].pop("bad")
        lab.ads.wait("LDS request", lambda s: s.type == LDS)
        lab.good(LDS, listener("l", port, tcp_filter("fine")))
        until("the good cluster serves", lambda: not refused(port))
        equal(greeting(port), "good")
        # A route table with a bad regex keeps its last good version.
        http = free_port()
        lab.ads.hold(RDS, routes("table", to("fine")))
        lab.good(LDS, listener("h", http, rpc_filter("table", "http2")))
        lab.ads.wait("RDS ACK", lambda s: s.type == RDS and s.request.response_nonce)
        for _, make, pattern in BAD_NAMES:
            matches("(?i)^route(_?configuration| table| configuration)? " + pattern, lab.nack(lab.ads.put(RDS, make())))
        # One bad listener among good ones, with an unknown Any: the value is its type URL.
        other = listener("odd", free_port(), tcp_filter("fine"))
        other.filter_chains[0].filters[0].typed_config.type_url = TYPE + "some.Unknown"
        text = lab.nack(lab.ads.put(LDS, other))
        matches(r"(?i)^listener odd: filter_chains\[0\]\.filters\[0\]\.typed_config: .*some\.Unknown", text)
        lab.ads.held[LDS].pop("odd")
        errors = [d["error_state"] for c in lab.proxy.dump()["configs"] for d in c.get("dynamic_listeners", [])
                  if "error_state" in d]
        assert any("some.Unknown" in json.dumps(e) for e in errors), errors
        assert errors[0].get("details") and errors[0].get("last_update_attempt"), errors
        assert lab.proxy.stat("listener_manager.lds.update_rejected") == 1


@both
def nack_is_bounded(delta):
    """error_detail lists the first 20 and stays within 8 KiB, then `and N more, see /config_dump`"""
    with Lab(delta) as lab:
        lab.ads.wait("CDS request", lambda s: s.type == CDS)

        def many(count, name):
            return [cluster(f"{name}{i:03}", [70000 + i]) for i in range(count)]

        text = lab.nack(lab.ads.raw(CDS, many(50, "b")))
        equal(text.lower().count("cluster b0"), 20, "how many are listed")
        matches(r"and 30 more, see /config_dump$", text)
        text = lab.nack(lab.ads.raw(CDS, many(30, "long" * 200)))
        assert len(text.encode()) <= 8192, len(text)
        matches(r"and \d+ more, see /config_dump$", text)


@both
def last_good_is_kept(delta):
    """a bad new version keeps the last good one serving, present though bad; then a good one applies"""
    port = free_port()
    with TcpServer("one") as one, TcpServer("two") as two, Lab(delta, hold=[
            (CDS, cluster("up", [one.port])), (LDS, listener("l", port, tcp_filter("up")))]) as lab:
        lab.proxy.live()
        bad = cluster("up", [two.port])
        bad.connect_timeout.FromSeconds(0)
        bad.load_assignment.endpoints[0].lb_endpoints[0].load_balancing_weight.value = 0
        bad.transport_socket.name = "tls"
        lab.nack(lab.ads.put(CDS, bad))
        equal(greeting(port), "one", "while the new one is bad")
        lab.good(CDS, cluster("up", [two.port]))
        until("the good one applies", lambda: greeting(port) == "two")


@both
def transport_socket_is_refused(delta):
    """what wraps a connection and is not built is a NACK on either side, and so is an http filter not built"""
    with Lab(delta) as lab:
        lab.ads.wait("CDS request", lambda s: s.type == CDS)
        other = {"name": "tls", "typed_config": {"@type": STARTTLS + "UpstreamStartTlsConfig", "cleartext_socket_config": {}}}
        matches(r"(?i)^cluster t: transport_socket", lab.nack(lab.ads.raw(CDS, [cluster("t", [1], transport_socket=other)])))
        lab.good(CDS, cluster("up", [1]))
        lab.ads.wait("LDS request", lambda s: s.type == LDS)
        sock = listener("t", free_port(), tcp_filter("up"))
        sock.filter_chains[0].transport_socket.name = "tls"
        sock.filter_chains[0].transport_socket.typed_config.type_url = \
            STARTTLS + "StartTlsConfig"
        matches(r"(?i)^listener t: filter_chains\[0\]\.transport_socket", lab.nack(lab.ads.raw(LDS, [sock])))
        check = {"name": "b", "typed_config": {
            "@type": TYPE + "envoy.extensions.filters.http.cache.v3.CacheConfig"}}
        hcm = hcm_filter("table")
        hcm["http_filters"].insert(0, check)
        matches(r"(?i)^listener f: filter_chains\[0\]\.filters\[0\].*http_filters\[0\].*CacheConfig",
                lab.nack(lab.ads.raw(LDS, [listener("f", free_port(), hcm)])))
        lab.good(LDS, listener("h", free_port(), hcm_filter("table", "HTTP1")))


@both
def unreadable_name_removes_nothing(delta):
    """a response in which a name cannot be read removes nothing and is a NACK"""
    port = free_port()
    with TcpServer() as up, Lab(delta, hold=[
            (CDS, cluster("up", [up.port])), (LDS, listener("l", port, tcp_filter("up")))]) as lab:
        lab.proxy.live()
        for kind in (CDS, LDS):
            for junk in (b"\xff\xff\xff", b"\x0a\xff"):
                body = any_pb2.Any(type_url=kind, value=junk)
                item = discovery_pb2.Resource(resource=body) if delta else body
                lab.nack(lab.ads.raw(kind, [item]))
        wrong = any_pb2.Any(type_url=EDS, value=b"")
        lab.nack(lab.ads.raw(CDS, [discovery_pb2.Resource(name="x", resource=wrong) if delta else wrong]))
        time.sleep(0.3)
        equal(greeting(port), "one", "after the broken responses")
        equal(lab.proxy.stat("cluster_manager.cluster_removed"), 0, "removed clusters")


@both
def equal_bytes_are_noops(delta):
    """repeated bytes change nothing, with empty versions too; unknown types are ignored and counted"""
    port = free_port()
    up_cluster, up_listener = None, None
    with TcpServer() as up, Lab(delta) as lab:
        up_cluster, up_listener = cluster("up", [up.port]), listener("l", port, tcp_filter("up"))
        lab.ads.wait("CDS request", lambda s: s.type == CDS)
        lab.good(CDS, up_cluster, version="")
        lab.ads.wait("LDS request", lambda s: s.type == LDS)
        lab.good(LDS, up_listener, version="")
        lab.proxy.live()
        before = [lab.proxy.stat(n) for n in ("cluster_manager.cluster_modified", "listener_manager.listener_modified")]
        for _ in range(5):
            lab.good(CDS, up_cluster, version="")
            lab.good(LDS, up_listener, version="")
        after = [lab.proxy.stat(n) for n in ("cluster_manager.cluster_modified", "listener_manager.listener_modified")]
        equal(after, before, "modified counters")
        lab.ads.asked[lab.ads.newest(), TYPE + "x.Y"] = set()
        lab.ads.raw(TYPE + "x.Y", [])
        time.sleep(0.3)
        assert not lab.ads.of(TYPE + "x.Y"), "an unknown type was answered"
        equal(lab.ads.opened, 1, "streams")
        _, text = lab.proxy.admin("/stats?filter=unknown")
        matches(r"unknown_type\w*: 1", text, "counter of unknown type URLs")


@both
def unknown_fields_are_counted(delta):
    """an unknown field is accepted and counted; inside a filter list it is not waved through silently"""
    with Lab(delta) as lab:
        lab.ads.wait("CDS request", lambda s: s.type == CDS)
        body = packed(cluster("up", [1]))
        body.value += bytes([0x82, 0xfa, 0x01, 0x01, 0x41])  # field 4000, one byte
        item = discovery_pb2.Resource(name="up", version="1", resource=body) if delta else body
        lab.ack(lab.ads.raw(CDS, [item]))
        until("counted", lambda: lab.proxy.stat("server.dynamic_unknown_fields") >= 1)


@both
def duplicate_names(delta):
    """one name twice in one response is a NACK that names it"""
    with Lab(delta) as lab:
        lab.ads.wait("CDS request", lambda s: s.type == CDS)
        text = lab.nack(lab.ads.raw(CDS, [cluster("twin", [1]), cluster("twin", [2])]))
        matches("(?i)^cluster twin: ", text)


@both
def reconnect(delta):
    """after a lost stream: names and versions are sent again with node, nothing is cut, backoff is jittered and bounded"""
    port = free_port()
    with BoltServer() as up, Lab(delta, hold=bolt_world(port, [up.port])) as lab, Bolt(0 or port_when_live(lab, port)) as client:
        equal(client.call().status, 0)
        until("all answered", lambda: len([s for s in lab.ads.of() if s.request.response_nonce]) >= 4)
        lab.ads.stop()
        time.sleep(0.5)
        equal(client.call().status, 0, "while the control plane is away")
        matches("control_plane.connected_state: 0", lab.proxy.admin("/stats?filter=connected_state")[1])
        lab.ads.start()
        again = lab.ads.wait("a second stream", lambda s: s.stream == 2, timeout=35)
        equal(again.request.node.id, "interop~1", "node")
        until("four types", lambda: len({s.type for s in lab.ads.of(stream=2)}) == 4)
        first = {}
        for s in lab.ads.of(stream=2):
            first.setdefault(s.type, s.request)
        equal(list(first), [CDS, EDS, LDS, RDS], "order")
        for kind, name in ((CDS, "up"), (EDS, "up"), (LDS, "bolt"), (RDS, "table")):
            equal(first[kind].response_nonce, "", "nonce")
            if delta:
                assert first[kind].initial_resource_versions.get(name, "").startswith("v"), first[kind]
            else:
                assert first[kind].version_info.startswith("v"), first[kind]
        equal(client.call().status, 0, "after")
        equal(up.total, 1, "upstream connections")


def port_when_live(lab, port):
    lab.proxy.live()
    return port


@case
def reconnect_backoff():
    """refused again and again: attempts are spread between 0 and a growing cap, not a storm and not silence"""
    import socket
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(12)
        times, start = [], time.monotonic()
        with Mizzen(bootstrap(free_port(), ads_port=listening.getsockname()[1])):
            while time.monotonic() - start < 12 and len(times) < 8:
                try:
                    sock, _ = listening.accept()
                except TimeoutError:
                    break
                times.append(time.monotonic())
                sock.close()
    gaps = [b - a for a, b in zip(times, times[1:])]
    assert len(times) >= 3, f"only {len(times)} attempts in 12 s"
    assert gaps[0] <= 1.2, f"first gap {gaps[0]:.2f}"
    assert sum(g < 0.05 for g in gaps) <= 3, f"a storm: {gaps}"


@case
def rpc_proxy_spellings():
    """RpcProxy as a plain Any, in udpa and xds TypedStruct; an unknown key inside is refused with its path"""
    with BoltServer() as up, Lab(False, hold=[(CDS, cluster("up", [up.port])), (RDS, routes("table", to("up")))]) as lab:
        lab.ads.wait("LDS request", lambda s: s.type == LDS)
        ports = [free_port() for _ in range(3)]
        plain = listener("plain", ports[0], tcp_filter("up"))
        plain.filter_chains[0].filters[0].typed_config.CopyFrom(rpc_by_hand("rpc", "bolt", "table"))
        lab.good(LDS, plain, listener("xds", ports[1], rpc_filter("table")),
                 listener("udpa", ports[2], rpc_filter("table", spelling="udpa.type.v1.TypedStruct")))
        lab.proxy.live()
        for port in ports:
            until("open", lambda port=port: not refused(port))
            equal(call(port).status, 0)
        text = lab.nack(lab.ads.raw(LDS, [listener("odd", free_port(), rpc_filter("table", sparkle=1))]))
        matches(r"(?i)^listener odd: filter_chains\[0\]\.filters\[0\]\.typed_config.*sparkle", text)
        for body, part in ((rpc_filter("table", "morse"), "downstream_protocol"),
                           (rpc_filter("table", "bolt", "morse"), "upstream_protocol"),
                           (rpc_filter("table", idle_timeout="soon"), "idle_timeout")):
            matches(rf"(?i)^listener odd: filter_chains\[0\]\.filters\[0\]\.typed_config.*{part}",
                    lab.nack(lab.ads.raw(LDS, [listener("odd", free_port(), body)])))


@both
def repeated_rejection_is_delayed(delta):
    """an identical rejected response is answered with a delay for that type only"""
    with Lab(delta) as lab:
        lab.ads.wait("CDS request", lambda s: s.type == CDS)
        bad = cluster("bad", [70000])
        delays = []
        for _ in range(4):
            start = time.monotonic()
            nonce = lab.ads.raw(CDS, [bad])
            delays.append(lab.ads.answer(nonce, 40).at - start)
        assert delays[0] < 1, f"first verdict after {delays[0]:.2f} s"
        assert max(delays[1:]) > 0.05, f"no delay at all: {delays}"
        start = time.monotonic()
        nonce = lab.ads.raw(LDS, [])
        assert lab.ads.answer(nonce).at - start < 1, "another type waits too"


@case
def control_plane_addresses():
    """the control plane behind a Unix socket, a STRICT_DNS and a LOGICAL_DNS name"""
    with Folder() as folder:
        path = str(folder.path / "xds.sock")
        with Ads(True, address="unix:" + path) as ads:
            with Mizzen(bootstrap(free_port(), ads_address={"pipe": {"path": path}}, delta=True)):
                ads.wait("CDS", lambda s: s.type == CDS)
    for kind in ("STRICT_DNS", "LOGICAL_DNS"):
        with Ads(False) as ads:
            config = bootstrap(free_port(), ads_address={"socket_address": {
                "address": "localhost", "port_value": ads.port}})
            config["static_resources"]["clusters"][-1]["type"] = kind
            with Mizzen(config):
                ads.wait(f"CDS over {kind}", lambda s: s.type == CDS)


@both
def partly_bad_response_over_a_reconnect(delta):
    """what was applied out of a NACKed response is known on the next stream; what was refused is not"""
    with Lab(delta) as lab:
        lab.ads.wait("CDS", lambda s: s.type == CDS)
        lab.good(CDS, cluster("old", [1]), version="accepted")
        lab.nack(lab.ads.put(CDS, cluster("fine", [1]), cluster("bad", [70000]), version="refused"))
        lab.ads.held[CDS].pop("bad")
        lab.ads.stop()
        lab.ads.start()
        first = lab.ads.wait("a second stream", lambda s: s.stream == 2 and s.type == CDS, 35).request
        if delta:
            equal(set(first.initial_resource_versions), {"old", "fine"}, "initial versions")
        else:
            equal(first.version_info, "accepted", "last accepted version")


@case
def bounds():
    """1,001 filter chains, an oversized regex: refused with a clear text; a message of 20 MB is taken"""
    with Lab(False) as lab:
        lab.ads.wait("CDS", lambda s: s.type == CDS)
        large, many = cluster("c", [1], alt_stat_name="x" * 20_000), []
        for i in range(1000):
            large.name = f"c{i:05}"
            many.append(packed(large))
        equal(lab.ads.answer(lab.ads.raw(CDS, many), 30).error, "", "20 MB")
        lab.ads.wait("LDS", lambda s: s.type == LDS)
        wide = listener("wide", free_port(), tcp_filter("c00000"))
        one = wide.filter_chains[0]
        for i in range(1000):
            chain = wide.filter_chains.add()
            chain.CopyFrom(one)
            chain.filter_chain_match.destination_port.value = i + 1
        matches(r"(?i)listener wide: .*1001.*1000|1,?001", lab.nack(lab.ads.raw(LDS, [wide])))
        lab.good(LDS, listener("l", free_port(), rpc_filter("table")))
        lab.ads.wait("RDS", lambda s: s.type == RDS)
        big = routes("table", {"match": {"safe_regex": {"regex": "(a{1000}){1000}"}}, "route": {"cluster": "c00000"}})
        matches(r"virtual_hosts\[0\]\.routes\[0\]\.match\.safe_regex\.regex: ", lab.nack(lab.ads.raw(RDS, [big])))
        assert lab.proxy.admin("/ready")[0] in (200, 503)


@both
def bad_neighbours_inside_a_table(delta):
    """every fault of a resource is named, with indices, not only the first"""
    with Lab(delta, hold=[(CDS, cluster("up", [1])), (LDS, listener("l", free_port(), rpc_filter("table"))),
                          (RDS, routes("table", to("up")))]) as lab:
        lab.ads.wait("RDS ACK", lambda s: s.type == RDS and s.request.response_nonce)
        text = lab.nack(lab.ads.raw(RDS, [routes(
            "table", to("up"), {"match": {"safe_regex": {"regex": "(["}}, "route": {"cluster": "up"}},
            {"match": {"prefix": "/"}}, {"route": {"cluster": "up"}})]))
        for part in ("routes[1].match.safe_regex.regex", "routes[2]", "routes[3].match"):
            assert part in text, f"{part} is not in {text}"
