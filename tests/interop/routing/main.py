#!/usr/bin/env python3
"""Compares the answers of Envoy and Mizzen: main.py [--tables N] [--requests N] [--seed N] [--only TABLE]"""
import argparse
import json
import os
import random
import sys
import time

import peers
import refused
import tables
from wire import Backend, Client


def answers(peer, port, requests):
    client, got = Client(port), []
    for request in requests:
        try:
            got.append(client.ask(*request))
        except (OSError, EOFError) as error:
            got.append((f"connection: {error}", [], ""))
            client.close()
            client = Client(port)
    client.close()
    return got


def normal(answer):
    """Local replies differ in their words, so that of bodies only JSON and route names count."""
    status, headers, body = answer
    mine = body.startswith("{") or (body.startswith("t") and body[1:2].isdigit())
    return status, headers, body if mine else ""


def compare(names, made, asked, both, most):
    found = 0
    for i, (table, requests) in enumerate(zip(made, asked)):
        got = [answers(peer, peer.ports[i], requests) for peer in both]
        for request, theirs, ours in zip(requests, *got):
            if normal(theirs) == normal(ours):
                continue
            found += 1
            if found <= most:
                print(f"DIFFERENT table {names[i]}: {request}\n    Envoy:  {theirs}\n    Mizzen: {ours}")
        if found and most == 1:
            print(json.dumps(table, indent=1))
            break
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=60)
    parser.add_argument("--requests", type=int, default=100, help="per table")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="this table alone, printed with its first difference")
    options = parser.parse_args()
    began = time.monotonic()
    names = [options.only] if options.only is not None else list(range(options.tables))
    made, asked = [], []
    for name in names:
        maker = tables.Maker(random.Random(f"{options.seed}/{name}"))
        made.append(maker.table(f"t{name}"))
        asked.append([maker.request() for _ in range(options.requests)])
    backends = [Backend(name) for name in tables.CLUSTERS]
    both = peers.start(made, backends)
    try:
        found = compare(names, made, asked, both, 1 if options.only is not None else 20)
    finally:
        for peer in both:
            peer.end()
    count = sum(map(len, asked))
    print(f"{count} requests to {len(made)} tables (seed {options.seed}): {found} answers differ "
          f"({time.monotonic() - began:.1f} s)")
    wrong = refused.compare(backends) if options.only is None else 0
    return 1 if found or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
