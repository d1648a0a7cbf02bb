"""What VirtualServices and DestinationRules ask of the client's sidecar."""
import concurrent.futures
import time

import manifests as m
from cases_calls import call, eventually, identity
from harness import equal
from lab import VIP, case
from pods import HTTP

WEB = m.host("web")


def web(*routes, **more):
    """A VirtualService for `web` with these HTTP routes."""
    return m.virtual_service("web", hosts=[WEB], http=list(routes), **more)


def answers(lab, number, **more):
    return [call(lab, **more) for _ in range(number)]


def versions(lab, number=10, **more):
    return {a.field("ServiceVersion") for a in answers(lab, number, **more)}


def plain_call(lab, path="/", **more):
    return lab["client"].http(VIP["web"], host=WEB, path=path, **more)


@case
def subsets(lab):
    """A route to a subset reaches that version alone; changed, the other alone"""
    for version in ("v1", "v2"):
        with lab.applied(web({"route": [m.to("web", version)]})):
            eventually(f"only {version} answers", lambda: versions(lab) == {version}, 15)


@case
def header_routing(lab):
    """A header decides the version; regular expressions, prefixes and their absence too"""
    rules = [
        {"match": [{"headers": {"x-version": {"exact": "two"}}}], "route": [m.to("web", "v2")]},
        {"match": [{"headers": {"x-version": {"regex": "t.*x"}}}], "route": [m.to("web", "v2")]},
        {"match": [{"uri": {"prefix": "/second/"}}], "rewrite": {"uri": "/"}, "route": [m.to("web", "v2")]},
        {"match": [{"withoutHeaders": {"x-known": {}}, "uri": {"exact": "/stranger"}}], "route": [m.to("web", "v2")]},
        {"route": [m.to("web", "v1")], "headers": {"request": {"add": {"x-added": "here"}, "remove": ["x-secret"]},
                                                  "response": {"add": {"x-back": "there"}}}}]
    with lab.applied(web(*rules)):
        eventually("the default route holds", lambda: versions(lab) == {"v1"}, 15)
        for headers, path, version in [({"x-version": "two"}, "/", "v2"), ({"x-version": "tax"}, "/", "v2"),
                                       ({"x-version": "tea"}, "/", "v1"), ({}, "/stranger", "v2"),
                                       ({"x-known": "1"}, "/stranger", "v1")]:
            answer = call(lab, headers=headers, path=path)
            equal(answer.field("ServiceVersion"), version, f"{headers} {path}")
        rewritten = call(lab, path="/second/page")
        equal((rewritten.field("ServiceVersion"), rewritten.field("URL")), ("v2", "/page"), "rewritten")
        edited = call(lab, headers={"x-secret": "s"})
        equal((edited.request_header("X-Added"), edited.request_header("X-Secret"), edited.headers.get("x-back")),
              ("here", None, "there"), "header edits")


@case
def weights(lab):
    """Weights 80:20 divide calls so, within what chance allows"""
    with lab.applied(web({"route": [m.to("web", "v1", weight=80), m.to("web", "v2", weight=20)]})):
        def share():
            got = [a.field("ServiceVersion") for a in answers(lab, 300)]
            return got.count("v2") / len(got)
        # Four standard deviations of 300 draws.
        eventually("a fifth goes to v2", lambda: 0.10 < share() < 0.30, 20)


@case
def timeout(lab):
    """A route's timeout ends a slow call with 504, and only slow ones"""
    with lab.applied(web({"route": [m.to("web")], "timeout": "0.5s", "retries": {"attempts": 0}})):
        eventually("a slow call is ended", lambda: plain_call(lab, "/?delay=3s").status == 504, 20)
        call(lab)


@case
def retries(lab):
    """Failed tries are repeated as often as the policy says, and the server hears which try it is"""
    flaky = "/?codes=503:60,200:40"
    policy = {"attempts": 9, "retryOn": "5xx", "perTryTimeout": "2s"}
    with lab.applied(web({"route": [m.to("web")], "retries": policy})):
        eventually("all are answered", lambda: all(plain_call(lab, flaky).status == 200 for _ in range(12)), 20)
    with lab.applied(web({"route": [m.to("web")], "retries": {"attempts": 0}})):
        eventually("some fail without retries",
              lambda: any(plain_call(lab, flaky).status == 503 for _ in range(12)), 20)


@case
def faults(lab):
    """Injected faults: aborts for a part of the calls, a delay for others"""
    rules = [
        {"match": [{"headers": {"x-fault": {"exact": "abort"}}}], "route": [m.to("web")],
         "fault": {"abort": {"httpStatus": 418, "percentage": {"value": 100}}}},
        {"match": [{"headers": {"x-fault": {"exact": "delay"}}}], "route": [m.to("web")],
         "fault": {"delay": {"fixedDelay": "0.7s", "percentage": {"value": 100}}}},
        {"route": [m.to("web")]}]
    with lab.applied(web(*rules)):
        eventually("aborted", lambda: plain_call(lab, headers={"x-fault": "abort"}).status == 418, 15)
        began = time.monotonic()
        call(lab, headers={"x-fault": "delay"})
        assert time.monotonic() - began >= 0.7, "not delayed"
        call(lab)


