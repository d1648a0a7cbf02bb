"""One static HTTP listener in front of one server, and HTTP/1 byte by byte on both sides of it."""
import socket
import threading
import time

from harness import Mizzen, bootstrap, free_port, socket_address, until
from resources import HCM, ROUTER
from wire import Server

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Web:
    """A proxy of one listener. `route`, `manager`, `cluster` and `more` are merged into what they are named for."""

    def __init__(self, upstream, *args, http2=False, codec="AUTO", route=None, manager=None, cluster=None, more=None):
        self.port = free_port()
        action = {"cluster": "up", "timeout": "10s", **(route or {})}
        http = {"@type": HCM, "stat_prefix": "web", "codec_type": codec,
                "route_config": {"name": "r", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                    {"match": {"connect_matcher": {}}, "route": action}, {"match": {"prefix": "/"}, "route": action}]}]},
                "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}], **(manager or {})}
        target = {"name": "up", "type": "STATIC", "connect_timeout": "1s", "load_assignment": {
            "cluster_name": "up",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(upstream)}}]}]}, **(cluster or {})}
        if http2:
            target["http2_protocol_options"] = {}
        self.proxy = Mizzen(bootstrap(free_port(), {
            "listeners": [{"name": "web", "address": socket_address(self.port),
                           "filter_chains": [{"filters": [{"name": "http", "typed_config": http}]}]}],
            "clusters": [target]}, **(more or {})), *args)

    def __enter__(self):
        self.proxy.live()
        return self

    def __exit__(self, *error):
        self.proxy.__exit__(*error)

    def memory(self):
        """Resident megabytes."""
        with open(f"/proc/{self.proxy.process.pid}/statm") as file:
            return int(file.read().split()[1]) * 4 / 1024

    def send(self, data, wait=5.0):
        """All that comes back for `data` on a connection of its own, and whether the proxy closed it."""
        with Text(self.port) as client:
            client.send(data)
            return client.rest(wait)

    def settled(self):
        """No request is under way any more."""
        until("no request is left over", lambda: self.proxy.stat("http.web.downstream_rq_active") == 0
              and self.proxy.stat("cluster.up.upstream_rq_active") == 0, 15)


class Text:
    """A client that speaks bytes."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), 5)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.early = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        try:
            self.sock.sendall(data)
        except OSError:
            pass  # It may be refused before all of it is written.

    def rest(self, wait):
        """(bytes, closed): everything until the end, or until nothing comes for `wait` seconds."""
        self.sock.settimeout(wait)
        got, self.early = self.early, b""
        while True:
            try:
                part = self.sock.recv(65536)
            except TimeoutError:
                return got, False
            except OSError:
                return got, True
            if not part:
                return got, True
            got += part

    def head(self, wait=5.0):
        """A message's head; what follows it stays."""
        self.sock.settimeout(wait)
        while b"\r\n\r\n" not in self.early:
            part = self.sock.recv(65536)
            if not part:
                raise EOFError(f"closed after {self.early!r}")
            self.early += part
        head, _, self.early = self.early.partition(b"\r\n\r\n")
        return head

    def answer(self, size=2):
        """The status of an answer whose body has `size` bytes."""
        head = self.head()
        while len(self.early) < size:
            part = self.sock.recv(65536)
            if not part:
                raise EOFError("closed within a body")
            self.early += part
        self.early = self.early[size:]
        return int(head.split(b" ")[1])


def status(answer):
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


class Heads(Server):
    """Answers every request that is whole with `answer(head, body)`, bytes, or by closing at None. Keeps what it got:
    (head, body), and in `broken` what was not whole at the end of its connection."""

    def __init__(self, answer=lambda head, body: OK):
        self.answer, self.got, self.broken, self.lock = answer, [], [], threading.Lock()
        super().__init__()

    def serve(self, sock):
        data = b""
        while True:
            taken = request(data)
            if taken is None:
                part = b""
                try:
                    part = sock.recv(65536)
                except OSError:
                    pass
                if not part:
                    if data:
                        self.broken.append(data)
                    return
                data += part
                continue
            head, body, data = taken
            with self.lock:
                self.got.append((head, body))
            answer = self.answer(head, body)
            if answer is None:
                return
            sock.sendall(answer)


def request(data):
    """(head, body, rest) of the request at the front, None if it is not whole."""
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return None
    fields = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    values = {name.lower(): value.strip() for name, _, value in fields}
    if values.get(b"transfer-encoding", b"") == b"chunked":
        body = b""
        while True:
            line, end, after = rest.partition(b"\r\n")
            if not end:
                return None
            size = int(line.split(b";")[0], 16)
            if size == 0:
                trailers, end, after = rest.partition(b"\r\n\r\n")
                return (head, body, after) if end else None
            if len(after) < size + 2:
                return None
            body, rest = body + after[:size], after[size + 2:]
    size = int(values.get(b"content-length", 0))
    return (head, rest[:size], rest[size:]) if len(rest) >= size else None


def slowly(client, data, pause=0.0, size=1):
    """Sends in pieces."""
    for at in range(0, len(data), size):
        client.send(data[at:at + size])
        if pause:
            time.sleep(pause)
