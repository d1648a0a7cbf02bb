"""Calls between pods: by name and by address, encrypted and not, HTTP, gRPC, WebSocket and TCP."""
import http.client
import re
import socket
import ssl

import manifests as m
from harness import equal, matches, until
from lab import VIP, VIP6, case
from pods import GRPC, HTTP, TCP, TLS

CLIENT = "spiffe://cluster.local/ns/demo/sa/client"
GREETING = b"server-first-protocol\n"


def identity(answer):
    """Who the server's sidecar saw: the URI of the client's certificate, None over plaintext."""
    header = answer.request_header("X-Forwarded-Client-Cert") or ""
    found = re.search(r"URI=([^;,]+)", header)
    return found[1] if found else None


def call(lab, status=200, **more):
    """One call from the client pod to `web` by its virtual address."""
    answer = lab["client"].http(VIP["web"], host="web.demo.svc.cluster.local", **more)
    equal(answer.status, status, f"{more}: {answer!r}")
    return answer


def eventually(what, check, timeout=20.0):
    """As `until`, for a check that may fail in any way while a change is on its way."""
    def attempt():
        try:
            return check()
        except (AssertionError, OSError, http.client.HTTPException):
            return False
    until(what, attempt, timeout)


def refused(pod, address, port, **more):
    """True if a plaintext call is not answered by the application."""
    try:
        return pod.http(address, port, **more).status != 200
    except (OSError, http.client.HTTPException):
        return True


def exchange(connection, sent=b"hello\n", greeting=b""):
    """Sends a line and reads until it comes back; everything that was read before it."""
    connection.settimeout(10)
    read = b""
    while greeting and not read.startswith(greeting):
        got = connection.recv(4096)
        assert got, f"closed after {read!r} instead of greeting"
        read += got
    connection.sendall(sent)
    while sent not in read:
        got = connection.recv(4096)
        assert got, f"closed after {read!r}"
        read += got
    return read.decode()


@case
def call_by_virtual_address(lab):
    """An HTTP call to a service's address is captured, encrypted and answered, and the server knows who calls"""
    answer = call(lab)
    equal(identity(answer), CLIENT, "the client the server saw")
    equal(answer.headers.get("server"), "envoy", "the client's sidecar names itself")


@case
def call_by_name(lab):
    """The captured name server knows services, and a call to the address it gives arrives"""
    equal(lab["client"].resolve("web.demo.svc.cluster.local"), [VIP["web"]], "address of web")
    code, text = lab["client"].client("http://web.demo.svc.cluster.local/", count=3)
    equal(code, 0, text[-400:])
    equal(text.count("StatusCode=200"), 3, "answers")


@case
def call_to_a_pod_without_a_sidecar(lab):
    """A server without a sidecar is called in plaintext"""
    answer = lab["client"].http(VIP["plain"], host="plain.demo")
    equal(answer.status, 200, repr(answer))
    equal(identity(answer), None, "no certificate")


@case
def both_versions_are_called(lab):
    """Calls without a rule reach every endpoint of the service"""
    def seen():
        return {call(lab).field("ServiceVersion") for _ in range(12)}
    eventually("both versions answer", lambda: seen() == {"v1", "v2"}, 15)


@case
def permissive_takes_plaintext(lab):
    """Without a policy a server takes plaintext calls too, and says that there was no certificate"""
    with_forgery = lab["plain"].http(lab["web-v1"].address, HTTP, headers={
        "X-Forwarded-Client-Cert": f"By=x;URI={CLIENT}"})
    equal(with_forgery.status, 200, repr(with_forgery))
    equal(with_forgery.request_header("X-Forwarded-Client-Cert"), None, "a forged certificate header is removed")


@case
def strict_refuses_plaintext(lab):
    """STRICT: plaintext calls are refused, mutual TLS goes on; taken back, plaintext is served again"""
    plain, web = lab["plain"], lab["web-v1"].address
    with lab.applied(m.mtls("STRICT", "web")):
        eventually("plaintext is refused", lambda: refused(plain, web, HTTP), 15)
        equal(identity(call(lab)), CLIENT, "mutual TLS")
        assert refused(plain, web, TCP), "plaintext to a TCP port"
    eventually("plaintext is served", lambda: not refused(plain, web, HTTP), 15)


@case
def disable_means_plaintext(lab):
    """DISABLE: clients stop encrypting, servers take plaintext alone"""
    with lab.applied(m.mtls("DISABLE", "web")):
        eventually("calls are plaintext", lambda: identity(call(lab)) is None, 15)
    eventually("calls are encrypted again", lambda: identity(call(lab)) == CLIENT, 15)


