"""Coming up: the agent's contract."""
import os
import shutil
import time

import identity
from cases_calls import call, eventually
from harness import equal, matches, until
from lab import case
from pods import UID


@case(pods=())
def proxy_comes_ready(lab):
    """A sidecar comes up under a real agent and istiod, ready as the kubelet sees it, and refuses nothing"""
    pod = lab["client"]
    if not pod.started:
        lab.launch(pod)
    until("the proxy runs", pod.proxy_pid, 10)
    pod.wait_ready(20)
    equal(pod.admin("/ready"), (200, "LIVE\n"), "/ready")
    stats = pod.stats(r"^(cluster_manager\.cds|listener_manager\.lds)\.(update_success|update_rejected)$")
    equal(stats.get("cluster_manager.cds.update_rejected"), 0, "refused CDS")
    equal(stats.get("listener_manager.lds.update_rejected"), 0, "refused LDS")
    equal(lab.istiod.refusals(), [], "refusals in istiod's log")


@case(stock=False)
def starts_with_istiod_down(lab):
    """Without istiod a pod serves its last good snapshot once its certificates have come; before, it says what it lacks"""
    pod = lab["client"]
    credentials = pod.folder / "var/run/secrets/workload-spiffe-credentials"

    def restart():
        pod.stop_agent()
        pod.start_agent()
    pod.runtime = {"mizzen.state_dir": "./var/lib/istio/data/snapshot"}
    # Without istiod the agent has no names to serve, and would not be ready for that alone.
    pod.extra.update(ISTIO_META_DNS_CAPTURE="false", XDS_ROOT_CA="./var/run/secrets/istio/root-cert.pem")
    try:
        restart()
        pod.wait_ready(20)
        call(lab)
        until("a snapshot is kept", lambda: any((pod.folder / "var/lib/istio/data").rglob("xds.snapshot*")), 10)
        time.sleep(1)
        lab.istiod.kill()
        restart()
        until("the admin answers", lambda: pod.admin("/ready")[0], 10)
        time.sleep(2)
        equal(pod.admin("/ready"), (503, "INITIALIZING\n"), "without certificates")
        matches("default", pod.admin("/init_dump")[1], "it says what is missing")
        chain, key = identity.leaf(lab.folder, "client", "URI:spiffe://cluster.local/ns/demo/sa/client",
                                   authority_folder=lab.istiod.authority)
        credentials.mkdir()
        for source, name in [(chain, "cert-chain.pem"), (key, "key.pem"),
                             (lab.istiod.authority / "root-cert.pem", "root-cert.pem")]:
            shutil.copy(source, credentials / name)
            os.chown(credentials / name, UID, UID)
        restart()
        pod.wait_ready(20)
        call(lab)
    finally:
        pod.runtime = {}
        for name in ("ISTIO_META_DNS_CAPTURE", "XDS_ROOT_CA"):
            del pod.extra[name]
        shutil.rmtree(credentials, ignore_errors=True)
        pod.stop_agent()
        if lab.istiod.process.poll() is not None:
            lab.istiod.start()
        pod.start_agent()
        pod.wait_ready(30)
    eventually("in step with istiod", lambda: call(lab))
