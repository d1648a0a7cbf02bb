//! What finds bad hosts: outlier detection and active health checks.

use std::time::Duration;

use super::extension::Extension;
use super::values::{duration, enumeration, port, positive, within};
use crate::model::{Check, Cluster, HealthCheck, HttpCheck, OutlierDetection, StatusRange};
use crate::proto::envoy::config::cluster::v3 as pb;
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::r#type::v3::{CodecClientType, Int64Range};
use crate::translate::finding::{Findings, Path};

/// The type that asks for bolt heartbeats.
const BOLT: &str = "mizzen.health_checkers.bolt";

/// Applies both.
pub(super) fn apply(message: &pb::Cluster, model: &mut Cluster, out: &mut Findings) {
    let root = Path::ROOT;
    if let Some(config) = &message.outlier_detection {
        model.outlier = Some(outlier(&root.name("outlier_detection"), config, out).into());
    }
    let at = root.name("health_checks");
    if message.health_checks.len() > 1 {
        let why = "only one health check is supported, as in Envoy";
        out.bad(&at, format_args!("{} checks", message.health_checks.len()), why);
    }
    if let Some(check) = message.health_checks.first() {
        let made = health_check(&at.index(0), check, out);
        model.health_checks = made.map(Into::into).into_iter().collect();
    }
}

fn outlier(path: &Path<'_>, pb: &pb::OutlierDetection, out: &mut Findings) -> OutlierDetection {
    let default = OutlierDetection::default();
    let mut percent = |field: &str, value: Option<u32>, default: u32| {
        within(&path.name(field), value.unwrap_or(default), 0, 100, out)
    };
    let max_ejection_percent = percent("max_ejection_percent", pb.max_ejection_percent, 10);
    let five = percent("enforcing_consecutive_5xx", pb.enforcing_consecutive_5xx, 100);
    let gateway =
        percent("enforcing_consecutive_gateway_failure", pb.enforcing_consecutive_gateway_failure, 0);
    let local = percent(
        "enforcing_consecutive_local_origin_failure",
        pb.enforcing_consecutive_local_origin_failure,
        100,
    );
    let rate = percent("enforcing_success_rate", pb.enforcing_success_rate, 100);
    let local_rate =
        percent("enforcing_local_origin_success_rate", pb.enforcing_local_origin_success_rate, 100);
    let threshold = percent("failure_percentage_threshold", pb.failure_percentage_threshold, 85);
    let percentage = percent("enforcing_failure_percentage", pb.enforcing_failure_percentage, 0);
    let local_percentage =
        percent("enforcing_failure_percentage_local_origin", pb.enforcing_failure_percentage_local_origin, 0);
    let interval = positive(&path.name("interval"), pb.interval.as_ref(), default.interval, out);
    let base = pb.base_ejection_time.as_ref();
    let base = positive(&path.name("base_ejection_time"), base, default.base_ejection_time, out);
    let max = pb.max_ejection_time.as_ref();
    let max = positive(&path.name("max_ejection_time"), max, default.max_ejection_time, out);
    let jitter = pb.max_ejection_time_jitter.as_ref();
    let jitter = jitter.map_or(Duration::ZERO, |d| duration(&path.name("max_ejection_time_jitter"), d, out));
    if !pb.monitors.is_empty() {
        out.bad(&path.name("monitors"), "", "not supported (nearest valid: leave it out)");
    }
    OutlierDetection {
        interval,
        base_ejection_time: base,
        max_ejection_time: max.max(base),
        max_ejection_time_jitter: jitter,
        max_ejection_percent,
        always_eject_one: pb.always_eject_one_host.unwrap_or(true),
        consecutive_5xx: pb.consecutive_5xx.unwrap_or(default.consecutive_5xx),
        enforcing_consecutive_5xx: five,
        consecutive_gateway_failure: pb
            .consecutive_gateway_failure
            .unwrap_or(default.consecutive_gateway_failure),
        enforcing_consecutive_gateway_failure: gateway,
        split_local_origin: pb.split_external_local_origin_errors,
        consecutive_local_origin_failure: pb
            .consecutive_local_origin_failure
            .unwrap_or(default.consecutive_local_origin_failure),
        enforcing_consecutive_local_origin_failure: local,
        enforcing_success_rate: rate,
        enforcing_local_origin_success_rate: local_rate,
        success_rate_minimum_hosts: pb
            .success_rate_minimum_hosts
            .unwrap_or(default.success_rate_minimum_hosts),
        success_rate_request_volume: pb
            .success_rate_request_volume
            .unwrap_or(default.success_rate_request_volume),
        success_rate_stdev_factor: pb.success_rate_stdev_factor.unwrap_or(default.success_rate_stdev_factor),
        failure_percentage_threshold: threshold,
        enforcing_failure_percentage: percentage,
        enforcing_failure_percentage_local_origin: local_percentage,
        failure_percentage_minimum_hosts: pb
            .failure_percentage_minimum_hosts
            .unwrap_or(default.failure_percentage_minimum_hosts),
        failure_percentage_request_volume: pb
            .failure_percentage_request_volume
            .unwrap_or(default.failure_percentage_request_volume),
        check_unejects: pb.successful_active_health_check_uneject_host.unwrap_or(true),
    }
}