@case
def tcp_call(lab):
    """A TCP port: what is sent comes back, through mutual TLS"""
    with lab["client"].connect(VIP["web"], 9090) as connection:
        matches(r"ServiceVersion=v[12]", exchange(connection), "the echo program")
    with lab.applied(m.mtls("STRICT", "web")):
        lab.settled("client", "web-v1", "web-v2")
        with lab["client"].connect(VIP["web"], 9090) as connection:
            exchange(connection)


@case
def half_closed_tcp(lab):
    """A client that has sent all and closed its side still gets the whole answer"""
    sent = b"x" * 200_000 + b"\n"
    with lab["client"].connect(VIP["web"], 9090) as connection:
        connection.settimeout(10)
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        read = b""
        while got := connection.recv(65536):
            read += got
    assert read.endswith(sent), f"{len(read)} bytes came back"


@case
def tcp_server_speaks_first(lab):
    """A server that greets before the client speaks, on a port declared TCP"""
    with lab["client"].connect(VIP["web"], 9091) as connection:
        exchange(connection, greeting=GREETING)


@case
def grpc_call(lab):
    """gRPC calls over one connection arrive, with trailers"""
    code, text = lab["client"].client("grpc://web.demo.svc.cluster.local:7070", count=5)
    equal(code, 0, text[-600:])
    equal(text.count("StatusCode=200"), 5, text[-600:])
    equal(GRPC, 7070, "port")


@case
def websocket_call(lab):
    """An upgrade to WebSocket passes both sidecars"""
    code, text = lab["client"].client("ws://web.demo.svc.cluster.local:80/")
    equal(code, 0, text[-600:])
    matches("StatusCode=200", text, "answer")


@case
def undeclared_port_speaks_anything(lab):
    """A port without a declared protocol carries HTTP, told by its first bytes"""
    answer = lab["client"].http(VIP["web"], 8085, host="web.demo.svc.cluster.local:8085")
    equal(answer.status, 200, repr(answer))
    # Stock Envoy cannot say by ALPN that it is HTTP, and the server takes it for TCP.
    equal(identity(answer), None if lab.reduced else CLIENT, "mutual TLS")


@case
def http2_by_prior_knowledge(lab):
    """HTTP/2 without an upgrade on a port declared HTTP"""
    code, text = lab["client"].client("http://web.demo.svc.cluster.local/", "--http2", count=2)
    equal(code, 0, text[-600:])
    equal(text.count("StatusCode=200"), 2, text[-600:])


@case
def headless_service(lab):
    """A service without an address: calls to its pods' own addresses arrive encrypted, HTTP and TCP"""
    equal(sorted(lab["client"].resolve("headless.demo.svc.cluster.local")),
          sorted(lab[name].address for name in ("web-v1", "web-v2")), "addresses")
    for name in ("web-v1", "web-v2"):
        answer = lab["client"].http(lab[name].address, HTTP, host="headless.demo.svc.cluster.local:8080")
        equal((answer.status, answer.field("ServiceVersion"), identity(answer)), (200, lab[name].version, CLIENT), name)
        with lab["client"].connect(lab[name].address, TCP) as connection:
            matches(f"ServiceVersion={lab[name].version}", exchange(connection), name)


@case
def a_pod_calls_its_own_service(lab):
    """A pod that calls its own service's address reaches itself or its sibling"""
    answer = lab["web-v1"].http(VIP["web"], host="web.demo")
    equal(answer.status, 200, repr(answer))


@case
def passthrough_and_registry_only(lab):
    """Unknown destinations are passed through, and refused once a Sidecar says REGISTRY_ONLY"""
    client, web = lab["client"], lab["plain"].address
    equal(client.http(web, HTTP, host="unknown.test").status, 200, "passthrough")
    only = m.sidecar("default", outboundTrafficPolicy={"mode": "REGISTRY_ONLY"},
                     egress=[{"hosts": ["./*", "istio-system/*"]}])
    with lab.applied(only):
        eventually("the unknown is refused", lambda: refused(client, web, 8085, host="unknown.test"), 15)
        call(lab)
    eventually("passed through again", lambda: not refused(client, web, 8085, host="unknown.test"), 15)


