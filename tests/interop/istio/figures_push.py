"""5,000 services: memory, CPU time of the first push, and of the whole configuration pushed again unchanged."""
import time

import manifests as m
import measure
from harness import until
from measure import digits
from pairs import LABELS, SIDECARS

SERVICES, RSS_MB, REPEATED = 5000, 60, 0.10
_IDLE_SECONDS, _PUSHES = 6, 3


def run(mesh, options, verdicts):
    for pod in mesh.pods.values():
        if pod.proxy and pod.agent and pod.agent.poll() is None:
            pod.stop_agent()
    mesh.istiod.keep("many-services", *(m.service_entry(
        f"many-{i}", hosts=[f"many-{i}.services.test"], resolution="STATIC", location="MESH_INTERNAL",
        ports=[{"number": 80, "name": "http", "protocol": "HTTP"}],
        endpoints=[{"address": f"10.79.{i // 250}.{i % 250 + 1}"}]) for i in range(SERVICES)))
    for istiod in (mesh.istiod, mesh.beside):
        until("istiod knows the services", lambda istiod=istiod: istiod.services() >= SERVICES, 120)
    rows = []
    for name in SIDECARS:
        figures = one(mesh, mesh[f"client-{name}"])
        rows.append([LABELS[name], *(digits(value) for value in figures.values())])
        if name != "envoy":
            verdicts.add(f"{LABELS[name]}: RSS with {SERVICES} services", figures["rss"], RSS_MB, " MB")
            verdicts.add(f"{LABELS[name]}: repeated push / first", figures["again"] / figures["first"], REPEATED)
    print(f"{SERVICES} ServiceEntries: CPU time of the proxy from its start until it rests, and of a push of everything "
          f"again (istiod's /debug/adsz?push=true), median of {_PUSHES}; memory at rest after the first")
    measure.table(["", "first ms", "again ms", "idle ms/s", "RSS MB", "peak MB", "RSS MB after pushes"], rows)


def one(mesh, pod):
    """The pod's proxy starts, takes everything, takes it again; what that cost."""
    if not pod.started:
        mesh.launch(pod)
    else:
        pod.start_agent()
    pod.wait_ready(90)
    pid = pod.proxy_pid()
    measure.at_rest(pid, least=5, timeout=180)
    first = measure.cpu_ms(pid)
    rss, peak = measure.memory_mb(pid), measure.memory_mb(pid, "VmHWM")
    clusters = pod.stats(r"^cluster_manager\.active_clusters$").get("cluster_manager.active_clusters", 0)
    assert clusters >= SERVICES, f"{pod.name} has {clusters} clusters only"
    measure.at_rest(pid)
    before = measure.cpu_ms(pid)
    time.sleep(_IDLE_SECONDS)
    idle = (measure.cpu_ms(pid) - before) / _IDLE_SECONDS
    again = sorted(pushed(pod, pid, idle) for _ in range(_PUSHES))[_PUSHES // 2]
    after = measure.memory_mb(pid)
    pod.stop_agent()
    return {"first": first, "again": again, "idle": idle, "rss": rss, "peak": peak, "after": after}


def taken(pod):
    """Responses the proxy has taken, of both kinds that come with every full push."""
    pattern = r"^(cluster_manager\.cds|listener_manager\.lds)\.update_success$"
    counts = pod.stats(pattern)
    return counts.get("cluster_manager.cds.update_success", 0), counts.get("listener_manager.lds.update_success", 0)


def pushed(pod, pid, idle):
    """CPU time, in ms, of one push of everything, without what the proxy uses when nothing happens."""
    known = taken(pod)
    measure.at_rest(pid)
    before = measure.cpu_ms(pid)
    status, text = pod.istiod.debug("/debug/adsz?push=true")
    assert status == 200, f"push: {status} {text[:200]}"
    seconds = measure.at_rest(pid, least=4, timeout=120)
    used = measure.cpu_ms(pid) - before - idle * seconds
    now = taken(pod)
    assert all(a > b for a, b in zip(now, known)), f"{pod.name} took no push: CDS and LDS {known}, then {now}"
    return max(used, 0.0)
