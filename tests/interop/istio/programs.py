"""Istio's own programs, built once by the Go toolchain at one fixed version, outside of the repository.

The folder is MIZZEN_ISTIO_CACHE, else mizzen-istio under the user's cache directory."""
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
VERSION = "1.31.0"  # becomes ISTIO_VERSION of a node: istiod decides by it what to send
PACKAGES = {
    "pilot-discovery": "istio.io/istio/pilot/cmd/pilot-discovery",
    "pilot-agent": "istio.io/istio/pilot/cmd/pilot-agent",
    "server": "istio.io/istio/pkg/test/echo/cmd/server",
    "client": "istio.io/istio/pkg/test/echo/cmd/client",
    "istioctl": "istio.io/istio/istioctl/cmd/istioctl",
}
TEMPLATE = "tools/packaging/common/envoy_bootstrap.json"
SKIPPED = 77


def skip(why):
    print(f"istio: SKIPPED: {why}", file=sys.stderr)
    sys.exit(SKIPPED)


def cache():
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get("MIZZEN_ISTIO_CACHE") or pathlib.Path(base) / "mizzen-istio")


def _go(*words, cwd):
    env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    done = subprocess.run(["nice", "-n", "10", "go", *words], cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        skip(f"go {words[0]}: {done.stderr.strip()[-600:]}")
    return done.stdout


def build():
    """The folder with the programs and the agent's bootstrap template."""
    pinned = (HERE / "go.mod").read_text() + VERSION
    folder = cache() / "bin"
    stamp = folder / "built-from"
    if stamp.is_file() and stamp.read_text() == pinned:
        return folder
    if shutil.which("go") is None:
        skip("Go is not installed; it builds istiod, pilot-agent, istioctl and the echo programs")
    source = cache() / "src"
    source.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("go.mod", "go.sum"):
        shutil.copy(HERE / name, source / name)
    print("istio: building Istio's programs; the first time takes minutes and some gigabytes", flush=True)
    _go("build", "-p", "1", "-ldflags", f"-X istio.io/istio/pkg/version.buildVersion={VERSION}", "-o", f"{folder}/",
        *PACKAGES.values(), cwd=source)
    module = pathlib.Path(_go("list", "-m", "-f", "{{.Dir}}", "istio.io/istio", cwd=source).strip())
    shutil.copyfile(module / TEMPLATE, folder / "bootstrap-template.json")
    stamp.write_text(pinned)
    return folder
