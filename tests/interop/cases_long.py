"""What lasts: cancels by the thousand, readers that stall for half a minute; everybody else goes on untouched."""
import socket
import struct
import threading
import time

from ads import CDS, LDS, RDS
from cases_proxy import bolt_lab
from cases_xds import Lab
from harness import case, equal, free_port, until
from http2 import END_HEADERS, HEADERS, POST, RST, Client, Upstream, frame
from resources import cluster, hcm_filter, listener, routes, to
from wire import Bolt, Server, read_frame, request, response

CANCEL = struct.pack(">I", 8)


def http_lab(port, upstream):
    many = {"thresholds": [{"max_requests": 100_000, "max_pending_requests": 100_000}]}
    hold = [(CDS, cluster("h", [upstream.port], http2=True, circuit_breakers=many)),
            (LDS, listener("http", port, hcm_filter("table"))), (RDS, routes("table", to("h", timeout="0s")))]
    return Lab(False, hold=hold)


class Bystanders:
    """Streams on `client` that echo all the time; each must go on to the end."""

    def __init__(self, client, count=5):
        self.client, self.stop, self.failed, self.rounds = client, threading.Event(), [], 0
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def run(self):
        try:
            stream = self.client.open()
            number = 0
            while not self.stop.wait(0.05):
                number += 1
                self.client.echo(stream, b"round %d" % number)
                self.rounds += 1
            assert stream not in self.client.resets and stream not in self.client.ended
        except BaseException as error:  # told by the case
            self.failed.append(f"{type(error).__name__}: {error}")

    def finish(self, least):
        self.stop.set()
        for thread in self.threads:
            thread.join(15)
        equal(self.failed, [], "bystanders")
        equal(self.client.goaway, None, "GOAWAY to the client")
        assert self.rounds >= least, f"only {self.rounds} rounds"


@case
def long_cancels():
    """2,000 cancels per second for 10 s leave all other streams on the same connections untouched"""
    port = free_port()
    with Upstream() as up, http_lab(port, up) as lab:
        lab.proxy.live()
        with Client(port) as client:
            others = Bystanders(client)
            begin, sent, last = time.monotonic(), 0, []
            while sent < 20_000:
                # Each batch is cancelled by the next one, 10 ms later.
                batch = b"".join(frame(RST, 0, stream, CANCEL) for stream in last)
                with client.lock:
                    last = [client.next + 2 * i for i in range(20)]
                    client.next += 40
                    client.sock.sendall(batch + b"".join(frame(HEADERS, END_HEADERS, s, POST) for s in last))
                sent += 20
                time.sleep(max(0, begin + sent / 2000 - time.monotonic()))
            client.send(b"".join(frame(RST, 0, stream, CANCEL) for stream in last))
            others.finish(200)
        until("all are cancelled", lambda: lab.proxy.stat("cluster.h.upstream_rq_active") == 0)
        assert lab.proxy.stat("cluster.h.upstream_rq_cancelled") > 15_000
        equal(up.total, lab.proxy.stat("cluster.h.upstream_cx_total"), "upstream connections")
        assert all(not peer.closed for peer in up.peers), "an upstream connection was ended"


@case
def long_cancels_in_one_write():
    """100 requests cancelled in the write that opened them, twenty times: the others are untouched"""
    port = free_port()
    with Upstream() as up, http_lab(port, up) as lab:
        lab.proxy.live()
        with Client(port) as client:
            others = Bystanders(client)
            for _ in range(20):
                with client.lock:
                    streams = [client.next + 2 * i for i in range(100)]
                    client.next += 200
                    client.sock.sendall(b"".join(
                        frame(HEADERS, END_HEADERS, s, POST) + frame(RST, 0, s, CANCEL) for s in streams))
                time.sleep(0.1)
            others.finish(50)
        assert all(not peer.closed for peer in up.peers), "an upstream connection was ended"


