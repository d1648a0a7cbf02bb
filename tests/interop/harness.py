"""Starts the binary under test, waits for things, asks its admin; and the table of cases."""
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

BINARY = os.environ.get("MIZZEN", "")
CASES = []
# Timing is judged with room for a busy machine; the bounds themselves are the documented ones.
SLACK = float(os.environ.get("MIZZEN_SLACK", "1.0"))


def case(function):
    """Registers a function as a case; its docstring's first line is what it promises."""
    CASES.append(function)
    return function


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, check, timeout=8.0):
    """Polls `check` until it gives something true, and returns that."""
    deadline = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what} (last: {value!r})")
        time.sleep(0.02)


def equal(got, expected, what=""):
    assert got == expected, f"{what}: got {got!r}, expected {expected!r}"


def matches(pattern, text, what=""):
    assert re.search(pattern, text), f"{what}: {text!r} does not match {pattern!r}"


def run(*args, timeout=15, env=None):
    """One command to its end: (exit code, stdout, stderr, seconds)."""
    start = time.monotonic()
    done = subprocess.run([BINARY, *args], capture_output=True, text=True, timeout=timeout,
                          env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout, done.stderr, time.monotonic() - start


class Folder:
    """A temporary folder with files in it."""

    def __init__(self):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="mizzen-interop-"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)

    def write(self, name, content):
        target = self.path / name
        target.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(target)


def bootstrap(admin, static=None, ads_port=None, delta=False, ads_address=None, fetch_timeout="0s", **more):
    """An Envoy bootstrap with what most cases need."""
    static = static or {}
    config = {
        "node": {"id": "interop~1", "cluster": "interop"},
        "admin": {"address": socket_address(admin)},
        "static_resources": {"clusters": list(static.get("clusters", [])),
                             "listeners": list(static.get("listeners", []))},
    }
    if ads_port or ads_address:
        source = {"ads": {}, "initial_fetch_timeout": fetch_timeout, "resource_api_version": "V3"}
        config["dynamic_resources"] = {
            "ads_config": {"api_type": "DELTA_GRPC" if delta else "GRPC", "transport_api_version": "V3",
                           "set_node_on_first_message_only": True,
                           "grpc_services": [{"envoy_grpc": {"cluster_name": "control"}}]},
            "cds_config": source, "lds_config": source,
        }
        address = ads_address or socket_address(ads_port)
        config["static_resources"]["clusters"].append({
            "name": "control", "type": "STATIC", "connect_timeout": "1s", "http2_protocol_options": {},
            "load_assignment": {"cluster_name": "control", "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": address}}]}]}})
    config.update(more)
    return config


def socket_address(port, host="127.0.0.1"):
    return {"socket_address": {"address": host, "port_value": port}}


class Mizzen:
    """A running proxy. `config` is a document or the path of a file."""

    def __init__(self, config, *args, admin=None, env=None, form=()):
        self.folder = Folder()
        self.admin_port = admin or config["admin"]["address"]["socket_address"]["port_value"]
        path = config if isinstance(config, str) else self.folder.write("config.json", config)
        self.log = open(self.folder.path / "log", "w+")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [BINARY, *form, "-c", path, "--concurrency", "1", *args], stdout=self.log,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if kind:
            print("\n".join("    | " + line for line in self.text().splitlines()[-8:]))
        self.log.close()
        self.folder.__exit__()

    def text(self):
        self.log.flush()
        return (self.folder.path / "log").read_text(errors="replace")

    def admin(self, path, method="GET", body=None, headers=None, host="127.0.0.1"):
        """(status, text) of one admin request."""
        connection = http.client.HTTPConnection(host, self.admin_port, timeout=5)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def up(self):
        try:
            return self.admin("/ready")
        except OSError:
            assert self.process.poll() is None, f"ended with {self.process.poll()}: {self.text()[-400:]}"
            return None

    def wait_admin(self):
        until("admin answers", self.up)
        return self

    def live(self, timeout=10):
        until("/ready is 200", lambda: (self.up() or (0,))[0] == 200, timeout)
        return self

    def dump(self, query=""):
        status, text = self.admin("/config_dump" + query)
        equal(status, 200, "config_dump")
        return json.loads(text)

    def stat(self, name):
        """One value of /stats, 0 if it is not there."""
        status, text = self.admin("/stats?filter=^" + name.replace(".", "\\.") + "$")
        equal(status, 200, "stats")
        values = [line.rsplit(": ", 1)[1] for line in text.splitlines() if line.startswith(name + ": ")]
        return int(values[0]) if values else 0

    def gauge(self, name):
        """The values of one Prometheus family: {labels: value}."""
        _, text = self.admin("/stats/prometheus")
        found = re.findall(rf"^{name}(\{{[^}}]*\}})? (\S+)$", text, re.M)
        return {labels: float(value) for labels, value in found}

    def end(self, how=signal.SIGTERM, timeout=10):
        self.process.send_signal(how)
        return self.process.wait(timeout)
