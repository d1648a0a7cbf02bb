"""Test hosts as Linux namespaces: one for the control plane with a bridge, one for each pod. A pause process holds a
host's network, mounts and processes; it dies with this program, however that ends, and takes all of it along."""
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_HOME = os.open("/proc/self/ns/net", os.O_RDONLY)
_INTERFACE_LIMIT = 12


def _setns(descriptor):
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def die_with_parent():
    """For preexec_fn: the child is killed when the thread that started it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def run(*command, **more):
    """One command that has to succeed; its standard output."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, **more)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def only_child(pid, timeout=5.0):
    """The process id of the one child of `pid`, once there is one."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as children:
            found = children.read().split()
            if found:
                return int(found[0])
        time.sleep(0.005)
    raise RuntimeError(f"process {pid} started nothing")


class Space:
    """One test host. `mounts`: (what, where) pairs bound inside of it."""

    def __init__(self, name, mounts=()):
        self.name = name
        self.started = []
        binds = "".join(f"mount --bind '{what}' '{where}' && " for what, where in mounts)
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
             f"{binds}hostname '{name}' && ip link set lo up && echo up && exec sleep infinity"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True,
            preexec_fn=die_with_parent)
        if self.holder.stdout.readline() != "up\n":
            raise RuntimeError(f"host {name} does not come up")
        self.pid = only_child(self.holder.pid)
        self.net = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)

    def close(self):
        """Ends every process in it; the namespaces go with the last one."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.holder.wait()
        self.holder.stdout.close()
        for process in self.started:
            process.wait()
        os.close(self.net)

    @contextlib.contextmanager
    def inside(self):
        """This thread is on the host's network within the `with`; sockets made there stay there."""
        _setns(self.net)
        try:
            yield
        finally:
            _setns(_HOME)

    def connect(self, address, port, timeout=10.0, source=None):
        with self.inside():
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.settimeout(timeout)
            if source:
                made.bind((source, 0))
            made.connect((address, port))
            return made
        except BaseException:
            made.close()
            raise

    def listen(self, address, port, backlog=128):
        with self.inside():
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        made.listen(backlog)
        return made

    def entering(self, uid=None):
        """The words before a command that runs on this host, as user and group `uid` without any capability."""
        words = ["nsenter", "--target", str(self.pid), "--net", "--mount", "--uts", "--pid", "--"]
        if uid is not None:
            words += ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--bounding-set=-all",
                      "--inh-caps=-all", "--no-new-privs", "--"]
        return words

    def start(self, *command, uid=None, cwd=None, env=None, log=subprocess.DEVNULL):
        """Starts a command on this host; (the helper that waits for it, its own process id)."""
        words = self.entering(uid)
        at = words.index("--")
        if cwd:
            words[at:at] = [f"--wdns={cwd}"]
        process = subprocess.Popen([*words, *map(str, command)], stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=subprocess.STDOUT, env=env, preexec_fn=die_with_parent)
        self.started.append(process)
        return process, only_child(process.pid)

    def call(self, *command, uid=None, timeout=30, env=None):
        """One command on this host to its end: (exit code, output of both streams)."""
        done = subprocess.run([*self.entering(uid), *map(str, command)], stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, env=env)
        return done.returncode, done.stdout

    def must(self, *command, **more):
        code, text = self.call(*command, **more)
        if code:
            raise RuntimeError(f"{self.name}: {' '.join(map(str, command))}: {text.strip()[-600:]}")
        return text


class Network:
    """A bridge on `hub`, to which the other hosts are wired. Addresses are `prefix`.N and `prefix6`::N."""

    def __init__(self, hub, prefix="10.77.0", prefix6="fd77:"):
        self.hub, self.prefix, self.prefix6 = hub, prefix, prefix6
        hub.must("ip", "link", "add", "br0", "type", "bridge")
        hub.must("ip", "address", "add", f"{prefix}.1/24", "dev", "br0")
        hub.must("ip", "address", "add", f"{prefix6}:1/64", "dev", "br0", "nodad")
        hub.must("ip", "link", "set", "br0", "up")

    def wire(self, space, number):
        """Gives `space` the address with that number and a default route, so that virtual addresses are routable."""
        port = f"to-{space.name}"[:_INTERFACE_LIMIT]
        run("ip", "link", "add", port, "netns", self.hub.pid, "type", "veth", "peer", "name", "eth0",
            "netns", space.pid)
        self.hub.must("ip", "link", "set", port, "master", "br0", "up")
        space.must("ip", "address", "add", f"{self.prefix}.{number}/24", "dev", "eth0")
        space.must("ip", "address", "add", f"{self.prefix6}:{number}/64", "dev", "eth0", "nodad")
        space.must("ip", "link", "set", "eth0", "up")
        space.must("ip", "route", "add", "default", "via", f"{self.prefix}.1")
        space.must("ip", "-6", "route", "add", "default", "via", f"{self.prefix6}:1")
        return f"{self.prefix}.{number}"
