"""Istio's command-line tool on what the sidecar's admin says."""
import json
import re

from cases_calls import call
from harness import equal, matches, until
from lab import case


def istioctl(lab, *words, name="client", query="?include_eds=true"):
    """`istioctl proxy-config ... --file` on the pod's dump."""
    dump = lab.folder / f"{name}-{words[1]}.json"
    path = "/clusters?format=json" if words[1] == "endpoint" else "/config_dump" + query
    status, text = lab[name].admin(path, timeout=30)
    equal(status, 200, path)
    dump.write_text(text)
    code, out = lab.hub.call(lab.programs / "istioctl", *words, "--file", dump, timeout=60)
    equal(code, 0, f"{' '.join(words)}: {out[-600:]}")
    return out


@case
def proxy_config(lab):
    """istioctl proxy-config shows clusters, listeners, routes, endpoints, bootstrap and secrets of a sidecar"""
    call(lab)
    wanted = {
        "cluster": (r"web\.demo\.svc\.cluster\.local +80 +v1 +outbound +EDS", r"PassthroughCluster", r"xds-grpc"),
        "listener": (r"0\.0\.0\.0 +15001 +ALL +PassthroughCluster", r"15006", r"15021", r"Route: 80"),
        "route": (r"web\.demo\.svc\.cluster\.local:80 ", r"inbound\|8080\|\|"),
        "endpoint": (r"10\.77\.0\.12:8080 +HEALTHY +OK +outbound\|80\|\|web\.demo",),
        "bootstrap": (r"sidecar~10\.77\.0\.11~client\.demo~demo\.svc\.cluster\.local",),
        "secret": (r"default +Cert Chain +ACTIVE +true", r"ROOTCA +CA +ACTIVE +true"),
    }
    for kind, patterns in wanted.items():
        out = istioctl(lab, "proxy-config", kind)
        for pattern in patterns:
            matches(pattern, out, kind)
    matches(r"10\.78\.0\.1 +9090 +ALL +Cluster: outbound\|9090\|\|web\.demo", istioctl(lab, "proxy-config", "all"), "all")
    for kind in ("cluster", "listener", "route", "bootstrap"):
        json.loads(istioctl(lab, "proxy-config", kind, "--output", "json"))


@case
def dump_equals_what_istiod_sent(lab):
    """What the sidecar dumps is what istiod sent, resource by resource, as proxy-status compares it"""
    def parts(text):
        found = {}
        for config in json.loads(text)["configs"]:
            kind = config["@type"].rsplit(".", 1)[-1]
            if kind == "ClustersConfigDump":
                found["clusters"] = {c["cluster"]["name"]: c["cluster"]
                                     for c in config.get("dynamic_active_clusters", config.get("dynamicActiveClusters", []))}
            elif kind == "ListenersConfigDump":
                key = "dynamic_listeners" if "dynamic_listeners" in config else "dynamicListeners"
                states = [one.get("active_state") or one.get("activeState") or {} for one in config.get(key, [])]
                found["listeners"] = {s["listener"]["name"]: s["listener"] for s in states if s}
            elif kind == "RoutesConfigDump":
                key = "dynamic_route_configs" if "dynamic_route_configs" in config else "dynamicRouteConfigs"
                routes = [one.get("route_config") or one.get("routeConfig") for one in config.get(key, [])]
                found["routes"] = {r["name"]: r for r in routes if r}
        return found

    def normal(value):
        if isinstance(value, dict):
            # Both spellings of proto3 JSON mean the same.
            return {re.sub(r"_([a-z0-9])", lambda f: f[1].upper(), k): normal(v) for k, v in value.items()}
        return [normal(v) for v in value] if isinstance(value, list) else value
    pod = lab["client"]
    status, sent = lab.istiod.debug(f"/debug/config_dump?proxyID={pod.name}.demo")
    equal(status, 200, "istiod's view")
    theirs, ours = parts(sent), parts(pod.admin("/config_dump", timeout=30)[1])
    for kind in ("clusters", "listeners", "routes"):
        equal(sorted(ours[kind]), sorted(theirs[kind]), f"names of {kind}")
        for name, value in theirs[kind].items():
            if normal(value) != normal(ours[kind][name]):
                raise AssertionError(f"{kind} {name} differs: {difference(normal(value), normal(ours[kind][name]))}")


def difference(theirs, ours, at=""):
    """The first place where two documents differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted({*theirs, *ours}):
            if theirs.get(key) != ours.get(key):
                return difference(theirs.get(key), ours.get(key), f"{at}.{key}")
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for i, (one, other) in enumerate(zip(theirs, ours)):
            if one != other:
                return difference(one, other, f"{at}[{i}]")
    return f"{at}: sent {json.dumps(theirs)[:300]}, dumped {json.dumps(ours)[:300]}"


@case
def everything_is_acknowledged(lab):
    """istiod sees every type of every sidecar acknowledged"""
    def acknowledged():
        seen = {}
        for proxy in [one for istiod in filter(None, [lab.istiod, lab.beside])
                      for one in json.loads(istiod.debug("/debug/syncz")[1])]:
            name = (proxy.get("proxy") or "").split(".")[0]
            seen[name] = all(proxy.get(f"{kind}_sent") == proxy.get(f"{kind}_acked")
                             for kind in ("cluster", "listener", "route", "endpoint"))
        return all(seen.get(name) for name in ("client", "web-v1", "web-v2"))
    until("all are in step", acknowledged, 15)


@case
def log_levels(lab):
    """Log levels are listed and changed as istioctl does it"""
    pod = lab["client"]
    status, text = pod.admin("/logging", "POST")
    equal(status, 200, "list")
    matches(r"(?s)active loggers:\n.*\n  \w+: \w+", text, "list")
    equal(pod.admin("/logging?level=info", "POST")[0], 200, "all")
    equal(pod.admin("/logging?upstream=debug", "POST")[0], 200, "one")
    matches(r"(?m)^  upstream: debug$", pod.admin("/logging", "POST")[1], "changed")
    equal(pod.admin("/logging?level=warning", "POST")[0], 200, "back")


@case(stock=False)
def nothing_is_unknown(lab):
    """Of what this istiod sends no field is unknown, and no message in the dump is left undecoded"""
    def undecoded(value):
        if isinstance(value, list):
            return [found for one in value for found in undecoded(one)]
        if not isinstance(value, dict):
            return []
        # Bytes of an unknown type are shown as base64 under `value`, and nothing beside it.
        mine = [value["@type"]] if value.keys() == {"@type", "value"} and isinstance(value["value"], str) else []
        return mine + [found for one in value.values() for found in undecoded(one)]
    for pod in (lab["client"], lab["web-v2"]):
        equal(pod.stats(r"^server\.(dynamic|static)_unknown_fields$"),
              {"server.dynamic_unknown_fields": 0, "server.static_unknown_fields": 0}, pod.name)
        equal(undecoded(pod.dump("?include_eds")), [], pod.name)
