"""Clauses at the edges: the README's walk-through as it is written, end of life, descriptors, files of others, limits."""
import os
import pathlib
import re
import resource
import shlex
import signal
import socket
import struct
import subprocess
import time

import harness
from ads import CDS, EDS, LDS, RDS, packed
from cases_cli import mosn, mosn_proxy, refuses, static_tcp
from cases_proxy import bolt_lab, closed
from cases_state import check_ignored, fill
from cases_xds import Lab, bolt_world, both
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2
from harness import Folder, Mizzen, case, equal, free_port, matches, run, until
from resources import cluster, endpoints, hcm_filter, listener, routes, rpc_filter, tcp_filter, to
from wire import Bolt, BoltServer, TcpServer, call, greeting, read_frame, refused, request

ROOT = pathlib.Path(__file__).resolve().parents[2]


@case
def readme_walk_through():
    """each block of the README's sample section runs as written, line by line, from the root of the repository"""
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## The sample"):text.index("## What is kept")]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.S)
    equal(len(blocks), 3, "blocks of the sample")
    for block in blocks:
        lines = [line.split("#")[0].strip() for line in block.splitlines()]
        running, client = [], None
        try:
            for line in filter(None, lines):
                words = shlex.split(line)
                if words[0] == "mizzen":
                    words[0] = harness.BINARY
                if words[1] == "stop" or words[0] == "curl":
                    if words[1] == "stop" and client:  # who goes on calling is served on
                        client.send_signal(signal.SIGINT)
                        client.wait(10)
                    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=15)
                    equal(done.returncode, 0, f"{line}: {done.stderr}")
                    continue
                out = subprocess.PIPE if "client" in words[1:3] and "sample" in words else subprocess.DEVNULL
                started = subprocess.Popen(words, cwd=ROOT, stdout=out, stderr=subprocess.DEVNULL, text=True)
                running.append(started)
                if out == subprocess.PIPE:
                    client = started
                    replies = [client.stdout.readline() for _ in range(3)]
                    assert any("server" in reply for reply in replies), f"{line}: {replies}"
                else:
                    time.sleep(1.5 * harness.SLACK)
                    equal(started.poll(), None, f"{line} ended")
        finally:
            for process in reversed(running):
                process.send_signal(signal.SIGINT)
            for process in running:
                process.wait(10)
                if process.stdout:
                    process.stdout.close()
        for port in (8080, 2045, 2046, 34901, 34902):
            until(f"port {port} is free again", lambda port=port: refused(port))


@case
def flags_in_every_form():
    """both forms of each flag that has an effect; a flag given twice: the last one counts"""
    admin, port = free_port(), free_port()
    with TcpServer() as up, Folder() as folder:
        path = folder.write("c.json", static_tcp(admin, port, up.port))
        for args in (["-c", path], ["-c=" + path], ["--config-path", path], ["--config-path=" + path],
                     ["--config", path], ["--config=" + path]):
            equal(run(*args, "--mode", "validate")[0], 0, args)
        for args in (["--concurrency", "1"], ["--concurrency=2"], ["--drain-time-s", "1"], ["--drain-time-s=1"],
                     ["--drain-strategy", "gradual"], ["--drain-strategy=immediate"], ["-l", "info"], ["-linfo"],
                     ["--log-level=info"], ["--drain-accept-s", "1"], ["--drain-accept-s=1"],
                     ["--route-hold-s=1"], ["--removed-cluster-linger-s=0"], ["--service-cluster=a"],
                     ["--concurrency", "1", "--concurrency", "2"], ["--log-path", str(folder.path / "x.log")]):
            code, _, err, _ = run("-c", path, "--mode=validate", *args)
            equal(code, 0, f"{args}: {err}")
        refuses(["-c", path, "--concurrency=0.5"], "concurrency", "0.5")
        refuses(["-c"], "c")
        refuses(["check", "-c", path, "--format=xml"], "xml")


