"""HTTP/1 framing and parsing tricks, from clients and from servers; slow peers; stale connections; upgrades."""
import socket
import threading
import time

from harness import case, equal, until
from web import OK, Heads, Text, Web, request, slowly, status
from wire import Server

GET = b"GET /n HTTP/1.1\r\nHost: h\r\n"
POST = b"POST /n HTTP/1.1\r\nHost: h\r\n"
# Would be a second request to whoever reads the first one otherwise.
NEXT = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"

# What it is, its bytes, the status it must get; None: served, once.
TRICKS = [
    ("length and chunked", POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT, 400),
    ("chunked and length", POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + NEXT, 400),
    ("two equal lengths", POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab", 400),
    ("two lengths", POST + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\nab" + NEXT, 400),
    ("a list of lengths", POST + b"Content-Length: 2, 2\r\n\r\nab", 400),
    ("a length with a sign", POST + b"Content-Length: +2\r\n\r\nab", 400),
    ("a negative length", POST + b"Content-Length: -1\r\n\r\n" + NEXT, 400),
    ("a hexadecimal length", POST + b"Content-Length: 0x2\r\n\r\nab", 400),
    ("a length over 64 bits", POST + b"Content-Length: 18446744073709551617\r\n\r\nab", 400),
    ("an empty length", POST + b"Content-Length:\r\n\r\n" + NEXT, 400),
    ("a length of letters", POST + b"Content-Length: abc\r\n\r\n" + NEXT, 400),
    ("a tab after chunked", POST + b"Transfer-Encoding: chunked\t\r\n\r\n0\r\n\r\n", None),
    ("a vertical tab before chunked", POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + NEXT, 400),
    ("a blank before the colon", POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + NEXT, 400),
    ("chunked twice", POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("chunked, chunked", POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    ("identity", POST + b"Transfer-Encoding: identity\r\n\r\n" + NEXT, (400, 501)),
    ("chunked, identity", POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + NEXT, (400, 501)),
    ("an unknown coding", POST + b"Transfer-Encoding: xchunked\r\n\r\n" + NEXT, (400, 501)),
    ("chunked in HTTP/1.0", b"POST /n HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT, (400, 426)),
    ("a negative chunk", POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nab\r\n0\r\n\r\n" + NEXT, 400),
    ("a chunk size with 0x", POST + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\nab\r\n0\r\n\r\n" + NEXT, 400),
    ("a chunk size over 64 bits", POST + b"Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\nab\r\n0\r\n\r\n", 400),
    ("a chunk without its end", POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabX\r\n0\r\n\r\n" + NEXT, 400),
    ("a bare LF after a chunk size", POST + b"Transfer-Encoding: chunked\r\n\r\n2\nab\r\n0\r\n\r\n", 400),
    ("a bare LF in a head", b"GET /n HTTP/1.1\nHost: h\n\n", 400),
    ("a bare CR in a value", GET + b"X: a\rTransfer-Encoding: chunked\r\n\r\n", 400),
    ("a NUL in a value", GET + b"X: a\0b\r\n\r\n", 400),
    ("a folded line", GET + b"X: a\r\n Transfer-Encoding: chunked\r\n\r\n", 400),
    ("no Host", b"GET /n HTTP/1.1\r\n\r\n", 400),
    ("two Hosts", GET + b"Host: other\r\n\r\n", 400),
    ("two hosts in one", b"GET /n HTTP/1.1\r\nHost: h, other\r\n\r\n", 400),
    ("a user in the Host", b"GET /n HTTP/1.1\r\nHost: u@h\r\n\r\n", 400),
    ("an absolute target that is not the Host", b"GET http://other/n HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("a target without slash", b"GET admin HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("a fragment", b"GET /n#f HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("a blank in the target", b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("a colonless line", GET + b"nonsense\r\n\r\n", 400),
    ("no name", GET + b": x\r\n\r\n", 400),
    ("h2c upgrade", GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", None),
    ("a field named by Connection", GET + b"Connection: close, X-Secret\r\nX-Secret: 1\r\n\r\n", None),
    ("a version of tomorrow", b"GET /n HTTP/2.0\r\nHost: h\r\n\r\n", 505),
    ("200 fields", GET + b"".join(b"x%d: 1\r\n" % i for i in range(200)) + b"\r\n", 431),
    ("a field of 100 kB", GET + b"x: " + b"y" * 100_000 + b"\r\n\r\n", 431),
    ("a target of 70 kB", b"GET /" + b"y" * 70_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
]


@case
def framing_tricks_of_clients():
    """some forty ways to say one request so that two readers disagree: refused and closed, or passed on as exactly one"""
    with Heads() as up, Web(up.port) as web:
        for what, data, expected in TRICKS:
            before = len(up.got)
            got, closed = web.send(data, 0.5 if expected is None else 5)
            if expected is None:
                equal(status(got), 200, what)
                equal(len(up.got) - before, 1, f"requests the server saw of: {what}")
            else:
                allowed = expected if isinstance(expected, tuple) else (expected,)
                assert status(got) in allowed, f"{what}: {got[:60]!r}, expected {allowed}"
                assert closed, f"{what}: the connection stays open"
                equal([head for head, _ in up.got[before:]], [], f"the server saw of: {what}")
            assert got.count(b"HTTP/1.1 ") == 1, f"{what}: {got!r}"
        assert not any(b"smuggled" in head for head, _ in up.got), "a request came out of another one"
        assert not any(b"x-secret" in head.lower() or b"upgrade" in head.lower() for head, _ in up.got)
        # Those that broke off within a body left nothing that could be taken for whole.
        for data in up.broken:
            assert request(data) is None, data
        web.settled()


@case
def framing_tricks_of_servers():
    """a server's faulty or endless responses give 502 or a body cut visibly; nothing of them meets another request"""
    answers = {
        b"/both": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"/two": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        b"/sign": b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nab",
        b"/coding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        b"/fold": b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n",
        b"/nul": b"HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n",
        b"/cr": b"HTTP/1.1 200 OK\r\nx: a\rset-cookie: b\r\ncontent-length: 0\r\n\r\n",
        b"/lf": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
        b"/status": b"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
        b"/version": b"HTTP/3.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"/garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"/101": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        b"/fields": b"HTTP/1.1 200 OK\r\n" + b"x: 1\r\n" * 200 + b"content-length: 0\r\n\r\n",
        b"/large": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\ncontent-length: 0\r\n\r\n",
        b"/interim": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20_000,
    }
    cut = {
        b"/short": b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        b"/chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
        b"/noend": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    }
    bodiless = {
        b"/204": b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged",
        b"/304": b"HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\nforged",
    }
    every = {**answers, **cut, **bodiless}

    class Hostile(Server):
        def serve(self, sock):
            data = b""
            while part := sock.recv(65536):
                data += part
                taken = request(data)
                if taken:
                    path = taken[0].split(b" ")[1]
                    sock.sendall(every.get(path, OK))
                    if path in every:
                        return
                    data = taken[2]

    with Hostile() as up, Web(up.port) as web:
        for path in every:
            got, closed = web.send(b"GET %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % path)
            if path in answers:
                # 103 may be passed on while they come.
                last = got[got.rfind(b"HTTP/1.1 "):]
                assert status(last) in (502, 503), f"{path}: {last[:80]!r}"
            elif path in cut:
                assert closed and not got.endswith(b"0\r\n\r\n"), f"{path}: {got!r} looks whole"
            assert b"forged" not in got and b"set-cookie" not in got, f"{path}: {got!r}"
            equal(status(web.send(b"GET /good HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")[0]), 200, f"after {path}")
        web.settled()


@case
def slow_clients():
    """heads and bodies byte by byte: 408 at their limits, cheap while they last, and others are served"""
    limits = {"request_headers_timeout": "1s", "request_timeout": "2s", "stream_idle_timeout": "3s"}
    with Heads() as up, Web(up.port, manager=limits) as web:
        base = web.memory()
        heads = [Text(web.port) for _ in range(500)]
        bodies = [Text(web.port) for _ in range(50)]
        for client in heads:
            client.send(b"GET / HTTP/1.1\r\nHo")
        for client in bodies:
            client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n")
        begin = time.monotonic()
        while time.monotonic() < begin + 0.8:
            for client in bodies:
                client.send(b"x")
            time.sleep(0.2)
        equal(status(web.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")[0]), 200, "another client")
        assert web.memory() < base + 40, f"{base} MB before, {web.memory()} MB with slow clients"
        equal({status(client.rest(8)[0]) for client in heads}, {408}, "slow heads")
        equal({status(client.rest(8)[0]) for client in bodies}, {408}, "slow bodies")
        equal([head for head, _ in up.got if head.startswith(b"POST")], [], "no slow request became whole")
        web.settled()


@case
def slow_readers():
    """clients that read nothing of large responses: what is held for them is bounded, and given back when they go"""
    size = 8 << 20
    with Heads(lambda *_: b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"z" * size) as up, \
            Web(up.port, manager={"stream_idle_timeout": "3s"}) as web:
        base = web.memory()
        clients = [Text(web.port) for _ in range(20)]
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        time.sleep(1.5)
        held = web.memory() - base
        assert held < 60, f"{held:.0f} MB held for 20 responses of 8 MB that nobody reads"
        until("all were given up", lambda: web.proxy.stat("http.web.downstream_rq_active") == 0, 15)
        for client in clients:
            client.sock.close()


def hang_up(sock):
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


@case
def stale_connections():
    """a server that closes 200 ms after each answer costs a client that asks every 200 ms nothing, POST included"""
    class Closing(Server):
        def serve(self, sock):
            data = b""
            while part := sock.recv(65536):
                data += part
                if taken := request(data):
                    data = taken[2]
                    sock.sendall(OK)
                    threading.Timer(0.2, hang_up, (sock,)).start()

    with Closing() as up, Web(up.port) as web, Text(web.port) as client:
        for i in range(25):
            client.send(POST + b"Content-Length: 1\r\n\r\nx" if i % 2 else GET + b"\r\n")
            equal(client.answer(), 200, f"request {i}")
            time.sleep(0.19 + (i % 5) * 0.005)


@case
def upgrades_and_connect():
    """bytes behind a refused Upgrade are HTTP; 101 nobody asked for is none; a tunnel only where it is allowed"""
    def answer(head, _):
        if b"/echo" in head:
            return b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello"
        return b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" \
            if b"/unasked" in head else OK

    upgrade = b"Connection: Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    with Heads(answer) as up, Web(up.port, manager={"upgrade_configs": [{"upgrade_type": "websocket"}]}) as web:
        # Refused by the server: what follows is a request of its own.
        got, _ = web.send(GET + upgrade % b"websocket" + b"GET /second HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        equal(got.count(b"200 OK"), 2, "a refused upgrade and the request behind it")
        # Not allowed here at all: the server sees nothing.
        before = len(up.got)
        got, _ = web.send(GET + upgrade % b"foo" + NEXT, 1)
        equal((status(got), any(b"websocket" in head for head, _ in up.got[before:])), (403, False), "another protocol")
        got, _ = web.send(b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n" + NEXT, 1)
        assert status(got) in (403, 404), got
        assert not any(head.startswith(b"CONNECT") for head, _ in up.got)
        assert status(web.send(b"GET /unasked HTTP/1.1\r\nHost: h\r\n\r\n")[0]) in (502, 503), "101 nobody asked for"
        # Bytes sent before the server agreed reach it afterwards.
        with Text(web.port) as client:
            client.send(b"GET /echo HTTP/1.1\r\nHost: h\r\n" + upgrade % b"websocket" + b"early bytes")
            equal(client.head().split(b" ")[1], b"101")
            client.sock.settimeout(5)
            while client.early != b"hello":
                client.early += client.sock.recv(64)
            client.send(b" and late ones")
            client.sock.shutdown(1)
            until("they arrive", lambda: b"early bytes and late ones" in up.broken, 5)
        web.settled()


@case
def one_byte_segments():
    """requests and responses in segments of one byte come through whole"""
    class Slowly(Server):
        def serve(self, sock):
            data = b""
            while part := sock.recv(1):
                data += part
                if taken := request(data):
                    data = taken[2]
                    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\nx: y\r\n\r\n"
                    for at in range(len(answer)):
                        sock.sendall(answer[at:at + 1])

    with Slowly() as up, Web(up.port) as web:
        for _ in range(5):
            with Text(web.port) as client:
                slowly(client, POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
                got, closed = client.rest(5)
                head, _, body = got.partition(b"\r\n\r\n")
                whole = b"".join(body.split(b"\r\n")[1::2])
                equal((status(head), closed, b"abc" in body and b"efg" in body), (200, True, True), repr(whole))


@case
def sniffing_strangers():
    """silence, half a preface, TLS and noise on a plaintext listener: closed in time, counted, and nothing is held"""
    with Heads() as up, Web(up.port, manager={"request_headers_timeout": "1s"}) as web:
        base = web.memory()
        for data in (b"P", b"PRI * HT", b"G", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200, b"\xff" * 300):
            clients = [Text(web.port) for _ in range(40)]
            for client in clients:
                client.send(data)
            begin = time.monotonic()
            for client in clients:
                _, closed = client.rest(14)
                assert closed, f"{data[:10]!r}: still open after {time.monotonic() - begin:.0f} s"
        assert web.memory() < base + 20
        equal(status(web.send(GET + b"Connection: close\r\n\r\n")[0]), 200)
        equal(len(up.got), 1, "what the server saw")


@case
def identity_by_field():
    """fields that say who the client is, or steer the proxy, do not come from outside"""
    with Heads() as up, Web(up.port, manager={"use_remote_address": True}) as web:
        got, _ = web.send(GET + b"X-Forwarded-Client-Cert: By=x\r\nX-Envoy-Internal: true\r\nX-Envoy-Retry-On: 5xx\r\n"
                          b"X-Envoy-External-Address: 10.0.0.1\r\nX-Envoy-Upstream-Rq-Timeout-Ms: 1\r\n"
                          b"X-Forwarded-For: 10.9.9.9\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n")
        equal(status(got), 200)
        seen = up.got[0][0].lower()
        for gone in (b"client-cert", b"x-envoy-internal", b"retry-on", b"upstream-rq-timeout-ms", b"https"):
            assert gone not in seen, f"{gone!r} in {seen!r}"
        assert b"x-envoy-external-address: 127.0.0.1" in seen and b"10.9.9.9,127.0.0.1" in seen, seen


@case
def one_reading_of_paths():
    """what `//`, `%2f`, `..` and `;` make of a path is settled before the route is looked for, and sent on like that"""
    table = {"route_config": {"name": "r", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/admin"}, "direct_response": {"status": 403}},
        {"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}]},
        "normalize_path": True, "merge_slashes": True, "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD"}
    with Heads() as up, Web(up.port, manager=table) as web:
        for path in ("/admin", "//admin", "/a/../admin", "/./admin/x", "/%2fadmin", "/a%2f..%2fadmin", "/a/%2e%2e/admin",
                     "\\admin", "/a\\..\\admin", "/%61dmin", "///a/..//admin"):
            got, _ = web.send(b"GET %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % path.encode())
            assert status(got) in (400, 403), f"{path}: {got[:40]!r}"
        equal(status(web.send(b"GET /a;b=c/d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")[0]), 200)
        equal([head.split(b" ")[1] for head, _ in up.got], [b"/a;b=c/d"], "what the server saw")


@case
def retry_storm():
    """a server that fails everything gets at most a fifth more with a retry budget of 20 %"""
    budget = {"circuit_breakers": {"thresholds": [{"retry_budget": {"budget_percent": {"value": 20},
                                                                    "min_retry_concurrency": 1}}]}}
    retry = {"retry_policy": {"retry_on": "5xx", "num_retries": 3, "retry_back_off": {"base_interval": "0.005s"}}}
    fail = b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno"

    def slow(*_):
        time.sleep(0.02)
        return fail

    with Heads(slow) as up, Web(up.port, route=retry, cluster=budget) as web:
        asked = []

        def ask():
            with Text(web.port) as client:
                for _ in range(50):
                    client.send(GET + b"\r\n")
                    equal(client.answer(), 503)
                    asked.append(1)
        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        equal(len(asked), 800, "answers")
        # The budget counts what is under way: with 16 at once a fifth is 3.
        assert len(up.got) <= 1.35 * len(asked), f"{len(up.got)} tries for {len(asked)} requests"
        web.settled()
