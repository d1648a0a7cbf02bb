"""Random route tables and requests. Few words, so that everything meets everything."""

LABELS = ["a", "b", "a.b", "x.a.b", "A.b", "b.a"]
SEGMENTS = ["a", "b", "ab", "A", "a.b", "v1", ""]
NAMES = ["x-a", "x-b", "x-n", "x-c"]
VALUES = ["1", "2", "12", "ab", "AB", "a", "-5", "7.5", "zz1", ""]
REGEXES = ["/a.*", "/[ab]+/.*", "/v[0-9]", "/.*/b", "/\\w+", "/a|/b", "/{x}", "/(a|b)(/.*)?", ".*"]
VALUE_REGEXES = ["[0-9]+", "a.*", ".*", "\\d\\d", "(?i)ab", "z{2}\\w"]
PATTERNS = [("a", "X"), ("/(a|b)/", "/(\\1)/"), ("^/([^/]*)", "/\\1\\1"), ("b+", "-"), ("(?i)A", "q"),
            ("^/(.*)$", "/p/\\1/s"), ("[/]", "//"), ("v([0-9])", "\\\\v\\0")]
TEMPLATES = [("/{x}/b", ["/{x}", "/n/{x}/m"]), ("/a/{rest=**}", ["/{rest}"]), ("/*/{y=a/*}", ["/y/{y}.z"]),
             ("/**", ["/all"]), ("/{a}/{b}", ["/{b}/{a}", "/{a}{b}"]), ("/v1/**.b", ["/k"])]
FORMATS = ["plain", "%REQ(x-a)%", "<%REQ(x-a?x-b)%>", "%REQ(:PATH)%|%REQ(:METHOD)%", "%PROTOCOL%", "50%%",
           "%REQ(x-n):1%", "%REQ(:AUTHORITY)%", "%REQ(x-new)%+", "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
           "%QUERY_PARAM(q)%", "%PATH(NQ)%", "%ROUTE_NAME%"]
RESPONSE_FORMATS = FORMATS + ["%RESP(x-up)%", "%RESP(x-old?x-a)%", "%RESPONSE_CODE%"]
CLUSTERS = ["c0", "c1", "c2"]


