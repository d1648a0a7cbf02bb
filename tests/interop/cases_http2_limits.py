"""What hostile HTTP/2 peers meet, frame by frame: clients first, then servers."""
import socket
import struct
import threading
import time

from harness import case, equal, until
from http2 import (DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, POST, PREFACE, RST, SETTINGS, WINDOW, Client,
                   Peer, Upstream, frame)
from web import Heads, Web
from wire import GrpcServer, Server, channel, exactly

PRIORITY, CONTINUATION = 2, 9
CALM = 11
CANCEL = struct.pack(">I", 8)


def literal(name, value):
    """One field, never indexed."""
    return b"\x10" + string(name) + string(value)


def string(data):
    size = len(data)
    if size < 127:
        return bytes([size]) + data
    size, out = size - 127, b"\x7f"
    while size >= 128:
        out, size = out + bytes([size % 128 + 128]), size // 128
    return out + bytes([size]) + data


class Noting(Client):
    """Keeps every frame it gets: kind, stream, payload. `settings` are its own."""

    def __init__(self, port, settings=b""):
        self.frames = []
        super().__init__(port)
        if settings:
            self.send(frame(SETTINGS, 0, 0, settings))

    def __exit__(self, *_):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()

    def on_frame(self, kind, flags, stream, payload):
        self.frames.append((kind, stream, payload))
        super().on_frame(kind, flags, stream, payload)

    def of(self, kind):
        return [(stream, payload) for one, stream, payload in list(self.frames) if one == kind]

    def whole(self, block, end=True):
        """Opens a stream with a block of any size, in CONTINUATION frames."""
        with self.lock:
            stream, self.next = self.next, self.next + 2
            parts = [block[at:at + 16_000] for at in range(0, len(block), 16_000)]
            for at, part in enumerate(parts):
                flags = (END_STREAM if at == 0 and end else 0) | (END_HEADERS if at == len(parts) - 1 else 0)
                self.sock.sendall(frame(CONTINUATION if at else HEADERS, flags, stream, part))
        return stream

    def status(self, stream):
        """First byte of the answer's block: 0x88 is 200."""
        return dict(reversed(self.of(HEADERS))).get(stream, b"\0")[0]

    def pour(self, data):
        try:
            self.send(data)
        except OSError:
            pass  # The end may come before everything is written.

    def over(self, timeout=15):
        """Waits for the end, which a GOAWAY tells where it still can be read."""
        until("the end of the connection", lambda: self.closed or self.goaway, timeout)


def calm(web, what):
    """A fresh client is served."""
    with Noting(web.port) as client:
        client.echo(client.open(), what.encode())


@case
def header_count_and_size():
    """1,001 cookie crumbs, 101 fields, or a list over 64 KiB are refused on their stream; the connection serves on"""
    with Upstream() as up, Web(up.port, http2=True) as web, Noting(web.port) as client:
        for block, good in ((POST + literal(b"cookie", b"a=b") * 1001, False), (POST + literal(b"x", b"y") * 101, False),
                            (POST + literal(b"x", b"y" * 100) * 640, False), (POST + literal(b"x", b"y"), True)):
            stream = client.whole(block, end=False)
            client.pour(frame(DATA, END_STREAM, stream, b"body"))
            client.wait("an answer", lambda: stream in client.resets or stream in client.ended)
            equal(stream not in client.resets and client.status(stream) == 0x88, good, f"a block of {len(block)} bytes")


@case
def rapid_resets():
    """20,000 streams opened and reset: bounded, the server is spared, others are untouched and the proxy is idle after"""
    with Upstream() as up, Web(up.port, http2=True) as web, Noting(web.port) as bystander:
        stream = bystander.open()
        with Noting(web.port) as client:
            for _ in range(40):
                burst = b""
                for _ in range(500):
                    burst += frame(HEADERS, END_HEADERS | END_STREAM, client.next, POST)
                    burst += frame(RST, 0, client.next, CANCEL)
                    client.next += 2
                client.pour(burst)
            client.over()
            if client.goaway:
                equal(client.goaway[1], CALM, "GOAWAY's code")
        bystander.echo(stream, b"after")
        until("no stream is left over", lambda: web.proxy.stat("http.web.downstream_rq_active") == 1, 10)