@case
def sigterm_waits_for_the_slow():
    """a request longer in flight than a second is not idle; --drain-time-s bounds the wait; a second SIGTERM ends it"""
    port = free_port()
    with BoltServer(delay=2.5) as up, bolt_lab(port, [cluster("up", [up.port])], [to("up")]) as lab:
        lab.proxy.live()
        with Bolt(port, 10) as client:
            ident = client.send()
            time.sleep(0.2)
            lab.proxy.process.send_signal(signal.SIGTERM)
            equal((client.read().ident, client.sock.recv(1)), (ident, b""), "answered, then closed as idle")
        equal(lab.proxy.process.wait(5), 0, "exit code")
    port = free_port()
    with BoltServer(mute=True) as up, bolt_lab(port, [cluster("up", [up.port])], [to("up", timeout="60s")],
                                               "--drain-time-s", "2") as lab:
        lab.proxy.live()
        with Bolt(port, 10) as client:
            client.send()
            time.sleep(0.2)
            start = time.monotonic()
            equal(lab.proxy.end(), 0, "exit code")
            took = time.monotonic() - start
            assert 1.5 <= took <= 3 + harness.SLACK, f"ended after {took:.1f} s"


@case
def accepts_on_after_sigterm():
    """--drain-accept-s: new connections are served that long after SIGTERM, /ready is 503 at once"""
    port = free_port()
    with BoltServer() as up, bolt_lab(port, [cluster("up", [up.port])], [to("up")], "--drain-accept-s", "2") as lab:
        lab.proxy.live()
        with Bolt(port) as held:
            start = time.monotonic()
            lab.proxy.process.send_signal(signal.SIGTERM)
            until("503", lambda: lab.proxy.admin("/ready")[0] == 503, 1)
            while time.monotonic() - start < 1.3:
                equal(call(port).status, 0, "a fresh connection while it accepts")
                equal(held.call().status, 0)
                time.sleep(0.1)
            until("refused", lambda: held.call().status == 0 and refused(port), 4)
        equal(lab.proxy.process.wait(5), 0, "exit code")