fn health_check(path: &Path<'_>, pb: &core::HealthCheck, out: &mut Findings) -> Option<HealthCheck> {
    let required = |field: &str, value: Option<&prost_types::Duration>, out: &mut Findings| {
        let at = path.name(field);
        if value.is_none() {
            out.bad(&at, "", "is required");
        }
        positive(&at, value, Duration::from_secs(1), out)
    };
    let timeout = required("timeout", pb.timeout.as_ref(), out);
    let interval = required("interval", pb.interval.as_ref(), out);
    let mut other = |field: &str, value: Option<&prost_types::Duration>, default: Duration| {
        positive(&path.name(field), value, default, out)
    };
    let no_traffic = other("no_traffic_interval", pb.no_traffic_interval.as_ref(), Duration::from_secs(60));
    let no_traffic_healthy =
        other("no_traffic_healthy_interval", pb.no_traffic_healthy_interval.as_ref(), no_traffic);
    let unhealthy = other("unhealthy_interval", pb.unhealthy_interval.as_ref(), interval);
    let unhealthy_edge = other("unhealthy_edge_interval", pb.unhealthy_edge_interval.as_ref(), unhealthy);
    let healthy_edge = other("healthy_edge_interval", pb.healthy_edge_interval.as_ref(), interval);
    let mut jitter = |field: &str, value: Option<&prost_types::Duration>| {
        value.map_or(Duration::ZERO, |value| duration(&path.name(field), value, out))
    };
    let initial_jitter = jitter("initial_jitter", pb.initial_jitter.as_ref());
    let interval_jitter = jitter("interval_jitter", pb.interval_jitter.as_ref());
    let threshold = |field: &str, value: Option<u32>, out: &mut Findings| {
        if value.is_none() {
            out.bad(&path.name(field), "", "is required");
        }
        value.unwrap_or(1).max(1)
    };
    refuse(path, pb, out);
    Some(HealthCheck {
        timeout,
        interval,
        least_interval: Duration::ZERO,
        most_interval: Duration::MAX,
        initial_jitter,
        interval_jitter,
        interval_jitter_percent: pb.interval_jitter_percent,
        unhealthy_threshold: threshold("unhealthy_threshold", pb.unhealthy_threshold, out),
        healthy_threshold: threshold("healthy_threshold", pb.healthy_threshold, out),
        no_traffic_interval: no_traffic,
        no_traffic_healthy_interval: no_traffic_healthy,
        unhealthy_interval: unhealthy,
        unhealthy_edge_interval: unhealthy_edge,
        healthy_edge_interval: healthy_edge,
        reuse_connection: pb.reuse_connection.unwrap_or(true),
        alt_port: pb.alt_port.map(|value| port(&path.name("alt_port"), value, out)),
        log_failures: pb.always_log_health_check_failures,
        log_success: pb.always_log_health_check_success,
        alpn: pb.tls_options.as_ref().map(|own| own.alpn_protocols.clone().into()),
        check: check(path, pb, out)?,
    })
}

/// What would ask other hosts, or in another way.
fn refuse(path: &Path<'_>, pb: &core::HealthCheck, out: &mut Findings) {
    if pb.transport_socket_match_criteria.is_some() {
        let at = path.name("transport_socket_match_criteria");
        out.bad(&at, "", "not supported (nearest valid: leave it out)");
    }
    let at = path.name("event_logger");
    for (i, logger) in pb.event_logger.iter().enumerate() {
        let why = "not supported: events go to the process log (nearest valid: leave it out)";
        out.bad(&at.index(i), &logger.name, why);
    }
}

fn check(path: &Path<'_>, pb: &core::HealthCheck, out: &mut Findings) -> Option<Check> {
    use core::health_check::{HealthChecker as Kind, custom_health_check::ConfigType};
    match &pb.health_checker {
        Some(Kind::HttpHealthCheck(http)) => {
            Some(Check::Http(http_check(&path.name("http_health_check"), http, out)))
        }
        Some(Kind::TcpHealthCheck(tcp)) => {
            let at = path.name("tcp_health_check");
            let receive = payloads(&at.name("receive"), &tcp.receive, out);
            let send = tcp.send.as_ref().map(|send| payload(&at.name("send"), send, out)).unwrap_or_default();
            Some(Check::Tcp { send, receive })
        }
        Some(Kind::GrpcHealthCheck(grpc)) => {
            let at = path.name("grpc_health_check");
            Some(Check::Grpc {
                service: grpc.service_name.clone(),
                authority: grpc.authority.clone(),
                metadata: headers(&at.name("initial_metadata"), &grpc.initial_metadata, out),
            })
        }
        Some(Kind::CustomHealthCheck(custom)) => {
            let at = path.name("custom_health_check");
            if custom.name == BOLT && custom.config_type.is_none() {
                return Some(Check::Bolt);
            }
            let url = match &custom.config_type {
                Some(ConfigType::TypedConfig(any)) => {
                    Extension::open(&at.name("typed_config"), any, out)?.type_url.into_owned()
                }
                None => custom.name.clone(),
            };
            out.bad(
                &at,
                url,
                format_args!("not supported (nearest valid: name {BOLT}, or another kind of check)"),
            );
            None
        }
        None => {
            out.bad(path, "", "no kind of check (nearest valid: tcp_health_check)");
            None
        }
    }
}