@case
def service_entry_static(lab):
    """A ServiceEntry with fixed endpoints, called by its address and by its name"""
    entry = m.service_entry("external", hosts=["external.test"], addresses=[VIP["external"]], resolution="STATIC",
                            location="MESH_EXTERNAL", endpoints=[{"address": lab["plain"].address}],
                            ports=[{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": HTTP}])
    with lab.applied(entry):
        eventually("the name is known", lambda: lab["client"].resolve("external.test") == [VIP["external"]], 15)
        # The name is known before the sidecar has the routes: such a call is passed through to nowhere.
        eventually("it answers", lambda: lab["client"].http(
            VIP["external"], host="external.test", timeout=1.0).field("Host") == "external.test", 10)


@case
def service_entry_by_name(lab):
    """A ServiceEntry whose endpoint is a name: the sidecar resolves it"""
    entry = m.service_entry("resolved", hosts=["resolved.test"], addresses=[VIP["resolved"]], resolution="DNS",
                            endpoints=[{"address": "outside.lab.test"}],
                            location="MESH_EXTERNAL",
                            ports=[{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": HTTP}])
    with lab.applied(entry):
        eventually("it answers", lambda: not refused(lab["client"], VIP["resolved"], 80, host="resolved.test",
                                                    timeout=1.0), 15)


@case
def service_entry_without_resolution(lab):
    """A ServiceEntry with resolution NONE sends calls where the client meant to go"""
    entry = m.service_entry("passing", hosts=["passing.test"], addresses=[f"{lab['plain'].address}/32"],
                            resolution="NONE", location="MESH_EXTERNAL",
                            ports=[{"number": HTTP, "name": "http", "protocol": "HTTP"}])
    with lab.applied(entry):
        lab.settled("client")
        answer = lab["client"].http(lab["plain"].address, HTTP, host="passing.test")
        equal((answer.status, answer.field("Host")), (200, "passing.test"), repr(answer))


@case
def inbound_port_is_not_a_way_out(lab):
    """A connection straight to 15006 or 15001 reaches nothing, and no outbound listener"""
    web = lab["web-v1"].address
    for port in (15006, 15001):
        assert refused(lab["plain"], web, port, host="plain.demo"), f"port {port} answered"
    # A foreign destination that reaches the inbound listener must not leave through an outbound one.
    lab["plain"].space.must("ip", "route", "add", f"{VIP['plain']}/32", "via", web)
    try:
        assert refused(lab["plain"], VIP["plain"], 80, host="plain.demo", timeout=4), "went out again"
    finally:
        lab["plain"].space.must("ip", "route", "del", f"{VIP['plain']}/32")


def outside(lab, port):
    """A ServiceEntry for a server outside of the mesh that speaks TLS."""
    return m.service_entry("outside", hosts=["tls.test"], addresses=[VIP["tls"]], resolution="STATIC",
                           location="MESH_EXTERNAL", endpoints=[{"address": lab["plain"].address}],
                           ports=[{**port, "targetPort": TLS}])


@case
def tls_origination(lab):
    """The sidecar speaks TLS to a server outside, checks its name, and calls nobody whose name is another"""
    def rule(name):
        return m.destination_rule("outside", host="tls.test", trafficPolicy={"tls": {
            "mode": "SIMPLE", "sni": "tls.test", "subjectAltNames": [name],
            "caCertificates": str(lab.istiod.authority / "root-cert.pem")}})

    def answer():
        return lab["client"].http(VIP["tls"], host="tls.test", timeout=2.0)
    entry = outside(lab, {"number": 80, "name": "http", "protocol": "HTTP"})
    with lab.applied(entry, rule("tls.test")):
        eventually("it answers", lambda: answer().field("Sni") == "tls.test", 15)
    with lab.applied(entry, rule("other.test")):
        eventually("it is refused", lambda: answer().status == 503, 15)


@case
def tls_passthrough(lab):
    """TLS of the application's own passes by its server name, and the application sees the server's certificate"""
    entry = outside(lab, {"number": 443, "name": "tls", "protocol": "TLS"})
    context = ssl.create_default_context(cafile=str(lab.istiod.authority / "root-cert.pem"))

    def passes():
        with lab["client"].connect(VIP["tls"], 443, 2.0) as raw:
            with context.wrap_socket(raw, server_hostname="tls.test") as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: tls.test\r\nConnection: close\r\n\r\n")
                return b"200 OK" in connection.recv(4096)
    with lab.applied(entry):
        eventually("it passes", passes, 15)


@case(dual=True)
def call_over_ipv6(lab):
    """A service's IPv6 address is captured too, HTTP and TCP, to servers that see who calls"""
    client = lab["client"]
    assert VIP6["web"] in client.resolve("web.demo.svc.cluster.local", kind=28), "AAAA"
    answer = client.http(VIP6["web"], host="web.demo.svc.cluster.local")
    equal((answer.status, identity(answer)), (200, CLIENT), repr(answer))
    with client.connect(VIP6["web"], 9090) as connection:
        exchange(connection)


@case(dual=True)
def inbound_over_ipv6(lab):
    """Plaintext to a pod's IPv6 address reaches the application through its sidecar, and STRICT refuses it"""
    plain, web = lab["plain"], lab["web-v1"]
    equal(plain.http(web.address6, HTTP).status, 200, "plaintext")
    with lab.applied(m.mtls("STRICT", "web")):
        eventually("refused", lambda: refused(plain, web.address6, HTTP), 15)
    with lab.applied(m.authorization_policy("nothing", selector=m.selects(app="web"))):
        eventually("denied", lambda: plain.http(web.address6, HTTP).status == 403, 15)
