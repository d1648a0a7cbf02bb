"""The admin: who may change what, shapes, filters, redaction, both families of paths."""
import http.client
import json
import re
import socket
import time

from ads import CDS, EDS, LDS, RDS, TYPE
from cases_cli import mosn, mosn_proxy, static_tcp
from cases_xds import Lab, bolt_world, both
from harness import Mizzen, bootstrap, case, equal, free_port, matches, until
from resources import cluster, cluster_json, endpoints, listener, listener_json, routes, tcp_filter
from wire import BoltServer, TcpServer, call, greeting, refused

POSTS = ["/drain_listeners", "/quitquitquit", "/healthcheck/fail", "/healthcheck/ok", "/logging?level=info"]


def static():
    return Mizzen(static_tcp(free_port(), free_port(), 1))


@case
def post_only():
    """mutating paths answer GET with 405 and change nothing; POST is OK; unknown paths 404"""
    with static() as proxy:
        proxy.live()
        for path in POSTS:
            equal(proxy.admin(path)[0], 405, f"GET {path}")
            equal(proxy.admin(path, "PUT")[0], 405, f"PUT {path}")
        equal(proxy.admin("/api/v1/update_loglevel")[0], 405, "GET /api/v1/update_loglevel")
        equal(proxy.admin("/ready")[0], 200, "still ready")
        equal(proxy.admin("/healthcheck/fail", "POST"), (200, "OK\n"))
        status, text = proxy.admin("/ready")
        equal((status, text), (503, "DRAINING\n"), "/ready after fail")
        equal(proxy.stat("server.state"), 0, "server.state")
        equal(proxy.stat("server.live"), 0, "server.live")
        equal(proxy.admin("/healthcheck/ok", "POST"), (200, "OK\n"))
        equal(proxy.admin("/ready"), (200, "LIVE\n"))
        equal(proxy.admin("/no/such")[0], 404)
        equal(proxy.admin("/quitquitquit", "POST")[0], 200)
        equal(proxy.process.wait(5), 0, "exit code")


@case
def host_and_origin():
    """Host must be an IP, localhost or the bound name; a cross-site Origin is 403"""
    with static() as proxy:
        proxy.live()
        port = proxy.admin_port
        for host, status in (("127.0.0.1", 200), (f"127.0.0.1:{port}", 200), ("localhost", 200),
                             (f"localhost:{port}", 200), ("[::1]", 200), (f"[::1]:{port}", 200), ("10.1.2.3", 200),
                             ("evil.example", 403), (f"evil.example:{port}", 403), ("127.0.0.1.evil.example", 403),
                             ("localhost.evil.example", 403)):
            got = proxy.admin("/stats", headers={"Host": host})[0]
            assert got == status or (status == 403 and 400 <= got < 500), f"Host {host}: {got}"
        for origin, status in (("http://evil.example", 403), (f"http://127.0.0.1:{port}", 200), ("null", 403), ("https://127.0.0.1.evil.example", 403)):
            for method, path in (("POST", "/healthcheck/ok"), ("POST", "/api/v1/update_loglevel"), ("GET", "/stats")):
                got = proxy.admin(path, method, headers={"Origin": origin})[0]
                assert (got == 403) == (status == 403), f"{method} {path} with Origin {origin}: {got}"


@case
def limits():
    """heads over 8 KiB are refused; 65 idle connections do not stop the 66th for ever; half a head is cut"""
    with static() as proxy:
        proxy.live()
        status = None
        try:
            status = proxy.admin("/ready", headers={"X-Big": "x" * 20000})[0]
        except (OSError, http.client.HTTPException):
            pass
        assert status in (None, 400, 431), status
        idle = [socket.create_connection(("127.0.0.1", proxy.admin_port)) for _ in range(80)]
        time.sleep(0.3)
        for sock in idle:
            sock.close()
        until("answers again", lambda: proxy.admin("/ready")[0] == 200)
        raw = socket.create_connection(("127.0.0.1", proxy.admin_port))
        raw.sendall(b"\x16\x03\x01garbage\r\n\r\n")
        raw.settimeout(5)
        raw.recv(200)
        raw.close()
        equal(proxy.admin("/ready")[0], 200)


