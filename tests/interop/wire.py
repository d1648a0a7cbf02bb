"""bolt frames, small clients and upstreams for bolt, raw TCP and HTTP/2 (by way of gRPC)."""
import socket
import struct
import threading
import time
from concurrent import futures

import grpc

REQUEST = struct.Struct(">BBHBIBiHHI")
RESPONSE = struct.Struct(">BBHBIBHHHI")
CLASS = b"com.alipay.sofa.rpc.core.request.SofaRequest"


def header_block(headers):
    out = b""
    for pair in headers:
        for part in pair:
            data = part if isinstance(part, bytes) else part.encode()
            out += struct.pack(">I", len(data)) + data
    return out


def request(ident, headers=(("service", "s"),), content=b"hello", timeout=-1, kind=1, code=1, block=None):
    block = header_block(headers) if block is None else block
    head = REQUEST.pack(1, kind, code, 1, ident, 1, timeout, len(CLASS), len(block), len(content))
    return head + CLASS + block + content


def response(ident, content=b"", status=0, code=2):
    return RESPONSE.pack(1, 0, code, 1, ident, 1, status, 0, 0, len(content)) + content


class Frame:
    """One decoded frame; `timeout` of requests, `status` of responses."""

    def __init__(self, fields, rest, raw, is_request):
        self.kind, self.code, self.ident = fields[1], fields[2], fields[4]
        self.status = self.timeout = fields[6]
        self.is_request, self.raw = is_request, raw
        class_len, header_len = fields[7], fields[8]
        self.headers, self.content = rest[class_len:class_len + header_len], rest[class_len + header_len:]


def exactly(sock, count):
    data = b""
    while len(data) < count:
        part = sock.recv(min(count - len(data), 1 << 20))
        if not part:
            raise EOFError(f"closed after {len(data)} of {count} bytes")
        data += part
    return data


def read_frame(sock):
    start = exactly(sock, 2)
    layout = RESPONSE if start[1] == 0 else REQUEST
    head = start + exactly(sock, layout.size - 2)
    fields = layout.unpack(head)
    rest = exactly(sock, fields[7] + fields[8] + fields[9])
    return Frame(fields, rest, head + rest, layout is REQUEST)


class Bolt:
    """A bolt client on one connection."""

    def __init__(self, port, timeout=5):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout)
        self.ident = 100

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, *args, **more):
        self.ident += 1
        self.sock.sendall(request(self.ident, *args, **more))
        return self.ident

    def read(self):
        return read_frame(self.sock)

    def call(self, *args, **more):
        ident = self.send(*args, **more)
        frame = self.read()
        assert frame.ident == ident, f"answer has id {frame.ident}, expected {ident}"
        return frame


def call(port, *args, **more):
    with Bolt(port) as client:
        return client.call(*args, **more)


class Server:
    """Accepts on a free port; `serve(socket)` runs in a thread per connection."""

    def __init__(self, port=0):
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        self.connections, self.total = [], 0
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        self.cut()

    def cut(self):
        for sock in self.connections:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.total += 1
            self.connections.append(sock)
            threading.Thread(target=self.guarded, args=(sock,), daemon=True).start()

    def guarded(self, sock):
        try:
            self.serve(sock)
        except (OSError, EOFError):
            pass
        sock.close()


class BoltServer(Server):
    """Answers with `name` + content after `delay`; `mute` never answers. Keeps what it got."""

    def __init__(self, name="one", delay=0.0, mute=False, port=0):
        self.name, self.delay, self.mute = name.encode(), delay, mute
        self.frames = []
        super().__init__(port)

    def serve(self, sock):
        lock = threading.Lock()

        def reply(frame):
            with lock:
                sock.sendall(response(frame.ident, self.name + b":" + frame.content))

        while True:
            frame = read_frame(sock)
            if frame.is_request and frame.code == 0:
                with lock:
                    sock.sendall(response(frame.ident, code=0))
                continue
            self.frames.append(frame)
            if self.mute or frame.kind == 2:
                continue
            if self.delay:
                threading.Timer(self.delay, reply, (frame,)).start()
            else:
                reply(frame)


class TcpServer(Server):
    """Says its name, then echoes until the other side is done, then half-closes."""

    def __init__(self, name="one", port=0):
        self.name = name.encode()
        super().__init__(port)

    def serve(self, sock):
        sock.sendall(self.name + b"\n")
        while data := sock.recv(65536):
            sock.sendall(data)
        sock.sendall(b"end")
        sock.shutdown(socket.SHUT_WR)
        time.sleep(0.2)


def greeting(port, timeout=3):
    """The name of the TCP server behind a port; "" if the connection is closed without."""
    with socket.create_connection(("127.0.0.1", port), timeout) as sock:
        try:
            return sock.makefile("rb").readline().strip().decode()
        except ConnectionError:
            return ""


def refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return False
    except ConnectionRefusedError:
        return True


class GrpcServer(grpc.GenericRpcHandler):
    """HTTP/2 upstream: /x/unary echoes with its name, /x/both streams back, /x/fail gives status 9."""

    def __init__(self, name="one"):
        self.name = name.encode()
        self.server = grpc.server(futures.ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
        self.server.add_generic_rpc_handlers((self,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.cancelled = threading.Event()
        self.server.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop(0)

    def service(self, details):
        if details.method.endswith("/both"):
            return grpc.stream_stream_rpc_method_handler(self.both)
        if details.method.endswith("/slow"):
            return grpc.unary_unary_rpc_method_handler(self.slow)
        return grpc.unary_unary_rpc_method_handler(self.fail if details.method.endswith("/fail") else self.unary)

    def unary(self, message, context):
        context.set_trailing_metadata((("x-trailer", "kept"),))
        return self.name + b":" + message

    def both(self, messages, context):
        for message in messages:
            yield self.name + b":" + message

    def slow(self, message, context):
        context.add_callback(self.cancelled.set)
        self.cancelled.wait(5)
        return b"late"

    def fail(self, message, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no, because 100%")


def channel(port):
    return grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])


def unary(chan, path="/x/unary", message=b"m", **more):
    return chan.unary_unary(path)(message, timeout=more.pop("timeout", 5), **more)
