"""What the kernel knows of a process, medians, and how a figure is printed beside its target."""
import contextlib
import os
import statistics
import time

PROXY_CPU, OTHER_CPU = 0, 1
# A proxy that uses less of a CPU than this is at rest; Envoy writes down its counters every few seconds.
_AT_REST = 0.06


def _tasks(pid):
    with contextlib.suppress(OSError):
        return os.listdir(f"/proc/{pid}/task")
    return []


def cpu_ms(pid):
    """CPU time of all its threads, in milliseconds, from the scheduler's own clock."""
    total = 0
    for task in _tasks(pid):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/schedstat") as file:
            total += int(file.read().split()[0])
    return total / 1e6


def memory_mb(pid, field="VmRSS"):
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    return 0.0


def pin(pid, *cpus):
    """Confines every thread of a process to these CPUs; new threads follow those that make them."""
    for task in _tasks(pid):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(int(task), cpus)


@contextlib.contextmanager
def all_cpus():
    """What is started within the `with` may run anywhere."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {PROXY_CPU, OTHER_CPU})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def at_rest(pid, least=2.0, timeout=90.0, window=0.5):
    """Waits until a process has been at rest for two seconds, `least` seconds at least; seconds that took."""
    began = time.monotonic()
    since, last = began, cpu_ms(pid)
    while True:
        time.sleep(window)
        now, used = time.monotonic(), cpu_ms(pid)
        if used - last > window * 1000 * _AT_REST:
            since = now
        last = used
        if now - since >= 2.0 and now - began >= least:
            return now - began
        if now - began > timeout:
            raise AssertionError(f"process {pid} is not at rest after {timeout} s")


class Spread:
    """The median of some values and the quartiles around it."""

    def __init__(self, values):
        values = sorted(values)
        self.median = statistics.median(values)
        low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [self.median] * 3
        self.low, self.high = low, high

    def __str__(self):
        if self.low == self.high:
            return digits(self.median)
        return f"{digits(self.median)} ({digits(self.low)}–{digits(self.high)})"


def digits(value):
    """Three digits that say something."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" \
        if abs(value) >= 0.1 else f"{value:.3f}"


def table(head, rows):
    rows = [[cell if isinstance(cell, str) else str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print(flush=True)


class Verdicts:
    """Every figure that has a target; what could not be measured."""

    def __init__(self):
        self.rows, self.failed = [], []

    def add(self, what, value, target, unit="", least=False):
        """`value`: a number or a Spread, whose median is judged; at most `target`, or at least with `least`."""
        number = value.median if isinstance(value, Spread) else value
        met = number >= target if least else number <= target
        shown = str(value) if isinstance(value, Spread) else digits(value)
        self.rows.append([what, f"{shown}{unit}", f"{'≥' if least else '≤'} {target:g}{unit}",
                          "met" if met else "FELL SHORT"])

    def show(self):
        print("Beside the targets")
        table(["", "measured", "target", ""], self.rows)
        short = [row[0] for row in self.rows if row[3] != "met"]
        print(f"{len(self.rows)} figures with a target, {len(short)} fell short{': ' if short else ''}"
              + "; ".join(short))
        for what in self.failed:
            print(f"not measured: {what}")
