"""Warming, holds and removals: what serves when, and what a push never takes away. SotW and delta."""
import json
import time

from ads import CDS, EDS, LDS, RDS, Ads
from cases_xds import Lab, bolt_world, both
from harness import Mizzen, bootstrap, case, equal, free_port, matches, until
from resources import cluster, cluster_json, endpoints, listener, listener_json, routes, rpc_filter, tcp_filter, to
from wire import Bolt, BoltServer, TcpServer, call, greeting, refused


@both
def removed_cluster_lingers(delta):
    """a removed cluster that a route names serves until no table names it, then leaves /clusters"""
    port = free_port()
    with BoltServer("one") as one, BoltServer("two") as two, Lab(
            delta, hold=bolt_world(port, [one.port], cluster_name="a")) as lab:
        lab.proxy.live()
        equal(call(port).content[:3], b"one")
        lab.ads.hold(EDS, endpoints("b", [two.port]))
        lab.good(CDS, cluster("b"), removed=["a"])
        time.sleep(1)
        equal(call(port).content[:3], b"one", "after CDS, before RDS")
        lab.good(RDS, routes("table", to("b")))
        until("the new route", lambda: call(port).content[:3] == b"two")
        until("a is gone", lambda: "\na::" not in "\n" + lab.proxy.admin("/clusters")[1])


@both
def linger_is_bounded(delta):
    """--removed-cluster-linger-s 1: then the route answers `no cluster`; 0: at once"""
    for seconds, low, high in ((1, 0.5, 3.5), (0, 0, 1.5)):
        port = free_port()
        with BoltServer() as up, Lab(delta, "--removed-cluster-linger-s", str(seconds),
                                     hold=bolt_world(port, [up.port])) as lab:
            lab.proxy.live()
            equal(call(port).status, 0)
            start = time.monotonic()
            lab.good(CDS, removed=["up"])
            until("status 6", lambda: call(port).status == 6, 20)
            took = time.monotonic() - start
            assert low <= took <= high, f"linger {seconds}: {took:.2f} s"


@both
def eds_and_rds_removal_is_harmless(delta):
    """withdrawn endpoints and routes stay while something refers to them"""
    port = free_port()
    with BoltServer() as up, Lab(delta, hold=bolt_world(port, [up.port])) as lab:
        lab.proxy.live()
        equal(call(port).status, 0)
        if delta:
            lab.ack(lab.ads.raw(EDS, [], removed=["up"]))
            lab.ack(lab.ads.raw(RDS, [], removed=["table"]))
        else:
            lab.ack(lab.ads.raw(EDS, []))
            lab.ack(lab.ads.raw(RDS, []))
        time.sleep(0.5)
        equal(call(port).status, 0, "after the removal")
        # Changed cluster: its assignment is still held.
        changed = cluster("up")
        changed.connect_timeout.FromSeconds(3)
        lab.good(CDS, changed)
        time.sleep(0.3)
        equal(call(port).status, 0, "after the cluster changed")


@both
def warming_blocks_readiness(delta):
    """no endpoints yet: not ready, CDS ACKed all the same, the admin names what blocks; then live"""
    port = free_port()
    world = [r for r in bolt_world(port, [1]) if r[0] != EDS]
    with BoltServer() as up, Lab(delta, hold=world) as lab:
        lab.ads.wait("CDS ACK", lambda s: s.type == CDS and s.request.response_nonce)
        lab.proxy.wait_admin()
        time.sleep(0.5)
        status, text = lab.proxy.admin("/ready")
        equal(status, 503, "ready")
        matches("INITIALIZING", text)
        matches(r"\bup\b", lab.proxy.admin("/init_dump")[1], "/init_dump names the blocking resource")
        lab.good(EDS, endpoints("up", [up.port]))
        lab.proxy.live()
        equal(call(port).status, 0)


@both
def modified_cluster_is_warm_at_once(delta):
    """a modified cluster whose assignment is held does not wait for EDS again"""
    port = free_port()
    with BoltServer() as up, Lab(delta, hold=bolt_world(port, [up.port])) as lab:
        lab.proxy.live()
        lab.ads.silent = {EDS}
        changed = cluster("up")
        changed.connect_timeout.FromSeconds(7)
        lab.good(CDS, changed)
        until("active with the new timeout", lambda: '"7s"' in lab.proxy.admin("/config_dump?resource=dynamic_active_clusters")[1], 2)
        equal(call(port).status, 0)


