"""Full TLS handshakes that a server's sidecar takes per second of its CPU time."""
import identity
import measure
import pods
from measure import Spread
from pairs import LABELS

COUNT, AT_ONCE = 1500, 8
# Kind of key: the agent's environment, openssl's word for the client's.
KEYS = {"RSA": ({}, "rsa:2048"), "P-256": ({"ECC_SIGNATURE_ALGORITHM": "ECDSA"}, "ec")}
NAMES = ("mizzen", "envoy")


def run(mesh, options, verdicts):
    rows = []
    mesh.need("client-none")
    for key, (environment, kind) in KEYS.items():
        files = identity.leaf(mesh.folder, f"handshakes-{kind[:2]}", "URI:spiffe://cluster.local/ns/demo/sa/load",
                              authority_folder=mesh.istiod.authority, kind=kind)
        for name in NAMES:
            pod = mesh[f"web-{name}"]
            mesh.need(pod.name)
            pod.extra = dict(environment)
            mesh.restart(pod)
        mesh.pin_proxies()
        results = {name: [] for name in NAMES}
        try:
            for _ in range(options.rounds):
                for name in NAMES:
                    results[name].append(handshakes(mesh, name, key, files))
        finally:
            for name in NAMES:
                mesh[f"web-{name}"].extra = {}
        rates = {name: Spread([r["handshakes"] / (r["cpu_us"] / 1e6) for r in rounds])
                 for name, rounds in results.items()}
        for name, rounds in results.items():
            rows.append([key, LABELS[name], rates[name], Spread([r["cpu_us"] / r["handshakes"] for r in rounds]),
                         Spread([r["handshakes"] / r["seconds"] for r in rounds]), str(sum(r["failed"] for r in rounds))])
        verdicts.add(f"full handshakes per core, {key} / Envoy's", Spread([
            b["cpu_us"] / b["handshakes"] / (a["cpu_us"] / a["handshakes"])
            for a, b in zip(results["mizzen"], results["envoy"])]), 1.0, least=True)
    print(f"Full handshakes, TLS 1.3, X25519, client certificates, nothing resumed: {options.rounds} rounds of {COUNT} "
          f"in turn, {AT_ONCE} at once, to the server's sidecar, whose CPU time counts")
    measure.table(["key", "", "handshakes per core and s", "CPU µs each", "per s", "failed"], rows)


def handshakes(mesh, name, key, files):
    pod = mesh[f"web-{name}"]
    result = mesh.measured(mesh["client-none"], "handshakes", f"{pod.address}:{pods.HTTP}", mesh.host(name),
                           pod.proxy_pid(), *files, f"count={COUNT}", f"at_once={AT_ONCE}", timeout=60)
    assert result["key"] == key, f"{pod.name} has a key of kind {result['key']}, not {key}"
    assert result["failed"] * 100 <= COUNT, f"{result['failed']} of {COUNT} handshakes with {pod.name} failed"
    return result