@case
def out_of_descriptors():
    """soft NOFILE is raised to hard; at the limit accepting pauses, counted, without spinning; then it goes on"""
    port, admin = free_port(), free_port()
    with TcpServer() as up, Folder() as folder:
        config = static_tcp(admin, port, up.port)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, before[1]))
        try:
            proxy = Mizzen(config)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        with proxy:
            proxy.live()
            limits = pathlib.Path(f"/proc/{proxy.process.pid}/limits").read_text()
            soft, hard = re.search(r"Max open files\s+(\S+)\s+(\S+)", limits).groups()
            equal(soft, hard, "soft NOFILE")
            resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE, (48, 48))
            idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]

            def cpu():
                fields = pathlib.Path(f"/proc/{proxy.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
                return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

            time.sleep(0.5)
            used = cpu()
            time.sleep(2)
            used = cpu() - used
            assert used < 0.5, f"spins: {used:.2f} s of CPU in 2 s"
            for sock in idle:
                sock.close()
            until("serves again", lambda: greeting(port) == "one", 5)
            text = proxy.admin("/stats?usedonly")[1] + proxy.admin("/stats/prometheus")[1]
            matches(r"(?m)^\S*(accept_paus|emfile|no_descriptors|downstream_cx_overflow|fd)\S*(: | )[1-9]", text, "a counter")


@case
def state_of_others():
    """a state file that is another user's, or of another control plane or static part, is not applied"""
    port = free_port()
    with TcpServer() as up, Folder() as folder:
        where = folder.path / "s"
        text, _ = fill(False, where, [(CDS, cluster("up", [up.port])), (LDS, listener("l", port, tcp_filter("up")))])
        import json
        config = json.loads(text)
        for one in config["static_resources"]["clusters"]:
            if one["name"] == "control":
                one["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"][
                    "port_value"] = free_port()
        check_ignored(config, where, port, "other control plane")
        file = max(where.iterdir(), key=lambda f: f.stat().st_size)
        body = file.read_bytes()
        file.unlink()
        os.mkfifo(file)
        check_ignored(json.loads(text), where, port, "a pipe")
        file.unlink()
        file.write_bytes(body)
        if os.geteuid() == 0:
            os.chmod(file, 0o600)
            os.chown(file, 12345, 12345)
            check_ignored(json.loads(text), where, port, "another owner")


@both
def unknown_field_where_it_counts(delta):
    """an unknown field inside a filter list is a NACK that names it; beside it, counted"""
    with Lab(delta, hold=[(CDS, cluster("up", [1]))]) as lab:
        lab.ads.wait("LDS", lambda s: s.type == LDS)
        odd = listener("odd", free_port(), hcm_filter("table"))
        any_ = odd.filter_chains[0].filters[0].typed_config
        from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as pb
        body = pb.HttpConnectionManager.FromString(any_.value)
        inner = body.http_filters[0].typed_config
        inner.value += bytes([0x82, 0xfa, 0x01, 0x01, 0x41])
        any_.value = body.SerializeToString()
        text = lab.nack(lab.ads.raw(LDS, [odd]))
        matches(r"(?i)^listener odd: filter_chains\[0\]\.filters\[0\].*http_filters\[0\].*4000", text)


@both
def one_resource_too_large(delta):
    """a resource over 64 MB is refused by name, its neighbour applies, the stream goes on"""
    with Lab(delta) as lab:
        lab.ads.wait("CDS", lambda s: s.type == CDS)
        text = lab.ads.answer(lab.ads.raw(CDS, [cluster("fine", [1]), cluster("huge", [1], alt_stat_name="x" * 68_000_000)]), 60).error
        matches(r"(?i)^cluster huge: .*(64|67108864|67,108,864)", text[:500])
        assert "fine" not in text
        equal(lab.ads.opened, 1, "streams")
        until("the neighbour", lambda: "\nfine::" in "\n" + lab.proxy.admin("/clusters")[1])


@case
def frame_limit_is_configurable():
    """max_frame_bytes: a frame over it is refused from its header alone, one under it passes; both dialects"""
    port, other, admin = free_port(), free_port(), free_port()

    def judge(port):
        equal(call(port, content=b"x" * 3000).status, 0, "under the limit")
        with Bolt(port) as client:
            client.sock.sendall(request(3, content=b"")[:18] + struct.pack(">I", 1 << 20))
            client.sock.settimeout(3)
            try:
                assert read_frame(client.sock).status != 0
            except (EOFError, ConnectionError):
                pass
            assert closed(client.sock), "still open"

    with BoltServer() as up:
        with bolt_lab(port, [cluster("up", [up.port])], [to("up")], filter_more={"max_frame_bytes": 4096}) as lab:
            lab.proxy.live()
            judge(port)
        listener_ = mosn_proxy("l", other, "bolt", "bolt", "c")
        listener_["filter_chains"][0]["filters"][0]["config"]["extend_config"] = {"bolt": {"max_frame_bytes": 4096}}
        hosts = [{"address": f"127.0.0.1:{up.port}"}]
        with Mizzen(mosn(admin, [listener_], [{"name": "c", "type": "SIMPLE", "lb_type": "LB_RANDOM", "hosts": hosts}]),
                    admin=admin, form=["start"]) as proxy:
            proxy.live()
            judge(other)


@case
def side_channel_cannot_smuggle():
    """the converted call's hidden block does not override a flat header, and means nothing on an HTTP listener"""
    import grpc
    from cases_proxy import http_lab
    from wire import channel
    port = free_port()
    with BoltServer() as up, Lab(False, hold=[
            (CDS, cluster("up", [up.port])), (LDS, listener("in", port, rpc_filter("table", "http2", "bolt"))),
            (RDS, routes("table", to("up", {"prefix": "/", "headers": [
                {"name": "service", "string_match": {"exact": "allowed"}}]})))]) as lab:
        lab.proxy.live()
        with channel(port) as chan:
            try:
                chan.unary_unary("/")(b"", timeout=5, metadata=(("service", "forbidden"), ("requestid", "7"), ("cmdtype", "1")))
                raise AssertionError("a forbidden service passed")
            except grpc.RpcError:
                pass
        equal(len(up.frames), 0, "calls at the server")