@case
def continuation_floods():
    """header blocks that never end, of empty or full frames: the connection ends, memory stays"""
    with Upstream() as up, Web(up.port, http2=True) as web:
        base = web.memory()
        for part in (b"", literal(b"a", b"b" * 100) * 100):
            with Noting(web.port) as client:
                client.pour(frame(HEADERS, END_STREAM, 1, POST) + frame(CONTINUATION, 0, 1, part) * 5_000)
                client.over()
            calm(web, "after CONTINUATION")
        assert web.memory() < base + 30


@case
def provoked_resets():
    """resets that a client provokes by breaking a stream's rules are bounded like its own"""
    broken = {
        "a window of 0 more": lambda s: frame(HEADERS, END_HEADERS, s, POST) + frame(WINDOW, 0, s, b"\0" * 4),
        "a window too large": lambda s: frame(HEADERS, END_HEADERS, s, POST) + frame(WINDOW, 0, s, b"\x7f\xff\xff\xff"),
        "data after the end": lambda s: frame(HEADERS, END_HEADERS | END_STREAM, s, POST) + frame(DATA, 0, s, b"x"),
        "a priority too short": lambda s: frame(HEADERS, END_HEADERS, s, POST) + frame(PRIORITY, 0, s, b"\0" * 4),
    }
    with Upstream() as up, Web(up.port, http2=True) as web, Noting(web.port) as bystander:
        stream = bystander.open()
        for what, one in broken.items():
            with Noting(web.port) as client:
                for at in range(0, 20_000, 500):
                    client.pour(b"".join(one(2 * i + 1) for i in range(at, at + 500)))
                client.over()
                assert len(client.of(RST)) <= 6_000, f"{what}: {len(client.of(RST))} resets"
            bystander.echo(stream, what.encode())


@case
def floods():
    """floods of PING, SETTINGS, PRIORITY and empty DATA end their connection or do nothing; others go on"""
    with Upstream() as up, Web(up.port, http2=True) as web, Noting(web.port) as bystander:
        stream = bystander.open()
        for what, flood in (("PING", frame(PING, 0, 0, b"8" * 8) * 20_000), ("SETTINGS", frame(SETTINGS, 0, 0) * 5_000),
                            ("PRIORITY", frame(PRIORITY, 0, 1, b"\0\0\0\0\1") * 50_000)):
            with Noting(web.port) as client:
                client.echo(client.open(), b"hello")
                client.pour(flood)
                client.over()
                assert len(client.of(PING)) < 5_000, f"{what}: everything was answered"
            bystander.echo(stream, what.encode())
        with Noting(web.port) as client:
            one = client.open()
            client.echo(one, b"one")
            client.pour(frame(DATA, 0, one) * 20_000)
            until("it ends or goes on", lambda: client.closed or client.goaway or client.resets or echoes(client, one), 10)
        bystander.echo(stream, b"after empty DATA")


def echoes(client, stream):
    try:
        client.echo(stream, b"two")
        return True
    except (OSError, AssertionError):
        return False


@case
def header_bomb():
    """cookies by the thousand on streams whose answers nobody takes: memory stays bounded, and comes back"""
    block = POST + b"\x40" + string(b"cookie") + string(b"c" * 60) + b"\xbe" * 350
    zero = struct.pack(">HI", 4, 0)
    with Heads() as up, Web(up.port, manager={"stream_idle_timeout": "2s"}) as web:
        base = web.memory()
        clients = [Noting(web.port, zero) for _ in range(30)]
        for client in clients:
            for _ in range(60):
                client.pour(frame(HEADERS, END_HEADERS | END_STREAM, client.next, block))
                client.next += 2
        time.sleep(1)
        held = web.memory() - base
        # 1,800 streams of 21 kB of cookies; each connection may hold 4 MiB of heads.
        assert held < 130, f"{held:.0f} MB held"
        # The stall timeout gives them up; nothing stays.
        until("all are given up", lambda: web.proxy.stat("http.web.downstream_rq_active") == 0, 15)
        for client in clients:
            client.__exit__()
        calm_text(web)


