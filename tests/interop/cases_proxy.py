"""What passes through: bolt, HTTP/2, conversion, TCP; failures, garbage, sizes, drain. Driven by ADS."""
import signal
import socket
import struct
import threading
import time
from collections import Counter

import grpc

from ads import CDS, EDS, LDS, RDS
from cases_xds import Lab, bolt_world
from harness import case, equal, free_port, matches, until
from resources import cluster, endpoints, hcm_filter, listener, routes, rpc_filter, service, tcp_filter, to
from wire import (Bolt, BoltServer, GrpcServer, Server, TcpServer, call, channel, exactly, greeting, header_block,
                  read_frame, refused, request, response, unary)


def bolt_lab(port, clusters, table, *args, filter_more=None, **more):
    """Static clusters, one bolt listener, one table."""
    hold = [(CDS, c) for c in clusters] + [
        (LDS, listener("bolt", port, rpc_filter("table", **(filter_more or {})))), (RDS, routes("table", *table))]
    return Lab(False, *args, hold=hold, **more)


@case
def bolt_frames_are_kept():
    """class, headers and content arrive byte for byte, only the id differs; the answer has the caller's id"""
    port = free_port()
    with BoltServer() as up, bolt_lab(port, [cluster("up", [up.port])], [to("up")]) as lab:
        lab.proxy.live()
        block = header_block([("B", "2"), ("a", "1"), ("B", "2"), (b"\xff\x00", b"\xfe"), ("", "")])
        block += struct.pack(">I", 1) + b"n" + b"\xff\xff\xff\xff"  # a null value
        with Bolt(port) as client:
            for body in (b"", b"x", b"y" * 300_000):
                frame = client.call(block=block, content=body, timeout=4321)
                equal((frame.status, frame.content), (0, b"one:" + body))
                sent, got = request(0, block=block, content=body, timeout=4321), up.frames[-1].raw
                equal((got[:5], got[9:]), (sent[:5], sent[9:]), "bytes at the server")
            raw = request(0xfffffffe, content=b"id")
            client.sock.sendall(raw)
            equal(client.read().ident, 0xfffffffe, "id")
            # No header block at all.
            client.sock.sendall(request(7, block=b"", content=b""))
            equal(client.read().status, 0, "without header block")


@case
def bolt_multiplexing():
    """responses out of order, heartbeats answered, one-way gets none, one upstream connection for many callers"""
    port = free_port()
    with BoltServer("slow", delay=0.6) as slow, BoltServer("fast") as fast, bolt_lab(
            port, [cluster("slow", [slow.port]), cluster("fast", [fast.port])],
            [to("slow", service("slow")), to("fast")]) as lab:
        lab.proxy.live()
        with Bolt(port) as client:
            first = client.send([("service", "slow")])
            second = client.send([("service", "fast")])
            client.sock.sendall(request(9, (), b"", code=0))
            client.send([("service", "fast")], kind=2)
            got = [client.read() for _ in range(3)]
            equal(sorted(f.ident for f in got[:2]), [9, second], "the fast ones first")
            equal((got[2].ident, got[2].content[:4]), (first, b"slow"))
            until("one-way arrives", lambda: sum(f.kind == 2 for f in fast.frames) == 1)
        clients = [Bolt(port) for _ in range(10)]
        idents = [c.send() for c in clients]
        for c, ident in zip(clients, idents):
            equal(c.read().ident, ident)
            c.sock.close()
        equal(fast.total, 1, "upstream connections")


