"""An ADS server on the official protos: state of the world and delta, every request kept for judgement."""
import queue
import threading
import time
from concurrent import futures

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2

from harness import until

TYPE = "type.googleapis.com/"
CDS = TYPE + "envoy.config.cluster.v3.Cluster"
EDS = TYPE + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS = TYPE + "envoy.config.listener.v3.Listener"
RDS = TYPE + "envoy.config.route.v3.RouteConfiguration"
COMPLETE = (CDS, LDS)


def packed(resource):
    """As Any; what is an Any already stays (hand-made bytes)."""
    if isinstance(resource, any_pb2.Any):
        return resource
    out = any_pb2.Any()
    out.Pack(resource)
    return out


def name_of(resource):
    return getattr(resource, "cluster_name", "") or getattr(resource, "name", "")


class Seen:
    """One request as it came: when, on which stream, and what."""

    def __init__(self, stream, request):
        self.at, self.stream, self.request = time.monotonic(), stream, request

    @property
    def type(self):
        return self.request.type_url

    @property
    def error(self):
        return self.request.error_detail.message


class Ads(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    def __init__(self, delta=False, port=0, address=None):
        self.delta, self.lock = delta, threading.Lock()
        self.held = {kind: {} for kind in (CDS, EDS, LDS, RDS)}
        self.silent = set()  # types that get no answer by themselves; all of them: {CDS, EDS, LDS, RDS}
        self.seen, self.streams, self.asked = [], {}, {}
        self.count, self.opened = 0, 0
        self.port = port
        self.address = address
        self.server = None
        self.start()

    def start(self):
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1),
                   ("grpc.so_reuseport", 0)]
        self.server = grpc.server(futures.ThreadPoolExecutor(32), options=options)
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self, self.server)
        bound = self.server.add_insecure_port(self.address or f"127.0.0.1:{self.port}")
        self.port = self.port or bound
        self.server.start()
        return self

    def stop(self):
        with self.lock:
            for out in self.streams.values():
                out.put(None)
        self.server.stop(0).wait(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def StreamAggregatedResources(self, requests, context):
        yield from self.serve(requests, context)

    def DeltaAggregatedResources(self, requests, context):
        yield from self.serve(requests, context)

    def serve(self, requests, context):
        out = queue.Queue()
        with self.lock:
            self.opened += 1
            stream = self.opened
            self.streams[stream] = out

        def read():
            try:
                for request in requests:
                    self.on_request(stream, request)
            except Exception:  # the stream ended; grpc has many ways to say so
                pass
            out.put(None)

        threading.Thread(target=read, daemon=True).start()
        while (message := out.get()) is not None:
            yield message
        with self.lock:
            self.streams.pop(stream, None)

    def on_request(self, stream, request):
        with self.lock:
            self.seen.append(Seen(stream, request))
            kind = request.type_url
            names = self.asked.get((stream, kind))
            if self.delta:
                new = set(request.resource_names_subscribe)
                fresh = names is None or new
                names = ((names or set()) | new) - set(request.resource_names_unsubscribe)
                wanted = new if new and kind not in COMPLETE else None
            else:
                new = set(request.resource_names)
                fresh, names, wanted = new != names, new, None
            self.asked[stream, kind] = names
            if fresh and kind not in self.silent and kind in self.held and (kind in COMPLETE or names):
                held = self.held[kind]
                chosen = [r for n, r in held.items() if kind in COMPLETE or n in (wanted or names)]
                if kind in COMPLETE or chosen:
                    self.send(stream, kind, chosen)

    def send(self, stream, kind, resources, removed=(), version=None):
        self.count += 1
        version, nonce = version if version is not None else f"v{self.count}", f"n{self.count}"
        if self.delta:
            listed = [r if isinstance(r, discovery_pb2.Resource) else discovery_pb2.Resource(
                name=name_of(r), version=version, resource=packed(r)) for r in resources]
            message = discovery_pb2.DeltaDiscoveryResponse(
                system_version_info=version, type_url=kind, resources=listed, nonce=nonce,
                removed_resources=list(removed))
        else:
            message = discovery_pb2.DiscoveryResponse(
                version_info=version, type_url=kind, resources=[packed(r) for r in resources], nonce=nonce)
        self.streams[stream].put(message)
        return nonce

    def newest(self):
        return max(self.streams)

    def put(self, kind, *resources, removed=(), version=None):
        """Holds these resources from now on (delta: beside the others) and pushes; gives the nonce."""
        with self.lock:
            for name in removed:
                self.held[kind].pop(name, None)
            for resource in resources:
                self.held[kind][name_of(resource)] = resource
            if not self.streams:
                return None
            sent = resources if self.delta else self.held[kind].values()
            return self.send(self.newest(), kind, list(sent), removed, version)

    def hold(self, kind, *resources):
        """Holds without pushing."""
        with self.lock:
            for resource in resources:
                self.held[kind][name_of(resource)] = resource

    def raw(self, kind, resources, removed=(), version=None):
        """Pushes exactly this."""
        with self.lock:
            return self.send(self.newest(), kind, list(resources), removed, version)

    def answer(self, nonce, timeout=8):
        """The request that answers a nonce."""
        def find():
            with self.lock:
                return next((s for s in self.seen if s.request.response_nonce == nonce), None)
        return until(f"an answer to {nonce}", find, timeout)

    def wait(self, what, check, timeout=8):
        """The first request that passes `check`."""
        def find():
            with self.lock:
                return next((s for s in self.seen if check(s)), None)
        return until(what, find, timeout)

    def of(self, kind=None, stream=None):
        with self.lock:
            return [s for s in self.seen if kind in (None, s.type) and stream in (None, s.stream)]
