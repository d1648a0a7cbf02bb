//! The rows of speed: who does what under which load, and what is aimed at.

use crate::config::{Extras, Role};
use crate::peers::Peer;

pub struct Row {
    pub name: &'static str,
    pub backend: &'static str,
    pub load: &'static str,
    pub connections: usize,
    pub in_flight: usize,
    /// Bytes of the body that counts.
    pub size: usize,
    /// Fields of a request beside Host.
    pub fields: usize,
    pub entrants: &'static [Entrant],
    pub targets: &'static [Target],
}

/// One proxy in a row.
#[derive(Clone, Copy)]
pub struct Entrant {
    pub label: &'static str,
    pub peer: Peer,
    pub role: Role,
    pub workers: usize,
    /// Connections that idle beside those of the row.
    pub extra: usize,
}

/// `label` against `than`, or against the best of the others.
pub struct Target {
    pub label: &'static str,
    pub than: Than,
    pub measure: Measure,
    pub most: f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Than {
    One(&'static str),
    /// Whoever uses least of those that do the same work: not Mizzen, and no relay.
    Best,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Ratio of CPU time per request.
    Cpu,
    /// Ratio of the median latencies.
    P50,
    /// Difference of CPU time per request, µs.
    Added,
}

const fn entrant(label: &'static str, peer: Peer, role: Role) -> Entrant {
    Entrant { label, peer, role, workers: 1, extra: 0 }
}

const fn cpu(than: &'static str, most: f64) -> Target {
    Target { label: "mizzen", than: Than::One(than), measure: Measure::Cpu, most }
}

const H1: Role = Role::H1(Extras::None);

/// Relay, Mizzen, HAProxy, nginx and Envoy.
const fn everyone(role: Role) -> [Entrant; 5] {
    [
        entrant("relay", Peer::Relay, role),
        entrant("mizzen", Peer::Mizzen, role),
        entrant("haproxy", Peer::HaProxy, role),
        entrant("nginx", Peer::Nginx, role),
        entrant("envoy", Peer::Envoy, role),
    ]
}

/// Those who know HTTP/2 on both sides.
const fn speakers(role: Role) -> [Entrant; 3] {
    [
        entrant("mizzen", Peer::Mizzen, role),
        entrant("haproxy", Peer::HaProxy, role),
        entrant("envoy", Peer::Envoy, role),
    ]
}

const TCP: &[Entrant] = &[
    entrant("relay", Peer::Relay, Role::Tcp),
    entrant("mizzen", Peer::Mizzen, Role::Tcp),
    entrant("haproxy", Peer::HaProxy, Role::Tcp),
    entrant("envoy", Peer::Envoy, Role::Tcp),
];
const BOLT: &[Entrant] =
    &[entrant("relay", Peer::Relay, Role::Bolt), entrant("mizzen", Peer::Mizzen, Role::Bolt)];
const TWO_HOPS: &[Entrant] =
    &[entrant("relay", Peer::Relay, Role::TwoHops), entrant("mizzen", Peer::Mizzen, Role::TwoHops)];
const HTTP1: &[Entrant] = &everyone(H1);
const HTTP2: &[Entrant] = &speakers(Role::H2c);
const BODIES: &[Entrant] = &[
    entrant("relay", Peer::Relay, H1),
    entrant("relay 8 KiB", Peer::SmallRelay, H1),
    entrant("mizzen", Peer::Mizzen, H1),
    entrant("haproxy", Peer::HaProxy, H1),
    entrant("nginx", Peer::Nginx, H1),
    entrant("envoy", Peer::Envoy, H1),
];
const BODIES2: &[Entrant] = &[
    entrant("relay", Peer::Relay, Role::H2c),
    entrant("relay 8 KiB", Peer::SmallRelay, Role::H2c),
    entrant("mizzen", Peer::Mizzen, Role::H2c),
    entrant("haproxy", Peer::HaProxy, Role::H2c),
    entrant("envoy", Peer::Envoy, Role::H2c),
];
const TABLE: &[Entrant] = &[
    entrant("mizzen", Peer::Mizzen, H1),
    entrant("mizzen, 1,000 hosts", Peer::Mizzen, Role::H1(Extras::Table(1000))),
    entrant("envoy", Peer::Envoy, H1),
    entrant("envoy, 1,000 hosts", Peer::Envoy, Role::H1(Extras::Table(1000))),
];
const MESH: &[Entrant] = &[
    entrant("mizzen", Peer::Mizzen, H1),
    entrant("mizzen, 10,000 hosts", Peer::Mizzen, Role::H1(Extras::Table(10_000))),
];
const LOG: &[Entrant] = &[
    entrant("mizzen", Peer::Mizzen, H1),
    entrant("mizzen, log", Peer::Mizzen, Role::H1(Extras::Log)),
    entrant("envoy", Peer::Envoy, H1),
    entrant("envoy, log", Peer::Envoy, Role::H1(Extras::Log)),
];
const CROWD: &[Entrant] = &[
    entrant("mizzen", Peer::Mizzen, H1),
    Entrant { extra: 4936, ..entrant("mizzen, 5,000 open", Peer::Mizzen, H1) },
    entrant("haproxy", Peer::HaProxy, H1),
    Entrant { extra: 4936, ..entrant("haproxy, 5,000 open", Peer::HaProxy, H1) },
];
const WORKERS: &[Entrant] = &[
    entrant("mizzen", Peer::Mizzen, H1),
    Entrant { workers: 2, ..entrant("mizzen, 2 workers", Peer::Mizzen, H1) },
];

const fn bolt(
    name: &'static str,
    (connections, in_flight): (usize, usize),
    entrants: &'static [Entrant],
    targets: &'static [Target],
) -> Row {
    Row { backend: "bolt", load: "bolt", in_flight, ..http1(name, connections, 256, entrants, targets) }
}

const fn http1(
    name: &'static str,
    connections: usize,
    size: usize,
    entrants: &'static [Entrant],
    targets: &'static [Target],
) -> Row {
    Row { name, backend: "h1", load: "h1", connections, in_flight: 1, size, fields: 3, entrants, targets }
}

const fn h2c(
    name: &'static str,
    (connections, in_flight): (usize, usize),
    size: usize,
    entrants: &'static [Entrant],
    targets: &'static [Target],
) -> Row {
    Row { backend: "h2c", load: "h2c", in_flight, ..http1(name, connections, size, entrants, targets) }
}

const fn tcp(name: &'static str, connections: usize, size: usize) -> Row {
    const TARGETS: &[Target] = &[cpu("relay", 1.1), cpu("envoy", 0.7)];
    Row { backend: "echo", load: "tcp", ..http1(name, connections, size, TCP, TARGETS) }
}

const SMALL: &[Target] = &[cpu("haproxy", 1.05), cpu("envoy", 0.4), cpu("relay", 1.45)];
const SMALL2: &[Target] = &[cpu("haproxy", 1.1), cpu("envoy", 0.45)];
const GRPC: &[Target] = &[cpu("envoy", 0.5)];
const BEST: &[Target] = &[Target { label: "mizzen", than: Than::Best, measure: Measure::Cpu, most: 1.1 }];

const fn to_itself(label: &'static str, measure: Measure, most: f64) -> Target {
    Target { label, than: Than::One("mizzen"), measure, most }
}

pub const ROWS: &[Row] = &[
    bolt("bolt 64×1×256", (64, 1), BOLT, &[cpu("relay", 0.75)]),
    bolt("bolt 16×16×256", (16, 16), BOLT, &[cpu("relay", 1.8)]),
    bolt("bolt→h2→bolt 64×1×256", (64, 1), TWO_HOPS, &[cpu("relay", 2.2)]),
    http1("h1 64×1", 64, 256, HTTP1, SMALL),
    Row { fields: 9, ..http1("h1 64×1, ten fields", 64, 256, HTTP1, SMALL) },
    http1(
        "h1 1×1",
        1,
        256,
        HTTP1,
        &[Target { label: "mizzen", than: Than::One("haproxy"), measure: Measure::P50, most: 1.05 }],
    ),
    h2c("h2c 8×8", (8, 8), 256, HTTP2, SMALL2),
    h2c("h2c 4×25", (4, 25), 256, HTTP2, SMALL2),
    h2c("h2c 8×1", (8, 1), 256, HTTP2, SMALL2),
    Row { backend: "grpc", load: "unary", ..h2c("grpc unary 8×8", (8, 8), 128, HTTP2, GRPC) },
    Row { backend: "grpc", load: "streaming", ..h2c("grpc streaming 8×8", (8, 8), 128, HTTP2, GRPC) },
    http1("h1 8×64 KiB", 8, 64 << 10, BODIES, BEST),
    http1("h1 4×1 MiB", 4, 1 << 20, BODIES, BEST),
    h2c("h2c 4×2×64 KiB", (4, 2), 64 << 10, BODIES2, BEST),
    h2c("h2c 2×2×1 MiB", (2, 2), 1 << 20, BODIES2, BEST),
    tcp("tcp 64×1×256", 64, 256),
    tcp("tcp 8×64 KiB", 8, 64 << 10),
    tcp("tcp 4×1 MiB", 4, 1 << 20),
    http1(
        "h1 64×1, 1,000 hosts, 1,000 routes",
        64,
        256,
        TABLE,
        &[to_itself("mizzen, 1,000 hosts", Measure::Cpu, 1.05)],
    ),
    // What the look-up adds must stay below a microsecond.
    http1(
        "h1 64×1, 10,000 hosts, 1,000 routes",
        64,
        256,
        MESH,
        &[to_itself("mizzen, 10,000 hosts", Measure::Added, 1.0)],
    ),
    http1("h1 64×1, access log", 64, 256, LOG, &[to_itself("mizzen, log", Measure::Added, 1.5)]),
    http1(
        "h1 64×1, 5,000 connections open",
        64,
        256,
        CROWD,
        &[to_itself("mizzen, 5,000 open", Measure::Cpu, 1.2)],
    ),
    http1("h1 64×1, two workers", 64, 256, WORKERS, &[to_itself("mizzen, 2 workers", Measure::Cpu, 1.15)]),
];
