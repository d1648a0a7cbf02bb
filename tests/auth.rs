//! Tokens of requests, on real sockets: who needs which, where their keys come from, and what they say to others.

use serde_json::{Value, json};
use std::time::{Duration, SystemTime};
use support::chain::{at, everything, filter, typed, world};
use support::http1::{Answer, Server, Text, ask, get};
use support::jwt::{Issuer, jwks};
use support::proxy::wait_until;
use support::world::{cluster, host, merged, to};

mod support;

const JWT: &str = "jwt_authn.v3.JwtAuthentication";

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}")
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn local(issuer: &Issuer) -> Value {
    json!({"inline_string": jwks(&[issuer])})
}

fn remote(cluster: &str, more: &Value) -> Value {
    let uri = json!({"uri": "http://keys.test/jwks?v=1", "cluster": cluster, "timeout": "5s"});
    merged(json!({"http_uri": uri}), more)
}

/// What istiod sends of a RequestAuthentication, and of an AuthorizationPolicy on `request.auth`.
fn istio(issuer: &Issuer) -> [Value; 2] {
    let metadata = |path: &[&str], value: Value| {
        let path: Vec<_> = path.iter().map(|key| json!({"key": key})).collect();
        json!({"metadata": {"filter": "envoy.filters.http.jwt_authn", "path": path, "value": value}})
    };
    let any = json!({"string_match": {"safe_regex": {"regex": ".+"}}});
    let scope = json!({"list_match": {"one_of": {"string_match": {"exact": "write"}}}});
    let jwt = json!({
        "providers": {"origins-0": {"issuer": "https://issuer.test", "audiences": ["web"],
            "local_jwks": local(issuer), "payload_in_metadata": "payload",
            "normalize_payload_in_metadata": {"space_delimited_claims": ["permission", "scope"]}}},
        "rules": [{"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": [
            {"provider_name": "origins-0"}, {"allow_missing": {}}]}}}],
        "bypass_cors_preflight": true});
    let policy = |path: &str, who: Value| {
        json!({"permissions": [{"and_rules": {"rules": [{"or_rules": {"rules": [
                {"url_path": {"path": {"prefix": path}}}]}}]}}],
            "principals": [{"and_ids": {"ids": [{"not_id": who}]}}]})
    };
    let anybody = json!({"and_ids": {"ids": [
        metadata(&["payload", "iss"], any.clone()), metadata(&["payload", "sub"], any)]}});
    let rbac = json!({"rules": {"action": "DENY", "policies": {
        "ns[demo]-policy[deny]-rule[0]": policy("/user", anybody),
        "ns[demo]-policy[deny]-rule[1]": policy("/write", metadata(&["payload", "scope"], scope))}},
        "shadow_rules_stat_prefix": "istio_dry_run_allow_"});
    [filter("jwt", JWT, &jwt), filter("rbac", "rbac.v3.RBAC", &rbac)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_judged_and_policies_read_them_as_istiod_sends_both() {
    let (server, issuer) = (Server::named("up").await, Issuer::new("RS256", "k"));
    let world = world(&server, &everything(), &istio(&issuer), &[]).await;
    let claims = json!({"iss": "https://issuer.test", "sub": "me", "aud": "web", "exp": now() + 60,
        "scope": "read write"});
    let good = bearer(&issuer.token(&claims));

    assert_eq!(get(world.port, "/free", &[]).await.status(), 200, "none is as good as a good one");
    let refused = get(world.port, "/user", &[]).await;
    assert_eq!((refused.status(), refused.body.as_str()), (403, "RBAC: access denied"));
    assert_eq!(get(world.port, "/user/x?y=/free", &[&good]).await.status(), 200);
    let seen = server.seen().pop().unwrap();
    assert!(!seen.has("authorization"), "the token went on: {}", seen.head);
    assert_eq!(get(world.port, "/write", &[&good]).await.status(), 200);
    let reader = bearer(&issuer.token(&merged(claims.clone(), &json!({"scope": "read"}))));
    assert_eq!(get(world.port, "/write", &[&reader]).await.status(), 403, "lists are looked into");

    let upstream = server.seen().len();
    for (change, status, body) in [
        (json!({"exp": now() - 100}), 401, "Jwt is expired"),
        (json!({"aud": "other"}), 403, "Audiences in Jwt are not allowed"),
        (json!({"iss": "https://other.test"}), 401, "Jwt issuer is not configured"),
    ] {
        let token = bearer(&issuer.token(&merged(claims.clone(), &change)));
        let refused = get(world.port, "/free?a=b", &[&token]).await;
        assert_eq!((refused.status(), refused.body.as_str()), (status, body));
        let told = "Bearer realm=\"http://h.test/free?a=b\", error=\"invalid_token\"";
        assert_eq!(refused.header("www-authenticate"), Some(told));
    }
    let stranger = bearer(&Issuer::new("RS256", "k").token(&claims));
    assert_eq!(get(world.port, "/free", &[&stranger]).await.body, "Jwt verification fails");
    let refused = get(world.port, "/free", &["authorization: Bearer nonsense"]).await;
    assert!(refused.body.starts_with("Jwt is not in the form"), "{}", refused.body);
    assert_eq!(server.seen().len(), upstream, "the upstream saw what was refused");
    // By the query too, which does not go on either.
    let (_, token) = good.rsplit_once(' ').unwrap();
    assert_eq!(get(world.port, &format!("/user?a=1&access_token={token}&b=2"), &[]).await.status(), 200);
    assert_eq!(server.seen().pop().unwrap().path(), "/user?a=1&b=2");
    let preflight = "OPTIONS /user HTTP/1.1\r\nhost: h\r\norigin: o\r\naccess-control-request-method: PUT\r\n\
        authorization: Bearer x\r\n\r\n";
    assert_eq!(ask(world.port, preflight).await.status(), 403, "past the tokens, to the policy");
    assert_eq!(world.number("http.http.jwt_authn.cors_preflight_bypassed"), 1);
    assert_eq!(world.number("http.http.jwt_authn.denied"), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_choose_what_is_required_and_claims_become_headers_that_choose_routes() {
    let (server, vip) = (Server::named("up").await, Server::named("vip").await);
    let issuer = Issuer::new("ES256", "k");
    let provider = json!({"issuer": "i", "local_jwks": local(&issuer), "forward": true,
        "from_headers": [{"name": "X-Token"}], "from_cookies": ["token"], "clear_route_cache": true,
        "forward_payload_header": "x-payload", "pad_forward_payload_header": true,
        "claim_to_headers": [{"header_name": "X-Tier", "claim_name": "plan.tier"},
            {"header_name": "x-number", "claim_name": "n"}, {"header_name": "x-none", "claim_name": "none"}],
        "jwt_cache_config": {}});
    let config = json!({"providers": {"p": provider},
        "rules": [{"match": {"prefix": "/open"}}, {"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}],
        "requirement_map": {"loose": {"allow_missing_or_failed": {}}}, "strip_failure_response": true});
    let named =
        |name: &str| json!({"jwt": typed("jwt_authn.v3.PerRouteConfig", &json!({"requirement_name": name}))});
    let off = json!({"jwt": typed("jwt_authn.v3.PerRouteConfig", &json!({"disabled": true}))});
    let routes = json!([
        at("/loose", "c", &named("loose")),
        at("/wrong", "c", &named("none")),
        at("/off", "c", &off),
        {"match": {"prefix": "/", "headers": [{"name": "x-tier", "string_match": {"exact": "gold"}}]},
            "route": {"cluster": "vip"}},
        to(&json!({"cluster": "c"})),
    ]);
    let more = [cluster("vip", &[host(vip.address)], &json!({}))];
    let world = world(&server, &routes, &[filter("jwt", JWT, &config)], &more).await;
    let status = |path: &'static str, fields: &'static [&'static str]| {
        let port = world.port;
        async move { get(port, path, fields).await.status() }
    };
    assert_eq!(status("/open", &[]).await, 200);
    assert_eq!(status("/off", &[]).await, 200);
    assert_eq!(status("/loose", &["x-token: bad"]).await, 200);
    assert_eq!(status("/wrong", &[]).await, 403);
    let refused = get(world.port, "/", &[]).await;
    assert_eq!((refused.status(), refused.body.as_str(), refused.has("www-authenticate")), (401, "", false));

    let claims = json!({"iss": "i", "plan": {"tier": "gold"}, "n": 7});
    let token = issuer.token(&claims);
    // What only a token may say is taken from who says it without one.
    let forged = ["x-tier: gold", "x-payload: forged", "x-none: forged"];
    for place in [format!("x-token: {token}"), format!("cookie: a=b; token={token}")] {
        let answer = get(world.port, "/a", &[&place, forged[1], forged[2]]).await;
        assert_eq!(answer.body, "vip", "the route did not follow the claim");
        let seen = vip.seen().pop().unwrap();
        assert_eq!((seen.header("x-tier"), seen.header("x-number")), (Some("gold"), Some("7")));
        let payload = seen.header("x-payload").unwrap();
        assert!(!seen.has("x-none") && payload != "forged" && payload.len() % 4 == 0, "{}", seen.head);
    }
    assert!(vip.seen()[0].has("x-token"), "forwarded");
    assert_eq!(get(world.port, "/", &[forged[0]]).await.status(), 401);
    assert_eq!(world.number("http.http.jwt_authn.jwt_cache_hit"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_keys_come_while_the_request_waits_and_are_asked_for_once() {
    let server = Server::named("up").await;
    let (old, new) = (Issuer::new("HS256", "old"), Issuer::new("HS256", "new"));
    let sets = [jwks(&[&old]), jwks(&[&old, &new])];
    let keys = Server::start(move |before, _| Answer::ok(&sets[before.min(1)]).after(200)).await;
    let provider = json!({"issuer": "i", "remote_jwks": remote("keys", &json!({}))});
    let config = json!({"providers": {"p": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}]});
    let more = [cluster("keys", &[host(keys.address)], &json!({}))];
    let world = world(&server, &everything(), &[filter("jwt", JWT, &config)], &more).await;
    let (port, token) = (world.port, bearer(&old.token(&json!({"iss": "i"}))));
    let body = "x".repeat(100_000);
    let request =
        format!("POST /b HTTP/1.1\r\nhost: h\r\n{token}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let (first, second) = tokio::join!(ask(port, &request), ask(port, &request));
    assert_eq!((first.status(), second.status()), (200, 200));
    assert!(server.seen().iter().all(|seen| seen.body == body), "a body lost bytes while it waited");
    let asked = keys.only();
    assert_eq!((asked.path(), asked.header("host")), ("/jwks?v=1", Some("keys.test")));
    // An unknown key is no reason to ask again so soon.
    let unknown = get(port, "/", &[&bearer(&new.token(&json!({"iss": "i"})))]).await;
    assert_eq!(unknown.status(), 401);
    assert_eq!(unknown.body, "Jwks doesn't have key to match kid or alg from Jwt");
    assert_eq!(world.number("http.http.jwt_authn.jwks_fetch_success"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_keys_nobody_passes_and_a_client_that_leaves_takes_its_question_with_it() {
    let server = Server::named("up").await;
    let keys = Server::start(|before, _| match before {
        0 => Answer::ok("{}").after(60_000),
        _ => Answer::of(500, &[], ""),
    })
    .await;
    let issuer = Issuer::new("HS256", "k");
    let retry = json!({"retry_policy": {"num_retries": 1, "retry_back_off": {"base_interval": "0.01s"}}});
    let provider = json!({"issuer": "i", "remote_jwks": remote("keys", &retry)});
    let config = json!({"providers": {"p": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}]});
    let more = [cluster("keys", &[host(keys.address)], &json!({}))];
    let world = world(&server, &everything(), &[filter("jwt", JWT, &config)], &more).await;
    let token = bearer(&issuer.token(&json!({"iss": "i"})));
    let mut client = Text::connect(world.port).await.unwrap();
    client.send(&format!("GET / HTTP/1.1\r\nhost: h\r\n{token}\r\n\r\n")).await.unwrap();
    wait_until("the first question", || keys.seen().len() == 1).await;
    drop(client);
    wait_until("its end", || world.number("cluster.keys.upstream_rq_cancelled") == 1).await;
    let refused = get(world.port, "/", &[&token]).await;
    assert_eq!((refused.status(), refused.body.as_str()), (401, "Jwks remote fetch is failed"));
    assert_eq!(keys.seen().len(), 3, "tried twice");
    assert_eq!(get(world.port, "/", &[&token]).await.status(), 401);
    assert_eq!(server.seen().len(), 0, "let through");
    assert_eq!(get(world.port, "/", &[]).await.body, "Jwt is missing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_wanted_early_are_fetched_before_anybody_asks() {
    let server = Server::named("up").await;
    let issuer = Issuer::new("EdDSA", "k");
    let set = jwks(&[&issuer]);
    let keys = Server::start(move |before, _| match before {
        0 => Answer::of(503, &[], ""),
        _ => Answer::ok(&set),
    })
    .await;
    let eager = json!({"async_fetch": {"failed_refetch_duration": "0.05s"}});
    let provider = json!({"issuer": "i", "remote_jwks": remote("keys", &eager)});
    let config = json!({"providers": {"p": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}]});
    let more = [cluster("keys", &[host(keys.address)], &json!({}))];
    let world = world(&server, &everything(), &[filter("jwt", JWT, &config)], &more).await;
    wait_until("keys", || world.number("http.http.jwt_authn.jwks_fetch_success") == 1).await;
    let token = bearer(&issuer.token(&json!({"iss": "i", "exp": now() + Duration::from_secs(60).as_secs()})));
    assert_eq!(get(world.port, "/", &[&token]).await.status(), 200);
    assert_eq!(keys.seen().len(), 2);
}