@case
def bolt_routes():
    """`service` routes by header, regex and prefix match; weighted clusters share as weighted; header edits"""
    port = free_port()
    regex = {"prefix": "/", "headers": [{"name": "service", "string_match": {"safe_regex": {"regex": "com\\.r.*"}}}]}
    split = {"match": service("split"), "route": {"weighted_clusters": {"clusters": [
        {"name": "a", "weight": 90}, {"name": "b", "weight": 10}]}}}
    edit = {"match": service("edit"), "route": {"cluster": "a"}, "request_headers_to_add": [
        {"header": {"key": "x-added", "value": "1"}}], "request_headers_to_remove": ["gone"]}
    with BoltServer("a") as a, BoltServer("b") as b, bolt_lab(
            port, [cluster("a", [a.port]), cluster("b", [b.port])],
            [to("a", service("exact")), to("b", regex), split, edit]) as lab:
        lab.proxy.live()
        with Bolt(port) as client:
            equal(client.call([("service", "exact")]).content[:1], b"a")
            equal(client.call([("service", "com.r.X")]).content[:1], b"b")
            equal(client.call([("service", "com.x")]).status, 6, "no route")
            equal(client.call([("other", "exact")]).status, 6, "no header")
            share = Counter(client.call([("service", "split")]).content[:1] for _ in range(300))
            assert 10 <= share[b"b"] <= 65, share
            client.call([("first", "1"), ("service", "edit"), ("gone", "x"), ("last", "2")], b"body")
            got = a.frames[-1]
            equal(got.headers, header_block([("first", "1"), ("service", "edit"), ("last", "2"), ("x-added", "1")]))
            equal(got.content, b"body")


@case
def bolt_failures():
    """each failure answers at once with the caller's id and its status"""
    port, dead = free_port(), free_port()
    one_request = {"thresholds": [{"max_requests": 1}]}

    class Dies(Server):
        def serve(self, sock):
            read_frame(sock)

    with BoltServer(mute=True) as mute, Dies() as dies, BoltServer() as good, bolt_lab(
            port, [cluster("dead", [dead]), cluster("none", []), cluster("mute", [mute.port]),
                   cluster("dies", [dies.port]), cluster("full", [mute.port], circuit_breakers=one_request),
                   cluster("warming"), cluster("sick"), cluster("good", [good.port])],
            [to(n, service(n)) for n in ("dead", "none", "dies", "full", "ghost", "sick", "good")]
            + [to("mute", service("mute"), timeout="0.4s")], "--route-hold-s", "1",
            ) as lab:
        lab.ads.hold(EDS, endpoints("sick", [good.port], health_status="UNHEALTHY"))
        lab.ads.wait("EDS", lambda s: s.type == EDS)
        lab.ads.put(EDS, endpoints("sick", [good.port], health_status="UNHEALTHY"), endpoints("warming", [1]))
        lab.proxy.live(20)
        until("holds are over", lambda: call(port, [("service", "good")]).status == 0, 6)

        def status(name, **more):
            start = time.monotonic()
            frame = call(port, [("service", name)], **more)
            return frame.status, time.monotonic() - start

        for name, allowed, limit in (("nothing", {6}, 0.5), ("ghost", {6}, 0.5), ("none", {6, 16}, 0.5),
                                     ("dead", {6, 16}, 1.5), ("sick", {6, 16}, 0.5), ("dies", {3, 6, 16}, 1.5)):
            got, took = status(name)
            assert got in allowed, f"{name}: status {got}, expected {allowed}"
            assert took < limit, f"{name}: after {took:.2f} s"
        got, took = status("mute")
        assert got == 7 and 0.3 < took < 1.5, f"route timeout: status {got} after {took:.2f} s"
        got, took = status("mute", timeout=900)
        assert got == 7 and 0.8 < took < 2, f"frame timeout over the route's: status {got} after {took:.2f} s"
        for value in (0, -1):
            got, took = status("mute", timeout=value)
            assert got == 7 and 0.3 < took < 1.5, f"timeout {value} in the frame: status {got} after {took:.2f} s"
        with Bolt(port) as first:
            first.send([("service", "full")])
            until("the first arrived", lambda: any(b"full" in f.headers for f in mute.frames))
            equal(status("full")[0], 4, "overflow")
        equal(call(port, [("service", "good")]).status, 0, "and the good one still")
        text = lab.proxy.text()
        for name in ("dead", "none", "dies", "ghost", "mute"):
            assert any(name in line for line in text.splitlines()), f"no log line for {name}"


