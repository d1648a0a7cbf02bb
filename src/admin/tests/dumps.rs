//! What the proxy says of its state: numbers, clusters, listeners, configuration.

use super::*;

#[tokio::test]
async fn stats_as_a_pilot_agent_asks() {
    let admin = start(0).await;
    let cds = admin.registry.register(Scope::cds(), XdsTypeStats::default());
    let lds = admin.registry.register(Scope::lds(), XdsTypeStats::default());
    let query = r"/stats?usedonly&filter=^(cluster_manager\.cds|listener_manager\.lds)\.(update_success|update_rejected)$";
    assert_eq!(admin.get(query).await, "");
    cds.update_success.inc();
    lds.update_success.inc();
    let both = "cluster_manager.cds.update_success: 1\nlistener_manager.lds.update_success: 1\n";
    assert_eq!(admin.get(query).await, both);
    let encoded = query.replace('^', "%5E").replace('\\', "%5C").replace('|', "%7C").replace('$', "%24");
    assert_eq!(admin.get(&encoded).await, both);
    admin.lifecycle.set(ServerState::Live);
    let query = r"/stats?usedonly&filter=^(server\.state|listener_manager\.workers_started)";
    assert_eq!(admin.get(query).await, "server.state: 0\n");
    assert_eq!(admin.ask("GET", "/stats?filter=(").await.0, 400);
    assert_eq!(admin.ask("GET", "/stats?format=xml").await.0, 400);
    let all = admin.json("/stats?format=json&usedonly&filter=cds").await;
    assert_eq!(all["stats"][0]["name"], "cluster_manager.cds.update_success");
    assert!(admin.get("/stats/prometheus").await.contains("envoy_cluster_manager_cds_update_success{} 1\n"));
    let gauges =
        admin.get("/stats?filter=^cluster.c0.(membership_total|circuit_breakers.default.remaining_rq)").await;
    assert_eq!(
        gauges,
        "cluster.c0.circuit_breakers.default.remaining_rq: 7\ncluster.c0.membership_total: 2\n"
    );
    assert_eq!(
        admin.get("/stats?usedonly&filter=^cluster.c0.(update_|version|membership_change)").await,
        "cluster.c0.version_text: \"v3\"\ncluster.c0.membership_change: 3\ncluster.c0.update_attempt: 4\n\
         cluster.c0.update_no_rebuild: 1\ncluster.c0.update_success: 3\n"
    );
    assert_eq!(admin.ask("POST", "/reset_counters").await.0, 200);
    assert!(admin.get("/stats?filter=cds.update_success").await.ends_with(": 0\n"));
}

