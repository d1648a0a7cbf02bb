"""Programs of others that judge from outside: built by their own package managers into target/interop-peers, once."""
import os
import pathlib
import shutil
import socket
import subprocess
import sys

from harness import until

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "target" / "interop-peers"
SKIPPED = 77


def skip(why):
    print(f"SKIPPED: {why}", file=sys.stderr)
    sys.exit(SKIPPED)


def choose_binary(given):
    """The binary to judge: the one named, the variable MIZZEN's, else a release build. Returns its path and leaves
    it where the harness looks."""
    import harness
    named = given or os.environ.get("MIZZEN")
    if not named:
        subprocess.run(["cargo", "build", "--release"], cwd=ROOT, check=True)
        named = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "mizzen"
    harness.BINARY = str(pathlib.Path(named).resolve())
    return harness.BINARY


def go_programs(module, programs, requires=()):
    """Builds `programs` (file name: package) of a Go module at a fixed version; their paths by name. `requires`:
    further modules it needs named."""
    if shutil.which("go") is None:
        skip("Go is not installed")
    folder = FOLDER / module.replace("/", "_")
    built = {name: folder / name for name in programs}
    if all(path.is_file() for path in built.values()):
        return built
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "go.mod").write_text("module peers\n")
    print(f"building {', '.join(programs)} of {module}", flush=True)
    version = module.rsplit("@", 1)[1]
    steps = [["go", "get", *requires, *(f"{package}@{version}" for package in programs.values())]]
    steps += [["go", "build", "-o", str(built[name]), package] for name, package in programs.items()]
    for step in steps:
        done = subprocess.run(step, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            skip(f"{' '.join(step)}: {done.stderr.strip()[-400:]}")
    return built


class Peer:
    """A program that runs beside the proxy until the end of a `with`."""

    def __init__(self, *command, log=subprocess.DEVNULL, cwd=None):
        self.process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT,
                                        stdin=subprocess.DEVNULL, cwd=cwd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def listens(self, port):
        def check():
            assert self.process.poll() is None, f"{self.process.args[0]} ended with {self.process.returncode}"
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0
        until(f"{self.process.args[0]} listens on {port}", check, 20)
        return self


def report(results):
    """Prints (name, what went wrong or None) and ends the program with 0 if nothing did."""
    failed = 0
    for name, why in results:
        failed += why is not None
        print(f"{'FAIL' if why else 'PASS'} {name}" + (f": {why}" if why else ""), flush=True)
    print(f"{len(results)} judged, {failed} failed")
    sys.exit(1 if failed else 0)