@case
def bolt_garbage():
    """a good frame before garbage is answered; garbage closes its connection only; a lying header block gets 9"""
    port = free_port()
    with BoltServer() as up, bolt_lab(port, [cluster("up", [up.port])], [to("up")]) as lab, \
            Bolt(port_of(lab, port)) as bystander:
        for junk in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00", b"\x01\x09" + b"\0" * 30, b"\xff" * 64):
            with Bolt(port) as client:
                client.sock.sendall(request(5) + junk)
                equal((client.read().ident, closed(client.sock)), (5, True), repr(junk[:8]))
            equal(bystander.call().status, 0, "another connection")
        with Bolt(port) as client:
            for block in (struct.pack(">I", 999) + b"x", b"\0\0\0\x01a", b"\x7f\xff\xff\xff", b"\0\0", header_block([("a", "b")]) + b"\0\0\0\x09z"):
                frame = client.call(block=block)
                equal(frame.status, 9, f"status for {block!r}")
            equal(client.call().status, 0, "the connection stays healthy")


def port_of(lab, port):
    lab.proxy.live()
    return port


def closed(sock):
    sock.settimeout(3)
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


@case
def bolt_sizes():
    """a frame over 16 MB is refused from its header alone; 10 MB pass; an unfinished frame harms nobody"""
    port = free_port()
    with BoltServer() as up, bolt_lab(port, [cluster("up", [up.port])], [to("up")]) as lab:
        lab.proxy.live()
        with Bolt(port, 20) as client:
            body = b"z" * (10 << 20)
            equal(len(client.call(content=body).content), len(body) + 4, "10 MB")
        with Bolt(port) as client:
            head = request(3, content=b"")[:18] + struct.pack(">I", 17 << 20)
            client.sock.sendall(head + request(3)[22:100])
            client.sock.settimeout(3)
            try:
                answer = read_frame(client.sock)
                equal((answer.ident, answer.status != 0), (3, True), "answer to a frame too large")
            except (EOFError, ConnectionError):
                pass
            assert closed(client.sock), "still open after a frame too large"
        with Bolt(port) as half, Bolt(port) as other:
            half.sock.sendall(request(1, content=b"x" * 1000)[:500])
            equal(other.call().status, 0)


@case
def bolt_goaway_and_dead_upstream():
    """GoAway: the next request dials anew; a dead upstream is found by heartbeat within 10 s"""
    port = free_port()

    class Leaves(BoltServer):
        def serve(self, sock):
            frame = read_frame(sock)
            sock.sendall(request(1, (), b"", timeout=0, code=100))
            sock.sendall(response(frame.ident, b"bye"))
            super().serve(sock)

    class Silent(Server):
        def serve(self, sock):
            while sock.recv(65536):
                pass

    with Leaves() as leaves, Silent() as silent, bolt_lab(
            port, [cluster("up", [leaves.port]), cluster("silent", [silent.port])],
            [to("silent", service("silent"), timeout="60s"), to("up")]) as lab:
        lab.proxy.live()
        equal(call(port).content, b"bye")
        time.sleep(0.2)
        equal(call(port).content, b"bye")
        equal(leaves.total, 2, "connections after GoAway")
        start = time.monotonic()
        with Bolt(port, 15) as client:
            frame = client.call([("service", "silent")], timeout=30000)
        took = time.monotonic() - start
        assert frame.status in (3, 6, 16) and took <= 10.5, f"status {frame.status} after {took:.1f} s"


@case
def bolt_drain_goaway():
    """drain_goaway: a bolt client is told when its listener goes; without it, it is not"""
    port = free_port()
    with BoltServer() as up, bolt_lab(port, [cluster("up", [up.port])], [to("up")], "--drain-strategy", "immediate",
                                      filter_more={"drain_goaway": True}) as lab:
        lab.proxy.live()
        with Bolt(port) as client:
            equal(client.call().status, 0)
            lab.good(LDS, removed=["bolt"])
            frame = client.read()
            equal((frame.is_request, frame.code), (True, 100), "GoAway frame")


