#!/usr/bin/env python3
"""Drives the binary with an ADS server written on the official protos.

Usage: drive.py BINARY sotw|delta
Pushes clusters, endpoints, a bolt listener and its routes; then, with requests going on: a route switch, an
endpoint swap, a bad cluster among good ones, a removal, and the loss of the control plane. Each step prints one
line; the first that does not hold ends the run with exit 1.
"""
import concurrent.futures
import json
import pathlib
import queue
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import grpc
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2, json_format

PREFIX = "type.googleapis.com/"
CDS = PREFIX + "envoy.config.cluster.v3.Cluster"
EDS = PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS = PREFIX + "envoy.config.listener.v3.Listener"
RDS = PREFIX + "envoy.config.route.v3.RouteConfiguration"
ADS = {"ads": {}, "resource_api_version": "V3"}


def pack(message):
    wrapped = any_pb2.Any()
    wrapped.Pack(message)
    return wrapped


def cluster(name, **more):
    fields = {"name": name, "type": "EDS", "connect_timeout": "2s", "eds_cluster_config": {"eds_config": ADS}, **more}
    return json_format.ParseDict(fields, cluster_pb2.Cluster())


def endpoints(name, *ports):
    hosts = [{"endpoint": {"address": address(port)}} for port in ports]
    return json_format.ParseDict(
        {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]}, endpoint_pb2.ClusterLoadAssignment())


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def listener(name, port):
    # The filter's own type is unknown to the official protos, so it travels as istiod sends such filters.
    typed = {"@type": PREFIX + "xds.type.v3.TypedStruct", "type_url": PREFIX + "mizzen.v1.RpcProxy",
             "value": {"stat_prefix": "interop", "downstream_protocol": "bolt",
                       "rds": {"config_source": {"ads": {}, "resource_api_version": "V3"},
                               "route_config_name": "routes"}}}
    import xds.type.v3.typed_struct_pb2  # noqa: F401  registers the type with the pool
    fields = {"name": name, "address": address(port), "filter_chains": [
        {"filters": [{"name": "mizzen.rpc_proxy", "typed_config": typed}]}]}
    return json_format.ParseDict(fields, listener_pb2.Listener())


def routes(target):
    fields = {"name": "routes", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "route": {"cluster": target}}]}]}
    return json_format.ParseDict(fields, route_pb2.RouteConfiguration())


