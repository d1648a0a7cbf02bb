#!/usr/bin/env python3
"""Runs the interop cases: main.py [--list] [--jobs N] [NAME...] with MIZZEN set to the binary."""
import argparse
import concurrent.futures
import sys
import time
import traceback

import harness


def one(function):
    start = time.monotonic()
    try:
        function()
        return function, None, time.monotonic() - start
    except BaseException as error:  # a case may fail in any way; the others still run
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = next((f for f in reversed(traceback.extract_tb(error.__traceback__)) if "/cases_" in f.filename), frame)
        why = f"{type(error).__name__}: {error}" if not isinstance(error, AssertionError) else str(error)
        return function, f"{why} ({place.filename.rsplit('/', 1)[-1]}:{place.lineno})", time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="only print the names")
    parser.add_argument("--jobs", type=int, default=4, help="cases at a time")
    parser.add_argument("names", nargs="*", help="parts of case names; none means all")
    options = parser.parse_args()
    import cases_admin, cases_cli, cases_counters, cases_edges, cases_proxy, cases_state, cases_warming, cases_xds  # noqa: E401, F401
    import cases_auth, cases_framing, cases_http2_limits, cases_long  # noqa: E401, F401
    chosen = [f for f in harness.CASES if not options.names or any(n in f.__name__ for n in options.names)]
    if options.list:
        for function in chosen:
            print(f"{function.__name__}: {function.__doc__.strip().splitlines()[0]}")
        return 0
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for function, why, seconds in pool.map(one, chosen):
            failed += why is not None
            print(f"{'FAIL' if why else 'PASS'} {function.__name__} ({seconds:.1f} s): "
                  f"{function.__doc__.strip().splitlines()[0]}" + (f"\n     {why}" if why else ""), flush=True)
    print(f"{len(chosen)} cases, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