@case
def mirror(lab):
    """A mirrored call arrives at both, and only the main one is answered"""
    before = len(lab["plain"].app_log("mirrored"))
    rule = {"match": [{"uri": {"prefix": "/mirrored"}}], "route": [m.to("web")], "mirror": {"host": m.host("plain")},
            "mirrorPercentage": {"value": 100}}
    with lab.applied(web(rule, {"route": [m.to("web")]})):
        def arrived():
            call(lab, path="/mirrored")
            return len(lab["plain"].app_log("mirrored")) > before
        eventually("the copy arrives", arrived, 15)


@case
def cors(lab):
    """Preflights are answered by the sidecar, for allowed origins only"""
    policy = {"allowOrigins": [{"exact": "https://good.test"}], "allowMethods": ["PUT"], "allowHeaders": ["x-a"],
              "maxAge": "60s"}
    ask = {"Access-Control-Request-Method": "PUT"}
    with lab.applied(web({"route": [m.to("web")], "corsPolicy": policy})):
        def preflight(origin):
            return plain_call(lab, method="OPTIONS", headers={"Origin": origin, **ask}).headers
        eventually("a preflight is answered", lambda: preflight("https://good.test").get(
            "access-control-allow-methods") == "PUT", 15)
        equal(preflight("https://bad.test").get("access-control-allow-origin"), None, "a foreign origin")


@case
def redirect_and_direct_response(lab):
    """Redirects and answers of the sidecar's own"""
    rules = [{"match": [{"uri": {"exact": "/old"}}], "redirect": {"uri": "/new", "authority": "other.test"}},
             {"match": [{"uri": {"exact": "/gone"}}], "directResponse": {"status": 410, "body": {"string": "gone"}}},
             {"route": [m.to("web")]}]
    with lab.applied(web(*rules)):
        eventually("direct response", lambda: (lambda a: (a.status, a.text))(plain_call(lab, "/gone")) == (410, "gone"), 15)
        moved = plain_call(lab, "/old")
        equal((moved.status, moved.headers.get("location")), (301, "http://other.test/new"), "redirect")


@case
def outlier_ejection(lab):
    """An endpoint that fails is taken out, and comes back"""
    ejecting = m.destination_rule("eject", host=WEB, subsets=[
        {"name": v, "labels": {"version": v}} for v in ("v1", "v2")], trafficPolicy={"outlierDetection": {
            "consecutive5xxErrors": 2, "interval": "1s", "baseEjectionTime": "3s", "maxEjectionPercent": 100}})
    # Only v2 is asked for errors, through the subset route; then both are called.
    rules = [{"match": [{"uri": {"prefix": "/fail"}}], "route": [m.to("web", "v2")], "retries": {"attempts": 0}},
             {"route": [m.to("web")]}]
    with lab.replaced("web-rule", ejecting), lab.applied(web(*rules)):
        # Ejection belongs to the cluster of the subset: its only endpoint is out.
        def out():
            for _ in range(3):
                plain_call(lab, "/fail?codes=500")
            return plain_call(lab, "/fail").status == 503
        eventually("the endpoint is out", out)
        eventually("it is back", lambda: plain_call(lab, "/fail").status == 200, 20)


@case
def circuit_breaking(lab):
    """More calls at a time than allowed are refused at once with 503 and the overflow flag"""
    narrow = m.destination_rule("narrow", host=WEB, subsets=[
        {"name": v, "labels": {"version": v}} for v in ("v1", "v2")], trafficPolicy={"connectionPool": {
            "tcp": {"maxConnections": 1}, "http": {"http1MaxPendingRequests": 1, "http2MaxRequests": 1}}})
    with lab.replaced("web-rule", narrow), lab.applied(web({"route": [m.to("web", "v1")], "retries": {"attempts": 0}})):
        def some_refused():
            with concurrent.futures.ThreadPoolExecutor(8) as many:
                got = list(many.map(lambda _: plain_call(lab, "/?delay=400ms"), range(8)))
            return {a.status for a in got} == {200, 503} and any(
                a.headers.get("x-envoy-overloaded") == "true" for a in got if a.status == 503)
        eventually("some are refused", some_refused, 20)
    eventually("none is refused", lambda: identity(call(lab)) is not None, 10)


@case
def consistent_hash(lab):
    """The same header value always reaches the same endpoint"""
    hashing = m.destination_rule("hash", host=WEB, subsets=[
        {"name": v, "labels": {"version": v}} for v in ("v1", "v2")], trafficPolicy={"loadBalancer": {
            "consistentHash": {"httpHeaderName": "x-user"}}})
    with lab.replaced("web-rule", hashing):
        def sticky():
            found = {user: versions(lab, 5, headers={"x-user": user}) for user in ("a", "b", "c", "d", "e", "f")}
            return all(len(v) == 1 for v in found.values()) and len(set().union(*found.values())) == 2
        eventually("every user has one endpoint", sticky, 20)


@case
def tcp_weights(lab):
    """Weights of TCP routes divide connections"""
    rule = m.virtual_service("web", hosts=[WEB], tcp=[{"match": [{"port": 9090}], "route": [
        m.to("web", "v2", weight=100)]}], http=[{"route": [m.to("web")]}])

    def version():
        with lab["client"].connect(VIP["web"], 9090) as connection:
            connection.sendall(b"hello\n")
            text = b""
            while b"hello" not in text and (got := connection.recv(4096)):
                text += got
        return "v2" if b"ServiceVersion=v2" in text else "v1"
    with lab.applied(rule):
        eventually("all go to v2", lambda: {version() for _ in range(8)} == {"v2"}, 15)
    eventually("both again", lambda: {version() for _ in range(8)} == {"v1", "v2"}, 15)
    equal(HTTP, 8080, "port")
