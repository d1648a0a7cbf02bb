//! Why a request went as it did, told by the proxy itself.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use support::bolt::{Peer, call};
use support::process::{Dir, Program, page};
use support::proxy::free_port;

mod support;

fn socket(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn cluster(name: &str, port: u16) -> Value {
    json!({"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": {"cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(port)}}]}]}})
}

struct World {
    _program: Program,
    http: u16,
    bolt: u16,
    admin: u16,
    dead: u16,
    _dir: Dir,
}

fn world(arguments: &[&str]) -> World {
    let (dir, http, bolt, admin, dead) = (Dir::new(), free_port(), free_port(), free_port(), free_port());
    // Takes connections and says nothing for a while.
    let slow = TcpListener::bind("127.0.0.1:0").unwrap();
    let slow_port = slow.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in slow.incoming().map_while(Result::ok) {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer);
            std::thread::sleep(Duration::from_millis(120));
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        }
    });
    let route = |matcher: Value, cluster: &str| json!({"name": cluster, "match": matcher, "route": {"cluster": cluster}});
    let routes = json!({"name": "r", "virtual_hosts": [{"name": "vh", "domains": ["a"], "routes": [
        route(json!({"path": "/exact"}), "slow"),
        route(json!({"prefix": "/", "headers": [{"name": "x-canary", "present_match": true}]}), "slow"),
        route(json!({"prefix": "/slow"}), "slow"),
        route(json!({"prefix": "/dead"}), "dead"),
        {"match": {"prefix": "/gone"}, "redirect": {"host_redirect": "b"}}]}]});
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "h", "route_config": routes,
        "tracing": {"client_sampling": {"value": 0}, "random_sampling": {"value": 100}},
        "http_filters": [{"name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]});
    let rpc = json!({"@type": "type.googleapis.com/mizzen.v1.RpcProxy", "stat_prefix": "rpc",
        "downstream_protocol": "bolt", "route_config": {"name": "b", "virtual_hosts": [
            {"name": "all", "domains": ["*"], "routes": [{"name": "calls", "match": {"prefix": "/"}, "route": {"cluster": "dead"}}]}]}});
    let listener = |name: &str, port: u16, filter: Value| {
        json!({"name": name, "address": socket(port),
        "filter_chains": [{"filters": [{"name": "f", "typed_config": filter}]}]})
    };
    let config = dir.write(
        "config.json",
        &json!({"node": {"id": "n", "cluster": "c"},
        "admin": {"address": socket(admin)}, "static_resources": {
            "clusters": [cluster("slow", slow_port), cluster("dead", dead)],
            "listeners": [listener("web", http, manager), listener("calls", bolt, rpc)]}}),
    );
    let program = Program::start(&config, arguments, None);
    wait("the listeners", || {
        TcpStream::connect(("127.0.0.1", http)).ok()?;
        TcpStream::connect(("127.0.0.1", bolt)).ok()?;
        page(admin, "/ready")
    });
    World { _program: program, http, bolt, admin, dead, _dir: dir }
}

fn wait<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl World {
    fn get(&self, path: &str, id: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nx-request-id: {id}\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut all = String::new();
        let _ = stream.read_to_string(&mut all);
        all
    }

    fn ask(&self, path: &str) -> Value {
        let (status, all) = page(self.admin, path).unwrap();
        assert_eq!(status, 200, "{all}");
        serde_json::from_str(all.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    fn record(&self, id: &str) -> Value {
        wait("a record", || {
            let (status, all) = page(self.admin, &format!("/why?id={id}"))?;
            (status == 200).then(|| {
                let body: Value = serde_json::from_str(all.split_once("\r\n\r\n").unwrap().1).unwrap();
                body["records"][0].clone()
            })
        })
    }

    fn explain(&self, arguments: &[&str]) -> String {
        let admin = format!("127.0.0.1:{}", self.admin);
        let mut command = Command::new(env!("CARGO_BIN_EXE_mizzen"));
        let output = command.args(["explain", "--admin", &admin]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_and_slow_requests_leave_a_record() {
    let world = world(&["--why-slow-ms", "100"]);
    let answer = world.get("/dead?x=1", "id-dead");
    assert!(answer.starts_with("HTTP/1.1 503 ") && !answer.contains("x-mizzen-reason"), "{answer}");
    let record = world.record("id-dead");
    assert_eq!(record["reason"], "connect_failed");
    assert_eq!(
        (&record["listener"], &record["virtual_host"], &record["route"]),
        (&json!("web"), &json!("vh"), &json!("dead"))
    );
    assert_eq!(
        (&record["cluster"], &record["host"]),
        (&json!("dead"), &json!(format!("127.0.0.1:{}", world.dead)))
    );
    assert_eq!(
        (&record["status"], &record["flags"], &record["closed_by"]),
        (&json!(503), &json!("UF"), &json!("upstream"))
    );
    assert_eq!(
        (&record["picked_by"], &record["attempts"], &record["path"]),
        (&json!("round_robin"), &json!(1), &json!("/dead?x=1"))
    );
    let why: Vec<&str> =
        record["rejected"].as_array().unwrap().iter().map(|r| r["why"].as_str().unwrap()).collect();
    assert_eq!(why, ["path", "header x-canary", "path"]);

    world.get("/nowhere", "id-none");
    let record = world.record("id-none");
    assert_eq!(
        (&record["reason"], &record["route"], &record["flags"]),
        (&json!("no_route"), &json!(""), &json!("NR"))
    );
    assert_eq!(record["rejected"].as_array().unwrap().len(), 5);

    world.get("/slow", "id-slow");
    let record = world.record("id-slow");
    assert_eq!(
        (&record["reason"], &record["status"], &record["route"]),
        (&json!(""), &json!(200), &json!("slow"))
    );
    assert!(
        record["total_ms"].as_u64().unwrap() >= 100 && record["response_ms"].as_u64().unwrap() >= 100,
        "{record}"
    );

    let mut peer = Peer::connect(world.bolt).await;
    assert_ne!(peer.ask(&call(77, 3000, &[], b"x")).await.1, 0);
    let record = world.record("77");
    assert_eq!(
        (&record["protocol"], &record["route"], &record["cluster"]),
        (&json!("bolt"), &json!("calls"), &json!("dead"))
    );

    world.get("/exact", "quick-or-slow");
    let recent = world.ask("/why/recent?limit=2");
    assert_eq!(recent["records"].as_array().unwrap().len(), 2);
    assert_eq!(page(world.admin, "/why?id=nobody").unwrap().0, 404);
}

#[test]
fn error_replies_say_why_only_if_they_are_to() {
    let world = world(&["--error-reasons"]);
    assert!(world.get("/dead", "a").contains("x-mizzen-reason: connect_failed\r\n"));
    assert!(world.get("/nowhere", "b").contains("x-mizzen-reason: no_route\r\n"));
    assert!(!world.get("/slow", "c").contains("x-mizzen-reason"));
}

#[test]
fn a_live_proxy_explains_its_routes() {
    let world = world(&[]);
    let text = world.explain(&["--host", "a", "--path", "/dead", "--listener", "web"]);
    for line in [
        "listener web (127.0.0.1:",
        "  virtual host vh\n",
        "  route 0 slow: no, path\n",
        "  route 1 slow: no, header x-canary\n",
        "  route 3 dead: yes\n",
        "  cluster dead\n",
        "  forwarded\n",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
    let text =
        world.explain(&["--host", "a", "--path", "/x y", "--header", "x-canary:1", "--listener", "web"]);
    assert!(text.contains("route 1 slow: yes"), "{text}");
    let text = world.explain(&["--host", "other", "--listener", "web"]);
    assert!(text.contains("no virtual host has a domain for this host: 404 NR"), "{text}");
    let text = world.explain(&["--host", "a", "--path", "/gone"]);
    assert!(text.contains("redirected: 301") && text.contains("location http://b/gone"), "{text}");
    let json: Value = serde_json::from_str(&world.explain(&["--host", "a", "--format", "json"])).unwrap();
    assert_eq!(json["answers"].as_array().unwrap().len(), 2, "two listeners have routes");
    let none = Command::new(env!("CARGO_BIN_EXE_mizzen"))
        .args(["explain", "--admin", &format!("127.0.0.1:{}", free_port())])
        .output()
        .unwrap();
    assert!(!none.status.success());
}
