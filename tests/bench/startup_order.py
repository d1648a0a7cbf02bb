#!/usr/bin/env python3
"""Finds the functions that a proxy runs on its way to idle, and writes their names to src/startup.order.

build.rs has the linker place them side by side. The kernel maps 64 KB around every page of the program that is
touched, so scattered over the whole text they keep several times their size resident.

    cargo build --release && cargo build --release --manifest-path tests/bench/Cargo.toml
    tests/bench/startup_order.py              # needs valgrind and nm
    tests/bench/startup_order.py TRACE...     # what these traces ran comes after what the file has already

Traces of a sidecar with mutual TLS and traffic are made by tests/interop/istio/startup_traces.py: a proxy in a mesh
runs several times as much as an idle one. Worth repeating when the idle size grows; a name that is gone costs nothing.
"""
import collections
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("MIZZEN", f"{ROOT}/target/release/mizzen")
PLANE = f"{ROOT}/tests/bench/target/release/mizzen-bench"
# What the kernel maps around a touched page.
WINDOW = 64 * 1024


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def bootstrap(port):
    source = {"ads": {}, "resource_api_version": "V3"}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    http2 = {"@type": f"type.googleapis.com/{options}", "explicit_http_config": {"http2_protocol_options": {}}}
    plane = {"name": "xds", "type": "STATIC", "typed_extension_protocol_options": {options: http2},
             "load_assignment": {"cluster_name": "xds", "endpoints": [
                 {"lb_endpoints": [{"endpoint": {"address": address}}]}]}}
    service = {"envoy_grpc": {"cluster_name": "xds"}}
    return {"node": {"id": "order", "cluster": "order"}, "static_resources": {"clusters": [plane]},
            "dynamic_resources": {"cds_config": source, "lds_config": source, "ads_config": {
                "api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [service]}}}


def trace(folder):
    """Where callgrind saw the program execute."""
    port, config, out = free_port(), f"{folder}/bootstrap.json", f"{folder}/trace"
    with open(config, "w") as file:
        json.dump(bootstrap(port), file)
    plane = subprocess.Popen([PLANE, "ads", str(port), "1", "0", "1"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    try:
        plane.stdout.readline()
        proxy = subprocess.Popen(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--dump-instr=yes",
                                  "--compress-pos=no", "--compress-strings=no", BINARY, "-c", config,
                                  "--concurrency", "1"], stderr=subprocess.DEVNULL)
        try:
            while not (line := plane.stdout.readline()).startswith("ack ClusterLoad"):
                assert line, "the control plane has ended"
            time.sleep(10)
        finally:
            proxy.terminate()
            proxy.wait(60)
    finally:
        plane.kill()
        plane.wait()
    return executed(out)


def executed(out):
    """The addresses in a trace, as the program's symbols have them."""
    by_file, seen = collections.defaultdict(set), set()
    with open(out) as file:
        for line in file:
            if line.startswith("ob="):
                seen = by_file[os.path.basename(line[3:].strip())]
            elif line.startswith("0x"):
                seen.add(int(line.split()[0], 16))
    # Valgrind does not know the file of code in a section of ours; its addresses are then those of memory.
    starts = {start for start, _, _ in symbols()}
    loaded = max((0, 0x108000, 0x109000), key=lambda base: sum(at - base in starts for at in by_file["???"]))
    return by_file[os.path.basename(BINARY)] | {at - loaded for at in by_file["???"]}


def symbols():
    listed = subprocess.run(["nm", "-S", "--defined-only", BINARY], capture_output=True, text=True, check=True).stdout
    parts = (line.split() for line in listed.splitlines())
    return sorted((int(p[0], 16), int(p[1], 16), p[3]) for p in parts if len(p) == 4 and p[2] in "tTwW")


def pattern(name):
    """`name` without what changes with every compiler and version."""
    name = re.sub(r"\.llvm\.\d+$", "*", name)
    name = re.sub(r"17h[0-9a-f]{16}E.*$", "17h*", name)
    return re.sub(r"Cs[0-9A-Za-z]+_", "Cs*_", name)


def chosen(seen):
    """The patterns of the functions at these addresses, and what they have in the program, in bytes."""
    run, times, all_sizes, index = collections.Counter(), collections.Counter(), collections.Counter(), 0
    seen = sorted(seen)
    for start, size, name in symbols():
        while index < len(seen) and seen[index] < start:
            index += 1
        all_sizes[pattern(name)] += size
        if index < len(seen) and seen[index] < start + size:
            run[pattern(name)] += size
            times[pattern(name)] += 1
    assert sum(run.values()) > 500_000, "the addresses of the trace are not those of the program"
    # A name stands for all functions that differ in nothing but its hash. It is left out where it brings more of
    # others than the windows of its own would be.
    names = sorted(name for name in run if all_sizes[name] <= times[name] * WINDOW)
    # Those that bring little else are neighbours.
    names.sort(key=lambda name: run[name] < all_sizes[name] / 3)
    print(f"{sum(run.values()) // 1024} KB of functions were run", file=sys.stderr)
    return names, all_sizes


def main():
    path = f"{ROOT}/src/startup.order"
    if len(sys.argv) > 1:
        with open(path) as file:
            first = file.read().split()
        names, sizes = chosen(set().union(*map(executed, sys.argv[1:])))
        known = set(first)
        names = first + [name for name in names if name not in known]
    else:
        with tempfile.TemporaryDirectory() as folder:
            names, sizes = chosen(trace(folder))
    with open(path, "w") as file:
        file.write("".join(name + "\n" for name in names))
    print(f"{len(names)} names, {sum(sizes[name] for name in names) // 1024} KB", file=sys.stderr)


main()
