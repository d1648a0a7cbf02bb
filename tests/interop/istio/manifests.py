"""Objects of Kubernetes and of Istio as documents, no more of each than the cases need."""

NAMESPACE = "demo"
MUTUAL_TLS = {"security.istio.io/tlsMode": "istio"}


def meta(name, namespace=NAMESPACE, **more):
    return {"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z", **more}


def namespace(name):
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": name, "labels": {"kubernetes.io/metadata.name": name}}, "status": {"phase": "Active"}}


def node(name):
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {
        "topology.kubernetes.io/region": "region", "topology.kubernetes.io/zone": "zone"}}}


def pod(name, addresses, labels, account, workload, ports, ready=True):
    """A running pod as its scheduler and kubelet would leave it; `workload` owns it through a replica set."""
    hashed = {"pod-template-hash": "5d4f8"}
    return {"apiVersion": "v1", "kind": "Pod",
            "metadata": meta(name, labels={**labels, **hashed}, ownerReferences=[{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{workload}-5d4f8", "uid": workload,
                "controller": True}]),
            "spec": {"serviceAccountName": account, "nodeName": "node", "containers": [
                {"name": "app", "image": "app", "ports": [{"containerPort": p, "protocol": "TCP"} for p in ports]}]},
            "status": {"phase": "Running", "podIP": addresses[0], "podIPs": [{"ip": a} for a in addresses],
                       "hostIP": addresses[0],
                       "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}}


def service(name, addresses, ports, selector):
    """`ports`: {name: (port, target port)}; no address makes it headless, two are IPv4 and IPv6."""
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta(name), "spec": {
        "type": "ClusterIP", "clusterIP": addresses[0] if addresses else "None",
        "clusterIPs": list(addresses) or ["None"], "selector": selector,
        "ipFamilies": ["IPv4", "IPv6"][:max(1, len(addresses))],
        "ipFamilyPolicy": "PreferDualStack" if len(addresses) > 1 else "SingleStack",
        "ports": [{"name": label, "port": port, "targetPort": target, "protocol": "TCP"}
                  for label, (port, target) in ports.items()]}}


def slice_of(name, ports, pods, family="IPv4"):
    """The endpoints of service `name`: `pods` are (pod name, address)."""
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": meta(f"{name}-{family.lower()}", labels={"kubernetes.io/service-name": name}),
            "addressType": family,
            "endpoints": [{"addresses": [address], "conditions": {"ready": True, "serving": True},
                           "nodeName": "node", "targetRef": {"kind": "Pod", "name": pod, "namespace": NAMESPACE}}
                          for pod, address in pods],
            "ports": [{"name": label, "port": target, "protocol": "TCP"}
                      for label, (_, target) in ports.items()]}


def _istio(api, kind):
    def made(name, namespace=NAMESPACE, **spec):
        return {"apiVersion": api, "kind": kind, "metadata": meta(name, namespace), "spec": spec}
    return made


virtual_service = _istio("networking.istio.io/v1", "VirtualService")
destination_rule = _istio("networking.istio.io/v1", "DestinationRule")
service_entry = _istio("networking.istio.io/v1", "ServiceEntry")
sidecar = _istio("networking.istio.io/v1", "Sidecar")
envoy_filter = _istio("networking.istio.io/v1alpha3", "EnvoyFilter")
peer_authentication = _istio("security.istio.io/v1", "PeerAuthentication")
request_authentication = _istio("security.istio.io/v1", "RequestAuthentication")
authorization_policy = _istio("security.istio.io/v1", "AuthorizationPolicy")
telemetry = _istio("telemetry.istio.io/v1", "Telemetry")


def host(name):
    return f"{name}.{NAMESPACE}.svc.cluster.local"


def to(name, subset=None, **more):
    """One destination of a route."""
    return {"destination": {"host": host(name), **({"subset": subset} if subset else {})}, **more}


def selects(**labels):
    return {"matchLabels": labels}


def mtls(mode, app=None):
    """A PeerAuthentication of the whole namespace, or of the workloads of one app."""
    more = {"selector": selects(app=app)} if app else {}
    return peer_authentication(f"mtls-{app or 'all'}", mtls={"mode": mode}, **more)
