"""Counters that must move, times to live, and the admin's bounds."""
import json
import socket
import time

from ads import CDS, EDS, LDS, RDS, packed
from cases_cli import static_tcp
from cases_xds import Lab, bolt_world, both
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import duration_pb2
from harness import Mizzen, case, equal, free_port, matches, until
from resources import cluster, endpoints, listener, routes, tcp_filter, to
from wire import BoltServer, TcpServer, call, greeting, refused

# Listed by no version of the proxy unless it can move.
DEAD = ("rate_limit_enforced", "lb_subsets", "hot_restart", "ws_on_non_ws",
        "membership_excluded", "upstream_flush", "pool_overflow", ".ratelimited")


@both
def counters_by_name(delta):
    """every cluster and route table has its own update counters, and they follow what the control plane did"""
    port = free_port()
    with BoltServer() as up, BoltServer() as second, Lab(delta, hold=bolt_world(port, [up.port])) as lab:
        lab.proxy.live()
        equal(call(port).status, 0)
        lab.good(EDS, endpoints("up", [up.port]))
        lab.good(EDS, endpoints("up", [up.port, second.port]))
        until("both", lambda: lab.proxy.stat("cluster.up.membership_total") == 2)
        for name, value in (("update_attempt", 4), ("update_success", 3), ("update_no_rebuild", 1), ("update_failure", 0),
                            ("update_rejected", 0), ("membership_change", 2), ("warming_state", 0)):
            equal(lab.proxy.stat(f"cluster.up.{name}"), value, name)
        assert lab.proxy.stat("cluster.up.update_time") > 1_000_000_000_000
        bad = endpoints("up", [1])
        bad.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address = "nonsense"
        lab.nack(lab.ads.put(EDS, bad))
        equal(lab.proxy.stat("cluster.up.update_rejected"), 1, "rejected")
        equal(lab.proxy.stat("cluster.up.membership_total"), 2, "hosts stay")
        lab.good(RDS, routes("table", to("up", timeout="7s")))
        text = lab.proxy.admin(r"/stats?filter=rpc\..*\.rds\.table\.")[1]
        rows = dict(line.split(": ", 1) for line in text.splitlines())
        leaf = {name.rsplit(".", 1)[-1]: value for name, value in rows.items()}
        equal((leaf["update_success"], leaf["config_reload"], leaf["update_rejected"]), ("2", "2", "0"), str(rows))
        text = lab.proxy.admin(r"/stats?filter=manager\.(cds|lds)\.update_duration")[1]
        equal(len([line for line in text.splitlines() if " P0(" in line]), 2, text)
        assert lab.proxy.stat("cluster_manager.cds.config_reload") >= 1
        text = lab.proxy.admin(r"/stats?usedonly&filter=^cluster\.up\.upstream_rq_time")[1]
        assert " P0(" in text, text
        every = lab.proxy.admin("/stats")[1]
        assert not any(word in every for word in DEAD), [word for word in DEAD if word in every]
        # One order: texts, numbers, histograms, each by its whole name.
        names = [line.split(": ")[0] for line in every.splitlines() if line.split(": ", 1)[1].lstrip("-").isdigit()]
        equal(names, sorted(names), "order of the numbers")


@both
def draining_listeners_are_counted(delta):
    """total_listeners_draining counts a removed listener while a connection is left; a changed chain likewise"""
    port = free_port()
    with TcpServer() as up, Lab(delta, hold=[
            (CDS, cluster("up", [up.port])), (LDS, listener("l", port, tcp_filter("up")))]) as lab:
        lab.proxy.live()
        equal(lab.proxy.stat("listener_manager.total_listeners_draining"), 0)
        with socket.create_connection(("127.0.0.1", port)) as sock:
            equal(sock.recv(10), b"one\n")
            if delta:
                lab.good(LDS, removed=["l"])
            else:
                lab.ads.held[LDS].clear()
                lab.good(LDS, listener("other", free_port(), tcp_filter("up")))
            until("drains", lambda: lab.proxy.stat("listener_manager.total_listeners_draining") == 1)
        until("gone", lambda: lab.proxy.stat("listener_manager.total_listeners_draining") == 0)


