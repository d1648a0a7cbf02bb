"""Command line and configuration files: exit codes, one-line errors, check, both dialects."""
import json
import pathlib
import signal
import subprocess
import time

import yaml

import harness
from harness import Folder, Mizzen, bootstrap, case, equal, free_port, matches, run, until
from resources import cluster_json, listener_json, tcp_filter
from wire import BoltServer, TcpServer, call, greeting, header_block, refused


def refuses(args, *parts, env=None):
    """Exit 1 within a second, one line on stderr, with each of `parts` in it."""
    code, _, err, seconds = run(*args, env=env)
    equal(code, 1, f"exit code of {args} ({err!r})")
    lines = err.strip().splitlines()
    equal(len(lines), 1, f"lines on stderr for {args}: {lines}")
    for part in parts:
        assert part in lines[0], f"{part!r} is not in {lines[0]!r}"
    assert seconds < 1.5, f"took {seconds:.1f} s"


def static_tcp(admin, port, upstream, **more):
    return bootstrap(admin, {"clusters": [cluster_json("up", [upstream])],
                             "listeners": [listener_json("tcp", port, tcp_filter("up"))]}, **more)


@case
def version_and_help():
    """--version and --help exit 0 on stdout, on sub-commands too"""
    for args in (["--version"], ["--help"], ["start", "--help"], ["-h"], ["check", "--help"],
                 ["sample", "--help"], ["stop", "--help"], ["reload", "--help"], ["demo", "--help"]):
        code, out, err, _ = run(*args)
        equal((code, err), (0, ""), args)
        assert out.strip(), args
    matches(r"(?i)no effect", run("--help")[1], "flags without effect are named")


@case
def unknown_flag():
    """an unknown flag or a bad value: exit 1, one line"""
    refuses(["--no-such-flag"], "--no-such-flag")
    refuses(["start", "--no-such-flag"], "--no-such-flag")
    refuses(["-c", "x", "--concurrency", "many"], "concurrency", "many")
    refuses(["-c", "x", "--drain-time-s=-5"], "drain-time-s")
    refuses(["-c", "x", "--drain-strategy", "never"], "drain-strategy", "never")
    refuses(["-c", "x", "--mode", "dance"], "mode", "dance")
    refuses(["-c", "x", "-l", "loud"], "loud")
    refuses(["dance"], "dance")
    refuses(["start", "-f", "nonsense=true"], "nonsense")


@case
def unreadable_file():
    """a missing, empty, broken or foreign file: exit 1, one line with file and reason"""
    with Folder() as folder:
        refuses(["-c", "/nowhere/x.json"], "/nowhere/x.json")
        refuses(["start", "-c", str(folder.path)], str(folder.path))
        for name, text in (("empty.json", ""), ("half.json", '{"node": {'), ("list.json", "[]"),
                           ("foreign.json", '{"hello": 1}'), ("nul.json", "\0\0"), ("word.yaml", "just words")):
            refuses(["-c", folder.write(name, text)], name)
        (folder.path / "bin.json").write_bytes(b"\xff\xfe\x00{")
        refuses(["-c", str(folder.path / "bin.json")], "bin.json")


@case
def invalid_field():
    """an invalid field is named with file, path, value and what was expected"""
    admin = free_port()
    with Folder() as folder:
        def bad(change, *parts):
            config = static_tcp(admin, free_port(), 1)
            change(config)
            refuses(["-c", folder.write("bad.json", config)], "bad.json", *parts)

        static = "static_resources"
        bad(lambda c: c[static]["clusters"][0].update(connect_timeout="soon"), "clusters[0].connect_timeout", "soon")
        bad(lambda c: c[static]["listeners"][0]["address"]["socket_address"].update(port_value=70000),
            "listeners[0].address.socket_address.port_value", "70000")
        bad(lambda c: c[static]["listeners"][0]["address"]["socket_address"].update(address="nohost"),
            "listeners[0].address.socket_address.address", "nohost")
        bad(lambda c: c[static]["clusters"][0].update(type="MAGIC"), "clusters[0].type", "MAGIC")
        bad(lambda c: c[static]["clusters"][0].update(lb_policy="BEST"), "clusters[0].lb_policy", "BEST")
        bad(lambda c: c["admin"]["address"]["socket_address"].update(port_value="x"), "admin.address", "x")
        bad(lambda c: c[static]["clusters"].append(dict(c[static]["clusters"][0])), "clusters", "up", "twice")
        bad(lambda c: c[static]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"].update(
            {"@type": "type.googleapis.com/no.Such"}), "filters[0].typed_config", "no.Such")
        bad(lambda c: c.update(static_resources=7), "static_resources", "7")


