"""AuthorizationPolicy and RequestAuthentication on the server's sidecar."""
import json

import manifests as m
from cases_calls import call, eventually, exchange, identity, refused
from harness import equal
from identity import Signer
from lab import VIP, case
from pods import HTTP, TCP

ON_WEB = m.selects(app="web")
CLIENT_ACCOUNT = "cluster.local/ns/demo/sa/client"


def status(lab, path="/", **more):
    return lab["client"].http(VIP["web"], host=m.host("web"), path=path, **more).status


def rule(paths=None, methods=None, ports=None, principals=None, **source):
    """One rule; what is None is not asked."""
    operation = {k: v for k, v in {"paths": paths, "methods": methods, "ports": ports}.items() if v}
    source = {**source, **({"principals": principals} if principals else {})}
    return {**({"to": [{"operation": operation}]} if operation else {}),
            **({"from": [{"source": source}]} if source else {})}


@case
def deny_by_path(lab):
    """DENY for a path: 403 with Envoy's words, other paths pass, and no spelling of the path gets around it"""
    policy = m.authorization_policy("deny", selector=ON_WEB, action="DENY", rules=[rule(paths=["/admin*"])])
    with lab.applied(policy):
        eventually("denied", lambda: {status(lab, "/admin") for _ in range(12)} == {403}, 15)
        denied = lab["client"].http(VIP["web"], host=m.host("web"), path="/admin/x")
        equal((denied.status, denied.text), (403, "RBAC: access denied"), "the answer")
        for path in ("/admin?a=b", "/x/../admin", "/./admin", "/%61dmin"):
            equal(status(lab, path), 403, path)
        for path in ("/", "/x?y=/admin", "/xadmin"):
            equal(status(lab, path), 200, path)
    eventually("allowed again", lambda: status(lab, "/admin") == 200, 15)


@case
def allow_by_identity(lab):
    """ALLOW for the client's identity: it passes, plaintext and other identities get 403"""
    policy = m.authorization_policy("allow", selector=ON_WEB, action="ALLOW",
                                    rules=[rule(principals=[CLIENT_ACCOUNT])])
    other = m.authorization_policy("allow", selector=ON_WEB, action="ALLOW",
                                   rules=[rule(principals=["cluster.local/ns/demo/sa/robot"])])
    plain, web = lab["plain"], lab["web-v1"].address
    with lab.applied(policy):
        eventually("plaintext is denied", lambda: plain.http(web, HTTP).status == 403, 15)
        lab.settled("web-v1", "web-v2")
        for _ in range(4):
            equal(status(lab), 200, "the client")
    with lab.applied(other):
        eventually("the client is denied", lambda: {status(lab) for _ in range(6)} == {403}, 15)
    eventually("all pass", lambda: plain.http(web, HTTP).status == 200, 15)


@case
def nothing_allowed(lab):
    """An ALLOW policy without rules denies everything"""
    with lab.applied(m.authorization_policy("nothing", selector=ON_WEB)):
        eventually("denied", lambda: {status(lab) for _ in range(6)} == {403}, 15)
    eventually("allowed", lambda: {status(lab) for _ in range(6)} == {200}, 15)


@case
def deny_on_tcp(lab):
    """DENY for a TCP port closes connections before the server hears of them; other ports stay"""
    policy = m.authorization_policy("deny-tcp", selector=ON_WEB, action="DENY", rules=[rule(ports=["9090"])])

    def closed():
        try:
            with lab["client"].connect(VIP["web"], 9090) as connection:
                exchange(connection)
            return False
        except (OSError, AssertionError):
            return True
    with lab.applied(policy):
        eventually("closed", lambda: closed() and closed() and closed(), 15)
        equal(status(lab), 200, "HTTP")
        assert refused(lab["plain"], lab["web-v1"].address, TCP), "plaintext"
    eventually("open", lambda: not closed() and not closed(), 15)


@case
def dry_run(lab):
    """A policy that is only tried out denies nothing and counts what it would have done"""
    policy = m.authorization_policy("tried", selector=ON_WEB, action="DENY", rules=[rule(paths=["/tried"])])
    policy["metadata"]["annotations"] = {"istio.io/dry-run": "true"}
    with lab.applied(policy):
        def counted():
            equal(status(lab, "/tried"), 200, "not denied")
            return any(value for name in ("web-v1", "web-v2")
                       for key, value in lab[name].stats(r"istio_dry_run_deny_.*shadow_denied").items())
        eventually("counted", counted, 15)


@case
def request_authentication(lab):
    """Tokens: good ones pass, bad ones are 401, none passes; with a policy on top none is 403; claims can be asked"""
    signer, forger = Signer(lab.folder, "callers", "https://callers.test"), Signer(lab.folder, "forger",
                                                                                  "https://callers.test")
    asked = m.request_authentication("tokens", selector=ON_WEB, jwtRules=[{
        "issuer": signer.issuer, "audiences": ["web"], "jwks": json.dumps(signer.keys),
        "outputClaimToHeaders": [{"header": "x-group", "claim": "group"}]}])
    wanted = m.authorization_policy("tokens", selector=ON_WEB, action="ALLOW", rules=[
        {**rule(requestPrincipals=[f"{signer.issuer}/alice"]),
         "when": [{"key": "request.auth.claims[group]", "values": ["admins"]}]}])

    def bearer(token):
        return {"headers": {"Authorization": f"Bearer {token}"}}
    good = signer.token("alice", "web", group="admins")
    bad = {"forged": forger.token("alice", "web", group="admins"), "expired": signer.token("alice", "web", life=-120),
           "garbage": "not.a.token"}
    with lab.applied(asked):
        eventually("garbage is 401", lambda: {status(lab, **bearer("a.b.c")) for _ in range(4)} == {401}, 15)
        equal(status(lab), 200, "no token")
        answer = lab["client"].http(VIP["web"], host=m.host("web"), **bearer(good))
        equal((answer.status, answer.request_header("X-Group")), (200, "admins"), "a good token")
        for what, token in bad.items():
            equal(status(lab, **bearer(token)), 401, what)
        equal(status(lab, **bearer(signer.token("alice", "other"))), 403, "for another audience")
        with lab.applied(wanted):
            eventually("no token is 403", lambda: {status(lab) for _ in range(4)} == {403}, 15)
            equal(status(lab, **bearer(good)), 200, "alice of the admins")
            equal(status(lab, **bearer(signer.token("bob", "web", group="admins"))), 403, "bob")
            equal(status(lab, **bearer(signer.token("alice", "web", group="guests"))), 403, "a guest")
    eventually("open again", lambda: {status(lab) for _ in range(4)} == {200}, 15)
    equal(identity(call(lab)) is not None, True, "mutual TLS")
