"""The mesh of the figures: pairs of pods, client and server, that differ in nothing but what stands between them."""
import contextlib
import json
import os
import pathlib
import subprocess
import threading

import identity
import lab as labs
import manifests as m
import measure
import pods
from harness import until
from spaces import die_with_parent

BENCH = os.environ.get("MIZZEN_BENCH", "")
# Pairs with sidecars: the proxy, and whether their istiod is a default installation's.
SIDECARS = {"mizzen": ("mizzen", False), "envoy": ("envoy", False), "default": ("mizzen", True)}
LABELS = {"none": "no sidecars", "relay": "tokio-rustls relays", "mizzen": "Mizzen", "envoy": "Envoy",
          "default": "Mizzen, default installation"}
PAIRS = tuple(LABELS)
_FIRST = 21
# Ports of the relays, in the pods without sidecars.
_RELAY_IN, _RELAY_OUT = 15100, 15101
_PORTS = {"http": (80, pods.HTTP)}


class Mesh(labs.Lab):
    """Pods client-X and web-X for each pair X, and two istiods: a default installation, and one without Istio's own
    filters for those that stock Envoy is to be compared with."""

    def __init__(self, programs, binary, keep=None):
        proxies = {f"{side}-{pair}": proxy for pair, (proxy, _) in SIDECARS.items() for side in ("client", "web")}
        super().__init__(programs, binary, {**proxies, "client-none": None, "web-none": None}, keep=keep,
                         access_log="")
        self.bench_log = open(self.folder / "bench.log", "a")
        self.closing.callback(self.bench_log.close)
        self.relays = []

    def make_pods(self, proxies):
        for number, (name, proxy) in enumerate(proxies.items(), _FIRST):
            full = SIDECARS.get(name.partition("-")[2], (None, False))[1]
            istiod = self.istiod if full else self.beside
            self.pods[name] = pods.Pod(self, name, number, app=name, proxy=proxy, istiod=istiod)

    def register(self):
        store = self.istiod.store
        store.add(*(m.namespace(name) for name in ("default", "kube-system", "istio-system", m.NAMESPACE)),
                  m.node("node"))
        for pod in self.pods.values():
            store.add(m.pod(pod.name, [pod.address], pod.labels, pod.account, pod.workload, [pods.HTTP]))
            if pod.name.startswith("web-"):
                store.add(m.service(pod.name, [self.vip(pod)], _PORTS, {"app": pod.app}))
                self.endpoints(pod.name, _PORTS, [pod])

    def start_control(self):
        self.istiod.start()
        self.beside.start()

    @staticmethod
    def vip(pod):
        return f"10.78.0.{pod.number}"

    def launch(self, pod):
        pod.started = True
        if pod.name.startswith("web-"):
            self.echo(pod)
        if pod.proxy:
            pod.capture_traffic()
            pod.start_agent()

    # ---- the programs of tests/bench

    def run_bench(self, pod, *words, cpu=measure.OTHER_CPU):
        """Starts one on the pod's network, though not among its processes: it reads the proxies' clocks."""
        def before():
            die_with_parent()
            os.sched_setaffinity(0, {cpu})
        words = ["nsenter", "--target", pod.space.pid, "--net", "--", BENCH, *words]
        process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, text=True,
                                   stdout=subprocess.PIPE, stderr=self.bench_log, preexec_fn=before)
        self.closing.callback(self.end, process)
        return process

    @staticmethod
    def end(process):
        process.kill()
        process.wait()
        process.stdout.close()

    def serving(self, process):
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{' '.join(process.args)} does not come up")
        return process

    def echo(self, pod):
        return self.serving(self.run_bench(pod, "backend", "h1", pods.HTTP, "0.0.0.0"))

    def measured(self, pod, *words, timeout):
        """One program of tests/bench to its end: its result."""
        process = self.run_bench(pod, *words)
        limit = threading.Timer(timeout, process.kill)
        limit.start()
        try:
            for line in process.stdout:
                if line.startswith("result "):
                    return json.loads(line.removeprefix("result "))
        finally:
            limit.cancel()
            self.end(process)
        raise AssertionError(f"{words[0]}: no result; {pathlib.Path(self.bench_log.name).read_text()[-300:]}")

    # ---- pairs

    def start_relays(self):
        """TLS between the two pods without sidecars, by certificates of the mesh's authority."""
        files = identity.leaf(self.folder, "relay", "DNS:relay.test", authority_folder=self.istiod.authority)
        words = [*files, self.istiod.authority / "root-cert.pem"]
        web, client = self["web-none"], self["client-none"]
        for pod, side, listen, connect in [
                (web, "server", f"0.0.0.0:{_RELAY_OUT}", f"127.0.0.1:{pods.HTTP}"),
                (client, "client", f"127.0.0.1:{_RELAY_IN}", f"{web.address}:{_RELAY_OUT}")]:
            self.relays.append(self.serving(self.run_bench(pod, "tls-relay", side, listen, connect, *words,
                                                           cpu=measure.PROXY_CPU)))

    def pair(self, name):
        """(client pod, where it calls, the processes in between)."""
        if name == "none":
            return self["client-none"], f"{self['web-none'].address}:{pods.HTTP}", []
        if name == "relay":
            return self["client-none"], f"127.0.0.1:{_RELAY_IN}", [process.pid for process in self.relays]
        client, web = self[f"client-{name}"], self[f"web-{name}"]
        return client, f"{self.vip(web)}:80", [client.proxy_pid(), web.proxy_pid()]

    @staticmethod
    def host(name):
        return m.host(f"web-{name}")

    def need_pairs(self, *names):
        """These pairs run, ready, and calls go from client to server; with sidecars by mutual TLS."""
        needed = {"none" if name == "relay" else name for name in names}
        self.need(*(f"{side}-{name}" for name in needed for side in ("client", "web")))
        if "relay" in names and not self.relays:
            self.start_relays()
        for name in names:
            until(f"calls from client-{name} arrive", lambda name=name: self.arrives(name), 20)

    def arrives(self, name):
        client, target, between = self.pair(name)
        address, _, port = target.rpartition(":")
        with contextlib.suppress(OSError):
            answer = client.http(address, int(port), "/head", host=self.host(name))
            certificate = f"spiffe://cluster.local/ns/demo/sa/client-{name}"
            return answer.status == 200 and (name not in SIDECARS or certificate in answer.text)
        return False

    def pin_proxies(self):
        """All proxies that run are on one CPU, the agents and istiods with all else on the other."""
        for pod in self.pods.values():
            if pod.proxy and pod.agent and pod.agent.poll() is None:
                measure.pin(pod.agent_pid, measure.OTHER_CPU)
                measure.pin(pod.proxy_pid(), measure.PROXY_CPU)

    def restart(self, pod, timeout=30):
        if pod.agent and pod.agent.poll() is None:
            pod.stop_agent()
        pod.start_agent()
        pod.wait_ready(timeout)
