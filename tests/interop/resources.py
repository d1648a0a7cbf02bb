"""xDS resources on the official protos, as short as cases want them."""
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
# Imported for their descriptors: typed_config is written as JSON with "@type".
from envoy.extensions.filters.http.buffer.v3 import buffer_pb2  # noqa: F401
from envoy.extensions.filters.http.cache.v3 import cache_pb2  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2  # noqa: F401
from envoy.extensions.transport_sockets.starttls.v3 import starttls_pb2  # noqa: F401
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2  # noqa: F401
from google.protobuf import any_pb2, json_format
from udpa.type.v1 import typed_struct_pb2 as udpa_typed_struct_pb2  # noqa: F401
from xds.type.v3 import typed_struct_pb2  # noqa: F401

from harness import socket_address

TYPE = "type.googleapis.com/"
ADS = {"ads": {}, "resource_api_version": "V3"}
RPC = TYPE + "mizzen.v1.RpcProxy"
HCM = TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = TYPE + "envoy.extensions.filters.http.router.v3.Router"
TCP = TYPE + "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
STARTTLS = TYPE + "envoy.extensions.transport_sockets.starttls.v3."


def cluster_json(name, ports=None, http2=False, service=None, **more):
    """STATIC with `ports`, EDS without."""
    body = {"name": name, "connect_timeout": "1s", **more}
    if http2:
        body["http2_protocol_options"] = {}
    if ports is None:
        eds = {"eds_config": {**ADS, "initial_fetch_timeout": "0s"}}
        body.update(type="EDS", eds_cluster_config={**eds, "service_name": service} if service else eds)
    else:
        body.update(type="STATIC", load_assignment=endpoints_json(name, ports))
    return body


def endpoints_json(name, ports, **more):
    hosts = [{"endpoint": {"address": socket_address(p)}, **more} for p in ports]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]}


def route_json(name, *routes):
    return {"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": list(routes)}]}


def to(cluster, match=None, **action):
    return {"match": match or {"prefix": "/"}, "route": {"cluster": cluster, **action}}


def service(pattern):
    return {"prefix": "/", "headers": [{"name": "service", "string_match": {"exact": pattern}}]}


def listener_json(name, port, *filters, **more):
    return {"name": name, "address": socket_address(port), **more,
            "filter_chains": [{"filters": [{"name": f"f{i}", "typed_config": f} for i, f in enumerate(filters)]}]}


def tcp_filter(cluster):
    return {"@type": TCP, "stat_prefix": "tcp", "cluster": cluster}


def hcm_filter(route, codec="HTTP2", **more):
    return {"@type": HCM, "stat_prefix": "http", "codec_type": codec,
            "rds": {"config_source": ADS, "route_config_name": route},
            "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}], **more}


def rpc_body(routes, down="bolt", up="", **more):
    source = {"rds": {"config_source": ADS, "route_config_name": routes}} if isinstance(routes, str) \
        else {"route_config": routes}
    return {"stat_prefix": "rpc", "downstream_protocol": down, "upstream_protocol": up, **source, **more}


def rpc_filter(routes, down="bolt", up="", spelling="xds.type.v3.TypedStruct", **more):
    """RpcProxy is not among the official protos: it travels in a TypedStruct."""
    return {"@type": TYPE + spelling, "type_url": RPC, "value": rpc_body(routes, down, up, **more)}


def rpc_by_hand(stat_prefix, down, route_name):
    """The same filter as an Any of mizzen.v1.RpcProxy, encoded by hand."""
    def text(number, value):
        data = value if isinstance(value, bytes) else value.encode()
        return bytes([number << 3 | 2, len(data)]) + data
    ads = bytes.fromhex("1a00") + bytes.fromhex("3002")  # ConfigSource{ads: {}, resource_api_version: V3}
    rds = text(1, ads) + text(2, route_name)
    return any_pb2.Any(type_url=RPC, value=text(1, stat_prefix) + text(2, down) + text(4, rds))


def cluster(*args, **more):
    return json_format.ParseDict(cluster_json(*args, **more), cluster_pb2.Cluster())


def endpoints(name, ports, **more):
    return json_format.ParseDict(endpoints_json(name, ports, **more), endpoint_pb2.ClusterLoadAssignment())


def routes(name, *entries):
    return json_format.ParseDict(route_json(name, *entries), route_pb2.RouteConfiguration())


def listener(*args, **more):
    return json_format.ParseDict(listener_json(*args, **more), listener_pb2.Listener())
