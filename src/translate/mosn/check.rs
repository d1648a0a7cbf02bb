//! `health_check` of a cluster.

use super::read::{Context, Object};
use crate::model::{Check, HealthCheck, HttpCheck, StatusRange};
use std::time::Duration;

/// On where it has a `service_name`. Protocol `Http1` asks by HTTP, all others connect.
pub(super) fn health_check(ctx: &mut Context<'_>, of: &mut Object<'_>) -> Option<HealthCheck> {
    let mut config = of.object(ctx, "health_check")?;
    let named = config.text(ctx, "service_name").is_some_and(|name| !name.is_empty());
    if !named {
        ctx.warn(&config.at("service_name"), "", "missing: without it there is no check, in MOSN neither");
        return None;
    }
    let by_http = config.text(ctx, "protocol") == Some("Http1");
    let mut time = |ctx: &mut Context<'_>, key: &str, default: Duration| {
        config.duration(ctx, key).filter(|time| !time.is_zero()).unwrap_or(default)
    };
    let timeout = time(ctx, "timeout", Duration::from_secs(1));
    let interval = time(ctx, "interval", Duration::from_secs(15));
    let interval_jitter = time(ctx, "interval_jitter", Duration::from_millis(5));
    let initial_jitter = time(ctx, "initial_delay_seconds", Duration::from_secs(1));
    let mut threshold = |ctx: &mut Context<'_>, key: &str| config.number(ctx, key).unwrap_or(1).max(1);
    let healthy_threshold = threshold(ctx, "healthy_threshold");
    let unhealthy_threshold = threshold(ctx, "unhealthy_threshold");
    let mut alt_port = None;
    let mut check = Check::Tcp { send: Vec::new(), receive: Vec::new() };
    if let Some(mut kinds) = config.object(ctx, "check_config") {
        if let Some(mut http) = kinds.object(ctx, "http_check_config") {
            let port = http.number(ctx, "port").and_then(|port| u16::try_from(port).ok());
            let asked = http_check(ctx, &mut http);
            http.finish(ctx);
            if by_http {
                alt_port = port.filter(|port| *port > 0);
                check = Check::Http(asked);
            }
        }
        kinds.finish(ctx);
    }
    config.no_effect(ctx, "event_log_path", "events go to the process log");
    config.no_effect(ctx, "common_callbacks", "Go code cannot be called");
    config.skip(ctx, &["check_path"]);
    config.finish(ctx);
    Some(HealthCheck {
        timeout,
        interval,
        least_interval: Duration::ZERO,
        most_interval: Duration::MAX,
        initial_jitter,
        interval_jitter,
        interval_jitter_percent: 0,
        unhealthy_threshold,
        healthy_threshold,
        no_traffic_interval: interval,
        no_traffic_healthy_interval: interval,
        unhealthy_interval: interval,
        unhealthy_edge_interval: interval,
        healthy_edge_interval: interval,
        reuse_connection: true,
        alt_port,
        log_failures: false,
        log_success: false,
        alpn: None,
        check,
    })
}

fn http_check(ctx: &mut Context<'_>, http: &mut Object<'_>) -> HttpCheck {
    let mut expected = Vec::new();
    for mut range in http.objects(ctx, "codes") {
        let mut code = |ctx: &mut Context<'_>, key: &str| {
            range.number(ctx, key).and_then(|code| u16::try_from(code).ok()).unwrap_or(0)
        };
        let (start, end) = (code(ctx, "Start"), code(ctx, "End"));
        range.finish(ctx);
        // Both ends count in MOSN.
        expected.push(StatusRange { start, end: end.saturating_add(1) });
    }
    let mut text = |ctx: &mut Context<'_>, key: &str, default: &str| {
        http.text(ctx, key).filter(|text| !text.is_empty()).unwrap_or(default).to_owned()
    };
    let (host, path, method) = (text(ctx, "domain", ""), text(ctx, "path", "/"), text(ctx, "method", "GET"));
    http.skip(ctx, &["timeout", "scheme"]);
    HttpCheck {
        host,
        path,
        method,
        headers: Vec::new(),
        remove_headers: Vec::new(),
        expected,
        retriable: Vec::new(),
        http2: false,
        receive: Vec::new(),
        body_limit: 0,
    }
}
