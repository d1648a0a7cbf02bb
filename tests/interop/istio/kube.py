"""As much of the Kubernetes API as istiod asks for: list, get, watch, create, replace, patch, delete over plain HTTP,
objects in memory, nothing checked. Services, endpoint slices, pods and namespaces put here are real to istiod."""
import http.server
import json
import re
import threading
import urllib.parse

KINDS = {
    "v1": {"services": "Service", "pods": "Pod", "nodes": "Node", "namespaces": "Namespace",
           "configmaps": "ConfigMap", "secrets": "Secret", "endpoints": "Endpoints", "events": "Event",
           "serviceaccounts": "ServiceAccount", "replicationcontrollers": "ReplicationController"},
    "discovery.k8s.io/v1": {"endpointslices": "EndpointSlice"},
    "apiextensions.k8s.io/v1": {"customresourcedefinitions": "CustomResourceDefinition"},
    "coordination.k8s.io/v1": {"leases": "Lease"},
    "admissionregistration.k8s.io/v1": {
        "mutatingwebhookconfigurations": "MutatingWebhookConfiguration",
        "validatingwebhookconfigurations": "ValidatingWebhookConfiguration"},
    "networking.k8s.io/v1": {"ingresses": "Ingress", "ingressclasses": "IngressClass"},
    "apps/v1": {"deployments": "Deployment", "replicasets": "ReplicaSet", "daemonsets": "DaemonSet",
                "statefulsets": "StatefulSet"},
    "autoscaling/v2": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
}
_ENDED = "k8s.io/initial-events-end"


def _labels_match(selector, labels):
    for term in re.split(r",(?![^(]*\))", selector):
        found = re.fullmatch(r"\s*(!?)([\w./-]+)\s*(?:(==|!=|=|in|notin)\s*(\(.*\)|[\w./-]*))?\s*", term)
        if not found:
            continue
        absent, key, relation, values = found.groups()
        value = labels.get(key)
        wanted = [v.strip() for v in (values or "").strip("()").split(",")]
        holds = {None: (value is None) == bool(absent), "=": value in wanted, "==": value in wanted,
                 "in": value in wanted, "!=": value not in wanted, "notin": value not in wanted}[relation]
        if not holds:
            return False
    return True


def _fields_match(selector, meta):
    for term in filter(None, selector.split(",")):
        found = re.fullmatch(r"metadata\.(name|namespace)(==|!=|=)(.*)", term)
        if found and (meta.get(found[1], "") == found[3]) != (found[2] != "!="):
            return False
    return True


class Store:
    """The objects by (group and version, resource, namespace, name), and everything that happened to them in order."""

    def __init__(self):
        self.changed = threading.Condition()
        self.objects = {}
        self.history = []
        self.closed = False

    def put(self, api, resource, value):
        """Stores an object and tells the watchers; the object with what a server adds."""
        meta = value.setdefault("metadata", {})
        key = (api, resource, meta.get("namespace", ""), meta["name"])
        with self.changed:
            kind = "MODIFIED" if key in self.objects else "ADDED"
            version = str(len(self.history) + 1)
            value = {**value, "apiVersion": api, "kind": KINDS[api][resource], "metadata": {
                "creationTimestamp": "2026-01-01T00:00:00Z", "uid": f"{resource}-{meta['name']}", **meta,
                "resourceVersion": version}}
            self.objects[key] = value
            self._happened(kind, key, value)
        return value

    def remove(self, api, resource, namespace, name):
        with self.changed:
            value = self.objects.pop((api, resource, namespace, name), None)
            if value:
                self._happened("DELETED", (api, resource, namespace, name), value)
        return value

    def _happened(self, kind, key, value):
        self.history.append((kind, key, value))
        self.changed.notify_all()

    def add(self, *documents):
        """Objects as they stand in a manifest, with apiVersion and kind."""
        for document in documents:
            resource = next(r for r, kind in KINDS[document["apiVersion"]].items() if kind == document["kind"])
            self.put(document["apiVersion"], resource, document)

    def close(self):
        with self.changed:
            self.closed = True
            self.changed.notify_all()


