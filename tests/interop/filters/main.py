#!/usr/bin/env python3
"""Compares what Envoy and Mizzen make of the same pushed HTTP filters: main.py [NAME...]"""
import gzip
import http.client
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

# Also registers the types that Any may hold.
import envoy.extensions.compression.gzip.compressor.v3.gzip_pb2  # noqa: F401
import envoy.extensions.filters.http.buffer.v3.buffer_pb2  # noqa: F401
import envoy.extensions.filters.http.compressor.v3.compressor_pb2  # noqa: F401
import envoy.extensions.filters.http.cors.v3.cors_pb2  # noqa: F401
import envoy.extensions.filters.http.fault.v3.fault_pb2  # noqa: F401
import envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2  # noqa: F401
import envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2  # noqa: F401
import envoy.extensions.filters.http.rbac.v3.rbac_pb2  # noqa: F401
import envoy.extensions.filters.http.router.v3.router_pb2  # noqa: F401
import envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2  # noqa: F401
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from google.protobuf import json_format

from ads import CDS, LDS, Ads
from cases import CASES, HTTP, VERDICTS
from harness import bootstrap, free_port, socket_address, until

HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
KEPT = ("access-control-", "x-ratelimit-", "content-encoding", "content-type", "vary", "etag", "grpc-", "allow")
OWN = ("x-request-id", "x-forwarded-", "x-envoy-")


class Backend(http.server.BaseHTTPRequestHandler):
    """Answers with what it got, or with a text of the length that its path asks for."""
    protocol_version = "HTTP/1.1"

    def answer(self):
        length = int(self.headers.get("content-length") or 0)
        chunked = self.headers.get("transfer-encoding") == "chunked"
        body = self.rfile.read(length) if not chunked else self.chunks()
        names = [n for n in self.headers if n.lower().startswith("x-") and not n.lower().startswith(OWN)]
        seen = {"method": self.command, "path": self.path, "length": len(body),
                "headers": sorted((n.lower(), v) for n in set(names) for v in self.headers.get_all(n))}
        kind, text = "application/json", json.dumps(seen, sort_keys=True)
        if self.path.startswith(("/long", "/short")):
            kind = "image/png" if self.path.endswith("image") else "text/plain"
            text = "word " * (400 if self.path.startswith("/long") else 4)
        self.send_response(200)
        for name, value in [("content-type", kind), ("content-length", str(len(text))), ("x-up", "1"), ("x-old", "up")]:
            self.send_header(name, value)
        if self.path.endswith("etag"):
            self.send_header("etag", '"strong"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())

    def chunks(self):
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_PUT = do_POST = do_HEAD = do_OPTIONS = answer

    def log_message(self, *_):
        pass


class Peer:
    """One proxy and the stream that configures it."""

    def __init__(self, name, program, args, backend):
        self.name, self.ads, self.admin = name, Ads(), free_port()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mizzen-filters-"))
        config = self.folder / "config.json"
        config.write_text(json.dumps(bootstrap(self.admin, ads_port=self.ads.port)))
        cluster = {"name": "c", "type": "STATIC", "connect_timeout": "2s", "load_assignment": {
            "cluster_name": "c", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(backend)}}]}]}}
        self.ads.hold(CDS, json_format.ParseDict(cluster, cluster_pb2.Cluster()))
        self.log = open(self.folder / "log", "w+")
        self.process = subprocess.Popen([program, *args, "-c", str(config), "--concurrency", "1"],
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT)

    def wait(self):
        def asked():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            return self.ads.of(LDS)
        until(f"{self.name} asks for listeners", asked, 30)

    def push(self, name, listener):
        """The port, or the text of the refusal."""
        port = free_port()
        made = json_format.ParseDict({**listener, "name": name, "address": socket_address(port)}, listener_pb2.Listener())
        with self.ads.lock:
            self.ads.held[LDS].clear()
        error = self.ads.answer(self.ads.put(LDS, made)).error
        if error:
            return None, error
        until(f"{self.name} serves {name}", lambda: reachable(port), 20)
        return port, None

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=10) as answer:
            return answer.read().decode()

    def counters(self, names):
        lines = dict(line.split(": ", 1) for line in self.get("/stats").splitlines() if ": " in line)
        return {name: lines.get(name) for name in names}

    def dumped(self, name):
        """The listener as the dump has it; its port is its own."""
        dump = json.loads(self.get("/config_dump?resource=dynamic_listeners"))
        found = next(c for c in dump["configs"] if c["name"] == name)["active_state"]["listener"]
        del found["address"]
        return found

    def end(self):
        self.process.kill()
        self.process.wait()
        self.ads.stop()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def reachable(port):
    import socket
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def listener(filter_, per_route):
    route = {"match": {"prefix": "/"}, "route": {"cluster": "c"}}
    if per_route:
        route["typed_per_filter_config"] = {"judged": per_route}
    manager = {"@type": HCM, "stat_prefix": "h", "codec_type": "AUTO",
               "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
               "http_filters": [{"name": "judged", "typed_config": filter_},
                                {"name": "router", "typed_config": {"@type": HTTP + "router.v3.Router"}}]}
    return {"filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}]}


def ask(port, request):
    method, path, headers, body = request
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {"host": "h", **headers})
        answer = connection.getresponse()
        text = answer.read()
        kept = [(n.lower(), v) for n, v in answer.getheaders()
                if n.lower().startswith(KEPT) or (n.lower().startswith("x-") and not n.lower().startswith(OWN))]
        if answer.getheader("content-encoding") == "gzip":
            text = gzip.decompress(text)
        # How long until tokens come is for the clock to say.
        kept = [(n, v) for n, v in kept if n != "x-ratelimit-reset"]
        return answer.status, sorted(kept), text.decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"connection: {type(error).__name__}", [], ""
    finally:
        connection.close()