@case
def agent_queries():
    """the readiness queries of a pilot-agent get what its parser wants, and nothing before it is true"""
    port = free_port()
    with BoltServer() as up, Lab(False, silent={CDS}, hold=bolt_world(port, [up.port])) as lab:
        lab.proxy.wait_admin()
        first = r"/stats?usedonly&filter=^(cluster_manager\.cds|listener_manager\.lds)\.(update_success|update_rejected)$"
        second = r"/stats?usedonly&filter=^(server\.state|listener_manager\.workers_started)"
        equal(lab.proxy.admin(first), (200, ""), "before anything was received")
        lab.ads.silent.clear()
        lab.ads.wait("CDS", lambda s: s.type == CDS)
        lab.good(CDS, cluster("up"))
        lab.proxy.live()
        equal(call(port).status, 0)
        lines = dict(line.split(": ") for line in lab.proxy.admin(first)[1].splitlines())
        assert int(lines["cluster_manager.cds.update_success"]) > 0 and int(lines["listener_manager.lds.update_success"]) > 0
        assert "cluster_manager.cds.update_rejected" not in lines, f"usedonly shows what never happened: {lines}"
        lines = dict(line.split(": ") for line in lab.proxy.admin(second)[1].splitlines())
        equal((lines["server.state"], lines["listener_manager.workers_started"]), ("0", "1"))
        text = lab.proxy.admin("/stats?usedonly&filter=downstream_cx_active$")[1]
        matches(rf"listener\.127\.0\.0\.1_{port}\.downstream_cx_active: \d", text)


@case
def stats_shapes():
    """/stats lines `name: value`, each once, filter is a search, bad filter 400, format=json, prometheus without duplicate TYPE"""
    with static() as proxy:
        proxy.live()
        lines = proxy.admin("/stats")[1].splitlines()
        names = [line.split(": ")[0] for line in lines]
        equal(len(names), len(set(names)), "names are unique")
        assert all(re.match(r"^\S+: .+$", line) for line in lines), [l for l in lines if not re.match(r"^\S+: .+$", l)][:3]
        found = proxy.admin("/stats?filter=uptime")[1]
        assert found and all("uptime" in line for line in found.splitlines()), found
        equal(proxy.admin("/stats?filter=([")[0], 400, "bad filter")
        stats = json.loads(proxy.admin("/stats?format=json")[1])["stats"]
        assert any(s.get("name") == "server.live" and s["value"] == 1 for s in stats), stats[:3]
        for path in ("/stats/prometheus", "/stats?format=prometheus"):
            text = proxy.admin(path)[1]
            types = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M)
            equal(len(types), len({name for name, _ in types}), "families are unique")
            for line in text.splitlines():
                assert line.startswith("#") or re.match(r'^[a-zA-Z_:][\w:]*(\{([\w]+="([^"\\]|\\.)*",?)*\})? [-+\w.]+$', line), line
            assert re.search(r"^envoy_server_live\{?\}? ?.*1$", text, re.M), "envoy_server_live"
        assert re.search(r"^mizzen_snapshot_stale(\{\})? 0$", text, re.M), "mizzen_snapshot_stale"


@both
def counters_exist(delta):
    """the subscription counters of Envoy exist under their names"""
    port = free_port()
    with BoltServer() as up, Lab(delta, hold=bolt_world(port, [up.port])) as lab:
        lab.proxy.live()
        equal(call(port).status, 0)
        names = {line.split(": ")[0] for line in lab.proxy.admin("/stats")[1].splitlines()}
        wanted = [f"{scope}.{leaf}" for scope in ("cluster_manager.cds", "listener_manager.lds")
                  for leaf in ("update_attempt", "update_success", "update_rejected", "update_failure", "update_time",
                               "version", "version_text", "init_fetch_timeout")]
        wanted += [f"cluster_manager.{n}" for n in ("active_clusters", "warming_clusters", "cluster_added",
                                                    "cluster_modified", "cluster_removed")]
        wanted += [f"listener_manager.{n}" for n in (
            "listener_added", "listener_modified", "listener_removed", "listener_create_success",
            "listener_create_failure", "total_listeners_active", "total_listeners_warming",
            "total_listeners_draining", "listener_in_place_updated", "workers_started")]
        wanted += ["control_plane.connected_state", "server.state", "server.live", "server.concurrency",
                   "server.dynamic_unknown_fields", "server.static_unknown_fields",
                   "cluster.up.membership_total", "cluster.up.membership_healthy", "cluster.up.upstream_cx_total",
                   "cluster.up.upstream_rq_total"]
        missing = [name for name in wanted if name not in names]
        equal(missing, [], "missing counters")


