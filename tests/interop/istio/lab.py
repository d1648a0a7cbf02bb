"""The whole mesh: a control plane, pods `client`, `web-v1`, `web-v2` with sidecars, `plain` without one."""
import atexit
import contextlib
import importlib.util
import os
import pathlib
import shutil
import tempfile
import time

import identity
import manifests as m
import pods
from istiod import Istiod
from names import NameServer
from spaces import Network, Space

CASES = []
# Virtual addresses of services.
VIP = {name: f"10.78.0.{number}" for number, name in enumerate(
    ["web", "plain", "client", "auto", "external", "tls", "resolved", "passing"], 1)}
VIP6 = {"web": "fd78::1", "plain": "fd78::2"}
WEB_PORTS = {"http": (80, pods.HTTP), "grpc": (7070, pods.GRPC), "tcp-echo": (9090, pods.TCP),
             "tcp-greets": (9091, pods.SERVER_FIRST), "auto": (8085, pods.HTTP_ALT)}
ONE_PORT = {"http": (80, pods.HTTP)}


def case(function=None, *, stock=True, full=False, dual=False, pods=("client", "web-v1", "web-v2", "plain")):
    """Registers a case; its docstring's first line is what it promises. It gets the lab. `pods`: which it needs.
    `stock`: real Envoy, as it is shipped, can pass it. `full`: only a default installation, with Istio's filters, can.
    `dual`: only pods with addresses of both families can."""
    def register(function):
        function.stock, function.full, function.dual, function.pods = stock and not full, full, dual, pods
        CASES.append(function)
        return function
    return register(function) if function else register


def stock_envoy():
    """The program inside of the Python package, or the one in the variable ENVOY; None if there is none."""
    if os.environ.get("ENVOY"):
        return pathlib.Path(os.environ["ENVOY"])
    found = importlib.util.find_spec("envoy")
    path = found and found.origin and pathlib.Path(found.origin).parent / "_bin" / "envoy"
    return path if path and path.is_file() else None