class Maker:
    """Makes tables with one source of chance."""

    def __init__(self, random):
        self.random = random

    def some(self, chance):
        return self.random.random() < chance

    def pick(self, items):
        return self.random.choice(items)

    def path(self):
        return "/" + "/".join(self.pick(SEGMENTS) for _ in range(self.random.randint(0, 3)))

    def text_match(self):
        kind = self.pick(["exact", "prefix", "suffix", "contains", "safe_regex"])
        if kind == "safe_regex":
            return {"safe_regex": {"regex": self.pick(VALUE_REGEXES)}}
        value = self.pick(VALUES[:-1] if kind != "exact" else VALUES)
        return {kind: value, "ignore_case": self.some(0.3)}

    def header_match(self):
        match = {"name": self.pick(NAMES + [":method", ":path", ":authority", "X-A"])}
        kind = self.random.randint(0, 8)
        if kind <= 2:
            match["string_match"] = self.text_match()
        elif kind >= 6:
            old = self.pick(["exact_match", "prefix_match", "suffix_match", "contains_match"])
            match[old] = self.pick(VALUES if old == "exact_match" else VALUES[:-1])
        elif kind == 3:
            start = self.random.randint(-6, 12)
            match["range_match"] = {"start": start, "end": start + self.random.randint(0, 8)}
        elif kind == 4:
            match["present_match"] = self.some(0.6)
        match["invert_match"] = self.some(0.3)
        match["treat_missing_header_as_empty"] = self.some(0.25)
        return match

    def query_match(self):
        match = {"name": self.pick(["q", "r", "a"])}
        kind = self.random.randint(0, 2)
        if kind == 0:
            match["string_match"] = self.text_match()
        elif kind == 1:
            match["present_match"] = True
        return match

    def match(self):
        """(the match, its template or None)."""
        match, template = {}, None
        kind = self.random.randint(0, 11)
        if kind <= 3:
            match["prefix"] = self.pick([self.path(), "/", "", self.path()])
        elif kind <= 6:
            match["path"] = self.path()
        elif kind <= 8:
            stem = self.path().rstrip("/")
            match["path_separated_prefix"] = stem if stem.strip("/") else "/a"
        elif kind <= 10:
            match["safe_regex"] = {"regex": self.pick(REGEXES)}
        else:
            template = self.pick(TEMPLATES)
            url = "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"
            config = {"@type": url, "path_template": template[0]}
            match["path_match_policy"] = {"name": "envoy.path.match.uri_template.uri_template_matcher",
                                          "typed_config": config}
        if self.some(0.3) and kind <= 8:
            match["case_sensitive"] = self.some(0.3)
        if self.some(0.35):
            match["headers"] = [self.header_match() for _ in range(self.random.randint(1, 2))]
        if self.some(0.15):
            match["query_parameters"] = [self.query_match() for _ in range(self.random.randint(1, 2))]
        if self.some(0.06):
            match["grpc"] = {}
        if self.some(0.06):
            share = {"numerator": self.pick([0, 100]), "denominator": "HUNDRED"}
            match["runtime_fraction"] = {"default_value": share, "runtime_key": "none.such"}
        return match, template

    def edits(self, side):
        out = {}
        formats = FORMATS if side == "request" else RESPONSE_FORMATS
        if self.some(0.3):
            actions = ["APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD",
                       "OVERWRITE_IF_EXISTS"]
            out[f"{side}_headers_to_add"] = [
                {"header": {"key": self.pick(["x-new", "x-a", "x-old", "x-up", "X-New2"]),
                            "value": self.pick(formats)},
                 "append_action": self.pick(actions), "keep_empty_value": self.some(0.3)}
                for _ in range(self.random.randint(1, 3))]
        if self.some(0.15):
            out[f"{side}_headers_to_remove"] = [self.pick(["x-a", "x-old", "x-new", "X-B"])]
        return out

    def levels(self):
        return {**self.edits("request"), **self.edits("response")}

    def substitution(self):
        pattern, text = self.pick(PATTERNS)
        return {"pattern": {"regex": pattern}, "substitution": text}

    def forward(self, template):
        action, kind = {}, self.random.randint(0, 5)
        if kind <= 2:
            action["cluster"] = self.pick(CLUSTERS)
        elif kind == 3:
            action["cluster_header"] = "x-c"
        else:
            shares = []
            for _ in range(self.random.randint(1, 3)):
                share = {"weight": self.random.randint(0, 3), **self.levels()}
                share["name" if self.some(0.8) else "cluster_header"] = self.pick(CLUSTERS)
                if "cluster_header" in share:
                    share["cluster_header"] = "x-c"
                # Its own edits see the authority before or after: too fine a point.
                if self.some(0.3) and "AUTHORITY" not in str(share):
                    share["host_rewrite_literal"] = "share.test"
                shares.append(share)
            shares[0]["weight"] += 1
            # A draw that both make alike: by a header of the request, or of one share.
            action["weighted_clusters"] = {"clusters": shares, "header_name": "x-n"}
            if len(shares) > 1:
                action["drawn"] = True
        kind = self.random.randint(0, 7)
        if template and self.some(0.7):
            url = "type.googleapis.com/envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig"
            config = {"@type": url, "path_template_rewrite": self.pick(template[1])}
            action["path_rewrite_policy"] = {"name": "envoy.path.rewrite.uri_template.uri_template_rewriter",
                                             "typed_config": config}
        elif kind == 0 and not template:
            action["prefix_rewrite"] = self.pick(["/", "/new", "/new/", "/q?x=y"])
        elif kind <= 2:
            action["regex_rewrite"] = self.substitution()
        elif kind == 3:
            action["path_rewrite"] = self.pick(["/w/%REQ(x-a)%", "/fixed", "/%REQ(:METHOD)%"])
        kind = self.random.randint(0, 9)
        if kind == 0:
            action["host_rewrite_literal"] = "literal.test:81"
        elif kind == 1:
            action["host_rewrite_header"] = "x-c"
        elif kind == 2:
            action["host_rewrite_path_regex"] = {"pattern": {"regex": "^/*([a-z]*).*$"}, "substitution": "\\1.h"}
        elif kind == 3:
            action["host_rewrite"] = "%REQ(x-c)%.f"
        action["append_x_forwarded_host"] = self.some(0.3)
        return action

    def redirect(self, template):
        action = {"response_code": self.pick(["MOVED_PERMANENTLY", "FOUND", "SEE_OTHER", "TEMPORARY_REDIRECT"])}
        if self.some(0.5):
            action["host_redirect"] = "to.test"
        kind = self.random.randint(0, 4)
        if kind == 0:
            action["path_redirect"] = self.pick(["/there", "/there?own=1"])
        elif kind == 1 and not template:
            action["prefix_rewrite"] = self.pick(["/pre", "/pre?x=1", "/"])
        elif kind == 2:
            action["regex_rewrite"] = self.substitution()
        kind = self.random.randint(0, 3)
        if kind == 0:
            action["https_redirect"] = True
        elif kind == 1:
            action["scheme_redirect"] = "other"
        if self.some(0.2):
            action["port_redirect"] = 8080
        action["strip_query"] = self.some(0.3)
        return action

    def route(self, name):
        match, template = self.match()
        route = {"name": name, "match": match, **self.levels()}
        kind = self.random.randint(0, 9)
        if kind <= 3:
            body = {"inline_string": name}
            route["direct_response"] = {"status": self.pick([200, 201, 302, 404, 503]), "body": body}
        elif kind <= 5:
            route["redirect"] = self.redirect(template)
        else:
            route["route"] = self.forward(template)
            drawn = route["route"].pop("drawn", False)
            if drawn:
                # Both then have the number of the draw.
                match.setdefault("headers", []).append(
                    {"name": "x-n", "string_match": {"safe_regex": {"regex": "[0-9]+"}}})
        return route

    def table(self, name):
        domains = set()
        hosts = []
        for i in range(self.random.randint(1, 5)):
            mine = []
            for _ in range(self.random.randint(1, 3)):
                label = self.pick(LABELS)
                form = self.random.randint(0, 8)
                domain = ("*" if form == 0 else "*." + label if form == 1 else label + ".*" if form == 2
                          else "*" + label if form == 3 else label + "*" if form == 4
                          else label + ":81" if form == 5 else label)
                if domain.lower() not in domains:
                    domains.add(domain.lower())
                    mine.append(domain)
            if mine:
                many = self.pick([1, 3, 8, 25])
                routes = [self.route(f"{name}v{i}r{k}") for k in range(self.random.randint(0, many))]
                host = {"name": f"v{i}", "domains": mine, "routes": routes, **self.levels()}
                if self.some(0.1):
                    host["require_tls"] = self.pick(["ALL", "EXTERNAL_ONLY"])
                hosts.append(host)
        return {"name": name, "virtual_hosts": hosts, **self.levels(),
                "ignore_port_in_host_matching": self.some(0.3),
                "ignore_path_parameters_in_path_matching": self.some(0.2),
                "most_specific_header_mutations_wins": self.some(0.4)}

    def request(self):
        authority = self.pick(LABELS) + self.pick(["", "", "", ".b", ":81", ":80", ".c"])
        path = self.path() + self.pick(["", "", "", "/", ";p=1", "?", "?q=1", "?q=ab&r", "?a=&q=2&q=1", "?r=1?q=x"])
        headers = [(self.pick(NAMES[:3]), self.pick(VALUES)) for _ in range(self.random.randint(0, 3))]
        if self.some(0.5):
            headers.append(("x-c", self.pick(CLUSTERS + ["none", ""])))
        if self.some(0.1):
            headers.append(("content-type", self.pick(["application/grpc", "application/grpc+x", "application/grpcx"])))
        if self.some(0.1):
            headers.append(("x-forwarded-proto", self.pick(["https", "http"])))
        if self.some(0.2):
            headers.append(("x-old", "down"))
        # Two numbers for a draw are none, and then it is random.
        numbers = [h for h in headers if h[0] == "x-n"]
        headers = [h for h in headers if h[0] != "x-n" or h is numbers[0]]
        return self.pick(["GET", "GET", "POST", "OPTIONS"]), authority, path, headers
