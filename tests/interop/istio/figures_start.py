"""Memory with what Istio sends by default, and how long a proxy takes from its start until it is ready."""
import os
import shutil
import time

import identity
import measure
from harness import until
from measure import Spread, digits
from pairs import LABELS, SIDECARS
from pods import HEALTH, UID

STARTS, LIMIT, NEVER = 5, 30.0, 5.0
RSS_MB, READY_MS, RESTORED_MS = 15, 300, 100


def run(mesh, options, verdicts):
    for name in SIDECARS:
        mesh.need(f"client-{name}")
    with measure.all_cpus():
        up(mesh, verdicts)
        down(mesh, verdicts)


def proxy_of(pod, timeout=10.0):
    """The process that the pod's agent has just started, seen within a millisecond or two."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for task in os.listdir(f"/proc/{pod.agent_pid}/task"):
            try:
                with open(f"/proc/{pod.agent_pid}/task/{task}/children") as children:
                    found = children.read().split()
            except OSError:
                continue
            if found:
                return int(found[0])
        time.sleep(0.001)
    raise AssertionError(f"{pod.name}: the agent starts no proxy: {pod.log()[-600:]}")


def start(pod, limit):
    """Seconds from the proxy's start to its /ready, and from the agent's to the kubelet's probe; None: not by then."""
    pod.stop_agent()
    pod.start_agent()
    began = time.monotonic()
    proxy_of(pod)
    born = time.monotonic()
    while pod.admin("/ready", timeout=1) != (200, "LIVE\n"):
        if time.monotonic() - born > limit:
            return None
        time.sleep(0.001)
    ready = time.monotonic()
    while pod.admin("/healthz/ready", port=HEALTH, timeout=1)[0] != 200:
        if time.monotonic() - born > limit:
            return None
        time.sleep(0.001)
    return {"proxy": ready - born, "agent": time.monotonic() - began}


def times(starts, key):
    if any(one is None for one in starts):
        return f"not within {NEVER:g} s"
    return Spread([one[key] * 1000 for one in starts])


def up(mesh, verdicts):
    rows = []
    for name in SIDECARS:
        pod = mesh[f"client-{name}"]
        starts = [start(pod, LIMIT) for _ in range(STARTS)]
        assert None not in starts, f"{pod.name} was not ready within {LIMIT} s: {pod.state()}"
        pid = pod.proxy_pid()
        measure.at_rest(pid)
        rss = measure.memory_mb(pid)
        rows.append([LABELS[name], times(starts, "proxy"), times(starts, "agent"), digits(rss),
                     digits(measure.memory_mb(pid, "RssAnon")), digits(measure.memory_mb(pid, "VmHWM"))])
        if name != "envoy":
            verdicts.add(f"{LABELS[name]}: RSS", rss, RSS_MB, " MB")
            verdicts.add(f"{LABELS[name]}: ready after start, istiod up", times(starts, "proxy"), READY_MS, " ms")
    print(f"A client's sidecar, {STARTS} starts with istiod up; memory at rest after the last (VmRSS)")
    measure.table(["", "proxy's start to ready, ms", "agent's start to the probe's 200, ms", "RSS MB", "anonymous MB",
                   "peak MB"], rows)


def down(mesh, verdicts):
    """Certificates are files, so that the agent can hand them out without an istiod."""
    rows = []
    chosen = {name: mesh[f"client-{name}"] for name in ("mizzen", "envoy")}
    try:
        for name, pod in chosen.items():
            if name == "mizzen":
                pod.runtime = {"mizzen.state_dir": "./var/lib/istio/data/snapshot"}
            # Without istiod the agent has no names to serve, and would not be ready for that alone.
            pod.extra.update(ISTIO_META_DNS_CAPTURE="false", XDS_ROOT_CA="./var/run/secrets/istio/root-cert.pem")
            certificates(mesh, pod)
            mesh.restart(pod)
        kept = chosen["mizzen"].folder / "var/lib/istio/data"
        until("a snapshot is kept", lambda: any(kept.rglob("xds.snapshot*")), 15)
        time.sleep(1)
        mesh.beside.kill()
        for name, pod in chosen.items():
            starts = [start(pod, NEVER) for _ in range(STARTS if name == "mizzen" else 1)]
            rows.append([LABELS[name], times(starts, "proxy"), times(starts, "agent")])
            if name == "mizzen" and None not in starts:
                verdicts.add("Mizzen: ready after start, from the last good snapshot", times(starts, "proxy"),
                             RESTORED_MS, " ms")
            elif name == "mizzen":
                verdicts.failed.append(f"start from the last good snapshot: {pod.state()}")
    finally:
        if mesh.beside.process.poll() is not None:
            mesh.beside.start()
        for pod in chosen.values():
            pod.runtime, pod.extra = {}, {}
            shutil.rmtree(_credentials(pod), ignore_errors=True)
            shutil.rmtree(pod.folder / "var/lib/istio/data/snapshot", ignore_errors=True)
            mesh.restart(pod)
    print(f"The same with istiod down and certificates in files, {STARTS} starts")
    measure.table(["", "proxy's start to ready, ms", "agent's start to the probe's 200, ms"], rows)


def _credentials(pod):
    return pod.folder / "var/run/secrets/workload-spiffe-credentials"


def certificates(mesh, pod):
    chain, key = identity.leaf(mesh.folder, pod.name, f"URI:spiffe://cluster.local/ns/demo/sa/{pod.account}",
                               authority_folder=mesh.istiod.authority)
    folder = _credentials(pod)
    folder.mkdir(parents=True)
    for source, name in [(chain, "cert-chain.pem"), (key, "key.pem"),
                         (mesh.istiod.authority / "root-cert.pem", "root-cert.pem")]:
        shutil.copy(source, folder / name)
        os.chown(folder / name, UID, UID)