@case
def yaml_file():
    """an Envoy bootstrap in YAML starts; a bad YAML one is refused by field"""
    admin, port = free_port(), free_port()
    with TcpServer("y") as upstream, Folder() as folder:
        text = yaml.safe_dump(static_tcp(admin, port, upstream.port))
        with Mizzen(folder.write("b.yaml", text), admin=admin) as proxy:
            proxy.live()
            equal(greeting(port), "y")
        refuses(["-c", folder.write("bad.yaml", text.replace("connect_timeout: 1s", "connect_timeout: later"))],
                "bad.yaml", "clusters[0].connect_timeout", "later")


@case
def flags_as_agent_passes_them():
    """the pilot-agent's argv starts; both `--f v` and `--f=v`; unknown fields accepted and counted"""
    argv = ["--drain-time-s", "45", "--drain-strategy", "immediate", "--local-address-ip-version", "v4",
            "--file-flush-interval-msec", "1000", "--disable-hot-restart", "--allow-unknown-static-fields",
            "-l", "warning", "--component-log-level", "misc:error", "--skip-deprecated-logs",
            "--file-flush-min-size-kb", "64", "--enable-core-dump", "--restart-epoch", "0", "--base-id", "1",
            "--parent-shutdown-time-s", "60", "--service-cluster", "c", "--service-node", "n",
            "--max-obj-name-len", "189", "--log-format", "%v", "--bootstrap-version", "3"]
    joined = ["--drain-time-s=45", "--drain-strategy=immediate", "--local-address-ip-version=v4",
              "--file-flush-interval-msec=1000", "--disable-hot-restart", "-l=warning", "--log-level=warning",
              "--component-log-level=misc:error", "--mode=serve", "--service-node=n"]
    for args in (argv, joined):
        admin, port = free_port(), free_port()
        config = static_tcp(admin, port, 1, surprise={"a": 1})
        with Mizzen(config, *args) as proxy:
            proxy.live()
            info = json.loads(proxy.admin("/server_info")[1])
            equal(info["command_line_options"].get("drain_time"), "45s", "drain_time")
            assert proxy.stat("server.static_unknown_fields") >= 1, "server.static_unknown_fields is not counted"
            equal(proxy.end(signal.SIGINT), 0, "exit code after SIGINT")


@case
def config_yaml_merges():
    """--config-yaml: scalars replace, lists append, messages merge, a oneof member replaces its neighbour"""
    admin, other, port, extra = (free_port() for _ in range(4))
    overlay = {"admin": {"address": {"socket_address": {"port_value": other}}}, "node": {"id": "merged"},
               "static_resources": {"listeners": [listener_json("more", extra, tcp_filter("up"))]}}
    with TcpServer("m") as upstream:
        config = static_tcp(admin, port, upstream.port)
        for form in (["--config-yaml", json.dumps(overlay)], ["--config-yaml=" + json.dumps(overlay)]):
            with Mizzen(config, *form, admin=other) as proxy:
                proxy.live()
                equal((greeting(port), greeting(extra)), ("m", "m"), "both listeners serve")
                node = json.loads(proxy.admin("/server_info")[1])["node"]
                equal((node["id"], node["cluster"]), ("merged", "interop"), "node is merged")
                assert refused(admin), "the file's admin port is open beside the overlay's"
    with Folder() as folder:
        path = folder.write("c.json", config)
        refuses(["-c", path, "--config-yaml", "{admin: {address: {socket_address: {port_value: x}}}}"], "port_value", "x")
        refuses(["-c", path, "--config-yaml", "{a: [}"], "config-yaml")


@case
def mode_validate():
    """--mode validate: 0 for a good file without opening anything, 1 and one line for a bad one"""
    admin, port = free_port(), free_port()
    with Folder() as folder:
        good = folder.write("good.json", static_tcp(admin, port, 1))
        for form in (["--mode", "validate"], ["--mode=validate"]):
            code, out, err, _ = run("-c", good, *form)
            equal(code, 0, f"exit code ({err})")
        assert refused(port)
        bad = static_tcp(admin, port, 1)
        bad["static_resources"]["clusters"][0]["connect_timeout"] = "soon"
        refuses(["-c", folder.write("bad.json", bad), "--mode", "validate"], "connect_timeout", "soon")


