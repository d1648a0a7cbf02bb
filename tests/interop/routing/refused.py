"""Tables that are taken or refused by both alike."""
import copy
import os

import peers

PLAIN = {"match": {"prefix": "/"}, "route": {"cluster": "c0"}}


def table(*routes, **more):
    return {"name": "t", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": list(routes), **more}]}


def route(**action):
    made = copy.deepcopy(PLAIN)
    made["route"].update(action)
    return table(made)


def match(**condition):
    return table({"match": condition, "route": {"cluster": "c0"}})


def header(value, **more):
    return table({**PLAIN, "request_headers_to_add": [{"header": {"key": "x", "value": value}, **more}]})


def substitution(pattern, text):
    return {"pattern": {"regex": pattern}, "substitution": text}


# What it is: the table. Whether it is taken, Envoy says.
CASES = {
    "plain": table(PLAIN),
    "no action": table({"match": {"prefix": "/"}}),
    "no path": match(headers=[{"name": "x"}]),
    "bad regex": match(safe_regex={"regex": "(("}),
    "empty regex": match(safe_regex={"regex": ""}),
    "a brace that counts nothing": match(safe_regex={"regex": "/{id}"}),
    "look-ahead": match(safe_regex={"regex": "(?=a)"}),
    "back-reference": match(safe_regex={"regex": "(a)\\1"}),
    "separated prefix with a slash at its end": match(path_separated_prefix="/a/"),
    "range without numbers": match(prefix="/", headers=[{"name": "x", "range_match": {"start": 5, "end": 5}}]),
    "fraction without default": match(prefix="/", runtime_fraction={"runtime_key": "x"}),
    "header match without name": match(prefix="/", headers=[{"name": ""}]),
    "group that is not there": route(regex_rewrite=substitution("a", "\\1")),
    "odd escape": route(regex_rewrite=substitution("a", "\\x")),
    "two rewrites": route(prefix_rewrite="/x", regex_rewrite=substitution("a", "b")),
    "negative timeout": route(timeout="-1s"),
    "header operator": header("%REQ(x)%"),
    "unknown operator": header("%NO_SUCH_THING%"),
    "lone percent": header("5%"),
    "two percents": header("5%%"),
    "pseudo header": table({**PLAIN, "request_headers_to_add": [{"header": {"key": ":path", "value": "x"}}]}),
    "host header removed": table({**PLAIN, "request_headers_to_remove": ["host"]}),
    "weights of nothing": route(cluster=None, weighted_clusters={"clusters": [{"name": "c0", "weight": 0}]}),
    "weight and name of nobody": route(cluster=None, weighted_clusters={"clusters": [{"weight": 1}]}),
    "same domain twice": {"name": "t", "virtual_hosts": [{"name": n, "domains": ["a", n]} for n in "vw"]},
    "same domain in other case": {"name": "t", "virtual_hosts": [{"name": "v", "domains": ["a.B", "A.b"]}]},
    "no domain": {"name": "t", "virtual_hosts": [{"name": "v", "domains": []}]},
    "direct status 99": table({"match": {"prefix": "/"}, "direct_response": {"status": 99}}),
    "direct body too long": table({"match": {"prefix": "/"}, "direct_response": {
        "status": 200, "body": {"inline_string": "x" * 4097}}}),
    "hash of nothing": route(hash_policy=[{}]),
    "hash of a cookie": route(hash_policy=[{"cookie": {"name": "c", "ttl": "5s"}}]),
    "mirror to nobody": route(request_mirror_policies=[{}]),
    "mirror": route(request_mirror_policies=[{"cluster": "c1"}]),
    "upgrade twice": route(upgrade_configs=[{"upgrade_type": "a"}, {"upgrade_type": "A"}]),
    "retry back-off upside down": route(retry_policy={
        "retry_on": "5xx", "retry_back_off": {"base_interval": "2s", "max_interval": "1s"}}),
    "unknown retry word": route(retry_policy={"retry_on": "nonsense"}),
    "template with two rests": match(path_match_policy={
        "name": "envoy.path.match.uri_template.uri_template_matcher", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
            "path_template": "/**/*"}}),
}


# Envoy takes it and then gives up in the middle of a replacement.
DELIBERATE = {"odd escape"}


def cleaned(value):
    if isinstance(value, dict):
        return {k: cleaned(v) for k, v in value.items() if v is not None}
    return [cleaned(v) for v in value] if isinstance(value, list) else value


def compare(backends):
    wrong = 0
    for name, made in CASES.items():
        made = cleaned(made)
        theirs, why = peers.accepts(os.environ["ENVOY"], ["--disable-hot-restart", "-l", "error"], made, backends)
        ours, own = peers.accepts(os.environ["MIZZEN"], [], made, backends)
        if theirs != ours and name not in DELIBERATE:
            wrong += 1
            words = {True: "takes", False: "refuses"}
            print(f"DIFFERENT verdict on {name!r}: Envoy {words[theirs]}, Mizzen {words[ours]} it: "
                  f"{(own if theirs else why).splitlines()[-1:]}")
    print(f"{len(CASES)} tables judged: {wrong} verdicts differ")
    return wrong