@both
def dump_shapes(delta):
    """config_dump: sections in Envoy's shape that the official protos parse, include_eds, resource, error_state"""
    from envoy.admin.v3 import config_dump_pb2, config_dump_shared_pb2  # noqa: F401
    from google.protobuf import any_pb2, json_format
    port = free_port()
    with BoltServer() as up, Lab(delta, hold=bolt_world(port, [up.port])) as lab:
        lab.proxy.live()
        lab.nack(lab.ads.raw(EDS, [endpoints("up", [70000])]))
        lab.nack(lab.ads.raw(RDS, [routes("table", {"match": {"safe_regex": {"regex": "(["}}, "route": {"cluster": "x"}})]))
        dump = lab.proxy.dump()
        kinds = [c["@type"].rsplit(".", 1)[1] for c in dump["configs"]]
        for kind in ("BootstrapConfigDump", "ClustersConfigDump", "ListenersConfigDump", "RoutesConfigDump"):
            assert kind in kinds, kinds
        assert "EndpointsConfigDump" not in kinds, "endpoints without include_eds"
        with_eds = lab.proxy.dump("?include_eds")
        by_kind = {c["@type"].rsplit(".", 1)[1]: c for c in with_eds["configs"]}
        assert by_kind["EndpointsConfigDump"]["dynamic_endpoint_configs"], by_kind["EndpointsConfigDump"]
        for section in (by_kind["ClustersConfigDump"], by_kind["RoutesConfigDump"], by_kind["EndpointsConfigDump"]):
            json_format.ParseDict(section, any_pb2.Any())
        statics = by_kind["ClustersConfigDump"]["static_clusters"]
        equal({c["cluster"]["@type"] for c in statics}, {CDS}, "type of static clusters")
        active = by_kind["ClustersConfigDump"]["dynamic_active_clusters"][0]
        equal((active["cluster"]["@type"], active["cluster"]["name"]), (CDS, "up"))
        assert active["version_info"] and active["last_updated"], active
        errors = [e["error_state"] for kind, key in (("EndpointsConfigDump", "dynamic_endpoint_configs"),
                                                     ("RoutesConfigDump", "dynamic_route_configs"))
                  for e in by_kind[kind][key] if "error_state" in e]
        equal(len(errors), 2, "error_state of EDS and RDS")
        for error in errors:
            assert error["details"] and error["last_update_attempt"], error
        status, text = lab.proxy.admin("/config_dump?resource=dynamic_active_clusters")
        equal(status, 200)
        assert json.loads(text)["configs"][0]["cluster"]["name"] == "up", text
        equal(lab.proxy.admin("/config_dump?resource=no_such_field")[0], 404, "unknown resource field")


@case
def listings():
    """/clusters, /listeners and /server_info in Envoy's shapes, text and JSON"""
    port = free_port()
    with BoltServer() as up, Lab(False, hold=bolt_world(port, [up.port])) as lab:
        lab.proxy.live()
        equal(call(port).status, 0)
        text = lab.proxy.admin("/clusters")[1]
        for part in ("up::observability_name::up", "up::added_via_api::true", "up::default_priority::max_connections::",
                     f"up::127.0.0.1:{up.port}::cx_active::1", f"up::127.0.0.1:{up.port}::health_flags::healthy",
                     f"up::127.0.0.1:{up.port}::weight::1"):
            assert part in text, f"{part} is not in {text[:600]}"
        statuses = json.loads(lab.proxy.admin("/clusters?format=json")[1])["cluster_statuses"]
        mine = next(s for s in statuses if s["name"] == "up")
        equal(mine["host_statuses"][0]["address"]["socket_address"]["port_value"], up.port)
        equal(mine.get("added_via_api"), True)
        equal(lab.proxy.admin("/listeners")[1], f"bolt::127.0.0.1:{port}\n")
        mine = json.loads(lab.proxy.admin("/listeners?format=json")[1])["listener_statuses"][0]
        equal((mine["name"], mine["local_address"]["socket_address"]["port_value"]), ("bolt", port))
        info = json.loads(lab.proxy.admin("/server_info")[1])
        equal((info["state"], info["node"]["id"]), ("LIVE", "interop~1"))
        matches(r"^\d+s$", info["uptime_current_epoch"])
        for path in ("/help", "/"):
            status, text = lab.proxy.admin(path)
            equal(status, 200)
            assert "/config_dump" in text and "/quitquitquit" in text