@both
def route_waits_for_warming_cluster(delta):
    """a virtual host that names a warming cluster keeps its old body until it is warm; --route-hold-s bounds it"""
    port = free_port()
    with BoltServer("one") as one, BoltServer("two") as two, Lab(
            delta, "--route-hold-s", "3", hold=bolt_world(port, [one.port], cluster_name="a")) as lab:
        lab.proxy.live()
        lab.good(CDS, cluster("b"))
        lab.good(RDS, routes("table", to("b")))
        time.sleep(0.7)
        equal(call(port).content[:3], b"one", "while b is warming")
        lab.good(EDS, endpoints("b", [two.port]))
        until("switched when warm", lambda: call(port).content[:3] == b"two", 2)
        lab.good(CDS, cluster("c"))
        start = time.monotonic()
        lab.good(RDS, routes("table", to("c")))
        until("applied after the hold", lambda: call(port).status != 0, 8)
        took = time.monotonic() - start
        assert 2 <= took <= 5, f"held for {took:.2f} s"


@both
def unknown_cluster_is_held_two_seconds(delta):
    """a name not in CDS is held 2 s with the old body, then answers `no cluster`"""
    port = free_port()
    with BoltServer("one") as one, Lab(delta, hold=bolt_world(port, [one.port])) as lab:
        lab.proxy.live()
        start = time.monotonic()
        lab.good(RDS, routes("table", to("ghost")))
        equal(call(port).status, 0, "at once")
        until("status 6", lambda: call(port).status == 6, 6)
        took = time.monotonic() - start
        assert 1.5 <= took <= 4, f"held for {took:.2f} s"


@both
def missing_table_blocks_readiness(delta):
    """a listener whose routes are not there: not ready, LDS ACKed, the admin names the table; then live"""
    port = free_port()
    with BoltServer() as up, Lab(delta, hold=[
            (CDS, cluster("up", [up.port])), (LDS, listener("bolt", port, rpc_filter("table")))]) as lab:
        lab.ads.wait("LDS ACK", lambda s: s.type == LDS and s.request.response_nonce)
        for _ in range(5):
            time.sleep(0.1)
            equal(lab.proxy.admin("/ready")[0], 503, "ready")
        matches(r"\btable\b", lab.proxy.admin("/init_dump")[1], "/init_dump names the blocking resource")
        lab.good(RDS, routes("table", to("up")))
        lab.proxy.live()
        equal(call(port).status, 0)


@both
def listener_life(delta):
    """changed: old serves until new is warm; renamed on its address: no refusal; removed: refused, old ones finish"""
    port = free_port()
    with BoltServer(delay=1.0) as slow, Lab(delta, hold=bolt_world(port, [slow.port])) as lab:
        lab.proxy.live()
        # The new version waits for a table that is not there.
        lab.good(LDS, listener("bolt", port, rpc_filter("later")))
        equal(call(port).status, 0, "by the old version")
        lab.good(RDS, routes("later", to("up")))
        with Bolt(port) as client:
            ident = client.send()
            renamed = listener("renamed", port, rpc_filter("later"))
            lab.good(LDS, renamed, removed=["bolt"])
            assert not refused(port), "renamed listener does not accept"
            equal(client.read().ident, ident, "in flight over the rename")
            ident = client.send()
            lab.good(LDS, removed=["renamed"])
            until("refused", lambda: refused(port))
            equal(client.read().ident, ident, "in flight over the removal")


@both
def one_bad_port_among_good(delta):
    """a listener on another process's port is rejected with its address, the others open; retried when free"""
    port = free_port()
    with TcpServer() as up, TcpServer() as other, Lab(delta, hold=[(CDS, cluster("up", [up.port]))]) as lab:
        lab.ads.wait("LDS request", lambda s: s.type == LDS)
        text = lab.nack(lab.ads.put(LDS, listener("ok", port, tcp_filter("up")),
                                    listener("taken", other.port, tcp_filter("up"))))
        matches(rf"(?i)^listener taken: .*{other.port}", text)
        until("the good one", lambda: not refused(port))
        taken = other.port
        other.close()
        until("the freed port is taken up", lambda: not refused(taken) and greeting(taken) == "one", 15)


