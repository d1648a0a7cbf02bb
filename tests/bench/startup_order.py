#!/usr/bin/env python3
"""Finds the functions that a proxy runs on its way to idle, and writes their names to src/startup.order.

build.rs has the linker place them side by side. The kernel maps 64 KB around every page of the program that is
touched, so scattered over the whole text they keep several times their size resident.

    cargo build --release && cargo build --release --manifest-path tests/bench/Cargo.toml
    tests/bench/startup_order.py              # needs valgrind and nm; MIZZEN names another binary
    tests/bench/startup_order.py TRACE...     # what these traces ran comes after what the file has already

Traces of a sidecar with mutual TLS and traffic are made by tests/interop/istio/startup_traces.py: a proxy in a mesh
runs several times as much as an idle one. Worth repeating when the idle size grows: after much new code, and, for the
names that have a hash, with another compiler or other dependencies. Where the checkout is makes no difference. A name
that is gone costs nothing, so what is there stays, behind: what one build has inlined the next has not. `--anew`
forgets it.
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
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("MIZZEN", f"{ROOT}/target/release/mizzen")
PLANE = f"{ROOT}/tests/bench/target/release/mizzen-bench"
# A pattern may bring this many times the size of what is run.
WASTE = 2
# The hash of a name, and what follows it.
HASHED = re.compile(r"17h[0-9a-f]{16}E.*$")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def bootstrap(port, kind, admin):
    source = {"ads": {}, "resource_api_version": "V3"}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    http2 = {"@type": f"type.googleapis.com/{options}", "explicit_http_config": {"http2_protocol_options": {}}}
    plane = {"name": "xds", "type": "STATIC", "typed_extension_protocol_options": {options: http2},
             "load_assignment": {"cluster_name": "xds", "endpoints": [
                 {"lb_endpoints": [{"endpoint": {"address": address}}]}]}}
    service = {"envoy_grpc": {"cluster_name": "xds"}}
    return {"node": {"id": "order", "cluster": "order"}, "static_resources": {"clusters": [plane]},
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
            "dynamic_resources": {"cds_config": source, "lds_config": source, "ads_config": {
                "api_type": kind, "transport_api_version": "V3", "grpc_services": [service]}}}


def trace(folder, kind, listener):
    """Where callgrind saw the program execute: connected by streams of `kind`, with one cluster and, unless
    `listener` is 0, an HTTP listener on this port."""
    port, admin, config, out = free_port(), free_port(), f"{folder}/bootstrap.json", f"{folder}/trace"
    with open(config, "w") as file:
        json.dump(bootstrap(port, kind, admin), file)
    plane = subprocess.Popen([PLANE, "ads", str(port), "1", str(listener), "1"] + ["hosts"] * bool(listener),
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        plane.stdout.readline()
        proxy = subprocess.Popen(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--dump-instr=yes",
                                  "--compress-pos=no", "--compress-strings=no", BINARY, "-c", config,
                                  "--concurrency", "1"], stderr=subprocess.DEVNULL)
        try:
            last = "ack RouteConfiguration" if listener else "ack ClusterLoad"
            while not (line := plane.stdout.readline()).startswith(last):
                assert line, "the control plane has ended"
            time.sleep(10)
            if listener:
                urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=60).read()
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


def exact(name):
    """`name` as the same compiler, version and dependencies give it again: a number at its end is that of a link."""
    return re.sub(r"\.llvm\.\d+$", "", name) + "*" if name.startswith(("_Z", "_R")) else name


def pattern(name):
    """`name` without what changes with every compiler and version."""
    name = HASHED.sub("17h*", exact(name))
    return re.sub(r"Cs[0-9A-Za-z]+_", "Cs*_", name)


def chosen(seen):
    """What the linker is to look for, so that it finds the functions at these addresses."""
    run, all_sizes, names, index = collections.Counter(), collections.Counter(), collections.defaultdict(set), 0
    seen = sorted(seen)
    for start, size, name in symbols():
        while index < len(seen) and seen[index] < start:
            index += 1
        all_sizes[pattern(name)] += size
        if index < len(seen) and seen[index] < start + size:
            run[pattern(name)] += size
            names[pattern(name)].add(exact(name))
    assert sum(run.values()) > 500_000, "the addresses of the trace are not those of the program"
    # A pattern stands for all functions that differ in nothing but their hash, the instances of one generic function
    # among them. Where it would bring too much that is not run, those that are run are named with their hash.
    frugal = {name for name in run if all_sizes[name] <= run[name] * WASTE}
    hashed = sorted(one for name in run if name not in frugal for one in names[name])
    ran, brought = sum(run.values()), sum(all_sizes[name] - run[name] for name in frugal)
    print(f"{ran // 1024} KB of functions were run, {brought // 1024} KB come with them", file=sys.stderr)
    return sorted(frugal) + hashed


def main():
    path, traces = f"{ROOT}/src/startup.order", [arg for arg in sys.argv[1:] if arg != "--anew"]
    known = []
    if "--anew" not in sys.argv:
        with open(path) as file:
            known = file.read().split()
    if traces:
        names = known + chosen(set().union(*map(executed, traces)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            idle = trace(folder, "DELTA_GRPC", 0) | trace(folder, "GRPC", free_port())
        names = chosen(idle) + known
    names = list(dict.fromkeys(names))
    with open(path, "w") as file:
        file.write("".join(name + "\n" for name in names))
    print(f"{len(names)} names", file=sys.stderr)


main()
