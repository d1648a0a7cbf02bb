//! How a cluster finds out what its hosts are good for, and how it connects to them.

use crate::model::Address;
use serde::Serialize;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Passive health checking. Percentages are whole percent; defaults are Envoy's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutlierDetection {
    pub interval: Duration,
    pub base_ejection_time: Duration,
    /// At least the base time.
    pub max_ejection_time: Duration,
    pub max_ejection_time_jitter: Duration,
    pub max_ejection_percent: u32,
    /// The first host is ejected whatever the percentage.
    pub always_eject_one: bool,
    pub consecutive_5xx: u32,
    pub enforcing_consecutive_5xx: u32,
    pub consecutive_gateway_failure: u32,
    pub enforcing_consecutive_gateway_failure: u32,
    /// Failures of our own making count apart.
    pub split_local_origin: bool,
    pub consecutive_local_origin_failure: u32,
    pub enforcing_consecutive_local_origin_failure: u32,
    pub enforcing_success_rate: u32,
    pub enforcing_local_origin_success_rate: u32,
    pub success_rate_minimum_hosts: u32,
    pub success_rate_request_volume: u32,
    /// Thousandths of a standard deviation.
    pub success_rate_stdev_factor: u32,
    pub failure_percentage_threshold: u32,
    pub enforcing_failure_percentage: u32,
    pub enforcing_failure_percentage_local_origin: u32,
    pub failure_percentage_minimum_hosts: u32,
    pub failure_percentage_request_volume: u32,
    /// A passed active check ends an ejection.
    pub check_unejects: bool,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        OutlierDetection {
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_time_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one: true,
            consecutive_5xx: 5,
            enforcing_consecutive_5xx: 100,
            consecutive_gateway_failure: 5,
            enforcing_consecutive_gateway_failure: 0,
            split_local_origin: false,
            consecutive_local_origin_failure: 5,
            enforcing_consecutive_local_origin_failure: 100,
            enforcing_success_rate: 100,
            enforcing_local_origin_success_rate: 100,
            success_rate_minimum_hosts: 5,
            success_rate_request_volume: 100,
            success_rate_stdev_factor: 1900,
            failure_percentage_threshold: 85,
            enforcing_failure_percentage: 0,
            enforcing_failure_percentage_local_origin: 0,
            failure_percentage_minimum_hosts: 5,
            failure_percentage_request_volume: 50,
            check_unejects: true,
        }
    }
}

/// One active health check of every host.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HealthCheck {
    pub timeout: Duration,
    pub interval: Duration,
    /// Bounds of the time between checks, jitter included. Default none.
    pub least_interval: Duration,
    pub most_interval: Duration,
    /// Added at random before the first check, up to this.
    pub initial_jitter: Duration,
    /// Added at random to each interval, up to this.
    pub interval_jitter: Duration,
    /// The same as a percentage of the interval.
    pub interval_jitter_percent: u32,
    pub unhealthy_threshold: u32,
    pub healthy_threshold: u32,
    /// While the cluster has had no request. Default 60 s.
    pub no_traffic_interval: Duration,
    /// The same for hosts that are healthy.
    pub no_traffic_healthy_interval: Duration,
    /// Of an unhealthy host.
    pub unhealthy_interval: Duration,
    /// After the check that made a host unhealthy.
    pub unhealthy_edge_interval: Duration,
    /// After the check that made a host healthy.
    pub healthy_edge_interval: Duration,
    pub reuse_connection: bool,
    /// In place of the host's port.
    pub alt_port: Option<u16>,
    pub log_failures: bool,
    pub log_success: bool,
    /// Protocols offered in TLS in place of the cluster's.
    pub alpn: Option<Arc<[String]>>,
    pub check: Check,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Check {
    Http(HttpCheck),
    /// Connects, sends (if not empty), and waits until all of `receive` came in this order.
    Tcp {
        send: Vec<u8>,
        receive: Vec<Vec<u8>>,
    },
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        service: String,
        authority: String,
        metadata: Vec<(String, String)>,
    },
    /// bolt heartbeat.
    Bolt,
}

/// An HTTP check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HttpCheck {
    /// Host header; empty: the host's name, else the cluster's.
    pub host: String,
    pub path: String,
    pub method: String,
    pub headers: Vec<(String, String)>,
    pub remove_headers: Vec<String>,
    /// What passes; empty: 200.
    pub expected: Vec<StatusRange>,
    /// What fails without making a host unhealthy at once.
    pub retriable: Vec<StatusRange>,
    pub http2: bool,
    /// Parts the response body must contain, in this order.
    pub receive: Vec<Vec<u8>>,
    /// Bytes of the body that are looked at; 0: all.
    pub body_limit: u64,
}

/// Statuses from `start` to before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StatusRange {
    pub start: u16,
    pub end: u16,
}

impl StatusRange {
    /// Whether `status` lies inside.
    pub fn contains(self, status: u16) -> bool {
        (self.start..self.end).contains(&status)
    }
}

/// Settings of sockets towards hosts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BindConfig {
    /// Source IP and port (0: any); other families are left to the system.
    pub source: Vec<(IpAddr, u16)>,
    /// The address need not be one of the machine's.
    pub freebind: bool,
    /// Nor is anybody else to know that it is not.
    pub transparent: bool,
    /// In order.
    pub options: Vec<SocketOption>,
    /// `SO_MARK`.
    pub mark: Option<u32>,
}

impl BindConfig {
    /// The same from the address of a client, with this mark if it is not 0.
    pub fn from_client(&self, ip: IpAddr, mark: u32) -> BindConfig {
        let mark = Some(mark).filter(|mark| *mark != 0).or(self.mark);
        BindConfig { source: vec![(ip, 0)], transparent: true, mark, ..self.clone() }
    }
}

/// One socket option.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SocketOption {
    pub level: i64,
    pub name: i64,
    pub value: i64,
    pub state: SocketState,
}

impl SocketOption {
    /// `(level, name)` of Linux, and what it is called: the options that can be set.
    const KNOWN: &[(i64, i64, &'static str)] = &[
        (1, 2, "SO_REUSEADDR"),
        (1, 7, "SO_SNDBUF"),
        (1, 8, "SO_RCVBUF"),
        (1, 9, "SO_KEEPALIVE"),
        (1, 36, "SO_MARK"),
        (0, 1, "IP_TOS"),
        (0, 15, "IP_FREEBIND"),
        (6, 1, "TCP_NODELAY"),
        (6, 4, "TCP_KEEPIDLE"),
        (6, 5, "TCP_KEEPINTVL"),
        (6, 6, "TCP_KEEPCNT"),
        (6, 18, "TCP_USER_TIMEOUT"),
    ];

    /// Its name; `None` where it is none that can be set.
    pub fn word(&self) -> Option<&'static str> {
        let same = |known: &&(i64, i64, _)| (known.0, known.1) == (self.level, self.name);
        Self::KNOWN.iter().find(same).map(|(_, _, word)| *word)
    }
}

/// When it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum SocketState {
    Prebind,
    Bound,
    Listening,
}

/// Where checks of a host go when not to the host itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckTarget {
    pub address: Option<Address>,
    pub port: u16,
    pub hostname: String,
    pub disabled: bool,
}