fn http_check(path: &Path<'_>, pb: &core::health_check::HttpHealthCheck, out: &mut Findings) -> HttpCheck {
    use core::RequestMethod as Method;
    if !pb.path.starts_with('/') {
        out.bad(&path.name("path"), &pb.path, "must begin with / (nearest valid /)");
    }
    let method = match enumeration(&path.name("method"), pb.method, out).unwrap_or(Method::Get) {
        Method::MethodUnspecified => "GET",
        Method::Connect => {
            out.bad(&path.name("method"), "CONNECT", "not for health checks (nearest valid GET)");
            "GET"
        }
        other => other.as_str_name(),
    };
    let http2 = match enumeration(&path.name("codec_client_type"), pb.codec_client_type, out) {
        Some(CodecClientType::Http3) => {
            out.bad(&path.name("codec_client_type"), "HTTP3", "not supported (nearest valid HTTP2)");
            true
        }
        kind => kind == Some(CodecClientType::Http2),
    };
    for (field, set) in
        [("send", pb.send.is_some()), ("service_name_matcher", pb.service_name_matcher.is_some())]
    {
        if set {
            out.bad(&path.name(field), "", "not supported (nearest valid: leave it out)");
        }
    }
    HttpCheck {
        host: pb.host.clone(),
        path: pb.path.clone(),
        method: method.to_owned(),
        headers: headers(&path.name("request_headers_to_add"), &pb.request_headers_to_add, out),
        remove_headers: pb.request_headers_to_remove.clone(),
        expected: ranges(&path.name("expected_statuses"), &pb.expected_statuses, out),
        retriable: ranges(&path.name("retriable_statuses"), &pb.retriable_statuses, out),
        http2,
        receive: payloads(&path.name("receive"), &pb.receive, out),
        body_limit: pb.response_buffer_size.unwrap_or(1024),
    }
}

fn ranges(path: &Path<'_>, list: &[Int64Range], out: &mut Findings) -> Vec<StatusRange> {
    let one = |(i, range): (usize, &Int64Range)| {
        let inside = |value: i64| (100..=600).contains(&value);
        if !inside(range.start) || !inside(range.end) || range.start >= range.end {
            let why = "must be a range inside 100 to 600, its end not included (nearest usual: 200 to 300)";
            out.bad(&path.index(i), format_args!("{} to {}", range.start, range.end), why);
        }
        let status = |value: i64| u16::try_from(value).unwrap_or(0);
        StatusRange { start: status(range.start), end: status(range.end) }
    };
    list.iter().enumerate().map(one).collect()
}

/// Fixed headers: there is no request to take anything from.
fn headers(path: &Path<'_>, list: &[core::HeaderValueOption], out: &mut Findings) -> Vec<(String, String)> {
    let one = |(i, option): (usize, &core::HeaderValueOption)| {
        let header = option.header.as_ref()?;
        let value = match header.raw_value.as_slice() {
            [] => header.value.clone(),
            raw => String::from_utf8_lossy(raw).into_owned(),
        };
        if value.contains('%') {
            out.bad(
                &path.index(i),
                &value,
                "format strings are not supported here (nearest valid: a fixed value)",
            );
        }
        Some((header.key.clone(), value))
    };
    list.iter().enumerate().filter_map(one).collect()
}

fn payloads(path: &Path<'_>, list: &[core::health_check::Payload], out: &mut Findings) -> Vec<Vec<u8>> {
    list.iter().enumerate().map(|(i, item)| payload(&path.index(i), item, out)).collect()
}

/// Hexadecimal text, or bytes.
fn payload(path: &Path<'_>, value: &core::health_check::Payload, out: &mut Findings) -> Vec<u8> {
    use core::health_check::payload::Payload as Kind;
    match &value.payload {
        Some(Kind::Binary(bytes)) => bytes.clone(),
        Some(Kind::Text(text)) => {
            let (pairs, rest) = text.as_bytes().as_chunks::<2>();
            let digit = |c: u8| char::from(c).to_digit(16);
            let byte = |[high, low]: &[u8; 2]| Some((digit(*high)? << 4 | digit(*low)?) as u8);
            let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
            bytes.filter(|_| rest.is_empty() && !text.is_empty()).unwrap_or_else(|| {
                out.bad(&path.name("text"), text, "must be pairs of hexadecimal digits (nearest usual: 00)");
                Vec::new()
            })
        }
        None => {
            out.bad(path, "", "no payload (nearest valid: text)");
            Vec::new()
        }
    }
}
