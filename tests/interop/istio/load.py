"""Load that goes on while configuration changes: requests, a slow stream of bytes, TCP connections; counts what breaks."""
import http.client
import threading
import time

from pods import TCP


class Load:
    """Within the `with` calls run in threads of their own; `broken` lists what went wrong, `done` counts successes."""

    def __init__(self, pod, address, host, *, callers=3, path="/", connections=2, tcp_port=9090, pause=0.01):
        self.pod, self.address, self.host, self.path = pod, address, host, path
        self.tcp_port, self.pause = tcp_port, pause
        self.broken, self.done, self.sizes = [], 0, 0
        self._lock, self._ending = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._requests, daemon=True) for _ in range(callers)]
        self._threads += [threading.Thread(target=self._tcp, daemon=True) for _ in range(connections)]
        self._threads.append(threading.Thread(target=self._slow, daemon=True))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        deadline = time.monotonic() + 10
        while self.done < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        return self

    def __exit__(self, *_):
        self._ending.set()
        for thread in self._threads:
            thread.join(20)

    def _count(self, what, error=None):
        with self._lock:
            if error is None:
                self.done += 1
            else:
                self.broken.append(f"{what}: {error}")

    def _requests(self):
        connection = None
        while not self._ending.is_set():
            try:
                if connection is None or connection.sock is None:
                    connection = http.client.HTTPConnection(self.host, 80, timeout=10)
                    connection.sock = self.pod.connect(self.address, 80)
                connection.request("GET", self.path)
                answer = connection.getresponse()
                answer.read()
                leaving = answer.will_close
                self._count("request", None if answer.status == 200 else answer.status)
                if leaving:
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                self._count("request", repr(error))
                connection = None
            time.sleep(self.pause)

    def _slow(self):
        """Requests that take a second, so that one is always in flight."""
        while not self._ending.is_set():
            try:
                answer = self.pod.http(self.address, 80, "/?delay=1s", host=self.host, timeout=15)
                self._count("slow request", None if answer.status == 200 else answer.status)
            except (OSError, http.client.HTTPException) as error:
                self._count("slow request", repr(error))

    def _tcp(self):
        # The echo program closes a connection after some seconds of its own; a new one is made well before.
        while not self._ending.is_set():
            try:
                with self.pod.connect(self.address, self.tcp_port) as connection:
                    until = time.monotonic() + 8
                    first = True
                    while time.monotonic() < until and not self._ending.is_set():
                        connection.sendall(b"ping\n")
                        read = b""
                        while not read.endswith(b"ping\n"):
                            got = connection.recv(4096)
                            if not got:
                                raise ConnectionError(f"closed after {read!r}, first line: {first}")
                            read += got
                        first = False
                        time.sleep(0.2)
                self._count("connection")
            except OSError as error:
                self._count(f"connection to {TCP}", repr(error))
