#!/usr/bin/env python3
"""Runs a pair of sidecars of a default installation under callgrind, with some requests, and leaves their traces.

    MIZZEN=target/release/mizzen MIZZEN_BENCH=tests/bench/target/release/mizzen-bench \\
        tests/interop/istio/startup_traces.py FOLDER      # needs root, valgrind, and what `figures` needs
    tests/bench/startup_order.py FOLDER/trace.*
"""
import os
import pathlib
import shutil
import signal
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import programs  # noqa: E402
from harness import until  # noqa: E402
from pairs import Mesh  # noqa: E402
from pods import UID  # noqa: E402

PAIR, CALLS, PATIENCE = "default", 60, 300
_WRAPPER = """#!/bin/sh
exec valgrind --tool=callgrind --callgrind-out-file={folder}/trace.%p --dump-instr=yes --compress-pos=no \\
    --compress-strings=no {folder}/mizzen "$@"
"""


def main():
    folder = pathlib.Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(os.environ["MIZZEN"], folder / "mizzen")
    wrapper = folder / "traced"
    wrapper.write_text(_WRAPPER.format(folder=folder))
    os.chown(folder, UID, UID)
    for file in (folder / "mizzen", wrapper):
        file.chmod(0o755)
    mesh = Mesh(programs.build(), wrapper)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        mesh.start_control()
        chosen = [mesh[f"{side}-{PAIR}"] for side in ("client", "web")]
        for pod in chosen:
            mesh.launch(pod)
        for pod in chosen:
            pod.wait_ready(PATIENCE)
        until("calls arrive", lambda: mesh.arrives(PAIR), PATIENCE)
        client, web = chosen
        for _ in range(CALLS):
            client.http(mesh.vip(web), 80, "/1024", host=mesh.host(PAIR), method="POST", body=b"x" * 1024, timeout=30)
        # What an idle sidecar does belongs to it.
        time.sleep(10)
        for pod in chosen:
            os.kill(pod.proxy_pid(), signal.SIGTERM)
        until("the traces are written", lambda: all(pod.proxy_pid() is None for pod in chosen), PATIENCE)
    finally:
        mesh.close()


if __name__ == "__main__":
    main()