@case
def time_to_live():
    """a resource with a ttl goes when it is over; heartbeats without a body keep it"""
    port = free_port()
    ttl = duration_pb2.Duration(seconds=2)
    with TcpServer() as up, Lab(True, hold=[(CDS, cluster("up", [up.port]))]) as lab:
        lab.ads.wait("LDS request", lambda s: s.type == LDS)
        item = discovery_pb2.Resource(name="l", version="1", ttl=ttl,
                                      resource=packed(listener("l", port, tcp_filter("up"))))
        beat = discovery_pb2.Resource(name="l", version="1", ttl=ttl)

        def push(resource):
            with lab.ads.lock:
                lab.ads.send(lab.ads.newest(), LDS, [resource])

        push(item)
        until("open", lambda: not refused(port))
        for _ in range(4):
            time.sleep(1)
            push(beat)
            equal(greeting(port), "one", "kept by heartbeats")
        until("gone", lambda: refused(port), 8)
        equal(lab.proxy.stat("listener_manager.listener_removed"), 1)


@both
def nack_tells_both_places(delta):
    """a name given twice is told with both places; a port in use with its field path"""
    with TcpServer() as up, TcpServer() as other, Lab(delta, hold=[(CDS, cluster("up", [up.port]))]) as lab:
        lab.ads.wait("LDS request", lambda s: s.type == LDS)
        with lab.ads.lock:
            nonce = lab.ads.send(lab.ads.newest(), CDS, [cluster("up", [up.port]), cluster("twin", [1]), cluster("twin", [2])])
        text = lab.nack(nonce)
        matches(r"^Cluster twin: resources\[2\]\.name: twin: given twice in one response \(first as resources\[1\]\)$", text)
        text = lab.nack(lab.ads.put(LDS, listener("taken", other.port, tcp_filter("up"))))
        matches(rf"^Listener taken: address\.socket_address\.port_value: {other.port}: .*in use", text)
        equal(lab.proxy.stat("listener_manager.listener_create_failure"), 1)


@both
def error_state_of_every_type(delta):
    """a rejected resource of each type is in config_dump with error_state: why, when and which version"""
    port = free_port()
    with BoltServer() as up, Lab(delta, hold=bolt_world(port, [up.port])) as lab:
        lab.proxy.live()
        bad_hosts = endpoints("up", [1])
        bad_hosts.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address = "nonsense"
        bad_cluster = cluster("bad", [1])
        bad_cluster.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address = "nonsense"
        bad_routes = routes("table", {"match": {"safe_regex": {"regex": "(["}}, "route": {"cluster": "up"}})
        bad_listener = listener("bad-listener", free_port(), tcp_filter("up"))
        bad_listener.address.socket_address.address = "nonsense"
        for kind, resource in ((EDS, bad_hosts), (CDS, bad_cluster), (RDS, bad_routes), (LDS, bad_listener)):
            lab.nack(lab.ads.put(kind, resource))
        dump = json.loads(lab.proxy.admin("/config_dump?include_eds")[1])

        def states(node):
            if isinstance(node, dict):
                if "error_state" in node:
                    yield node["error_state"]
                for value in node.values():
                    yield from states(value)
            elif isinstance(node, list):
                for value in node:
                    yield from states(value)

        for kind in ("Clusters", "Endpoints", "Listeners", "Routes"):
            part = [c for c in dump["configs"] if c["@type"].endswith(f".{kind}ConfigDump")]
            found = list(states(part))
            equal(len(found), 1, f"error_state in {kind}ConfigDump")
            matches(r"nonsense|\(\[", found[0]["details"], kind)
            matches(r"^\d{4}-\d\d-\d\dT", found[0]["last_update_attempt"], kind)
            assert found[0].get("version_info") and found[0].get("failed_configuration"), f"{kind}: {found[0]}"
        equal(call(port).status, 0, "still serves")


