"""Coming up: the agent's contract."""
from harness import equal, until
from lab import case


@case(pods=())
def proxy_comes_ready(lab):
    """A sidecar comes up under a real agent and istiod, ready as the kubelet sees it, and refuses nothing"""
    pod = lab["client"]
    lab.launch(pod)
    until("the proxy runs", pod.proxy_pid, 10)
    pod.wait_ready(20)
    equal(pod.admin("/ready"), (200, "LIVE\n"), "/ready")
    stats = pod.stats(r"^(cluster_manager\.cds|listener_manager\.lds)\.(update_success|update_rejected)$")
    equal(stats.get("cluster_manager.cds.update_rejected"), 0, "refused CDS")
    equal(stats.get("listener_manager.lds.update_rejected"), 0, "refused LDS")
    equal(lab.istiod.refusals(), [], "refusals in istiod's log")
