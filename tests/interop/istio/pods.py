"""One pod: a test host with an echo program, Istio's capture rules, a real pilot-agent and the proxy under judgement."""
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct

import manifests
from harness import until
from spaces import Space

UID = 1337
ADMIN, STATUS, HEALTH, METRICS = 15000, 15020, 15021, 15090
APP_UID = 2000
# What an echo program listens on; names are those of service ports.
HTTP, HTTP_ALT, GRPC, TCP, SERVER_FIRST, TLS = 8080, 8085, 7070, 9090, 9091, 8443


class Answer:
    """What came back on one HTTP call."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body
        self.text = body.decode(errors="replace")

    def field(self, name):
        """One field of an echo program's answer; None if it is not there."""
        found = re.search(rf"^(?:\[.*?body\] )?{re.escape(name)}=(.*)$", self.text, re.M)
        return found[1] if found else None

    def request_header(self, name):
        """A header as the echo program received it."""
        found = re.search(rf"^RequestHeader={re.escape(name)}:(.*)$", self.text, re.M | re.I)
        return found[1] if found else None

    def __repr__(self):
        return f"{self.status} {self.text[:300]!r}"


class Pod:
    """`proxy`: "mizzen", "envoy" or None for a pod without a sidecar. `istiod`: whose it is, if not what the lab
    gives pods with such a proxy."""

    def __init__(self, lab, name, number, *, app, version="v1", account=None, proxy="mizzen", capture=True, env=None,
                 istiod=None):
        self.lab, self.name, self.app, self.version, self.proxy = lab, name, app, version, proxy
        self.account, self.number, self.capture, self.extra = account or app, number, capture, env or {}
        self.istiod = istiod or lab.istiod_of(proxy)
        self.folder = lab.folder / "pods" / name
        self.folder.mkdir(parents=True)
        self.space = Space(name, mounts=[*lab.mounts, (lab.folder / "resolv.conf", "/etc/resolv.conf")])
        lab.closing.callback(self.space.close)
        self.address = lab.network.wire(self.space, number)
        self.address6 = f"{lab.network.prefix6}:{number}"
        self.log_path = self.folder / "agent.log"
        self.agent = None
        self.started, self.failed, self.runtime = False, None, {}
        self.labels = {"app": app, "version": version, **(manifests.MUTUAL_TLS if proxy else {})}

    # ---- the application

    def start_app(self, tls=None):
        """The echo program on all its ports, as an ordinary user."""
        words = ["--version", self.version, "--port", f"{HTTP},{HTTP_ALT}" + (f",{TLS}" if tls else ""),
                 "--grpc", GRPC, "--tcp", f"{TCP},{SERVER_FIRST}", "--server-first", SERVER_FIRST]
        if tls:
            words += ["--tls", TLS, "--crt", tls[0], "--key", tls[1]]
        with open(self.folder / "app.log", "a") as log:
            self.app_process, self.app_pid = self.space.start(
                self.lab.programs / "server", *words, uid=APP_UID, log=log,
                env={"PATH": os.environ["PATH"], "INSTANCE_IP": self.address, "GOMAXPROCS": "1"})
        return self

    def app_log(self, wanted):
        """The application's lines that match."""
        text = (self.folder / "app.log").read_text(errors="replace")
        return [line for line in text.splitlines() if re.search(wanted, line)]

    # ---- capture, agent and proxy

    def capture_traffic(self):
        self.space.must(self.lab.programs / "pilot-agent", "istio-iptables", "-p", "15001", "-z", "15006", "-u", UID,
                        "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*", "-d", f"{METRICS},{HEALTH},{STATUS}",
                        "--redirect-dns", "--capture-all-dns",
                        env={**os.environ, "ISTIO_DUAL_STACK": "true"} if self.lab.dual else None)

    def _files(self):
        def write(path, text):
            target = self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        write("etc/istio/pod/labels", "".join(f'{k}="{v}"\n' for k, v in self.labels.items()))
        write("etc/istio/pod/annotations", "")
        write("etc/istio/config/mesh", "{}")
        subject = f"system:serviceaccount:{manifests.NAMESPACE}:{self.account}"
        write("var/run/secrets/tokens/istio-token", self.lab.istiod.signer.token(subject))
        write("var/run/secrets/istio/root-cert.pem", self.lab.istiod.root)
        write("var/lib/istio/envoy/envoy_bootstrap_tmpl.json",
              (self.lab.real_programs / "bootstrap-template.json").read_text())
        for folder in ("etc/istio/proxy", "var/lib/istio/data", "var/run/secrets/workload-spiffe-uds"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        self.log_path.touch()
        for path in [self.folder, *self.folder.rglob("*")]:
            os.chown(path, UID, UID, follow_symlinks=False)

    def environment(self):
        lab, istiod = self.lab, self.istiod.discovery
        settings = {"binaryPath": str(lab.proxy_path(self.proxy)), "configPath": "./etc/istio/proxy",
                    "proxyBootstrapTemplatePath": "./var/lib/istio/envoy/envoy_bootstrap_tmpl.json",
                    "discoveryAddress": istiod, "concurrency": 1, "terminationDrainDuration": "5s", "tracing": {},
                    **({"runtimeValues": self.runtime} if self.runtime else {})}
        ports = json.dumps([{"containerPort": HTTP, "protocol": "TCP"}])
        return {
            "PATH": os.environ["PATH"], "HOME": str(self.folder), "POD_NAME": self.name,
            "POD_NAMESPACE": manifests.NAMESPACE,
            "INSTANCE_IP": self.address, "HOST_IP": self.address, "SERVICE_ACCOUNT": self.account,
            "TRUST_DOMAIN": "cluster.local", "PILOT_CERT_PROVIDER": "istiod", "CA_ADDR": istiod,
            "ISTIOD_SAN": "istiod.istio-system.svc", "PROXY_CONFIG": json.dumps(settings),
            "ISTIO_META_CLUSTER_ID": "Kubernetes", "ISTIO_META_MESH_ID": "cluster.local",
            "ISTIO_META_NODE_NAME": "node", "ISTIO_META_WORKLOAD_NAME": self.workload,
            "ISTIO_META_OWNER": f"kubernetes://apis/apps/v1/namespaces/demo/deployments/{self.workload}",
            "ISTIO_META_INTERCEPTION_MODE": "REDIRECT", "ISTIO_META_APP_CONTAINERS": "app",
            "ISTIO_META_POD_PORTS": ports, "ISTIO_META_ISTIO_PROXY_SHA": "lab", "ISTIO_META_DNS_CAPTURE": "true",
            "CLOUD_PLATFORM": "none", "GOMAXPROCS": "1",
            **({"ISTIO_DUAL_STACK": "true"} if lab.dual else {}), **self.extra}

    @property
    def workload(self):
        return f"{self.app}-{self.version}"

    def start_agent(self):
        """pilot-agent as the sidecar container runs it; it starts the proxy."""
        self._files()
        with open(self.log_path, "a") as log:
            self.agent, self.agent_pid = self.space.start(
                self.lab.programs / "pilot-agent", "proxy", "sidecar", "--domain",
                f"{manifests.NAMESPACE}.svc.cluster.local", "--proxyLogLevel", "warning",
                "--proxyComponentLogLevel", "misc:error", "--log_output_level", "default:info",
                uid=UID, cwd=self.folder, env=self.environment(), log=log)
        return self

    def signal_agent(self, number=signal.SIGTERM):
        os.kill(self.agent_pid, number)

    def stop_agent(self):
        """Ends the agent, and the proxy with it, at once."""
        for pid in [self.proxy_pid(), self.agent_pid]:
            with contextlib.suppress(ProcessLookupError, TypeError):
                os.kill(pid, signal.SIGKILL)
        self.agent.wait()

    def proxy_pid(self):
        """The proxy's process id, None without one."""
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    same = os.stat(entry / "ns/net").st_ino == os.fstat(self.space.net).st_ino
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if same and b"etc/istio/proxy/envoy-rev.json" in words:
                        return int(entry.name)
        return None

    def log(self):
        return self.log_path.read_text(errors="replace")

    def access_log(self, wanted):
        """The access log's lines that match."""
        return [line for line in self.log().splitlines() if re.search(wanted, line)]

    # ---- questions to the sidecar

    def admin(self, path, method="GET", port=ADMIN, timeout=10):
        """(status, text); status 0 and the reason if nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        try:
            connection.sock = self.space.connect("127.0.0.1", port, timeout)
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)
        finally:
            connection.close()

    def ready(self):
        """What the kubelet's probe sees: the way through the proxy's own listener to the agent."""
        if self.agent.poll() is not None:
            raise AssertionError(f"{self.name}: the agent ended with {self.agent.returncode}: {self.log()[-1200:]}")
        return self.admin("/healthz/ready", port=HEALTH)[0] == 200

    def wait_ready(self, timeout=30):
        try:
            until(f"{self.name} is ready", self.ready, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.state()}") from None
        return self

    def state(self):
        """In short what a proxy that is not ready says of itself."""
        says = [self.admin(path) for path in ("/ready", "/init_dump")]
        agent = self.admin("/healthz/ready", port=STATUS)
        return f"/ready {says[0]}, agent {agent}, init_dump {says[1][1][:400]!r}"

    def stats(self, pattern, used=False):
        """{name: value} of the admin's counters and gauges that match."""
        _, text = self.admin(f"/stats?filter={pattern}" + ("&usedonly" if used else ""))
        pairs = (line.rsplit(": ", 1) for line in text.splitlines() if ": " in line)
        return {name: int(value) for name, value in pairs if value.isdigit()}

    def metrics(self, family):
        """The samples of one Prometheus family, as a scrape of the agent sees them: [(labels, value)]."""
        _, text = self.admin("/stats/prometheus", port=STATUS)
        samples = re.findall(rf"^{family}(?:{{(.*)}})? (\S+)$", text, re.M)
        return [(dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels)), float(value)) for labels, value in samples]

    def dump(self, query=""):
        status, text = self.admin("/config_dump" + query)
        assert status == 200, f"config_dump: {status}"
        return json.loads(text)

    # ---- calls out of the pod

    def connect(self, address, port, timeout=10.0):
        return self.space.connect(address, port, timeout)

    def resolve(self, name, kind=1, timeout=5.0):
        """The addresses a name server gives for `name`; with capture that is the agent's. `kind`: 1 A, 28 AAAA."""
        question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
        query = struct.pack("!6H", 77, 0x0100, 1, 0, 0, 0) + question + struct.pack("!2H", kind, 1)
        with self.space.inside():
            asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with asking:
            asking.settimeout(timeout)
            asking.sendto(query, (f"{self.lab.network.prefix}.1", 53))
            answer = asking.recv(4096)
        size = {1: 4, 28: 16}[kind]
        # Every answer is a pointer to the question, then type, class, time to live, length and the address.
        found, at = [], len(query)
        for _ in range(struct.unpack("!H", answer[6:8])[0]):
            at += 2 if answer[at] & 0xC0 else answer[at:].index(0) + 1
            what, _, _, length = struct.unpack("!2HIH", answer[at:at + 10])
            if what == kind and length == size:
                family = socket.AF_INET if kind == 1 else socket.AF_INET6
                found.append(socket.inet_ntop(family, answer[at + 10:at + 10 + length]))
            at += 10 + length
        return found

    def http(self, address, port=80, path="/", host=None, method="GET", headers=None, body=None, timeout=10.0):
        """One HTTP/1.1 call of the application to `address`."""
        host = host or (f"[{address}]" if ":" in address else address)
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            connection.sock = self.space.connect(address, port, timeout)
            connection.request(method, path, body=body, headers={"Host": host, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def client(self, url, *words, count=1, timeout=30):
        """Istio's echo client in the pod: (exit code, its output)."""
        return self.space.call(self.lab.programs / "client", url, "--count", count, "--timeout", "10s", *words,
                               uid=APP_UID, timeout=timeout)


def copy_binary(source, target):
    shutil.copyfile(source, target)
    os.chmod(target, 0o755)
    return target