class _Request(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *_):
        pass

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def missing(self, reason="NotFound", status=404):
        self.answer(status, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
                             "code": status, "message": self.path})

    def target(self):
        """(api, resource, namespace, name, parameters), or None."""
        path, _, query = self.path.partition("?")
        found = re.fullmatch(r"/(?:api/(v1)|apis/([^/]+/[^/]+))(?:/namespaces/([^/]+)(?=/.))?"
                             r"/([^/]+)(?:/([^/]+))?(?:/(status|scale|finalize))?", path)
        if not found:
            return None
        api = found[1] or found[2]
        if found[4] not in KINDS.get(api, {}):
            return None
        return api, found[4], found[3] or "", found[5], dict(urllib.parse.parse_qsl(query, keep_blank_values=True))

    def body(self):
        length = int(self.headers.get("Content-Length") or 0)
        try:
            return json.loads(self.rfile.read(length) or b"{}")
        except ValueError:
            return {}

    def discovery(self):
        path = self.path.partition("?")[0].rstrip("/")
        groups = {}
        for api in KINDS:
            if "/" in api:
                groups.setdefault(api.split("/")[0], []).append({"groupVersion": api, "version": api.split("/")[1]})
        if path == "/version":
            return {"major": "1", "minor": "34", "gitVersion": "v1.34.0", "platform": "linux/amd64"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [
                {"name": name, "versions": versions, "preferredVersion": versions[0]}
                for name, versions in groups.items()]}
        api = path.removeprefix("/apis/").removeprefix("/api/")
        if api in KINDS:
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api, "resources": [
                {"name": name, "kind": kind, "namespaced": True, "singularName": "", "verbs": ["get", "list", "watch"]}
                for name, kind in KINDS[api].items()]}
        return None

    def do_GET(self):
        target = self.target()
        if not target:
            found = self.discovery()
            return self.answer(200, found) if found else self.missing()
        api, resource, namespace, name, parameters = target
        if name:
            value = self.store.objects.get((api, resource, namespace, name))
            return self.answer(200, self.shape(value)) if value else self.missing()
        if parameters.get("watch") in ("true", "1"):
            return self.watch(api, resource, namespace, parameters)
        with self.store.changed:
            items = [self.shape(v) for k, v in self.store.objects.items()
                     if self.wanted(k, v, api, resource, namespace, parameters)]
            version = str(len(self.store.history))
        partial = "as=PartialObjectMetadata" in self.headers.get("Accept", "")
        self.answer(200, {"kind": "PartialObjectMetadataList" if partial else KINDS[api][resource] + "List",
                          "apiVersion": "meta.k8s.io/v1" if partial else api,
                          "metadata": {"resourceVersion": version}, "items": items})

    def shape(self, value):
        if "as=PartialObjectMetadata" in self.headers.get("Accept", ""):
            return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": value["metadata"]}
        return value

    @staticmethod
    def wanted(key, value, api, resource, namespace, parameters):
        return (key[:2] == (api, resource) and namespace in ("", key[2])
                and _labels_match(parameters.get("labelSelector", ""), value["metadata"].get("labels") or {})
                and _fields_match(parameters.get("fieldSelector", ""), value["metadata"]))

    def watch(self, api, resource, namespace, parameters):
        store = self.store
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with store.changed:
            seen = len(store.history)
            events = []
            if parameters.get("sendInitialEvents") == "true":
                events = [("ADDED", self.shape(v)) for k, v in store.objects.items()
                          if self.wanted(k, v, api, resource, namespace, parameters)]
                events.append(("BOOKMARK", self.shape({
                    "kind": KINDS[api][resource], "apiVersion": api, "metadata": {
                        "resourceVersion": str(seen), "annotations": {_ENDED: "true"}}})))
            elif parameters.get("resourceVersion", "").isdigit():
                seen = int(parameters["resourceVersion"])
        try:
            self.send_events(events)
            while True:
                with store.changed:
                    store.changed.wait_for(lambda: store.closed or len(store.history) > seen, 60)
                    if store.closed:
                        return
                    happened, seen = store.history[seen:], len(store.history)
                self.send_events([(kind, self.shape(value)) for kind, key, value in happened
                                  if self.wanted(key, value, api, resource, namespace, parameters)])
        except OSError:
            self.close_connection = True

    def send_events(self, events):
        for kind, value in events:
            line = json.dumps({"type": kind, "object": value}).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

    def do_POST(self):
        value = self.body()
        target = self.target()
        if not target:
            review = self.path.rstrip("/").rsplit("/", 1)[-1]
            if review.endswith("reviews"):
                return self.answer(201, {**value, "status": {"authenticated": False, "allowed": True}})
            return self.missing()
        api, resource, namespace, _, _ = target
        meta = value.setdefault("metadata", {})
        if namespace:
            meta.setdefault("namespace", namespace)
        meta.setdefault("name", f"{meta.get('generateName', 'made-')}{len(self.store.history)}")
        if (api, resource, namespace, meta["name"]) in self.store.objects:
            return self.missing("AlreadyExists", 409)
        self.answer(201, self.store.put(api, resource, value))

    def do_PUT(self):
        self.change(lambda old, new: new)

    def do_PATCH(self):
        def merged(old, new):
            if not isinstance(old, dict) or not isinstance(new, dict):
                return new
            return {**old, **{k: merged(old.get(k), v) for k, v in new.items()}}
        self.change(lambda old, new: merged(old or {}, new))

    def change(self, how):
        target, new = self.target(), self.body()
        if not target or not target[3] or not isinstance(new, dict):
            return self.missing()
        api, resource, namespace, name, _ = target
        value = how(self.store.objects.get((api, resource, namespace, name)), new)
        value.setdefault("metadata", {})["name"] = name
        if namespace:
            value["metadata"]["namespace"] = namespace
        self.answer(200, self.store.put(api, resource, value))

    def do_DELETE(self):
        target = self.target()
        if not target or not self.store.remove(*target[:4]):
            return self.missing()
        self.answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})


class Server(http.server.ThreadingHTTPServer):
    """Serves a handler on a socket that listens already."""
    daemon_threads = True

    def __init__(self, listening, handler):
        super().__init__(listening.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()

    def handle_error(self, request, client_address):
        pass

    def end(self):
        self.shutdown()
        self.server_close()


def serve(store, listening):
    return Server(listening, type("Request", (_Request,), {"store": store}))


def kubeconfig(address):
    return {"apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": address}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "users": [{"name": "lab", "user": {}}]}