def calm_text(web):
    from web import status
    equal(status(web.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")[0]), 200, "a fresh client")


@case
def stalled_responses():
    """60 responses of 10 MB to a window of zero: little is held, and the stall timeout ends them"""
    size = 10 << 20
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size
    with Heads(lambda *_: answer + bytes(size)) as up, Web(up.port, manager={"stream_idle_timeout": "3s"}) as web:
        base = web.memory()
        with Noting(web.port, struct.pack(">HI", 4, 0)) as client:
            for _ in range(60):
                client.whole(POST)
            client.wait("all heads", lambda: len(client.of(HEADERS)) == 60, 20)
            time.sleep(0.5)
            held = web.memory() - base
            assert held < 60, f"{held:.0f} MB held for 60 responses of 10 MB"
            client.wait("all are reset", lambda: len(client.resets) == 60 or client.goaway, 15)
        web.settled()


@case
def slow_bodies():
    """a body of one byte at a time is carried or timed out, and costs its own stream only"""
    with Upstream() as up, Web(up.port, http2=True, manager={"request_timeout": "2s"}) as web, Noting(web.port) as client:
        slow, quick = client.open(), client.open()
        begin = time.monotonic()
        while slow not in client.ended and slow not in client.resets and time.monotonic() < begin + 6:
            client.pour(frame(DATA, 0, slow, b"x"))
            time.sleep(0.1)
            if time.monotonic() < begin + 1.5:
                client.echo(quick, b"quick")
        assert slow in client.ended or slow in client.resets, "a request of 6 s within a limit of 2 s"


@case
def window_drip():
    """a window of 1 and updates of 1: each response gets through as slowly as its client wants, the others at once"""
    with Upstream() as up, Web(up.port, http2=True) as web:
        with Noting(web.port, struct.pack(">HI", 4, 1)) as client, Noting(web.port) as other:
            quick = other.open()
            streams = [client.open(b"0123456789", stalled=True) for _ in range(50)]
            for _ in range(12):
                client.pour(b"".join(frame(WINDOW, 0, stream, struct.pack(">I", 1)) for stream in streams))
                other.echo(quick, b"quick")
                time.sleep(0.01)
            client.wait("every byte", lambda: all(bytes(client.got.get(s, b"")) == b"0123456789" for s in streams))


@case
def hpack_faults():
    """table updates by the thousand, indices out of range, broken Huffman padding: COMPRESSION_ERROR, nothing else"""
    faults = {
        "an index out of range": b"\xff\xff\xff\x7f",
        "index 0": b"\x80",
        "a table larger than allowed": b"\x3f\xe1\xff\x7f" + POST,
        "a table update within a block": POST + b"\x20",
        "padding that is no EOS": POST + b"\x00\x81\x00\x01x",
        "a name that never ends": POST + b"\x00\x7f\xff\xff\xff\x7f",
        "a length longer than any": POST + b"\x00\x7f\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    }
    with Upstream() as up, Web(up.port, http2=True) as web:
        for what, block in faults.items():
            with Noting(web.port) as client:
                client.pour(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
                client.wait(what, lambda: client.goaway or client.closed or client.resets)
                assert client.status(1) != 0x88, f"{what}: served"
        with Noting(web.port) as client:
            client.pour(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x20\x3f\xe1\x1f" * 3_000 + POST))
            client.wait("updates by the thousand", lambda: client.goaway or client.closed or 1 in client.ended)
        calm(web, "after HPACK")
        equal(len(up.peers), web.proxy.stat("cluster.up.upstream_cx_total"))


@case
def settings_in_midstream():
    """a window set to 0, below what is out, and to its largest while data flows; frames of another size; no ACK"""
    with Upstream() as up, Web(up.port, http2=True) as web, Noting(web.port) as client:
        stream = client.open(b"a" * 1000)
        client.wait("the first bytes", lambda: len(client.got.get(stream, b"")) == 1000)
        client.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
        client.send(frame(DATA, 0, stream, b"b" * 1000))
        client.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0x7fffff00) + struct.pack(">HI", 5, 1 << 20)))
        client.wait("the rest", lambda: len(client.got.get(stream, b"")) == 2000)
        client.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 1, 0)))
        client.send(frame(DATA, END_STREAM, stream, b"c"))
        client.wait("its end", lambda: stream in client.ended)
        equal((bytes(client.got[stream][-1:]), client.goaway), (b"c", None))
        # A window that overflows is the client's fault.
        with Noting(web.port) as other:
            one = other.open()
            other.pour(frame(WINDOW, 0, one, struct.pack(">I", 0x7fffffff))
                       + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0x7fffffff)))
            other.wait("an error", lambda: other.goaway or other.closed or one in other.resets)