def http_lab(port, up, filter_json, *extra):
    return Lab(True, hold=[(CDS, cluster("up", [up.port], http2=True)), (LDS, listener("http", port, filter_json)),
                           (RDS, routes("table", *extra, to("up", timeout="20s")))])


@case
def http2_grpc():
    """gRPC unary with trailers and errors, streaming both ways, cancel reaches the server, deadline answers"""
    port = free_port()
    with GrpcServer() as up, http_lab(port, up, hcm_filter("table", "AUTO"),
                                      to("up", {"prefix": "/x/quick"}, timeout="0.3s")) as lab:
        lab.proxy.live()
        with channel(port) as chan:
            response_, done = chan.unary_unary("/x/unary").with_call(b"m" * 100_000, timeout=5)
            equal(response_, b"one:" + b"m" * 100_000)
            equal([v for k, v in done.trailing_metadata() if k == "x-trailer"], ["kept"], "trailer")
            try:
                unary(chan, "/x/fail")
                raise AssertionError("no error")
            except grpc.RpcError as error:
                equal((error.code(), error.details()), (grpc.StatusCode.FAILED_PRECONDITION, "no, because 100%"))
            answers = chan.stream_stream("/x/both")(iter([b"%d" % i for i in range(500)]), timeout=10)
            equal(list(answers), [b"one:%d" % i for i in range(500)])
            pending = chan.unary_unary("/x/slow").future(b"s", timeout=10)
            time.sleep(0.3)
            pending.cancel()
            assert up.cancelled.wait(3), "the cancel did not reach the server"
            equal(unary(chan), b"one:m", "the connection goes on")


@case
def http2_failures():
    """no route 404, unknown cluster 503, refused 503, timeout 504 as gRPC statuses; HTTP/1 bytes close, counted"""
    port, dead = free_port(), free_port()
    with GrpcServer() as up, Lab(False, hold=[
            (CDS, cluster("up", [up.port], http2=True)), (CDS, cluster("dead", [dead], http2=True)),
            (LDS, listener("http", port, hcm_filter("table"))),
            (RDS, routes("table", to("up", {"prefix": "/x/slow"}, timeout="0.4s"), to("up", {"prefix": "/x/"}),
                         to("dead", {"prefix": "/dead/"}), to("ghost", {"prefix": "/ghost/"})))]) as lab:
        lab.proxy.live(20)
        with channel(port) as chan:
            equal(unary(chan), b"one:m")
            until("hold is over", lambda: code(chan, "/ghost/x") is not None, 6)
            equal(code(chan, "/none/x"), grpc.StatusCode.UNIMPLEMENTED, "no route")
            for path in ("/ghost/x", "/dead/x"):
                equal(code(chan, path), grpc.StatusCode.UNAVAILABLE, path)
            start = time.monotonic()
            assert code(chan, "/x/slow") in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
            assert time.monotonic() - start < 2, "route timeout"
            equal(unary(chan), b"one:m")
        with socket.create_connection(("127.0.0.1", port), 5) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            data = b""
            try:
                while part := sock.recv(1000):
                    data += part
            except ConnectionError:
                pass
            assert b"HTTP/1.1 200" not in data, data
        matches(r"http1_unsupported: 1", lab.proxy.admin("/stats?filter=http1_unsupported")[1])


def code(chan, path):
    try:
        unary(chan, path)
        return None
    except grpc.RpcError as error:
        return error.code()