def differ(what, theirs, ours):
    if theirs == ours:
        return 0
    print(f"DIFFERENT {what}:\n    Envoy:  {theirs}\n    Mizzen: {ours}")
    return 1


def judge(name, both):
    filter_, per_route, requests, counters = CASES[name]
    places = [peer.push(name, listener(filter_, per_route)) for peer in both]
    if any(error for _, error in places):
        return differ(f"verdict on {name}", *(error for _, error in places)) or 1
    before = [peer.counters(counters) for peer in both]
    wrong = 0
    for request in requests:
        wrong += differ(f"{name}: {request}", *(ask(port, request) for port, _ in places))
    time.sleep(0.05)

    def grown(peer, old):
        return {n: int(v or 0) - int(old[n] or 0) for n, v in peer.counters(counters).items()}
    wrong += differ(f"{name}: counters", *(grown(p, old) for p, old in zip(both, before)))
    return wrong + differ(f"{name}: dump", *(peer.dumped(name) for peer in both))


def main():
    wanted = sys.argv[1:]
    chosen = [name for name in CASES if not wanted or any(word in name for word in wanted)]
    verdicts = [name for name in VERDICTS if not wanted or any(word in name for word in wanted)]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    backend = server.server_address[1]
    both = [Peer("Envoy", os.environ["ENVOY"], ["--disable-hot-restart", "-l", "error"], backend),
            Peer("Mizzen", os.environ["MIZZEN"], [], backend)]
    wrong = 0
    try:
        for peer in both:
            peer.wait()
        for name in chosen:
            wrong += judge(name, both)
        for name in verdicts:
            theirs, ours = (peer.push(name, listener(VERDICTS[name], None))[1] for peer in both)
            if bool(theirs) != bool(ours):
                wrong += differ(f"verdict on {name!r}", theirs, ours)
    finally:
        for peer in both:
            peer.end()
    print(f"{len(chosen)} cases, {len(verdicts)} verdicts: {wrong} differences")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
