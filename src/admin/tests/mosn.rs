//! MOSN's paths.

use super::*;

#[tokio::test]
async fn mosns_paths() {
    let admin = start(1).await;
    let _levels = logging::TESTING.lock().await;
    assert_eq!(admin.get("/api/v1/version").await, "mosn version: 0.1.0");
    assert!(admin.json("/api/v1/get_loglevel").await.get("stdout").is_some());
    let post = |body: &str| {
        let size = body.len();
        format!(
            "POST /api/v1/update_loglevel HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n{body}"
        )
    };
    let refused = admin.raw(&post(r#"{"log_path":"/elsewhere","log_level":"INFO"}"#)).await;
    assert_eq!(refused, (400, r#"{"error":"update logger failed"}"#.into()));
    let done = admin.raw(&post(r#"{"log_path":"stdout","log_level":"INFO"}"#)).await;
    assert_eq!(done, (200, "update logger success\n".into()));
    let dump = admin.json("/api/v1/config_dump").await;
    assert_eq!(dump["cluster"]["c0"]["name"], "c0");
    assert_eq!(admin.json("/api/v1/config_dump?cluster=c0").await["name"], "c0");
    assert_eq!(admin.json("/api/v1/config_dump?cluster=nonesuch").await, json!({}));
    let two = admin.ask("GET", "/api/v1/config_dump?cluster=a&router=b").await;
    assert_eq!(two, (400, "only support one parameter".into()));
    assert_eq!(admin.ask("GET", "/api/v1/config_dump?x").await.0, 500);
    assert_eq!(admin.json("/api/v1/stats").await["meta"]["mosn.info"]["mosn_state_code"], "4");
    admin.lifecycle.set(ServerState::Live);
    assert_eq!(admin.json("/api/v1/stats").await["meta"]["mosn.info"]["mosn_state_code"], "6");
    assert_eq!(admin.get("/api/v1/stats?key=no.such").await, "no metrics key: no.such");
}

#[tokio::test]
async fn mosns_small_paths() {
    let admin = start(1).await;
    assert_eq!(admin.get("/api/v1/features?key=auto_config").await, "true");
    let gates = admin.json("/api/v1/features").await;
    assert_eq!((&gates["auto_config"], &gates["XdsMtlsEnable"]), (&json!(true), &json!(false)));
    assert_eq!(admin.ask("GET", "/api/v1/env").await, (400, "{\"error\":\"no env key\"}".to_owned()));
    let env = admin.json("/api/v1/env?key=PATH&key=MIZZEN_NO_SUCH").await;
    assert_eq!(env["not_found"], json!(["MIZZEN_NO_SUCH"]));
    assert!(env["env"]["PATH"].is_string());
    assert_eq!(admin.json("/api/v1/env?key=MIZZEN_NO_SUCH").await["env"], Json::Null);
    assert_eq!(admin.ask("POST", "/api/v1/disable_log").await.0, 400, "no logger is named so");
    assert_eq!(admin.ask("GET", "/api/v1/enable_log").await.0, 405);
    assert!(admin.get("/contention").await.contains("not enabled"));
    assert_eq!(admin.json("/why/recent").await, json!({ "records": [] }));
    assert_eq!(admin.ask("GET", "/why?id=x").await.0, 404);
    assert_eq!(admin.ask("GET", "/explain?host=a").await.0, 404, "no listener has routes");
}