@case
def draining_generation_is_listed():
    """a removed listener with an open connection is listed as draining with connections and age, then goes"""
    port = free_port()
    with TcpServer() as up, Lab(True, hold=[
            (CDS, cluster("up", [up.port])), (LDS, listener("l", port, tcp_filter("up")))]) as lab:
        lab.proxy.live()
        with socket.create_connection(("127.0.0.1", port)) as sock:
            equal(sock.recv(10), b"one\n")
            lab.good(LDS, removed=["l"])
            until("closed", lambda: refused(port))
            text = until("listed", lambda: lab.proxy.admin("/listeners")[1], 3)
            assert "l" in text and "drain" in text.lower(), text
            body = lab.proxy.admin("/listeners?format=json")[1]
            matches(r'(?i)drain', body)
            matches(r'(?i)connections"?: ?"?1', body)
            sock.sendall(b"still")
            equal(sock.recv(10), b"still")
        until("gone", lambda: not lab.proxy.admin("/listeners")[1].strip(), 5)


@case
def log_levels():
    """/logging lists and changes; unknown logger or level 400; MOSN's pair of paths does the same"""
    with static() as proxy:
        proxy.live()
        status, text = proxy.admin("/logging", "POST")
        equal(status, 200)
        matches(r"^active loggers:\n  \S+: \w+", text)
        logger = re.findall(r"^  (\S+):", text, re.M)[0]
        equal(proxy.admin("/logging?level=debug", "POST")[0], 200)
        matches(rf"  {logger}: debug", proxy.admin("/logging", "POST")[1])
        equal(proxy.admin(f"/logging?{logger}=error", "POST")[0], 200)
        matches(rf"  {logger}: error", proxy.admin("/logging", "POST")[1])
        for bad in ("level=loud", "nosuchlogger=debug"):
            equal(proxy.admin("/logging?" + bad, "POST")[0], 400, bad)


@case
def mosn_paths():
    """/api/v1/*: shapes, one parameter only, log levels, states"""
    admin, port = free_port(), free_port()
    with BoltServer() as up:
        config = mosn(admin, [mosn_proxy("l", port, "bolt", "bolt", "c")],
                      [{"name": "c", "type": "SIMPLE", "lb_type": "LB_RANDOM",
                        "hosts": [{"address": f"127.0.0.1:{up.port}"}]}])
        with Mizzen(config, admin=admin, form=["start"]) as proxy:
            proxy.live()
            equal(call(port).status, 0)
            status, text = proxy.admin("/api/v1/version")
            matches(r"^mosn version: \S+$", text)
            status, text = proxy.admin("/api/v1/states")
            equal(text, f"pid={proxy.process.pid}&state=6\n")
            whole = json.loads(proxy.admin("/api/v1/config_dump")[1])
            assert "mosn_config" in whole or "MosnConfig" in str(whole) or "servers" in str(whole), str(whole)[:200]
            for key in ("mosnconfig", "allrouters", "allclusters", "alllisteners", "cluster=c", "listener=l"):
                status, text = proxy.admin("/api/v1/config_dump?" + key)
                equal(status, 200, key)
                json.loads(text)
            assert '"c"' in proxy.admin("/api/v1/config_dump?cluster=c")[1]
            equal(proxy.admin("/api/v1/config_dump?cluster=c&listener=l"), (400, "only support one parameter"), "two parameters")
            equal(proxy.admin("/api/v1/config_dump?what=c")[0], 500, "unknown parameter")
            equal(proxy.admin("/api/v1/config_dump?cluster=none")[0], 200, "unknown name")
            stats = json.loads(proxy.admin("/api/v1/stats")[1])
            assert int(stats["downstream"]["proxy.global"]["request_total"]) >= 1, stats["downstream"]
            assert int(stats["downstream"]["proxy.global"]["bytes_read_total"]) > 50, stats["downstream"]
            assert int(stats["downstream"]["proxy.global"]["request_time_max"]) < 2_000_000_000, "nanoseconds"
            assert int(stats["upstream"]["cluster.c"]["request_total"]) >= 1, stats["upstream"]
            sent, got = proxy.stat("cluster.c.upstream_cx_tx_bytes_total"), proxy.stat("cluster.c.upstream_cx_rx_bytes_total")
            assert sent > 50 and got > 20, f"bytes of the cluster: {sent} out, {got} in"
            equal(proxy.admin("/api/v1/stats?key=nothing.at.all")[0], 200)
            levels = json.loads(proxy.admin("/api/v1/get_loglevel")[1])
            path = next(iter(levels))
            equal(proxy.admin("/api/v1/update_loglevel", "POST", json.dumps({"log_path": path, "log_level": "DEBUG"})),
                  (200, "update logger success\n"))
            equal(json.loads(proxy.admin("/api/v1/get_loglevel")[1])[path], "DEBUG")
            equal(proxy.admin("/api/v1/update_loglevel", "POST", '{"log_path":"/none","log_level":"DEBUG"}')[0], 400)
            equal(proxy.admin("/api/v1/update_loglevel", "POST", "nonsense")[0], 400)
            equal(proxy.admin("/api/v1/config_dump", "POST")[0], 405)