def admin_socket(proxy, receive=None):
    sock = socket.socket()
    if receive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    sock.settimeout(20)
    sock.connect(("127.0.0.1", proxy.admin_port))
    return sock


def head(request, sock):
    sock.sendall(request)
    return sock.recv(300).split(b"\r\n")[0].decode()


@case
def admin_bounds():
    """the 65th connection is told 503, heads of 8 KiB pass and larger ones get 431"""
    with Mizzen(static_tcp(free_port(), free_port(), 1)) as proxy:
        proxy.live()
        for size, status in ((7000, "200"), (9000, "431")):
            with admin_socket(proxy) as sock:
                line = head(f"GET /ready HTTP/1.1\r\nHost: localhost\r\nX: {'x' * size}\r\n\r\n".encode(), sock)
                equal(line.split(" ")[1], status, f"a head of {size} bytes")
        idle = [admin_socket(proxy) for _ in range(64)]
        time.sleep(0.5)
        with admin_socket(proxy) as sock:
            matches(r"^HTTP/1\.1 503 ", sock.recv(300).split(b"\r\n")[0].decode(), "the 65th")
        for sock in idle:
            sock.close()
        until("free again", lambda: proxy.admin("/ready")[0] == 200)


@case
def two_dumps_at_a_time():
    """two slow readers of a large dump: a third is told 503 in time, /ready and /stats answer meanwhile"""
    with Lab(True, hold=[(CDS, cluster(f"outbound|80||service-{n}.namespace.svc.cluster.local", [n % 60000 + 1]))
                         for n in range(12000)]) as lab:
        lab.proxy.wait_admin()
        until("all", lambda: lab.proxy.stat("cluster_manager.active_clusters") >= 12000, 60)
        request = b"GET /config_dump HTTP/1.1\r\nHost: localhost\r\n\r\n"
        slow = [admin_socket(lab.proxy, 4096) for _ in range(2)]
        for sock in slow:
            matches("200", head(request, sock), "a dump")
        begin = time.monotonic()
        equal(lab.proxy.admin("/ready")[0] in (200, 503), True)
        assert lab.proxy.admin("/stats?filter=^server")[0] == 200
        with admin_socket(lab.proxy) as third:
            matches("503", head(request, third), "a third dump")
        assert time.monotonic() - begin < 18, "told in time"
        for sock in slow:
            sock.close()
        until("free again", lambda: lab.proxy.admin("/config_dump?resource=bootstrap")[0] in (200, 400, 404), 20)


@case
def mosn_stats_by_listener():
    """/api/v1/stats has the requests of each listener under its name"""
    from cases_cli import mosn, mosn_proxy
    admin, port = free_port(), free_port()
    with BoltServer() as up:
        config = mosn(admin, [mosn_proxy("my-listener", port, "bolt", "bolt", "c")],
                      [{"name": "c", "type": "SIMPLE", "lb_type": "LB_RANDOM",
                        "hosts": [{"address": f"127.0.0.1:{up.port}"}]}])
        with Mizzen(config, admin=admin, form=["start"]) as proxy:
            proxy.live()
            equal(call(port).status, 0)
            stats = json.loads(proxy.admin("/api/v1/stats")[1])
            mine = stats["downstream"]["listener.my-listener"]
            equal((mine["request_total"], mine["connection_total"]), ("1", "1"), str(mine))
            assert int(stats["upstream"][f"cluster.c.host.127.0.0.1:{up.port}"]["request_total"]) == 1, stats["upstream"]
            equal(stats["meta"]["mosn.info"][f"listener_address:127.0.0.1:{port}"], "1")
            one = json.loads(proxy.admin("/api/v1/stats?key=downstream.listener.my-listener")[1])
            equal(list(one["downstream"]), ["listener.my-listener"])