class Lab:
    """`proxies`: {pod name: "mizzen", "envoy" or None}; a pod that is not in it is not made."""

    def __init__(self, programs, binary, proxies, *, reduced=False, dual=False, keep=None, access_log="/dev/stdout"):
        self.closing = contextlib.ExitStack()
        self.folder = pathlib.Path(keep or tempfile.mkdtemp(prefix="mizzen-istio-"))
        self.folder.mkdir(exist_ok=True)
        self.folder.chmod(0o755)
        if not keep:
            self.closing.callback(shutil.rmtree, self.folder, ignore_errors=True)
        atexit.register(self.close)
        self.reduced, self.dual, self.binary = reduced, dual, binary
        self.outage, self.web_ports = float(os.environ.get("MIZZEN_OUTAGE", "10")), WEB_PORTS
        (self.folder / "resolv.conf").write_text("nameserver 10.77.0.1\nsearch demo.svc.cluster.local\n")
        # Programs lie below a home folder that user 1337 may not enter: bound to a place where it may.
        self.programs = self.folder / "bin"
        self.programs.mkdir(exist_ok=True)
        self.real_programs, self.mounts = programs, [(programs, self.programs)]
        self._copied = {}
        self.pods = {}
        self.hub = Space("control", mounts=self.mounts)
        self.closing.callback(self.hub.close)
        self.network = Network(self.hub)
        self.istiod = Istiod(self.hub, self.folder / "istiod", self.programs, "10.77.0.1", reduced=reduced,
                             dual=dual, access_log=access_log)
        self.closing.callback(self.istiod.close)
        # Stock Envoys cannot do what Istio's filters ask: their istiod leaves those out, and is the same otherwise.
        self.beside = None
        if not reduced and "envoy" in proxies.values():
            self.beside = Istiod(self.hub, self.folder / "istiod-stock", self.programs, "10.77.0.1", reduced=True,
                                 dual=dual, access_log=access_log, beside=self.istiod)
        # The certificate of a server outside of the mesh.
        self.outside = identity.leaf(self.folder, "outside", "DNS:tls.test", authority_folder=self.istiod.authority)
        for file in self.outside:
            file.chmod(0o644)
        self.names = NameServer(self.hub, "10.77.0.1", {"outside.lab.test": ["10.77.0.14"]})
        self.closing.callback(self.names.close)
        self.make_pods(proxies)
        self.register()

    def make_pods(self, proxies):
        numbers = {"client": 11, "web-v1": 12, "web-v2": 13, "plain": 14}
        for name, proxy in proxies.items():
            app, _, version = name.partition("-")
            self.pods[name] = pods.Pod(self, name, numbers[name], app=app, version=version or "v1", proxy=proxy)

    def proxy_path(self, kind):
        """A copy of the proxy where user 1337 may read it."""
        if kind not in self._copied:
            source = self.binary if kind == "mizzen" else stock_envoy()
            self._copied[kind] = pods.copy_binary(source, self.folder / f"proxy-{kind}")
        return self._copied[kind]

    def register(self):
        """Tells the Kubernetes stub of the pods and their services."""
        store = self.istiod.store
        store.add(*(m.namespace(name) for name in ("default", "kube-system", "istio-system", m.NAMESPACE)),
                  m.node("node"))
        for pod in self.pods.values():
            addresses = [pod.address, pod.address6] if self.dual else [pod.address]
            store.add(m.pod(pod.name, addresses, pod.labels, pod.account, pod.workload, [pods.HTTP]))
        for name, ports in [("web", WEB_PORTS), ("plain", WEB_PORTS), ("client", ONE_PORT)]:
            addresses = [VIP[name]] + ([VIP6[name]] if self.dual and name in VIP6 else [])
            store.add(m.service(name, addresses, ports, {"app": name}))
            self.endpoints(name, ports, [pod for pod in self.pods.values() if pod.app == name])
        headless = {"http": (8080, pods.HTTP), "tcp-echo": (9090, pods.TCP)}
        store.add(m.service("headless", [], headless, {"app": "web"}))
        self.endpoints("headless", headless, [pod for pod in self.pods.values() if pod.app == "web"])

    def istiod_of(self, proxy):
        """The control plane of pods with that proxy."""
        return self.beside if self.beside and proxy == "envoy" else self.istiod

    def endpoints(self, name, ports, members):
        """These pods are the endpoints of service `name`."""
        self.istiod.store.add(m.slice_of(name, ports, [(pod.name, pod.address) for pod in members]))
        if self.dual:
            self.istiod.store.add(m.slice_of(name, ports, [(pod.name, pod.address6) for pod in members], "IPv6"))

    def start_control(self):
        self.istiod.keep("web-rule", m.destination_rule("web", host=m.host("web"), subsets=[
            {"name": version, "labels": {"version": version}} for version in ("v1", "v2")]))
        self.istiod.start()
        if self.beside:
            self.beside.start()

    def need(self, *names):
        """These pods run, captured, and their sidecars are ready. One that failed once is not waited for again."""
        chosen = [self.pods[name] for name in names]
        for pod in chosen:
            if pod.failed:
                raise AssertionError(pod.failed)
            if not pod.started:
                self.launch(pod)
        for pod in chosen:
            if pod.proxy:
                try:
                    pod.wait_ready()
                except AssertionError as error:
                    pod.failed = str(error)
                    raise

    def launch(self, pod):
        """Application, capture rules and agent, in the order of a pod's start."""
        pod.started = True
        pod.start_app(None if pod.proxy else self.outside)
        if pod.proxy:
            pod.capture_traffic()
            pod.start_agent()

    def close(self):
        atexit.unregister(self.close)
        self.closing.close()

    def __getitem__(self, name):
        return self.pods[name]

    # ---- configuration

    @contextlib.contextmanager
    def applied(self, *documents):
        """The documents are configuration within the `with`; after it the sidecars have forgotten them."""
        with self._forgotten(), self.istiod.applied(*documents):
            yield

    @contextlib.contextmanager
    def replaced(self, name, *documents):
        """Within the `with` these documents stand in for what was kept under `name`."""
        with self._forgotten(), self.istiod.replaced(name, *documents):
            yield

    @contextlib.contextmanager
    def _forgotten(self):
        try:
            yield
        finally:
            self.settled()

    def stock(self, name):
        """True if that pod's sidecar is stock Envoy."""
        return self.pods[name].proxy == "envoy"

    def settled(self, *names, quiet=0.7, timeout=12):
        """Waits until changed files have had time to be seen and the sidecars took no push for a while."""
        chosen = [self.pods[name] for name in names] or [p for p in self.pods.values() if p.proxy and p.agent]
        pattern = r"^(cluster_manager\.cds|listener_manager\.lds)\.update_(attempt|success|rejected)$"

        def pushes():
            return [sorted(p.stats(pattern).items()) for p in chosen]
        last, since, deadline = pushes(), time.monotonic(), time.monotonic() + timeout
        while time.monotonic() - since < quiet and time.monotonic() < deadline:
            time.sleep(0.05)
            now = pushes()
            if now != last:
                last, since = now, time.monotonic()