@case
def broken_frames():
    """broken frames end their own connection, counted; the next client is served"""
    with Upstream() as up, Web(up.port, http2=True) as web, Noting(web.port) as bystander:
        stream = bystander.open()
        for junk in (frame(DATA, 0, 0, b"x"), frame(HEADERS, END_HEADERS, 2, POST), b"\xff" * 100,
                     frame(SETTINGS, 1, 0, b"123456"), frame(CONTINUATION, END_HEADERS, 1, b"\x82"),
                     frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"), frame(GOAWAY, 0, 5, b"12345678"),
                     frame(PING, 0, 0, b"short"), frame(5, 4, 1, b"\0\0\0\2" + POST)):
            with socket.create_connection(("127.0.0.1", web.port), 5) as sock:
                sock.sendall(PREFACE + frame(SETTINGS, 0, 0) + junk)
                sock.settimeout(5)
                try:
                    while sock.recv(4096):
                        pass
                except ConnectionError:
                    pass
        bystander.echo(stream, b"still here")
        assert web.proxy.stat("http.web.downstream_cx_protocol_error") >= 7


@case
def translated_heads():
    """what HTTP/2 can say and HTTP/1 would read as something else is refused before the server sees a request"""
    base, path = b"\x83\x86\x01\x03svc", b"\x04"
    bad = {
        "CR LF in a value": base + path + string(b"/") + literal(b"x", b"a\r\nGET /smuggled HTTP/1.1"),
        "LF in a value": base + path + string(b"/") + literal(b"x", b"a\nb"),
        "NUL in a value": base + path + string(b"/") + literal(b"x", b"a\0b"),
        "a blank before a value": base + path + string(b"/") + literal(b"x", b" a"),
        "a colon in a name": base + path + string(b"/") + literal(b"x:y", b"a"),
        "CR LF in a name": base + path + string(b"/") + literal(b"x\r\ny", b"a"),
        "an upper-case name": base + path + string(b"/") + literal(b"X", b"a"),
        "a path without slash": base + path + string(b"admin"),
        "a path with a blank": base + path + string(b"/a HTTP/1.1\r\nx: y"),
        "an empty path": base + path + string(b""),
        "a method with a blank": b"\x02" + string(b"GET /x HTTP/1.1") + b"\x86\x84\x01\x03svc",
        "transfer-encoding": base + path + string(b"/") + literal(b"transfer-encoding", b"chunked"),
        "connection": base + path + string(b"/") + literal(b"connection", b"close"),
        "an authority with CR LF": b"\x83\x86\x84\x01" + string(b"svc\r\nx: y"),
        "a user in the authority": b"\x83\x86\x84\x01" + string(b"u@svc"),
        "two paths": base + path + string(b"/") + path + string(b"/b"),
        "no method": base[1:] + path + string(b"/"),
        "a field before a pseudo one": literal(b"x", b"y") + base + path + string(b"/"),
    }
    with Heads() as up, Web(up.port) as web:
        for what, block in bad.items():
            with Noting(web.port) as client:
                client.whole(block)
                client.wait(what, lambda: client.ended or client.resets or client.goaway or client.closed)
                assert client.status(1) != 0x88, f"{what}: served"
        equal([head for head, _ in up.got], [], "what the server saw")
        for length, body in ((b"1000", b"x"), (b"0", b"x"), (b"1", b"xy")):
            with Noting(web.port) as client:
                stream = client.whole(base + path + string(b"/") + literal(b"content-length", length), end=False)
                client.pour(frame(DATA, END_STREAM, stream, body))
                client.wait("an answer", lambda: client.ended or client.resets or client.goaway or client.closed)
                assert client.status(stream) != 0x88, f"length {length} with {body!r}"
        equal([head for head, _ in up.got], [], "requests of the wrong length")
        web.settled()
        calm_text(web)


class Scripted(Server):
    """An HTTP/2 server: `script(peer, stream, number)` says what becomes of each request of a connection, in a thread
    of its own; `peer.first`: it is the server's first connection. `settings` are its own."""

    def __init__(self, script, settings=b""):
        self.script, self.settings, self.peers = script, settings, []
        super().__init__()

    def serve(self, sock):
        assert exactly(sock, len(PREFACE)) == PREFACE
        peer = Asked(sock, self.script)
        peer.first = not self.peers
        self.peers.append(peer)
        peer.send(frame(SETTINGS, 0, 0, self.settings))
        peer.run()


