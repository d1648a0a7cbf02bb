//! Who may ask what: life cycle, methods, foreign sites, limits, small answers.

use super::*;

#[tokio::test]
async fn ready_follows_the_life_cycle() {
    let admin = start(0).await;
    assert_eq!(admin.ask("GET", "/ready").await, (503, "PRE_INITIALIZING\n".into()));
    admin.lifecycle.set(ServerState::Live);
    assert_eq!(admin.ask("GET", "/ready").await, (200, "LIVE\n".into()));
    assert_eq!(admin.ask("GET", "/healthcheck/fail").await.0, 405);
    assert_eq!(admin.ask("POST", "/healthcheck/fail").await, (200, "OK\n".into()));
    assert_eq!(admin.ask("GET", "/ready").await, (503, "DRAINING\n".into()));
    assert_eq!(admin.get("/stats?filter=^server.(state|live)$").await, "server.live: 0\nserver.state: 0\n");
    assert_eq!(admin.ask("POST", "/healthcheck/ok").await.0, 200);
    assert_eq!(admin.ask("GET", "/ready").await.0, 200);
    assert_eq!(admin.get("/api/v1/states").await, format!("pid={}&state=6\n", std::process::id()));
}

#[tokio::test]
async fn what_changes_something_is_post_only() {
    let mut admin = start(0).await;
    for path in ["/drain_listeners", "/quitquitquit", "/logging", "/reset_counters"] {
        let (status, body) = admin.ask("GET", path).await;
        assert_eq!((status, body.as_str()), (405, "Method GET not allowed, POST required."), "{path}");
    }
    assert!(admin.commands.try_recv().is_err());
    let (status, _) = admin.ask("POST", "/drain_listeners?inboundonly&graceful&skip_exit").await;
    assert_eq!(status, 200);
    let drain = Command::DrainListeners { inbound_only: true, graceful: true, skip_exit: true };
    assert_eq!(admin.commands.recv().await, Some(drain));
    assert_eq!(admin.ask("POST", "/quitquitquit").await.1, "OK\n");
    assert_eq!(admin.commands.recv().await, Some(Command::Quit));
    assert_eq!(admin.ask("GET", "/api/v1/update_loglevel").await, (405, String::new()));
    assert_eq!(admin.ask("DELETE", "/stats").await.0, 405);
}

#[tokio::test]
async fn foreign_hosts_and_sites_are_refused_and_counted() {
    let admin = start(0).await;
    let with = |headers: &str| format!("GET /ready HTTP/1.1\r\n{headers}connection: close\r\n\r\n");
    assert_eq!(admin.raw(&with("host: evil.example\r\n")).await.0, 403);
    assert_eq!(admin.raw(&with("host: localhost\r\norigin: http://evil.example\r\n")).await.0, 403);
    assert_eq!(admin.raw(&with("")).await.0, 400);
    assert_eq!(admin.raw(&with("host: 127.0.0.1:1\r\n")).await.0, 503, "passes, and is not ready");
    assert_eq!(admin.registry.number("server.admin_refused"), 3);
}

#[tokio::test]
async fn heads_and_connections_are_limited() {
    let admin = start(0).await;
    let long = format!("GET /ready HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "a".repeat(9000));
    assert_eq!(admin.raw(&long).await.0, 431);
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(admin.address).await.unwrap();
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).await.unwrap();
        held.push(stream);
    }
    let mut extra = TcpStream::connect(admin.address).await.unwrap();
    let mut answer = String::new();
    extra.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    held.pop();
    drop(held);
    // Their slots come back once the server has seen them go.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(admin.ask("GET", "/help").await.0, 200);
}

#[tokio::test]
async fn logging_lists_and_changes_loggers() {
    let admin = start(0).await;
    let _levels = logging::TESTING.lock().await;
    let (status, body) = admin.ask("POST", "/logging?lua=debug").await;
    assert_eq!(status, 200);
    assert!(body.starts_with("active loggers:\n"), "{body}");
    assert!(body.contains("\n  lua: debug\n"), "{body}");
    assert!(admin.ask("POST", "/logging?paths=lua:info,wasm:error").await.1.contains("\n  wasm: error\n"));
    assert_eq!(admin.ask("POST", "/logging?nonesuch=debug").await.0, 400);
    assert_eq!(admin.ask("POST", "/logging?lua=loud").await.0, 400);
}

#[tokio::test]
async fn small_shapes() {
    let admin = start(0).await;
    let info = admin.json("/server_info").await;
    assert_eq!(info["state"], "PRE_INITIALIZING");
    assert_eq!(info["node"]["metadata"]["token"], "[redacted]");
    assert!(info["uptime_current_epoch"].as_str().unwrap().ends_with('s'));
    assert_eq!(admin.json("/certs").await, json!({ "certificates": [] }));
    assert_eq!(admin.json("/runtime").await, json!({ "entries": {}, "layers": [] }));
    assert_eq!(admin.ask("GET", "/runtime_modify?a=1").await.0, 405);
    assert_eq!(admin.ask("POST", "/runtime_modify").await.0, 400);
    assert_eq!(admin.ask("POST", "/runtime_modify?a=1").await, (200, "OK\n".to_owned()));
    assert_eq!(admin.ask("POST", "/runtime_modify?a=1&b=").await.0, 503);
    let total = admin.json("/memory").await["total_physical_bytes"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(total > 0);
    let (status, body) = admin.ask("GET", "/nonesuch").await;
    assert_eq!(status, 404);
    assert!(body.contains("/config_dump"));
    let server = json!({ "name": "init manager Server", "target_names": ["target CDS"] });
    assert_eq!(admin.json("/init_dump").await, json!({ "unready_targets_dumps": [server] }));
    let none = json!({ "unready_targets_dumps": [] });
    assert_eq!(admin.json("/init_dump?mask=listener").await, none);
}