@case
def check_lists_every_finding():
    """check prints every finding with its path, JSON on stdout, exit 1; a clean file exits 0"""
    with Folder() as folder:
        config = static_tcp(free_port(), free_port(), 1)
        good = folder.write("good.json", config)
        code, out, err, _ = run("check", "-c", good)
        equal(code, 0, f"{out}{err}")
        code, out, err, _ = run("check", "-c", good, "--format", "json")
        equal(code, 0, err)
        json.loads(out)
        static = config["static_resources"]
        static["clusters"][0]["connect_timeout"] = "soon"
        static["clusters"].append({"name": "c2", "type": "STATIC", "lb_policy": "BEST"})
        static["listeners"][0]["address"]["socket_address"]["port_value"] = 99999
        bad = folder.write("bad.json", config)
        for form in (["--format", "json"], ["--format=json"]):
            code, out, err, _ = run("check", "-c", bad, *form)
            equal(code, 1, err)
            text = json.dumps(json.loads(out))
            for part in ("clusters[0].connect_timeout", "soon", "clusters[1].lb_policy", "BEST",
                         "listeners[0].address.socket_address.port_value", "99999"):
                assert part in text, f"{part} is not in {text}"
        code, out, err, _ = run("check", "-c", bad)
        equal(code, 1)
        assert "soon" in out + err and "BEST" in out + err and "99999" in out + err, out + err
        code, out, _, _ = run("check", "-c", "/nowhere.json", "--format", "json")
        equal(code, 1)
        json.loads(out)


def mosn(admin, listeners, clusters, **more):
    return {"servers": [{"default_log_path": "stdout", "default_log_level": "INFO", "listeners": listeners}],
            "cluster_manager": {"clusters": clusters},
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}}, **more}


def mosn_proxy(name, port, down, up, cluster, timeout=10_000_000_000):
    """A listener in the 2018 form."""
    return {"name": name, "address": f"127.0.0.1:{port}", "bind_port": True, "filter_chains": [{
        "tls_context": {}, "filters": [{"type": "proxy", "config": {
            "downstream_protocol": down, "upstream_protocol": up, "virtual_hosts": [{
                "name": "h", "domains": ["*"], "routers": [{
                    "match": {"headers": [{"name": "service", "value": ".*"}]},
                    "route": {"cluster_name": cluster, "timeout": timeout}}]}]}}]}]}


@case
def mosn_2018_sample():
    """the 2018 form converts bolt to HTTP/2 and back; the answer is the server's, byte for byte"""
    admin, outer, inner = free_port(), free_port(), free_port()
    with BoltServer("v1") as upstream:
        config = mosn(admin, [mosn_proxy("in", inner, "Http2", "SofaRpc", "server"),
                              mosn_proxy("out", outer, "SofaRpc", "Http2", "client")],
                      [{"Name": "server", "type": "SIMPLE", "lb_type": "LB_RANDOM", "hosts": [
                          {"address": f"127.0.0.1:{upstream.port}", "meta_data": {"version": "v1"}}]},
                       {"Name": "client", "type": "SIMPLE", "lb_type": "LB_RANDOM", "hosts": [
                           {"address": f"127.0.0.1:{inner}"}]}])
        with Mizzen(config, admin=admin, form=["start"]) as proxy:
            proxy.live()
            headers = [("service", "com.Echo:1.0"), ("Mixed-Case", "a,b"), ("dup", "1"), ("dup", "2"), ("empty", "")]
            frame = call(outer, headers, b"\x00\xffbody", timeout=3000)
            equal((frame.status, frame.content), (0, b"v1:\x00\xffbody"), "answer")
            got = upstream.frames[0]
            equal(got.headers, header_block(headers), "headers at the server")
            equal(got.timeout, 3000, "timeout at the server")
            equal(call(outer, (("other", "x"),)).status, 6, "no route: status")


@case
def mosn_findings():
    """MOSN files: unknown protocol, cluster and duration are errors with their path; check lists them"""
    with Folder() as folder:
        def bad(listener, *parts):
            config = mosn(free_port(), [listener], [{"name": "c", "type": "SIMPLE", "hosts": [{"address": "127.0.0.1:1"}]}])
            refuses(["start", "-c", folder.write("m.json", config)], "m.json", "servers[0].listeners[0]", *parts)

        bad(mosn_proxy("l", 0, "Telepathy", "Http2", "c"), "downstream_protocol", "Telepathy")
        bad(mosn_proxy("l", 0, "bolt", "Http2", "c", "soon"), "timeout", "soon")
        bad({**mosn_proxy("l", 0, "bolt", "bolt", "c"), "address": "nowhere"}, "address", "nowhere")


