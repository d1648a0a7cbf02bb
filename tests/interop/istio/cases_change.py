"""Change under load: nothing in flight may break."""
import re
import time

import manifests as m
from cases_calls import call, eventually, identity
from cases_routes import plain_call, versions, web
from harness import equal
from lab import VIP, case
from load import Load


def unbroken(load, least=20):
    equal(load.broken[:5], [], f"broken of {load.done}")
    assert load.done >= least, f"only {load.done} calls"


def under_load(lab):
    return Load(lab["client"], VIP["web"], m.host("web"))


@case
def routes_change_under_load(lab):
    """Routes change five times with requests, slow answers and TCP connections in flight: none breaks"""
    with under_load(lab) as load:
        for version in ("v1", "v2", "v1", "v2"):
            with lab.applied(web({"route": [m.to("web", version)]})):
                eventually(f"only {version}", lambda version=version: versions(lab, 6) == {version}, 20)
        eventually("both", lambda: versions(lab, 12) == {"v1", "v2"}, 20)
    unbroken(load)


@case
def policies_change_under_load(lab):
    """Authorization and peer authentication change on the servers under load: allowed calls never break"""
    deny = m.authorization_policy("deny", selector=m.selects(app="web"), action="DENY", rules=[
        {"to": [{"operation": {"paths": ["/forbidden"]}}]}])
    with under_load(lab) as load:
        for _ in range(2):
            with lab.applied(deny):
                eventually("denied", lambda: {plain_call(lab, "/forbidden").status for _ in range(4)} == {403}, 20)
            eventually("allowed", lambda: {plain_call(lab, "/forbidden").status for _ in range(4)} == {200}, 20)
        with lab.applied(m.mtls("STRICT", "web")):
            lab.settled()
        lab.settled()
    unbroken(load)


@case
def listeners_change_under_load(lab):
    """Listeners come, change and go on the client (new services, a filter in the chain): nothing else breaks"""
    entries = [m.service_entry(f"more-{i}", hosts=[f"more-{i}.test"], addresses=[f"10.78.1.{i}"], resolution="STATIC",
                               endpoints=[{"address": lab["plain"].address}],
                               ports=[{"number": 80 + i, "name": "tcp", "protocol": "TCP"}]) for i in range(1, 4)]
    header = m.envoy_filter("cors-again", workloadSelector={"labels": {"app": "client"}}, configPatches=[{
        "applyTo": "HTTP_FILTER",
        "match": {"context": "SIDECAR_OUTBOUND", "listener": {"filterChain": {"filter": {
            "name": "envoy.filters.network.http_connection_manager",
            "subFilter": {"name": "envoy.filters.http.router"}}}}},
        "patch": {"operation": "INSERT_BEFORE", "value": {"name": "again", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"}}}}])
    with under_load(lab) as load:
        for _ in range(2):
            with lab.applied(*entries):
                eventually("the listener is there", lambda: "10.78.1.1_81" in lab["client"].admin("/listeners")[1], 20)
            eventually("it is gone", lambda: "10.78.1.1_81" not in lab["client"].admin("/listeners")[1], 20)
            with lab.applied(header):
                lab.settled("client")
            lab.settled("client")
    unbroken(load)


@case
def endpoints_change_under_load(lab):
    """An endpoint leaves and comes back under load: no call breaks"""
    ports = lab.web_ports
    with under_load(lab) as load:
        lab.endpoints("web", ports, [lab["web-v1"]])
        eventually("v2 has left", lambda: versions(lab, 8) == {"v1"}, 20)
        lab.endpoints("web", ports, [lab["web-v1"], lab["web-v2"]])
        eventually("v2 is back", lambda: versions(lab, 12) == {"v1", "v2"}, 20)
    unbroken(load)


@case
def istiod_killed_and_restarted(lab):
    """istiod dies and comes back under load: calls go on, sidecars reconnect and follow changes"""
    with under_load(lab) as load:
        lab.istiod.kill()
        time.sleep(lab.outage)
        call(lab)
        equal(lab["client"].admin("/ready")[0], 200, "/ready")
        lab.istiod.start()
        with lab.applied(web({"route": [m.to("web", "v2")]})):
            eventually("changes arrive", lambda: versions(lab, 6) == {"v2"}, 90)
        eventually("and again", lambda: versions(lab, 12) == {"v1", "v2"}, 30)
    unbroken(load)


@case
def sidecar_restarts(lab):
    """The proxy dies: the agent ends with it, and started again the pod is ready and calls arrive"""
    pod = lab["client"]
    pod.stop_agent()
    pod.start_agent()
    pod.wait_ready(20)
    equal(identity(call(lab)) is not None, True, "mutual TLS")


@case
def orphaned_proxy(lab):
    """The agent dies and leaves the proxy: traffic goes on; a second agent's proxy takes no port beside it"""
    import os
    import signal
    pod = lab["client"]
    orphan = pod.proxy_pid()
    os.kill(pod.agent_pid, signal.SIGKILL)
    pod.agent.wait()
    call(lab)
    pod.start_agent()
    eventually("the second ends", lambda: pod.agent.poll() is not None, 20)
    equal(os.path.exists(f"/proc/{orphan}"), True, "the orphan")
    os.kill(orphan, signal.SIGKILL)
    eventually("the orphan is gone", lambda: pod.proxy_pid() is None, 5)
    pod.start_agent()
    pod.wait_ready(20)
    call(lab)


@case
def drained_at_termination(lab):
    """SIGTERM to a server's agent: requests in flight end well, connections are told to leave, the agent ends"""
    pod = lab["web-v2"]
    with lab.applied(web({"route": [m.to("web", "v2")], "retries": {"attempts": 0}})):
        eventually("only v2", lambda: versions(lab, 6) == {"v2"}, 15)
        with Load(lab["client"], VIP["web"], m.host("web"), connections=0) as load:
            pod.signal_agent()
            eventually("the agent says that it drains", lambda: re.search("drain", pod.log(), re.I), 5)
            time.sleep(1)
            still = list(load.broken)
            eventually("the agent ends", lambda: pod.agent.poll() is not None, 20)
        equal(still, [], "broken while draining")
    pod.start_agent()
    pod.wait_ready(20)
    eventually("back", lambda: plain_call(lab).status == 200, 10)


@case
def certificates_rotate_under_load(lab):
    """Short-lived certificates are renewed under load: calls do not break and the serial numbers change"""
    pod = lab["client"]
    pod.stop_agent()
    pod.extra["SECRET_TTL"] = "60s"
    pod.start_agent()
    try:
        pod.wait_ready(20)

        def serials():
            return set(re.findall(r'"serial_number": "([0-9a-f]+)"', pod.admin("/certs")[1]))
        before = serials()
        with under_load(lab) as load:
            eventually("renewed", lambda: serials() - before, 90)
            call(lab)
        unbroken(load)
    finally:
        del pod.extra["SECRET_TTL"]
        pod.stop_agent()
        pod.start_agent()
    pod.wait_ready(20)
