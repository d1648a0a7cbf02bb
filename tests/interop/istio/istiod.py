"""A real istiod with its own authority on the control plane's host; configuration from files, services from the stub."""
import contextlib
import http.client
import http.server
import itertools
import json
import os
import re

import identity
import kube
from harness import until

_KUBE_PORT, _KEYS_PORT = 8001, 9999
# Added to every port of an istiod that runs beside another one.
_BESIDE = 10_000


class _Keys(http.server.BaseHTTPRequestHandler):
    keys: dict

    def log_message(self, *_):
        pass

    def do_GET(self):
        body = json.dumps(self.keys).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Istiod:
    """`reduced`: without what only Istio's build of Envoy can do, for stock Envoys. `beside`: another one, whose
    authority, services and configuration this one shares: the same mesh as that one's, in other words."""

    def __init__(self, space, folder, programs, address, *, reduced=False, dual=False, access_log="/dev/stdout",
                 beside=None):
        self.space, self.folder, self.programs, self.address = space, folder, programs, address
        self.reduced, self.dual = reduced, dual
        folder.mkdir()
        more = _BESIDE if beside else 0
        self.secure, self._grpc, self._debug, self._monitoring = 15012 + more, 15010 + more, 8080 + more, 15014 + more
        if beside:
            self.config, self.signer, self.authority, self.root, self.store = (
                beside.config, beside.signer, beside.authority, beside.root, beside.store)
            self._servers = []
        else:
            self.config = folder / "config"
            self.config.mkdir()
            self.signer = identity.Signer(folder, "workloads")
            self.authority = folder / "cacerts"
            self.root = identity.authority(self.authority)
            self.store = kube.Store()
            self._servers = [kube.serve(self.store, space.listen("127.0.0.1", _KUBE_PORT)),
                             kube.Server(space.listen("127.0.0.1", _KEYS_PORT),
                                         type("Keys", (_Keys,), {"keys": self.signer.keys}))]
        self._numbers = itertools.count()
        self.log_path = folder / "istiod.log"
        self.process = None
        settings = {"accessLogFile": access_log, "enableTracing": False, "trustDomain": "cluster.local",
                    "rootNamespace": "istio-system", "outboundTrafficPolicy": {"mode": "ALLOW_ANY"},
                    "defaultConfig": {"discoveryAddress": self.discovery}}
        if not reduced:
            settings["defaultProviders"] = {"metrics": ["prometheus"]}
        (folder / "mesh.yaml").write_text(json.dumps(settings))
        (folder / "networks.yaml").write_text("networks: {}\n")
        (folder / "kubeconfig").write_text(json.dumps(kube.kubeconfig(f"http://127.0.0.1:{_KUBE_PORT}")))

    @property
    def discovery(self):
        """Where agents find it."""
        return f"{self.address}:{self.secure}"

    def start(self):
        rule = {"issuer": self.signer.issuer, "jwks_uri": f"http://127.0.0.1:{_KEYS_PORT}/jwks.json",
                "audiences": ["istio-ca"]}
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "POD_NAME": "istiod-0",
               "POD_NAMESPACE": "istio-system", "REVISION": "default", "CLUSTER_ID": "Kubernetes",
               "ROOT_CA_DIR": str(self.authority), "PILOT_CERT_PROVIDER": "istiod", "ENABLE_CA_SERVER": "true",
               "XDS_AUTH": "true", "ISTIOD_CUSTOM_HOST": "istiod.istio-system.svc", "JWT_RULE": json.dumps(rule),
               "PILOT_ENABLE_AMBIENT": "false", "GOMAXPROCS": "2"}
        if self.reduced:
            env.update(PILOT_ENABLE_METADATA_EXCHANGE="false", PILOT_ENABLE_ALPN_FILTER="false")
        if self.dual:
            env["ISTIO_DUAL_STACK"] = "true"
        with open(self.log_path, "a") as log:
            self.process, self.pid = self.space.start(
                self.programs / "pilot-discovery", "discovery", "--registries=Kubernetes",
                "--kubeconfig", self.folder / "kubeconfig", "--configDir", self.config,
                "--meshConfig", self.folder / "mesh.yaml", "--networksConfig", self.folder / "networks.yaml",
                "--grpcAddr", f"{self.address}:{self._grpc}", "--secureGRPCAddr", self.discovery,
                "--httpAddr", f"127.0.0.1:{self._debug}", "--httpsAddr", "",
                "--monitoringAddr", f"127.0.0.1:{self._monitoring}", "--ctrlz_port", "0",
                "--keepaliveMaxServerConnectionAge", "30m", "--log_output_level", "default:info",
                cwd=self.folder, env=env, log=log)
        until("istiod is ready", self.ready, 60)
        return self

    def ready(self):
        if self.process.poll() is not None:
            raise AssertionError(f"istiod ended with {self.process.returncode}: {self.log()[-800:]}")
        with contextlib.suppress(OSError):
            return self.debug("/ready")[0] == 200
        return False

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 9)
        self.process.wait()

    def close(self):
        self.store.close()
        for server in self._servers:
            server.end()

    def log(self):
        return self.log_path.read_text(errors="replace")

    def debug(self, path, port=None):
        """(status, body) of one of istiod's debug pages."""
        port = port or self._debug
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.sock = self.space.connect("127.0.0.1", port)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def services(self):
        """How many services it knows."""
        _, text = self.debug("/metrics", self._monitoring)
        found = re.search(r"^pilot_services(?:\{.*\})? (\S+)$", text, re.M)
        return int(float(found[1])) if found else 0

    def refusals(self):
        """What proxies refused, as istiod logged it, newest last."""
        return re.findall(r"ADS:(\w+): ACK ERROR (\S+) (.*)", self.log())

    def _write(self, name, documents):
        target, made = self.config / f"{name}.yaml", self.folder / f"{name}.yaml"
        made.write_text("\n---\n".join(json.dumps(document, indent=1) for document in documents))
        made.rename(target)
        return target

    def keep(self, name, *documents):
        """Configuration for the rest of the run."""
        self._write(name, documents)

    @contextlib.contextmanager
    def applied(self, *documents):
        """The documents are configuration within the `with`."""
        target = self._write(f"case-{next(self._numbers)}", documents)
        try:
            yield
        finally:
            target.unlink(missing_ok=True)

    @contextlib.contextmanager
    def replaced(self, name, *documents):
        """Within the `with` these documents stand in for what was kept under `name`."""
        before = (self.config / f"{name}.yaml").read_text()
        self._write(name, documents)
        try:
            yield
        finally:
            made = self.folder / f"{name}.yaml"
            made.write_text(before)
            made.rename(self.config / made.name)