@case
def http2_garbage():
    """broken frames close their own connection; streams of others go on"""
    port = free_port()
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings = b"\0\0\0\x04\0\0\0\0\0"
    with GrpcServer() as up, http_lab(port, up, hcm_filter("table")) as lab:
        lab.proxy.live()
        with channel(port) as chan:
            equal(unary(chan), b"one:m")
            for junk in (b"\xff" * 100, preface + b"\xff" * 100, preface + settings + b"\xff\xff\xff\x01\x05\0\0\0\x01",
                         preface + settings + b"\0\0\x04\x01\x05\0\0\0\x01\xff\xff\xff\xff",
                         preface + settings + b"\0\0\x08\x06\0\0\0\0\0AAAAAAAA" * 20_000):
                with socket.create_connection(("127.0.0.1", port), 5) as sock:
                    try:
                        sock.sendall(junk)
                        sock.settimeout(5)
                        while sock.recv(65536):
                            pass
                    except ConnectionError:
                        pass
                equal(unary(chan), b"one:m", f"after {junk[24:50]!r}")


@case
def conversion_is_lossless():
    """bolt → HTTP/2 → bolt driven by ADS: class, headers, content, codec, timeout, type byte for byte; statuses too"""
    outer, inner = free_port(), free_port()
    with BoltServer("end") as up, BoltServer(mute=True) as mute, Lab(True, hold=[
            (CDS, cluster("up", [up.port])), (CDS, cluster("mute", [mute.port])),
            (CDS, cluster("across", [inner], http2=True)),
            (LDS, listener("in", inner, rpc_filter("in", "http2", "bolt"))),
            (LDS, listener("out", outer, rpc_filter("out", "bolt", "http2"))),
            (RDS, routes("in", to("mute", service("mute"), timeout="0.4s"), to("up", service("s")))),
            (RDS, routes("out", to("across")))]) as lab:
        lab.proxy.live()
        block = header_block([("service", "s"), ("Mixed-Case", "a,b , c"), ("dup", "1"), ("DUP", "2"), ("dup", "1"),
                              ("empty", ""), ("", "nokey"), (b"\xff\x00bin", b"\x00\xfe\n"), (":path", "/x"),
                              ("content-length", "7"), ("timeout", "5"), ("connection", "close"), ("te", "x")])
        block += struct.pack(">I", 1) + b"n" + b"\xff\xff\xff\xff"
        with Bolt(outer) as client:
            for timeout in (-1, 0, 5000):
                for body in (b"", b"\x00\xff" * 50_000):
                    frame = client.call(block=block, content=body, timeout=timeout)
                    equal((frame.status, frame.content), (0, b"end:" + body), "answer")
                    sent, got = request(0, block=block, content=body, timeout=timeout), up.frames[-1].raw
                    equal((got[:5], got[9:]), (sent[:5], sent[9:]), f"bytes at the server, timeout {timeout}")
            equal(client.call([("service", "mute")]).status, 7, "timeout behind the second hop")
            equal(client.call([("service", "none")]).status, 6, "no route behind the second hop")
            client.send([("service", "s")], b"oneway", kind=2)
            until("one-way arrives", lambda: up.frames[-1].kind == 2)
            equal(client.call().status, 0)


@case
def tcp_keeps_half_close():
    """TCP: large echo, half-close kept, weighted clusters, a dead upstream closes"""
    port, dead_port, split = free_port(), free_port(), free_port()
    weighted = tcp_filter("a")
    del weighted["cluster"]
    weighted["weighted_clusters"] = {"clusters": [{"name": "a", "weight": 50}, {"name": "b", "weight": 50}]}
    with TcpServer("a") as a, TcpServer("b") as b, Lab(False, hold=[
            (CDS, cluster("a", [a.port])), (CDS, cluster("b", [b.port])), (CDS, cluster("dead", [free_port()])),
            (LDS, listener("l", port, tcp_filter("a"))), (LDS, listener("d", dead_port, tcp_filter("dead"))),
            (LDS, listener("w", split, weighted))]) as lab:
        lab.proxy.live()
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            equal(exactly(sock, 2), b"a\n")
            data = bytes(range(256)) * 12_000
            threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR))).start()
            equal(exactly(sock, len(data)) == data, True, "echo")
            equal(exactly(sock, 3), b"end", "after half-close")
            equal(sock.recv(1), b"", "then closed")
        equal(greeting(dead_port), "", "dead upstream")
        share = Counter(greeting(split) for _ in range(60))
        assert share["a"] >= 12 and share["b"] >= 12, share


