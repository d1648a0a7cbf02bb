"""HTTP/2 frame by frame: a client and an echoing upstream that keep or break rules as a case wants it."""
import socket
import struct
import threading
import time

from wire import Server, exactly

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
WINDOW_SIZE = 65535


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def read(sock):
    """(kind, flags, stream, payload)"""
    head = exactly(sock, 9)
    kind, flags, stream = struct.unpack(">BBI", head[3:])
    return kind, flags, stream, exactly(sock, int.from_bytes(head[:3], "big"))


# The header block of POST / to svc.
POST = b"\x83\x86\x84\x01\x03svc"


class Peer:
    """What both sides share: one reading thread, the other side's windows, bytes and ends by stream."""

    def __init__(self, sock):
        self.sock, self.lock, self.changed = sock, threading.Lock(), threading.Condition()
        self.initial, self.connection_window, self.windows = WINDOW_SIZE, WINDOW_SIZE, {}
        self.got, self.ended, self.resets, self.goaway, self.closed = {}, set(), {}, None, False
        # Streams whose window is not given back.
        self.stalled = set()

    def send(self, data):
        with self.lock:
            self.sock.sendall(data)

    def run(self):
        try:
            while True:
                self.on_frame(*read(self.sock))
        except (OSError, EOFError):
            pass
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def on_frame(self, kind, flags, stream, payload):
        if kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, ACK, 0))
        if kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        if kind == DATA and payload:
            self.send(frame(WINDOW, 0, 0, struct.pack(">I", len(payload))))
            if stream not in self.stalled and not flags & END_STREAM:
                self.send(frame(WINDOW, 0, stream, struct.pack(">I", len(payload))))
        with self.changed:
            if kind == SETTINGS and not flags & ACK:
                for at in range(0, len(payload), 6):
                    name, value = struct.unpack_from(">HI", payload, at)
                    if name == 4:
                        for one in self.windows:
                            self.windows[one] += value - self.initial
                        self.initial = value
            elif kind == WINDOW:
                more = struct.unpack(">I", payload)[0]
                if stream == 0:
                    self.connection_window += more
                else:
                    self.windows[stream] = self.windows.get(stream, self.initial) + more
            elif kind == DATA:
                self.got.setdefault(stream, bytearray()).extend(payload)
            elif kind == RST:
                self.resets[stream] = struct.unpack(">I", payload)[0]
            elif kind == GOAWAY:
                self.goaway = struct.unpack(">II", payload[:8])
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                self.ended.add(stream)
            self.changed.notify_all()

    def wait(self, what, check, timeout=10):
        with self.changed:
            assert self.changed.wait_for(lambda: check() or self.closed, timeout), f"not within {timeout} s: {what}"
            assert check(), f"closed before {what}; GOAWAY {self.goaway}"

    def resume(self, stream):
        """Gives back what a stalled stream has taken."""
        self.stalled.discard(stream)
        self.send(frame(WINDOW, 0, stream, struct.pack(">I", len(self.got.get(stream, b"")))))

    def messages(self, stream, size, count):
        """Sends `count` DATA frames of `size` bytes as the windows allow; how many went out."""
        with self.changed:
            room = min(self.windows.setdefault(stream, self.initial), self.connection_window) // size
            now = min(room, count)
            self.windows[stream] -= now * size
            self.connection_window -= now * size
        if now:
            self.send(frame(DATA, 0, stream, b"m" * size) * now)
        return now


class Client(Peer):
    """One client connection."""

    def __init__(self, port):
        super().__init__(socket.create_connection(("127.0.0.1", port), 10))
        self.sock.settimeout(None)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.next = 1
        self.send(PREFACE + frame(SETTINGS, 0, 0) + frame(WINDOW, 0, 0, struct.pack(">I", 1 << 24)))
        threading.Thread(target=self.run, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A plain close waits for the thread that reads.
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def open(self, first=b"", stalled=False):
        """Opens a stream whose request begins with `first` and goes on; a `stalled` one does not give its window
        back."""
        with self.lock:
            stream, self.next = self.next, self.next + 2
            if stalled:
                self.stalled.add(stream)
            start = frame(DATA, 0, stream, first) if first else b""
            self.sock.sendall(frame(HEADERS, END_HEADERS, stream, POST) + start)
        return stream

    def echo(self, stream, data):
        """Sends `data` and waits for it to come back."""
        before = len(self.got.get(stream, b""))
        self.send(frame(DATA, 0, stream, data))
        self.wait(f"echo on {stream}", lambda: len(self.got.get(stream, b"")) >= before + len(data))
        assert bytes(self.got[stream][before:]) == data


class Upstream(Server):
    """Answers every request at once. What follows is said by how the body begins: after `flood` it sends `messages`
    of 16 bytes, of what comes with `swallow` it gives no window back until told, anything else it sends back."""

    def __init__(self, messages=0):
        self.messages, self.peers = messages, []
        super().__init__()

    def serve(self, sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert exactly(sock, len(PREFACE)) == PREFACE
        peer = Answering(sock, self.messages)
        self.peers.append(peer)
        peer.send(frame(SETTINGS, 0, 0, struct.pack(">HIHI", 3, 10_000, 4, 16_384)) + frame(WINDOW, 0, 0, struct.pack(">I", 1 << 24)))
        peer.run()


class Answering(Peer):
    def __init__(self, sock, messages):
        super().__init__(sock)
        self.messages_each, self.kinds = messages, {}

    def on_frame(self, kind, flags, stream, payload):
        if kind == HEADERS and not flags & END_STREAM:
            self.send(frame(HEADERS, END_HEADERS, stream, b"\x88"))
        if kind == DATA and payload and stream not in self.kinds:
            self.kinds[stream] = next((how for how in ("flood", "swallow") if payload.startswith(how.encode())), "echo")
            if self.kinds[stream] == "swallow":
                self.stalled.add(stream)
            if self.kinds[stream] == "flood":
                threading.Thread(target=self.flood, args=(stream,), daemon=True).start()
        super().on_frame(kind, flags, stream, payload)
        if self.kinds.get(stream, "echo") != "echo":
            return
        if kind == DATA and payload:
            self.send(frame(DATA, flags & END_STREAM, stream, payload))
            self.got.pop(stream, None)
        elif kind in (DATA, HEADERS) and flags & END_STREAM:
            self.send(frame(DATA, END_STREAM, stream))

    def flood(self, stream):
        left = self.messages_each
        while left and not self.closed and stream not in self.resets:
            left -= self.messages(stream, 16, min(left, 40))
            time.sleep(0.02)
        if not left:
            self.send(frame(DATA, END_STREAM, stream))