@case
def fetch_timeout_gives_up():
    """initial_fetch_timeout of 1 s: start goes on without CDS and LDS; static listeners serve at once"""
    port = free_port()
    with TcpServer() as up, Ads() as ads:
        ads.silent = {CDS, LDS}
        config = bootstrap(free_port(), {"clusters": [cluster_json("up", [up.port])],
                                         "listeners": [listener_json("s", port, tcp_filter("up"))]},
                           ads_port=ads.port, fetch_timeout="1s")
        with Mizzen(config) as proxy:
            until("static serves", lambda: not refused(port), 2)
            equal(greeting(port), "one")
            proxy.live(timeout=6)


@both
def shadowed_by_static(delta):
    """an ADS resource with a static name is ACKed, ignored, counted and shown"""
    port = free_port()
    with TcpServer("static") as fixed, TcpServer("dynamic") as moving, Ads(delta) as ads:
        ads.hold(CDS, cluster("up", [moving.port]))
        ads.hold(LDS, listener("s", free_port(), tcp_filter("up")))
        config = bootstrap(free_port(), {"clusters": [cluster_json("up", [fixed.port])],
                                         "listeners": [listener_json("s", port, tcp_filter("up"))]},
                           ads_port=ads.port, delta=delta)
        with Mizzen(config) as proxy:
            proxy.live()
            ack = ads.wait("LDS answer", lambda s: s.type == LDS and s.request.response_nonce)
            equal(ack.error, "")
            equal(greeting(port), "static")
            matches(r"shadowed_by_static: [12]", proxy.admin("/stats?filter=shadowed_by_static")[1])
            shown = [entry for config in proxy.dump()["configs"] for key in config if key.startswith("dynamic_")
                     for entry in config[key]]
            equal(["shadowed" in json.dumps(entry) for entry in shown], [True, True], "shown as shadowed")
            assert "NACKED" not in json.dumps(shown), shown


@both
def listener_waits_five_seconds(delta):
    """a listener whose cluster has no endpoints yet opens after at most 5 s"""
    port = free_port()
    world = [r for r in bolt_world(port, [1]) if r[0] != EDS]
    with Lab(delta, hold=world) as lab:
        lab.ads.wait("RDS ACK", lambda s: s.type == RDS and s.request.response_nonce)
        start = time.monotonic()
        time.sleep(1)
        assert refused(port), "open at once"
        until("open", lambda: not refused(port), 8)
        assert 3 <= time.monotonic() - start <= 7.5, time.monotonic() - start
        assert call(port).status in (6, 16), "an answer at once while the cluster warms"


@both
def eds_fetch_timeout(delta):
    """initial_fetch_timeout of EDS: the cluster stops warming, requests get `no endpoints`"""
    port = free_port()
    quick = cluster("up")
    quick.eds_cluster_config.eds_config.initial_fetch_timeout.FromMilliseconds(700)
    with Lab(delta, hold=[(CDS, quick), (LDS, listener("l", port, rpc_filter("table"))),
                          (RDS, routes("table", to("up")))]) as lab:
        lab.proxy.live(4)
        until("open", lambda: not refused(port), 4)
        assert call(port).status in (6, 16)


@both
def address_taken_by_a_neighbour(delta):
    """two listeners on one address: the second is refused naming both; applied when the first goes"""
    port = free_port()
    with TcpServer("a") as a, TcpServer("b") as b, Lab(delta, hold=[
            (CDS, cluster("a", [a.port])), (CDS, cluster("b", [b.port])),
            (LDS, listener("first", port, tcp_filter("a")))]) as lab:
        lab.proxy.live()
        text = lab.nack(lab.ads.put(LDS, listener("second", port, tcp_filter("b"))))
        matches(rf"(?i)listener second: .*{port}.*first", text)
        equal(greeting(port), "a")
        if delta:
            lab.good(LDS, removed=["first"])
            until("the second serves", lambda: not refused(port) and greeting(port) == "b")
        else:
            with lab.ads.lock:
                lab.ads.held[LDS].pop("first")
            lab.good(LDS)
            until("the second serves", lambda: not refused(port) and greeting(port) == "b")