@case
def endpoint_health_and_weights():
    """EDS: unhealthy hosts get nothing, weights are honoured, DRAINING gets nothing new"""
    port = free_port()
    with BoltServer("a") as a, BoltServer("b") as b, BoltServer("c") as c, Lab(
            True, hold=bolt_world(port, [a.port])) as lab:
        lab.proxy.live()
        spread = endpoints("up", [a.port, b.port, c.port])
        hosts = spread.endpoints[0].lb_endpoints
        hosts[0].load_balancing_weight.value, hosts[1].load_balancing_weight.value = 1, 3
        hosts[2].health_status = 3  # DRAINING
        lab.good(EDS, spread)
        time.sleep(0.3)
        with Bolt(port) as client:
            share = Counter(client.call().content[:1] for _ in range(200))
            assert share[b"c"] == 0 and 110 <= share[b"b"] <= 185, share
            hosts[1].health_status = 2  # UNHEALTHY
            lab.good(EDS, spread)
            time.sleep(0.3)
            share = Counter(client.call().content[:1] for _ in range(50))
            equal(dict(share), {b"a": 50})


@case
def retarget_under_load():
    """20 pushes that retarget the route while requests run: none fails, the connection is kept"""
    port = free_port()
    with BoltServer("a", delay=0.05) as a, BoltServer("b", delay=0.05) as b, Lab(True, hold=[
            (CDS, cluster("a", [a.port])), (CDS, cluster("b", [b.port])),
            (LDS, listener("bolt", port, rpc_filter("table"))), (RDS, routes("table", to("a")))]) as lab:
        lab.proxy.live()
        stop, bad, count = threading.Event(), [], Counter()

        def load():
            with Bolt(port) as client:
                while not stop.is_set():
                    try:
                        frame = client.call()
                        count[frame.content[:1]] += 1
                        if frame.status:
                            bad.append(frame.status)
                    except Exception as error:
                        bad.append(repr(error))
                        return

        workers = [threading.Thread(target=load) for _ in range(8)]
        for worker in workers:
            worker.start()
        for i in range(20):
            lab.good(RDS, routes("table", to("ba"[i % 2])))
            time.sleep(0.05)
        stop.set()
        for worker in workers:
            worker.join()
        equal(bad, [], "failures")
        assert count[b"a"] and count[b"b"], count


@case
def sigterm_loses_nothing():
    """SIGTERM: /ready 503 at once, no new connections, what is in flight and what goes on is served, exit 0"""
    port = free_port()
    with BoltServer(delay=0.8) as up, bolt_lab(port, [cluster("up", [up.port])], [to("up")]) as lab:
        lab.proxy.live()
        with Bolt(port) as client, Bolt(port) as idle:
            idle.call()
            ident = client.send()
            time.sleep(0.1)
            lab.proxy.process.send_signal(signal.SIGTERM)
            until("503", lambda: lab.proxy.admin("/ready")[0] == 503, 1)
            until("refused", lambda: refused(port), 1)
            equal(client.read().ident, ident, "in flight")
            for _ in range(3):
                equal(client.call().status, 0, "a connection that goes on sending")
            assert lab.proxy.process.poll() is None
        equal(lab.proxy.process.wait(5), 0, "exit code")


@case
def sigint_is_immediate():
    """SIGINT or a second SIGTERM ends at once"""
    for signals in ((signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM)):
        port = free_port()
        with BoltServer(mute=True) as up, bolt_lab(port, [cluster("up", [up.port])], [to("up")]) as lab:
            lab.proxy.live()
            with Bolt(port) as client:
                client.send()
                time.sleep(0.2)
                start = time.monotonic()
                for number in signals:
                    lab.proxy.process.send_signal(number)
                    time.sleep(0.3)
                lab.proxy.process.wait(5)
                assert time.monotonic() - start < 2.5, signals