@case
def stop_and_reload():
    """`stop` ends the process of the pid file with exit 0; `reload` exits 0 and changes nothing"""
    admin, port = free_port(), free_port()
    with TcpServer() as upstream, Folder() as folder:
        listener = {"name": "l", "address": f"127.0.0.1:{port}", "bind_port": True, "filter_chains": [
            {"filters": [{"type": "tcp_proxy", "config": {"cluster": "c"}}]}]}
        pid = str(folder.path / "run" / "mizzen.pid")
        config = mosn(admin, [listener], [
            {"name": "c", "type": "SIMPLE", "hosts": [{"address": f"127.0.0.1:{upstream.port}"}]}], pid=pid)
        path = folder.write("m.json", config)
        with Mizzen(path, admin=admin, form=["start"]) as proxy:
            proxy.live()
            equal(int(pathlib.Path(pid).read_text()), proxy.process.pid, "pid file")
            equal(run("reload", "-c", path)[0], 0, "reload")
            equal(greeting(port), "one")
            code, _, err, _ = run("stop", "-c", path)
            equal(code, 0, err)
            equal(proxy.process.wait(5), 0, "exit code of the stopped process")
            assert not pathlib.Path(pid).exists(), "the pid file is left behind"
        code, _, err, _ = run("stop", "-c", path)
        equal(code, 1, "stop without a process")
        equal(len(err.strip().splitlines()), 1, err)


@case
def signals():
    """SIGHUP, SIGUSR1, SIGPIPE never kill; SIGTERM ends an idle process at once with 0"""
    admin, port = free_port(), free_port()
    with TcpServer() as upstream, Mizzen(static_tcp(admin, port, upstream.port)) as proxy:
        proxy.live()
        for name in (signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE):
            proxy.process.send_signal(name)
        time.sleep(0.3)
        equal(greeting(port), "one", "after the signals")
        start = time.monotonic()
        equal(proxy.end(), 0, "exit code")
        assert time.monotonic() - start < 3, "an idle process took long to end"


@case
def port_in_use():
    """a static listener's port held by another process is its error alone; the admin's is fatal"""
    port = free_port()
    with TcpServer() as other, TcpServer("mine") as upstream, Folder() as folder:
        config = static_tcp(free_port(), other.port, upstream.port)
        config["static_resources"]["listeners"].append(listener_json("good", port, tcp_filter("up")))
        with Mizzen(config) as proxy:
            proxy.live()
            matches(rf"(?i)listener tcp.*{other.port}.*in use", proxy.text())
            equal(greeting(port), "mine")
        admin_taken = static_tcp(other.port, free_port(), 1)
        refuses(["-c", folder.write("d.json", admin_taken)], str(other.port))


@case
def sample_programs():
    """sample server and client speak bolt v1; the server's name is in the reply; the client exits 1 when nobody answers"""
    port = free_port()
    server = subprocess.Popen([harness.BINARY, "sample", "server", "-p", str(port), "-n", "blue"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until("sample server", lambda: not refused(port) and True)
        frame = call(port)
        equal(frame.status, 0, "status")
        assert b"blue" in frame.raw, frame.raw
        code, out, err, _ = run("sample", "client", "-a", f"127.0.0.1:{port}")
        equal(code, 0, err)
        assert "blue" in out, out
    finally:
        server.kill()
        server.wait()
    code, _, err, _ = run("sample", "client", "-a", f"127.0.0.1:{port}")
    equal(code, 1, f"client without server ({err})")


@case
def split_mosn_files():
    """clusters_configs and router_configs are read; a bad one is named by its file; MOSN_CONFIG names the file"""
    admin, port = free_port(), free_port()
    with BoltServer("split") as upstream, Folder() as folder:
        for name in ("clusters", "routers"):
            (folder.path / name).mkdir()
        cluster = {"name": "c", "type": "SIMPLE", "hosts": [{"address": f"127.0.0.1:{upstream.port}"}]}
        folder.write("clusters/c.json", cluster)
        folder.write("routers/h.json", {"name": "h", "domains": ["*"], "routers": [
            {"match": {"prefix": "/"}, "route": {"cluster_name": "c"}}]})
        config = mosn(admin, [{"name": "l", "address": f"127.0.0.1:{port}", "bind_port": True, "filter_chains": [
            {"filters": [{"type": "proxy", "config": {
                "downstream_protocol": "bolt", "upstream_protocol": "bolt", "router_config_name": "r"}}]}]}], [])
        config["servers"][0]["routers"] = [{"router_config_name": "r", "router_configs": str(folder.path / "routers")}]
        config["cluster_manager"] = {"clusters_configs": str(folder.path / "clusters")}
        path = folder.write("m.json", config)
        with Mizzen(path, admin=admin, form=["start"]) as proxy:
            proxy.live()
            equal(call(port).content[:5], b"split")
        code, out, err, _ = run("check", "-c", path, "--format", "json")
        equal(code, 0, out + err)
        folder.write("clusters/c.json", {**cluster, "hosts": [{"address": "nowhere"}]})
        refuses(["start", "-c", path], "c.json", "nowhere")
        refuses(["start"], "c.json", "nowhere", env={"MOSN_CONFIG": path})
        code, out, _, _ = run("check", "-c", path, "--format", "json")
        equal(code, 1)
        assert "c.json" in out and "nowhere" in out, out
