"""What a request costs: CPU time of the two proxies, and how much later the answer comes."""
import measure
from measure import Spread, digits
from pairs import LABELS, PAIRS

RATE, CONNECTIONS, SIZE = 1000, 16, 1024
CPU_OF_ENVOY, CPU_OF_RELAY, ADDED_P50_MS, P99_OF_ENVOY, CORES = 0.4, 2.0, 0.15, 0.6, 0.06


def run(mesh, options, verdicts):
    mesh.need_pairs(*PAIRS)
    mesh.pin_proxies()
    results = {name: [] for name in PAIRS}
    for _ in range(options.rounds):
        # In turn, so that what else the machine does meets all of them alike.
        for name in PAIRS:
            results[name].append(load(mesh, name, options.seconds))
    show(results, options)
    judge(results, verdicts)


def load(mesh, name, seconds):
    client, target, between = mesh.pair(name)
    words = [f"connections={CONNECTIONS}", f"rate={RATE}", f"size={SIZE}", f"ms={seconds * 1000}"]
    result = mesh.measured(client, "steady", target, mesh.host(name), ",".join(map(str, between)), *words,
                           timeout=seconds + 30)
    assert result["requests"] > 0, f"no request of {name} succeeded"
    return result


def cpu(result):
    """µs a request, both proxies."""
    return sum(result["cpu_us"]) / result["requests"]


def show(results, options):
    print(f"{RATE} requests/s over {CONNECTIONS} connections, {SIZE} bytes each way, HTTP/1.1, mutual TLS between the "
          f"proxies; {options.rounds} rounds of {options.seconds} s in turn; medians (quartiles)")
    rows = []
    for name, rounds in results.items():
        def of(read, rounds=rounds):
            return Spread([read(result) for result in rounds])
        cores = of(lambda r: sum(r["cpu_us"]) / 1e6 / r["seconds"] * RATE / (r["requests"] / r["seconds"]))
        sides = [of(lambda r, at=at: r["cpu_us"][at] / r["requests"]).median for at in range(len(rounds[0]["cpu_us"]))]
        rss = [max(r["rss_kib"][at] for r in rounds) / 1024 for at in range(len(rounds[0]["rss_kib"]))]
        rows.append([LABELS[name], of(cpu) if sides else "–", " + ".join(map(digits, sides)) or "–",
                     digits(cores.median) if sides else "–",
                     *(of(lambda r, key=key: r[key]) for key in ("p50", "p90", "p99")),
                     digits(of(lambda r: r["p999"]).median), " + ".join(map(digits, rss)) or "–",
                     str(sum(r["failed"] for r in rounds))])
    measure.table(["", "CPU µs/request", "client + server", "cores per 1,000/s", "p50 µs", "p90 µs", "p99 µs",
                   "p99.9 µs", "RSS MB", "failed"], rows)


def judge(results, verdicts):
    def paired(one, other, read):
        return Spread([read(a, b) for a, b in zip(results[one], results[other])])

    def added(key):
        return lambda result, control: result[key] - control[key]
    for name in ("mizzen", "default"):
        label = LABELS[name]
        verdicts.add(f"{label}: CPU per request / Envoy's", paired(name, "envoy", lambda a, b: cpu(a) / cpu(b)),
                     CPU_OF_ENVOY)
        verdicts.add(f"{label}: CPU per request / the relays'", paired(name, "relay", lambda a, b: cpu(a) / cpu(b)),
                     CPU_OF_RELAY)
        p50 = [added("p50")(a, b) / 1000 for a, b in zip(results[name], results["none"])]
        verdicts.add(f"{label}: added p50", Spread(p50), ADDED_P50_MS, " ms")
        # Medians first: a difference of two tails of single rounds says little.
        control = Spread([result["p99"] for result in results["none"]]).median
        late, envoys = (Spread([result["p99"] for result in results[who]]).median - control
                        for who in (name, "envoy"))
        verdicts.add(f"{label}: added p99 ({digits(late)} µs) / Envoy's ({digits(envoys)} µs)",
                     late / envoys if envoys > 0 else float("inf"), P99_OF_ENVOY)
        verdicts.add(f"{label}: cores per 1,000 requests/s, one sidecar of the two",
                     Spread([cpu(result) / 2 / 1000 for result in results[name]]), CORES)
        verdicts.add(f"{label}: cores per 1,000 requests/s, both sidecars",
                     Spread([cpu(result) / 1000 for result in results[name]]), CORES)