class Asked(Peer):
    def __init__(self, sock, script):
        super().__init__(sock)
        self.script, self.count = script, 0

    def on_frame(self, kind, flags, stream, payload):
        super().on_frame(kind, flags, stream, payload)
        if kind == HEADERS:
            self.count += 1
            threading.Thread(target=self.guarded, args=(stream, self.count), daemon=True).start()

    def guarded(self, stream, number):
        try:
            self.script(self, stream, number)
        except OSError:
            pass

    def ok(self, stream, body=b"ok"):
        self.send(frame(HEADERS, END_HEADERS, stream, b"\x88") + frame(DATA, END_STREAM, stream, body))


def posts(client, count, body=b"body"):
    """Sends requests at once, waits for all; how many were answered with 200."""
    streams = []
    for _ in range(count):
        stream = client.whole(POST, end=False)
        client.send(frame(DATA, END_STREAM, stream, body))
        streams.append(stream)
    client.wait("all answers", lambda: all(s in client.ended or s in client.resets for s in streams), 20)
    return sum(client.status(s) == 0x88 and s not in client.resets for s in streams)


@case
def servers_that_leave():
    """GOAWAY with later streams under way: those nobody processed are sent again, POST too; a cut without it is told"""
    def leave(peer, stream, number):
        if number <= 3 or not peer.first:
            peer.ok(stream)
        elif number == 4:
            time.sleep(0.1)
            # Streams 1 to 5 were looked at, the others were not.
            peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", 5, 0)))

    def cut(peer, stream, number):
        if number == 2:
            peer.sock.shutdown(socket.SHUT_RDWR)
        elif number == 1:
            time.sleep(5)

    with Scripted(leave) as up, Web(up.port, http2=True) as web, Noting(web.port) as client:
        equal(posts(client, 30), 30, "answered around a GOAWAY")
        assert len(up.peers) >= 2
    with Scripted(cut) as up, Web(up.port, http2=True) as web, Noting(web.port) as client:
        equal(posts(client, 2), 0, "answered by a server that is gone")
        equal(client.goaway, None, "the client's own connection")


@case
def servers_that_refuse():
    """REFUSED_STREAM is tried again; NO_ERROR behind a whole response harms nothing; 1xx before trailers-only passes"""
    def script(peer, stream, number):
        if number == 1:
            peer.send(frame(RST, 0, stream, struct.pack(">I", 7)))
        elif number == 2:
            peer.ok(stream, b"early")
            peer.send(frame(RST, 0, stream, b"\0" * 4))
        elif number == 3:
            peer.send(frame(HEADERS, END_HEADERS, stream, b"\x08\x03103") + frame(HEADERS, END_HEADERS, stream, b"\x08\x03100"))
            peer.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\x88" + literal(b"grpc-status", b"0")))
        else:
            peer.ok(stream)

    with Scripted(script) as up, Web(up.port, http2=True) as web, Noting(web.port) as client:
        for what in ("refused once, then answered early", "interim responses", "and on"):
            equal(posts(client, 1), 1, what)
        equal(up.peers[0].count, 4, "requests the server saw")


@case
def servers_that_allow_one_stream():
    """MAX_CONCURRENT_STREAMS 1, then 0: requests wait or take connections of their own, none is lost"""
    def script(peer, stream, number):
        time.sleep(0.02)
        peer.ok(stream)
        if number == 3:
            peer.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 0)))
            time.sleep(0.3)
            peer.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 1)))

    with Scripted(script, struct.pack(">HI", 3, 1)) as up, Web(up.port, http2=True) as web, Noting(web.port) as client:
        equal(posts(client, 1), 1, "the first, which learns of the limit")
        equal(posts(client, 40), 40, "answered")
        web.settled()
        assert len(up.peers) > 1, "one connection for 40 requests at once"


@case
def hostile_servers():
    """floods and broken frames of a server: its connection ends, its requests fail, the client's connection goes on"""
    flood = {
        "PING": frame(PING, 0, 0, b"8" * 8) * 20_000,
        "SETTINGS": frame(SETTINGS, 0, 0) * 5_000,
        "data before a head": None,
        "a frame too large": b"\xff\xff\xff\0\0\0\0\0\1",
        "CONTINUATION": None,
    }

    for what, data in flood.items():
        def script(peer, stream, number):
            if not peer.first:
                return peer.ok(stream)
            if what == "CONTINUATION":
                peer.send(frame(HEADERS, 0, stream, b"\x88") + frame(CONTINUATION, 0, stream, literal(b"a", b"b" * 100)) * 5_000)
            elif what == "data before a head":
                peer.send(frame(DATA, 0, stream, b"x"))
            else:
                peer.send(data)
        with Scripted(script) as up, Web(up.port, http2=True) as web, Noting(web.port) as client:
            equal(posts(client, 1), 0, what)
            equal(posts(client, 1), 1, f"after {what}")
            equal(client.goaway, None, what)