@case
def secrets_are_redacted():
    """keys, tokens and inline secrets never show: config_dump of bootstrap, of rejected resources, NACK text, log"""
    secret = "hunter2-very-secret"
    port = free_port()
    with TcpServer() as up:
        from ads import Ads
        with Ads() as ads:
            config = bootstrap(free_port(), ads_port=ads.port)
            config["dynamic_resources"]["ads_config"]["grpc_services"][0]["initial_metadata"] = [
                {"key": "authorization", "value": "Bearer " + secret}]
            ads.silent = {LDS}
            with Mizzen(config, "-l", "debug") as proxy:
                ads.wait("CDS", lambda s: s.type == CDS)
                tls = {"name": "tls", "typed_config": {
                    "@type": TYPE + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                    "common_tls_context": {"tls_certificates": [{
                        "certificate_chain": {"inline_string": "public"},
                        "private_key": {"inline_string": secret}, "password": {"inline_string": secret}}]}}}
                seen = ads.answer(ads.raw(CDS, [cluster("t", [1], transport_socket=tls)]))
                assert seen.error and secret not in seen.error, seen.error
                import base64
                for path in ("/config_dump", "/config_dump?include_eds", "/api/v1/config_dump", "/server_info"):
                    text = proxy.admin(path)[1]
                    assert secret not in text, f"secret in {path}"
                    for shift in range(3):
                        coded = base64.b64encode(b"x" * shift + secret.encode())[4:-4].decode()
                        assert coded not in text, f"secret in base64 in {path}"
                assert secret not in proxy.text(), "secret in the log"


@case
def wide_bind_warns():
    """a non-loopback admin bind warns"""
    config = static_tcp(free_port(), free_port(), 1)
    config["admin"]["address"]["socket_address"]["address"] = "0.0.0.0"
    with Mizzen(config) as proxy:
        proxy.live()
        matches(r"(?i)warn.*admin", proxy.text())


@case
def drain_listeners_path():
    """drain_listeners?inboundonly&graceful&skip_exit keeps accepting; plain drain_listeners closes the sockets"""
    inbound, outbound = free_port(), free_port()
    with TcpServer() as up:
        config = bootstrap(free_port(), {"clusters": [cluster_json("up", [up.port])], "listeners": [
            listener_json("in", inbound, tcp_filter("up"), traffic_direction="INBOUND"),
            listener_json("out", outbound, tcp_filter("up"), traffic_direction="OUTBOUND")]})
        with Mizzen(config, "--drain-time-s", "30") as proxy:
            proxy.live()
            equal(proxy.admin("/drain_listeners?inboundonly&graceful&skip_exit", "POST")[0], 200)
            time.sleep(0.5)
            equal((greeting(inbound), greeting(outbound)), ("one", "one"), "skip_exit keeps the sockets open")
            equal(proxy.admin("/drain_listeners?inboundonly", "POST")[0], 200)
            until("inbound closed", lambda: refused(inbound), 5)
            equal(greeting(outbound), "one", "outbound")
            equal(proxy.admin("/drain_listeners", "POST")[0], 200)
            until("all closed", lambda: refused(outbound), 5)
            equal(proxy.admin("/ready")[0] in (200, 503), True)
