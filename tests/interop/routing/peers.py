"""Both proxies on one bootstrap, each with ports of its own."""
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

TYPE = "type.googleapis.com/envoy.extensions.filters."
HCM = TYPE + "network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = TYPE + "http.router.v3.Router"


TAKEN = set()


def free_ports(count):
    """Ports that nobody has, and that were not given out before."""
    ports = []
    while len(ports) < count:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        if port not in TAKEN:
            TAKEN.add(port)
            ports.append(port)
    return ports


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def bootstrap(tables, ports, admin, backends):
    def listener(table, port):
        manager = {"@type": HCM, "stat_prefix": "h", "codec_type": "HTTP2", "route_config": table,
                   "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}]}
        filters = [{"name": "hcm", "typed_config": manager}]
        return {"name": f"l{port}", "address": address(port), "filter_chains": [{"filters": filters}]}

    def cluster(backend):
        hosts = [{"endpoint": {"address": address(backend.port)}}]
        return {"name": backend.name, "type": "STATIC", "connect_timeout": "2s", "http2_protocol_options": {},
                "load_assignment": {"cluster_name": backend.name, "endpoints": [{"lb_endpoints": hosts}]}}

    return {"node": {"id": "n", "cluster": "c"}, "admin": {"address": address(admin)},
            "static_resources": {"listeners": [listener(t, p) for t, p in zip(tables, ports)],
                                 "clusters": [cluster(b) for b in backends]}}


class Peer:
    """One proxy with one port per table."""

    def __init__(self, name, program, args, tables, backends):
        self.name = name
        *self.ports, admin = free_ports(len(tables) + 1)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mizzen-routing-"))
        config = self.folder / "config.json"
        config.write_text(json.dumps(bootstrap(tables, self.ports, admin, backends)))
        self.log = open(self.folder / "log", "w+")
        self.process = subprocess.Popen([program, *args, "-c", str(config), "--concurrency", "1"],
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT)

    def wait(self):
        deadline = time.monotonic() + 60
        for port in self.ports:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if self.process.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit(f"routing: {self.name} does not serve:\n{self.text()[-3000:]}") from None
                    time.sleep(0.05)

    def text(self):
        self.log.flush()
        return (self.folder / "log").read_text(errors="replace")

    def end(self):
        self.process.kill()
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def accepts(program, args, table, backends):
    """Whether a proxy takes a table, by its check of a configuration."""
    with tempfile.TemporaryDirectory(prefix="mizzen-routing-") as folder:
        config = pathlib.Path(folder) / "config.json"
        config.write_text(json.dumps(bootstrap([table], free_ports(1), free_ports(1)[0], backends)))
        done = subprocess.run([program, *args, "--mode", "validate", "-c", str(config)], capture_output=True,
                              text=True, stdin=subprocess.DEVNULL, timeout=60)
        return done.returncode == 0, (done.stdout + done.stderr).strip()


def start(tables, backends):
    """Envoy and Mizzen, serving."""
    quiet = ["--disable-hot-restart", "-l", "warn"]
    both = [Peer("Envoy", os.environ["ENVOY"], quiet, tables, backends),
            Peer("Mizzen", os.environ["MIZZEN"], [], tables, backends)]
    try:
        for peer in both:
            peer.wait()
    except BaseException:
        for peer in both:
            peer.end()
        raise
    return both