@case
def grpc_faults():
    """gRPC through the proxy: no trailers, a status in the head, deadlines of 1 ms, large messages, a stalled reader"""
    import grpc

    def script(peer, stream, number):
        kind = [(b"\x88", b"\0\0\0\0\0"), (b"\x88" + literal(b"content-type", b"application/grpc")
                                           + literal(b"grpc-status", b"7") + literal(b"grpc-message", b"no"), None)]
        head, body = kind[(number - 1) % 2]
        if body is None:
            peer.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, head))
        else:
            head += literal(b"content-type", b"application/grpc")
            peer.send(frame(HEADERS, END_HEADERS, stream, head) + frame(DATA, END_STREAM, stream, body))

    with Scripted(script) as up, Web(up.port, http2=True) as web, channel(web.port) as chan:
        for expected in ((grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL), (grpc.StatusCode.PERMISSION_DENIED,)):
            try:
                chan.unary_unary("/x/y")(b"m", timeout=5)
                raise AssertionError("no error")
            except grpc.RpcError as error:
                assert error.code() in expected, error
    route = {"max_stream_duration": {"grpc_timeout_header_max": "0s"}, "timeout": "0s"}
    with GrpcServer() as up, Web(up.port, http2=True, route=route) as web, channel(web.port) as chan:
        begin = time.monotonic()
        try:
            chan.unary_unary("/x/slow")(b"m", timeout=0.001)
            raise AssertionError("no error")
        except grpc.RpcError as error:
            equal(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        assert time.monotonic() - begin < 3
        equal(len(chan.unary_unary("/x/unary")(b"m" * 3_000_000, timeout=20)), 3_000_004, "3 MB")
        base = web.memory()
        answers = chan.stream_stream("/x/both")(iter([b"0123456789abcdef"] * 20_000), timeout=60)
        time.sleep(2)
        assert web.memory() < base + 30, "a stalled reader"
        equal(sum(1 for _ in answers), 20_000, "messages")


@case
def config_changes_under_streams():
    """forty pushes of another listener under WebSockets, gRPC streams and open requests: none of them is closed"""
    from ads import CDS, LDS, RDS
    from cases_xds import Lab
    from harness import free_port
    from resources import cluster, hcm_filter, listener, routes, to
    from web import Text
    from wire import TcpServer

    class Sockets(TcpServer):
        def serve(self, sock):
            data = b""
            while b"\r\n\r\n" not in data:
                data += sock.recv(4096)
            sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            while part := sock.recv(4096):
                sock.sendall(part)

    port = free_port()
    more = {"upgrade_configs": [{"upgrade_type": "websocket"}]}
    with Upstream() as up, Sockets() as sockets, Lab(False, hold=[
            (CDS, cluster("h2", [up.port], http2=True)), (CDS, cluster("ws", [sockets.port])),
            (LDS, listener("web", port, hcm_filter("table", "AUTO", **more))),
            (RDS, routes("table", to("ws", {"path": "/ws"}, timeout="0s"), to("h2", timeout="0s")))]) as lab:
        lab.proxy.live()
        tunnels = [Text(port) for _ in range(20)]
        for tunnel in tunnels:
            tunnel.send(b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
            equal(tunnel.head().split(b" ")[1], b"101")
        with Client(port) as client:
            streams = [client.open() for _ in range(50)]
            for i in range(40):
                lab.good(LDS, listener("web", port, hcm_filter(
                    "table", "AUTO", server_name=f"s{i}", stat_prefix=f"p{i % 3}", via=f"v{i}", **more)))
                client.echo(streams[i], b"%d" % i)
                tunnels[i % 20].send(b"ping")
                tunnels[i % 20].sock.settimeout(5)
                equal(tunnels[i % 20].sock.recv(64), b"ping", f"a tunnel after push {i}")
            for stream in streams:
                client.echo(stream, b"last")
            equal((client.goaway, client.resets), (None, {}))
        for tunnel in tunnels:
            tunnel.sock.close()