#[tokio::test]
async fn clusters_in_both_forms() {
    let admin = start(1).await;
    let host: Registration<HostStats> =
        admin.registry.register(Scope::host("c0", "10.0.0.1:80"), HostStats::default());
    host.cx_total.add(6);
    host.rq_active.set(1);
    let text = admin.get("/clusters").await;
    for line in [
        "c0::observability_name::c0",
        "c0::default_priority::max_requests::7",
        "c0::high_priority::max_retries::3",
        "c0::added_via_api::true",
        "c0::eds_service_name::c0-eds",
        "c0::10.0.0.1:80::cx_total::6",
        "c0::10.0.0.2:80::cx_total::0",
        "c0::10.0.0.1:80::health_flags::healthy",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    let json = admin.json("/clusters?format=json").await;
    let status = &json["cluster_statuses"][0];
    assert_eq!(status["added_via_api"], true);
    assert_eq!(status["eds_service_name"], "c0-eds");
    assert_eq!(status["circuit_breakers"]["thresholds"][0]["max_requests"], 7);
    assert_eq!(status["circuit_breakers"]["thresholds"][1]["priority"], "HIGH");
    let host = &status["host_statuses"][0];
    assert_eq!(host["address"], json!({ "socket_address": { "address": "10.0.0.1", "port_value": 80 } }));
    assert_eq!(host["health_status"]["eds_health_status"], "HEALTHY");
    let stats = host["stats"].as_array().unwrap();
    assert!(stats.contains(&json!({ "name": "cx_total", "value": "6" })), "{stats:?}");
    assert!(stats.contains(&json!({ "name": "rq_active", "type": "GAUGE", "value": "1" })));
    assert!(!admin.get("/stats").await.contains("10.0.0.1"), "hosts are no part of /stats");
}

#[tokio::test]
async fn listeners_open_and_draining() {
    let admin = start(0).await;
    assert_eq!(
        admin.get("/listeners").await,
        "virtualInbound::0.0.0.0:15006\nvirtualInbound::[::]:15006\n\
         old::draining::generation=4 connections=2 streams=3 age_s=12\n"
    );
    let json = admin.json("/listeners?format=json").await;
    let open = &json["listener_statuses"];
    assert_eq!(open[0]["local_address"]["socket_address"]["port_value"], 15006);
    assert_eq!(open.as_array().unwrap().len(), 1);
    assert_eq!(json["draining_listeners"][0]["streams"], 3);
}

#[tokio::test]
async fn config_dump_has_versions_errors_and_no_secrets() {
    let admin = start(2).await;
    let text = admin.get("/config_dump?include_eds").await;
    assert!(!text.contains("hush"), "{text}");
    let dump: Json = serde_json::from_str(&text).unwrap();
    assert_eq!(section(&dump, "BootstrapConfigDump")["bootstrap"]["node"]["id"], "n");
    let clusters = section(&dump, "ClustersConfigDump");
    assert_eq!(clusters["version_info"], "v1");
    assert_eq!(clusters["static_clusters"][0]["cluster"]["name"], "own");
    let first = &clusters["dynamic_active_clusters"][0];
    assert_eq!(first["cluster"]["@type"], "type.googleapis.com/envoy.config.cluster.v3.Cluster");
    assert_eq!(first["last_updated"], "2026-11-20T16:22:37.901Z");
    assert_eq!(first["version_info"], "v1");
    assert_eq!(first["client_status"], "NACKED");
    assert_eq!(first["error_state"]["details"], "Cluster c0: lb_policy: 9: unknown");
    assert_eq!(first["error_state"]["failed_configuration"]["name"], "c0");
    assert!(clusters["dynamic_active_clusters"][1].get("error_state").is_none());
    let listener = &section(&dump, "ListenersConfigDump")["dynamic_listeners"][0];
    assert_eq!(listener["name"], "l0");
    assert_eq!(listener["error_state"]["version_info"], "v2");
    assert!(listener.get("active_state").is_none());
    section(&dump, "EndpointsConfigDump");
    let without = admin.json("/config_dump").await;
    assert!(!without.to_string().contains("EndpointsConfigDump"));
}

#[tokio::test]
async fn config_dump_can_be_narrowed() {
    let admin = start(3).await;
    let one =
        admin.json("/config_dump?resource=dynamic_active_clusters&name_regex=^c1$&mask=cluster.name").await;
    let entry = json!({
        "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.DynamicCluster",
        "cluster": { "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "c1" },
    });
    assert_eq!(one, json!({ "configs": [entry] }));
    let masked = admin.json("/config_dump?mask=dynamic_active_clusters,static_clusters").await;
    assert_eq!(masked["configs"].as_array().unwrap().len(), 1);
    assert!(masked["configs"][0].get("version_info").is_none());
    let bootstrap = admin.json("/config_dump?mask=bootstrap").await;
    assert_eq!(bootstrap["configs"].as_array().unwrap().len(), 1);
    assert_eq!(admin.ask("GET", "/config_dump?resource=nonesuch").await.0, 404);
    assert_eq!(admin.ask("GET", "/config_dump?resource=bootstrap").await.0, 400);
}

#[tokio::test]
async fn a_slow_reader_of_a_dump_holds_up_nobody() {
    let admin = start(10_000).await;
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(admin.address).await.unwrap();
        stream.write_all(b"GET /config_dump HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).await.unwrap();
        slow.push(stream);
    }
    // Both turns are taken by readers that read nothing; everything small still answers.
    admin.lifecycle.set(ServerState::Live);
    for _ in 0..20 {
        assert_eq!(admin.ask("GET", "/ready").await.0, 200);
    }
    assert!(admin.get("/stats?filter=^nothing").await.is_empty());
    // A turn comes back when its reader goes.
    slow.pop();
    let dump = admin.json("/config_dump").await;
    assert_eq!(
        section(&dump, "ClustersConfigDump")["dynamic_active_clusters"].as_array().unwrap().len(),
        10_000
    );
}