class Plane(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """Holds what is to be served; a change of a type is sent at once to whoever asked for it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.resources = {CDS: {}, EDS: {}, LDS: {}, RDS: {}}
        self.version = 0
        self.answers = queue.Queue()
        self.streams = []

    def set(self, url, name, message, removed=False):
        with self.lock:
            self.version += 1
            if removed:
                self.resources[url].pop(name, None)
            else:
                self.resources[url][name] = pack(message)
            for stream in self.streams:
                stream.put(("push", url, name))

    def verdict(self, url, within=10):
        """The next ACK (None) or NACK (its text) for a push of this type that was answered after now."""
        end = time.monotonic() + within
        while True:
            kind, error = self.answers.get(timeout=max(0.01, end - time.monotonic()))
            if kind == url:
                return error

    def drain(self):
        while not self.answers.empty():
            self.answers.get_nowait()

    def serve(self, requests, make):
        events = queue.Queue()
        with self.lock:
            self.streams.append(events)

        def read():
            try:
                for request in requests:
                    events.put(("request", request, None))
            except grpc.RpcError:
                pass
            events.put(("end", None, None))
        threading.Thread(target=read, daemon=True).start()
        try:
            yield from make(events)
        finally:
            with self.lock:
                self.streams.remove(events)

    def note(self, request):
        if request.response_nonce:
            failed = request.HasField("error_detail")
            self.answers.put((request.type_url, request.error_detail.message if failed else None))

    def StreamAggregatedResources(self, requests, context):
        yield from self.serve(requests, self.sotw)

    def sotw(self, events):
        wanted, nonce = {}, 0
        while True:
            kind, what, _ = events.get()
            if kind == "end":
                return
            url = what.type_url if kind == "request" else what
            if kind == "request":
                self.note(what)
                names = set(what.resource_names)
                if url not in self.resources or (what.response_nonce and names == wanted.get(url)):
                    continue
                wanted[url] = names
            elif url not in wanted:
                continue
            with self.lock:
                chosen = [body for name, body in self.resources[url].items()
                          if not wanted[url] or name in wanted[url]]
                version = str(self.version)
            nonce += 1
            yield discovery_pb2.DiscoveryResponse(
                version_info=version, type_url=url, nonce=str(nonce), resources=chosen)

    def DeltaAggregatedResources(self, requests, context):
        yield from self.serve(requests, self.delta)

    def delta(self, events):
        wanted, nonce = {}, 0
        while True:
            kind, what, name = events.get()
            if kind == "end":
                return
            response = discovery_pb2.DeltaDiscoveryResponse()
            if kind == "request":
                self.note(what)
                url, first = what.type_url, what.type_url not in wanted
                names = wanted.setdefault(url, set())
                names.update(what.resource_names_subscribe)
                names.difference_update(what.resource_names_unsubscribe)
                everything = url in (CDS, LDS)
                if url not in self.resources or not (what.resource_names_subscribe or (first and everything)):
                    continue
                asked = set(self.resources[url]) if everything else set(what.resource_names_subscribe)
            else:
                url, asked = what, {name}
                if url not in wanted or (url in (EDS, RDS) and name not in wanted[url]):
                    continue
            with self.lock:
                for name in sorted(asked):
                    body = self.resources[url].get(name)
                    if body is None:
                        response.removed_resources.append(name)
                    else:
                        response.resources.add(name=name, version=str(self.version)).resource.CopyFrom(body)
            nonce += 1
            response.type_url, response.nonce = url, str(nonce)
            yield response


def bolt_frame(request_id):
    kind = b"com.alipay.sofa.rpc.core.request.SofaRequest"
    headers = b"".join(struct.pack(">I", len(text)) + text for text in (b"service", b"interop:1.0"))
    head = struct.pack(">BBHBIBIHHI", 1, 1, 1, 1, request_id, 1, 3000, len(kind), len(headers), 4)
    return head + kind + headers + b"ping"


def read_exactly(conn, size):
    data = b""
    while len(data) < size:
        piece = conn.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def bolt_server(name):
    """Answers each request with its name; gives the port."""
    server = socket.create_server(("127.0.0.1", 0))

    def talk(conn):
        try:
            while True:
                head = read_exactly(conn, 22)
                kind, code, request_id = head[1], struct.unpack(">H", head[2:4])[0], head[5:9]
                sizes = struct.unpack(">HHI", head[14:22])
                read_exactly(conn, sum(sizes))
                if kind != 1:
                    continue
                answer_code, body = (0, b"") if code == 0 else (2, name.encode())
                conn.sendall(struct.pack(">BBHB", 1, 0, answer_code, 1) + request_id
                             + struct.pack(">BHHHI", 1, 0, 0, 0, len(body)) + body)
        except (EOFError, OSError):
            conn.close()

    def accept():
        while True:
            conn, _ = server.accept()
            threading.Thread(target=talk, args=(conn,), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()
    return server.getsockname()[1]


class Client:
    """One connection that is never opened again: what breaks it, fails the run."""

    def __init__(self, port):
        self.conn = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.last = 0

    def call(self):
        self.last += 1
        self.conn.sendall(bolt_frame(self.last))
        head = read_exactly(self.conn, 20)
        request_id, = struct.unpack(">I", head[5:9])
        status, = struct.unpack(">H", head[10:12])
        assert request_id == self.last, f"answer {request_id} to request {self.last}"
        sizes = struct.unpack(">HHI", head[12:20])
        return status, read_exactly(self.conn, sum(sizes))[sizes[0] + sizes[1]:].decode(errors="replace")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, check, within=10):
    end = time.monotonic() + within
    while time.monotonic() < end:
        if check():
            return
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {within} s")


def accepts(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def server(plane, port):
    ads = grpc.server(concurrent.futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(plane, ads)
    assert ads.add_insecure_port(f"127.0.0.1:{port}") == port
    ads.start()
    return ads


def bootstrap(ads_port, admin_port, variant):
    xds = {"name": "xds", "type": "STATIC", "connect_timeout": "1s",
           "load_assignment": {"cluster_name": "xds", "endpoints": [
               {"lb_endpoints": [{"endpoint": {"address": address(ads_port)}}]}]},
           "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
               "@type": PREFIX + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
               "explicit_http_config": {"http2_protocol_options": {}}}}}
    return {"node": {"id": "interop", "cluster": "interop"},
            "admin": {"address": address(admin_port)},
            "dynamic_resources": {
                "ads_config": {"api_type": "DELTA_GRPC" if variant == "delta" else "GRPC",
                               "transport_api_version": "V3",
                               "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]},
                "cds_config": ADS, "lds_config": ADS},
            "static_resources": {"clusters": [xds]}}


def steps(plane, port, proxy, ads_port):
    one, two, three = bolt_server("one"), bolt_server("two"), bolt_server("three")
    ads = server(plane, ads_port)
    plane.set(CDS, "a", cluster("a"))
    plane.set(CDS, "b", cluster("b"))
    plane.set(EDS, "a", endpoints("a", one))
    plane.set(EDS, "b", endpoints("b", two))
    plane.set(RDS, "routes", routes("a"))
    plane.set(LDS, "in", listener("in", port))
    until("the listener opens", lambda: accepts(port), 15)
    client = Client(port)
    assert client.call() == (0, "one")
    yield "clusters, endpoints, listener and routes serve"

    plane.drain()
    plane.set(RDS, "routes", routes("b"))
    assert plane.verdict(RDS) is None
    until("the new route", lambda: client.call() == (0, "two"))
    yield "a route switch reaches the open connection"

    plane.set(EDS, "b", endpoints("b", three))
    assert plane.verdict(EDS) is None
    until("the new endpoint", lambda: client.call() == (0, "three"))
    yield "an endpoint swap reaches the open connection"

    plane.drain()
    plane.set(CDS, "bad", cluster("bad", connect_timeout="0s"))
    text = plane.verdict(CDS)
    assert text and "bad" in text and "connect_timeout" in text, f"NACK text: {text!r}"
    assert client.call() == (0, "three")
    yield f"a bad cluster is refused by name: {text.splitlines()[0]}"

    plane.set(CDS, "bad", None, removed=True)
    plane.set(CDS, "a", None, removed=True)
    for _ in range(20):
        assert client.call() == (0, "three")
    yield "removing a cluster no route names disturbs nobody"

    ads.stop(0).wait()
    for _ in range(20):
        assert client.call() == (0, "three")
        time.sleep(0.05)
    assert Client(port).call() == (0, "three")
    yield "without its control plane it serves old and new connections"

    ads = server(plane, ads_port)
    plane.drain()
    until("the reconnect", lambda: not plane.answers.empty(), 40)
    plane.set(RDS, "routes", routes("b"))
    plane.set(EDS, "b", endpoints("b", two))
    until("an endpoint swap after the reconnect", lambda: client.call() == (0, "two"), 15)
    yield "after a reconnect pushes go on"

    plane.set(LDS, "in", None, removed=True)
    until("the listener closes", lambda: not accepts(port))
    assert client.call() == (0, "two")
    yield "a removed listener refuses new connections, the old one goes on"

    client.conn.close()
    proxy.terminate()
    assert proxy.wait(timeout=15) == 0, f"exit {proxy.returncode}"
    ads.stop(0)
    yield "SIGTERM ends it with exit 0"


def main():
    if len(sys.argv) != 3 or sys.argv[2] not in ("sotw", "delta"):
        print(__doc__, file=sys.stderr)
        return 2
    binary, variant = sys.argv[1:]
    ads_port, admin_port, port = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "bootstrap.json")
        config.write_text(json.dumps(bootstrap(ads_port, admin_port, variant)))
        log = pathlib.Path(folder, "log")
        with log.open("wb") as errors:
            proxy = subprocess.Popen([binary, "-c", str(config), "--concurrency", "2"], stderr=errors,
                                     stdout=errors, stdin=subprocess.DEVNULL)
            try:
                for done in steps(Plane(), port, proxy, ads_port):
                    print(f"  ok: {done}", flush=True)
                return 0
            except (AssertionError, EOFError, OSError, queue.Empty) as error:
                print(f"  FAILED: {type(error).__name__}: {error}")
                print(log.read_text(errors="replace")[-2000:])
                return 1
            finally:
                if proxy.poll() is None:
                    proxy.kill()
                    proxy.wait()


if __name__ == "__main__":
    sys.exit(main())
