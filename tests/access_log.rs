//! Access logs, seen from outside: one line per stream, whatever became of it.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::bolt::{Peer, call};
use support::process::{Dir, Program, Signal};
use support::proxy::free_port;
use support::upstream::Upstream;

mod support;

/// An HTTP/1 server: `/hang` is never answered, `/cut` with half of what is promised, all else with 5 bytes.
fn server() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in socket.incoming().map_while(Result::ok) {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut first = String::new();
        let mut length = 0;
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) <= 2 {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        let _ = reader.read_exact(&mut body);
        let answer: &[u8] = match first.split(' ').nth(1) {
            Some("/hang") => continue,
            Some("/cut") => b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf.",
            _ => b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-tag: \"q\"\r\n\r\nhello",
        };
        if stream.write_all(answer).is_err() || first.contains("/cut") {
            return;
        }
    }
}

fn socket(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn cluster(name: &str, port: u16) -> Value {
    json!({"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": {"cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(port)}}]}]}})
}

fn file_log(path: &Path, format: &Value) -> Value {
    json!({"name": "file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": path, "log_format": format}})
}

/// A proxy with one listener, and where its log is.
struct World {
    program: Program,
    port: u16,
    log: PathBuf,
    dir: Dir,
}

impl World {
    /// `filter`: the terminal filter, given its access log; `more`: of the listener.
    fn start(dir: Dir, clusters: Value, filter: &Value, more: &Value, arguments: &[&str]) -> World {
        let (port, log) = (free_port(), dir.0.join("access.log"));
        let mut listener = json!({"name": "l", "address": socket(port),
            "filter_chains": [{"name": "chain", "filters": [{"name": "f", "typed_config": filter}]}]});
        listener.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let config = dir.write(
            "config.json",
            &json!({"node": {"id": "n", "cluster": "c"},
            "static_resources": {"clusters": clusters, "listeners": [listener]}}),
        );
        let program = Program::start(&config, arguments, None);
        let world = World { program, port, log, dir };
        wait("the listener", || TcpStream::connect(("127.0.0.1", port)).ok());
        world
    }

    fn http(format: &Value, filter: Option<Value>, arguments: &[&str]) -> World {
        let dir = Dir::new();
        let mut log = file_log(&dir.0.join("access.log"), format);
        if let Some(filter) = filter {
            log["filter"] = filter;
        }
        let route = |prefix: &str, cluster: &str| json!({"name": format!("to-{cluster}"), "match": {"prefix": prefix}, "route": {"cluster": cluster}});
        let routes = json!({"name": "r", "virtual_hosts": [{"name": "vh", "domains": ["a"], "routes": [
            {"match": {"path": "/own"}, "direct_response": {"status": 202, "body": {"inline_string": "own"}}},
            route("/dead", "dead"), route("/old", "up"), route("/", "up")]}]});
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "h", "route_config": routes, "access_log": [log],
            "http_filters": [{"name": "router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]});
        let clusters = json!([cluster("up", server().port()), cluster("dead", free_port())]);
        World::start(dir, clusters, &manager, &json!({}), arguments)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends these bytes and reads to the end.
    fn ask(&self, bytes: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes.as_bytes()).unwrap();
        let mut all = String::new();
        let _ = stream.read_to_string(&mut all);
        all
    }

    fn get(&self, path: &str) -> String {
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nhost: a\r\nx-request-id: id-1\r\nconnection: close\r\n\r\n"
        ))
    }

    /// Waits for so many lines, and sees that no more come.
    fn lines(&self, count: usize) -> Vec<String> {
        let read = || -> Vec<String> {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        };
        let lines = wait("log lines", || Some(read()).filter(|lines| lines.len() >= count));
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines
    }
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

const SOON: &[&str] = &["--file-flush-interval-msec", "20"];

fn text(format: &str) -> Value {
    json!({"text_format_source": {"inline_string": format!("{format}\n")}})
}

/// What tells what became of a stream.
const FATE: &str = "%REQ(:METHOD)% %PATH% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% \
    %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_CLUSTER% %ROUTE_NAME% %UPSTREAM_REQUEST_ATTEMPT_COUNT%";

#[test]
fn istios_default_line_is_filled() {
    let world = World::http(
        &text(
            "\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS%",
        ),
        None,
        SOON,
    );
    world.get("/");
    let line = &world.lines(1)[0];
    let here = format!("127.0.0.1:{}", world.port);
    assert!(line.starts_with("\"-\" up 127.0.0.1:") && line.ends_with(&here), "{line}");
    world.get("/dead");
    let line = &world.lines(2)[1];
    assert_eq!(line, &format!("\"delayed_connect_error:_Connection_refused\" dead - {here}"));
}

#[test]
fn every_fate_of_a_request_is_one_line() {
    let world = World::http(&text(FATE), None, SOON);
    let post = "POST /p HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc";
    assert!(world.ask(post).ends_with("hello"));
    assert_eq!(world.lines(1)[0], "POST /p 200 - via_upstream 3 5 up to-up 1");
    assert!(world.get("/own").ends_with("own"));
    assert_eq!(world.lines(2)[1], "GET /own 202 - direct_response 0 3 - - 0");
    world.ask("GET / HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n");
    assert_eq!(world.lines(3)[2], "GET / 404 NR route_not_found 0 15 - - 0");
    world.get("/dead");
    let dead = &world.lines(4)[3];
    assert!(
        dead.starts_with("GET /dead 503 UF upstream_reset_before_response_started{connection_failure}"),
        "{dead}"
    );
    assert!(dead.ends_with(" dead to-dead 1"), "{dead}");
    world.ask("GET / HTTP/1.1\r\nhost: a\r\nno colon\r\n\r\n");
    let refused = &world.lines(5)[4];
    assert!(refused.starts_with("- - 400 DPE codec_error 0 "), "{refused}");
    world.get("/cut");
    let cut = &world.lines(6)[5];
    assert!(cut.starts_with("GET /cut 200 "), "{cut}");
    assert!(cut.contains(" upstream_reset_after_response_started{"), "{cut}");
    // A client that gives up while its server is silent.
    let mut stream = world.connect();
    stream.write_all(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    drop(stream);
    assert_eq!(world.lines(7)[6], "GET /hang 0 DC downstream_remote_disconnect 0 0 up to-up 1");
    // And one that gives up before its request is whole.
    let mut stream = world.connect();
    stream.write_all(b"GET /ha").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    drop(stream);
    assert_eq!(world.lines(8)[7], "- - 0 DC downstream_remote_disconnect 0 0 - - 0");
    // Who speaks another protocol gets no answer.
    world.ask("no HTTP at all\r\n\r\n");
    assert_eq!(world.lines(9)[8], "- - 0 DPE codec_error 0 0 - - 0");
}

#[test]
fn json_keeps_types_and_escapes_values() {
    let format = json!({"json_format": {
        "code": "%RESPONSE_CODE%", "text": "a %RESPONSE_CODE% %REQ(no)%", "tag": "%RESP(x-tag)%", "no": "%REQ(no)%",
        "inner": {"host": "%UPSTREAM_HOST%", "list": [1, "%REQ(:AUTHORITY)%"]}, "fixed": true, "chain": "%FILTER_CHAIN_NAME%",
        "peer": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "at": "%START_TIME(%Y)%", "took": "%DURATION%"}});
    let world = World::http(&format, None, SOON);
    world.get("/");
    let line: Value = serde_json::from_str(&world.lines(1)[0]).unwrap();
    assert_eq!(line["code"], 200);
    assert_eq!(line["text"], "a 200 -");
    assert_eq!(line["tag"], "\"q\"");
    assert_eq!(line["no"], Value::Null);
    assert_eq!(line["inner"]["list"], json!([1, "a"]));
    assert!(line["inner"]["host"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(
        (&line["fixed"], &line["chain"], &line["peer"]),
        (&json!(true), &json!("chain"), &json!("127.0.0.1"))
    );
    assert!(line["at"].as_str().unwrap().starts_with("20") && line["took"].is_u64(), "{line}");

    let mut omitting = format.clone();
    omitting["omit_empty_values"] = true.into();
    let world = World::http(&omitting, None, SOON);
    world.get("/");
    let line: Value = serde_json::from_str(&world.lines(1)[0]).unwrap();
    assert_eq!((line.get("no"), &line["text"]), (None, &json!("a 200 ")));
}

#[test]
fn filters_choose_the_streams() {
    let status = |op: &str, value: u32| {
        json!({"status_code_filter": {"comparison": {"op": op,
            "value": {"default_value": value, "runtime_key": "k"}}}})
    };
    let header = json!({"header_filter": {"header": {"name": "x-log", "string_match": {"exact": "yes"}}}});
    let flags = json!({"response_flag_filter": {"flags": ["NR"]}});
    let filter = json!({"or_filter": {"filters": [
        {"and_filter": {"filters": [status("GE", 200), status("LE", 299), header]}}, flags]}});
    let world = World::http(&text("%RESPONSE_CODE% %REQ(:PATH)%"), Some(filter), SOON);
    world.get("/unlogged");
    world.get("/dead");
    world.ask("GET /logged HTTP/1.1\r\nhost: a\r\nx-log: yes\r\nconnection: close\r\n\r\n");
    world.ask("GET /nowhere HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n");
    // Each worker hands its lines over by itself.
    let mut lines = world.lines(2);
    lines.sort();
    assert_eq!(lines, ["200 /logged", "404 /nowhere"]);
}

#[test]
fn what_waits_is_written_at_the_end_and_a_renamed_file_is_left_at_sigusr1() {
    let mut world = World::http(&text("%REQ(:PATH)%"), None, SOON);
    world.get("/one");
    world.lines(1);
    let old = world.dir.0.join("old.log");
    std::fs::rename(&world.log, &old).unwrap();
    world.program.signal(Signal::USR1);
    wait("a new file", || {
        world.get("/two");
        std::fs::read_to_string(&world.log).ok().filter(|text| text.contains("/two"))
    });
    assert!(std::fs::read_to_string(&old).unwrap().starts_with("/one\n"));
    world.program.signal(Signal::TERM);
    wait("the end", || (!world.program.is_running()).then_some(()));

    let mut world = World::http(&text("%REQ(:PATH)%"), None, &["--file-flush-interval-msec", "3600000"]);
    world.get("/last");
    world.program.signal(Signal::TERM);
    wait("the end", || (!world.program.is_running()).then_some(()));
    assert_eq!(world.lines(1), ["/last"]);
}

#[test]
fn a_raw_connection_is_one_line_at_its_end() {
    for (alive, line) in [(true, "4 4 - tcp TcpConnectionEnd"), (false, "0 0 UF,URX tcp TcpConnectionEnd")] {
        let dir = Dir::new();
        let log = file_log(
            &dir.0.join("access.log"),
            &text("%BYTES_RECEIVED% %BYTES_SENT% %RESPONSE_FLAGS% %UPSTREAM_CLUSTER% %ACCESS_LOG_TYPE%"),
        );
        let filter = json!({"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "t", "cluster": "tcp", "access_log": [log]});
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = if alive { upstream.local_addr().unwrap().port() } else { free_port() };
        std::thread::spawn(move || {
            for mut stream in upstream.incoming().map_while(Result::ok) {
                let mut buffer = [0; 4];
                if stream.read_exact(&mut buffer).is_ok() {
                    let _ = stream.write_all(&buffer);
                }
            }
        });
        let world = World::start(dir, json!([cluster("tcp", port)]), &filter, &json!({}), SOON);
        // The connection that found the listener open.
        let before = world.lines(1);
        let mut stream = world.connect();
        stream.write_all(b"ping").unwrap();
        if alive {
            let mut back = [0; 4];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(&back, b"ping");
        }
        drop(stream);
        assert_eq!(world.lines(2)[1], line, "after {before:?}");
    }
}

#[test]
fn a_connection_without_a_chain_is_a_line_of_its_listener() {
    let dir = Dir::new();
    let mut log = file_log(
        &dir.0.join("access.log"),
        &text("%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %DOWNSTREAM_LOCAL_PORT% %ACCESS_LOG_TYPE%"),
    );
    log["filter"] = json!({"response_flag_filter": {"flags": ["NR"]}});
    let filter = json!({"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "t", "cluster": "tcp"});
    let never = json!([{"filters": [{"name": "f", "typed_config": filter}],
        "filter_chain_match": {"destination_port": 1}}]);
    let more = json!({"access_log": [log], "filter_chains": never});
    let world = World::start(dir, json!([cluster("tcp", free_port())]), &filter, &more, SOON);
    let line = format!("NR filter_chain_not_found {} NotSet", world.port);
    assert_eq!(world.lines(1), [line]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_lines_in_both_dialects() {
    let upstream = Upstream::echo().await;
    let dir = Dir::new();
    let log = file_log(
        &dir.0.join("access.log"),
        &text("%PROTOCOL% %RESPONSE_CODE% %REQ(service)% %UPSTREAM_CLUSTER%"),
    );
    let filter = json!({"@type": "type.googleapis.com/mizzen.v1.RpcProxy", "stat_prefix": "rpc",
        "downstream_protocol": "bolt", "access_log": [log], "route_config": {"name": "r", "virtual_hosts": [
            {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "s"}}]}]}});
    let clusters = json!([cluster("s", upstream.address.port())]);
    let world = World::start(dir, clusters, &filter, &json!({}), SOON);
    let mut peer = Peer::connect(world.port).await;
    for id in 1..=3 {
        assert_eq!(peer.ask(&call(id, 3000, &[], b"x")).await, (id, 0));
    }
    assert_eq!(world.lines(3), ["bolt 200 s s"; 3]);

    let dir = Dir::new();
    let (port, log) = (free_port(), dir.0.join("mosn.log"));
    let routers = json!([{"router_config_name": "r", "virtual_hosts": [{"name": "all", "domains": ["*"],
        "routers": [{"match": {"headers": [{"name": "service", "value": ".*", "regex": true}]},
            "route": {"cluster_name": "s"}}]}]}]);
    let config = dir.write("mosn.json", &json!({
        "servers": [{"default_log_path": "stdout", "global_log_roller": "size=100", "routers": routers,
            "listeners": [{"name": "l", "address": format!("127.0.0.1:{port}"), "bind_port": true,
                "access_logs": [{"log_path": log, "log_format":
                    "%response_code% %response_flag% %request_header_service% %nonsense% %upstream_cluster% 100\\%"}],
                "filter_chains": [{"filters": [{"type": "proxy", "config": {"downstream_protocol": "bolt",
                    "upstream_protocol": "bolt", "router_config_name": "r"}}]}]}]}],
        "cluster_manager": {"clusters": [{"name": "s", "type": "SIMPLE", "lb_type": "LB_RANDOM",
            "hosts": [{"address": upstream.address.to_string()}]}]}}));
    let program = Program::start(&config, SOON, None);
    wait("the listener", || TcpStream::connect(("127.0.0.1", port)).ok());
    let mut peer = Peer::connect(port).await;
    assert_eq!(peer.ask(&call(1, 3000, &[], b"x")).await.1, 0);
    let world = World { program, port, log, dir };
    assert_eq!(world.lines(1), ["200 false s - s 100%"]);
}