@case
def long_stalled_client():
    """50 streams of 16-byte messages whose reader stalls 30 s: the others go on, and nothing is lost"""
    port, messages = free_port(), 5_000
    with Upstream(messages) as up, http_lab(port, up) as lab:
        lab.proxy.live()
        with Client(port) as client:
            others = Bystanders(client)
            streams = [client.open(b"flood", stalled=True) for _ in range(50)]
            client.wait("the windows are full", lambda: all(len(client.got.get(s, b"")) >= 65_000 for s in streams), 20)
            time.sleep(30)
            for stream in streams:
                equal(len(client.got[stream]), 65_535, "what fits the window")
                client.resume(stream)
            client.wait("the rest", lambda: all(s in client.ended for s in streams), 60)
            for stream in streams:
                equal(len(client.got[stream]), 16 * messages, "bytes of a stalled stream")
            others.finish(200)
        assert all(not peer.closed for peer in up.peers), "an upstream connection was ended"


@case
def long_stalled_upstream():
    """50 streams of 16-byte messages to a server that stalls 30 s: the others go on, the client is slowed"""
    port = free_port()
    with Upstream() as up, http_lab(port, up) as lab:
        lab.proxy.live()
        with Client(port) as client:
            others = Bystanders(client)
            streams, sent = [client.open(b"swallow") for _ in range(50)], {}
            begin = time.monotonic()
            while time.monotonic() < begin + 30:
                for stream in streams:
                    sent[stream] = sent.get(stream, 0) + 16 * client.messages(stream, 16, 5)
                time.sleep(0.05)
            taken = sum(sent.values()) + 50 * len(b"swallow")
            assert taken < 50 * (65_536 + 2 * 262_144), f"{taken} bytes taken for readers that read nothing"
            peer = up.peers[0]
            for stream in list(peer.stalled):
                peer.resume(stream)

            def arrived():
                return sum(len(peer.got.get(s, b"")) for s, how in list(peer.kinds.items()) if how == "swallow")
            until("everything arrives", lambda: arrived() == taken, 30)
            others.finish(200)
        assert all(not peer.closed for peer in up.peers), "an upstream connection was ended"


class Picky(Server):
    """A bolt server that answers late to what was left behind, and at once to everything else."""

    def serve(self, sock):
        late, lock = [], threading.Lock()

        def answer_late():
            while sock.fileno() >= 0:
                time.sleep(0.3)
                with lock:
                    frames, late[:] = list(late), []
                    sock.sendall(b"".join(response(ident, b"late") for ident in frames))
        threading.Thread(target=guarded, args=(answer_late,), daemon=True).start()
        while True:
            frame = read_frame(sock)
            with lock:
                if frame.content == b"left behind":
                    late.append(frame.ident)
                else:
                    sock.sendall(response(frame.ident, frame.content, code=0 if frame.code == 0 else 2))


def guarded(function):
    try:
        function()
    except OSError:
        pass


@case
def long_bolt_cancels():
    """bolt clients that leave 2,000 calls a second unanswered for 10 s: calls of others are untouched"""
    port = free_port()
    many = {"thresholds": [{"max_requests": 100_000}]}
    with Picky() as up, bolt_lab(
            port, [cluster("up", [up.port], circuit_breakers=many)], [to("up")]) as lab:
        lab.proxy.live()
        failed, rounds, stop = [], [], threading.Event()

        def steady():
            with Bolt(port) as client:
                while not stop.is_set():
                    body = b"mine %d" % len(rounds)
                    frame = client.call(content=body)
                    if (frame.status, frame.content) != (0, body):
                        failed.append((frame.status, frame.content))
                    rounds.append(1)
                    time.sleep(0.02)
        others = [threading.Thread(target=steady) for _ in range(4)]
        for thread in others:
            thread.start()
        begin = time.monotonic()
        for turn in range(500):
            leaver = socket.create_connection(("127.0.0.1", port), 5)
            leaver.sendall(b"".join(request(i, content=b"left behind") for i in range(40)))
            time.sleep(max(0, begin + turn / 50 - time.monotonic()))
            leaver.close()
        stop.set()
        for thread in others:
            thread.join(10)
        equal(failed, [], "calls of others")
        assert len(rounds) > 200, len(rounds)
        until("all are cancelled", lambda: lab.proxy.stat("cluster.up.upstream_rq_active") == 0)
