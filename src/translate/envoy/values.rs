//! Small values: durations, percentages, addresses, prefixes, enumerations, configuration sources.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::model::{Address, Cidr};
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use crate::translate::finding::{Findings, Note, NoteKind, Path};

/// What "never" becomes where a number is needed, and the cap of every duration: timers must not overflow.
pub(super) const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Longest path of a Unix socket, without the final zero byte.
const MAX_UNIX_PATH: usize = 107;

/// A duration of at least zero, at most [`FOREVER`].
pub(super) fn duration(path: &Path<'_>, value: &prost_types::Duration, out: &mut Findings) -> Duration {
    let text = || format!("{value}");
    match (u64::try_from(value.seconds), u32::try_from(value.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Duration::new(seconds, nanos).min(FOREVER),
        (_, Ok(_)) | (Err(_), _) => {
            out.bad(path, text(), "must not be negative (nearest valid 0s)");
            Duration::ZERO
        }
        _ => {
            out.bad(path, text(), "seconds and nanoseconds do not make a duration (nearest valid 0s)");
            Duration::ZERO
        }
    }
}

/// A timeout: the default if absent, `None` (off) if zero.
pub(super) fn timeout(
    path: &Path<'_>,
    value: Option<&prost_types::Duration>,
    default: Option<Duration>,
    out: &mut Findings,
) -> Option<Duration> {
    match value {
        None => default,
        Some(value) => Some(duration(path, value, out)).filter(|d| !d.is_zero()),
    }
}

/// A duration of at least one millisecond, or the default if absent.
pub(super) fn positive(
    path: &Path<'_>,
    value: Option<&prost_types::Duration>,
    default: Duration,
    out: &mut Findings,
) -> Duration {
    let Some(value) = value else { return default };
    let before = out.faults();
    let read = duration(path, value, out);
    if read < Duration::from_millis(1) && out.faults() == before {
        out.bad(path, format!("{value}"), "must be at least 1 ms (nearest valid 0.001s)");
    }
    read
}

/// An enumeration's value; a number it does not have is a finding.
pub(super) fn enumeration<E: TryFrom<i32>>(path: &Path<'_>, number: i32, out: &mut Findings) -> Option<E> {
    let value = E::try_from(number).ok();
    if value.is_none() {
        out.bad(path, number, "not a value of this enumeration (nearest valid 0)");
    }
    value
}

/// A number within bounds, both included.
pub(super) fn within(path: &Path<'_>, value: u32, min: u32, max: u32, out: &mut Findings) -> u32 {
    let nearest = value.clamp(min, max);
    if nearest != value {
        out.bad(path, value, format_args!("must be {min} to {max} (nearest valid {nearest})"));
    }
    nearest
}

/// A port.
pub(super) fn port(path: &Path<'_>, value: u32, out: &mut Findings) -> u16 {
    u16::try_from(value).unwrap_or_else(|_| {
        out.bad(path, value, "must be 0 to 65535 (nearest valid 65535)");
        u16::MAX
    })
}

/// A text that must be there.
pub(super) fn not_empty(path: &Path<'_>, value: &str, out: &mut Findings) -> String {
    if value.is_empty() {
        out.bad(path, "", "must not be empty");
    }
    value.to_owned()
}

/// A fraction in millionths, at most a million.
pub(super) fn fraction(path: &Path<'_>, value: &FractionalPercent, out: &mut Findings) -> u32 {
    let Some(denominator) = enumeration(&path.name("denominator"), value.denominator, out) else { return 0 };
    let scale = match denominator {
        DenominatorType::Hundred => 10_000,
        DenominatorType::TenThousand => 100,
        DenominatorType::Million => 1,
    };
    value.numerator.saturating_mul(scale).min(1_000_000)
}

/// A percentage of 0 to 100, rounded.
pub(super) fn percent(path: &Path<'_>, value: f64, out: &mut Findings) -> u32 {
    if !(0.0..=100.0).contains(&value) {
        let nearest = if value > 100.0 { 100 } else { 0 };
        out.bad(&path.name("value"), value, format_args!("must be 0 to 100 (nearest valid {nearest})"));
        return nearest;
    }
    // In 0..=100 after the check above: the cast cannot lose anything but the fraction.
    value.round() as u32
}

/// Which addresses a place accepts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Accept {
    /// IP or Unix socket.
    Sockets,
    /// Host names as well.
    Names,
}

/// A TCP or Unix address.
pub(super) fn address(
    path: &Path<'_>,
    value: Option<&core::Address>,
    accept: Accept,
    out: &mut Findings,
) -> Option<Address> {
    use core::address::Address as Kind;
    match value.and_then(|a| a.address.as_ref()) {
        None => {
            out.bad(path, "", "no address");
            None
        }
        Some(Kind::SocketAddress(socket)) => {
            socket_address(&path.name("socket_address"), socket, accept, out)
        }
        Some(Kind::Pipe(pipe)) => unix(&path.name("pipe"), pipe, out),
        Some(Kind::EnvoyInternalAddress(_)) => {
            out.bad(&path.name("envoy_internal_address"), "", "internal addresses are not supported");
            None
        }
    }
}

fn unix(path: &Path<'_>, pipe: &core::Pipe, out: &mut Findings) -> Option<Address> {
    if pipe.mode != 0 {
        let mode = format!("{:o}", pipe.mode);
        out.bad(
            &path.name("mode"),
            mode,
            "setting the mode of a Unix socket is not supported (nearest valid 0)",
        );
    }
    if pipe.path.is_empty() || pipe.path.len() > MAX_UNIX_PATH || pipe.path.contains('\0') {
        let why = format!("a Unix socket path has 1 to {MAX_UNIX_PATH} bytes and no NUL");
        out.bad(&path.name("path"), &pipe.path, why);
        return None;
    }
    Some(Address::Unix(PathBuf::from(&pipe.path)))
}

fn socket_address(
    path: &Path<'_>,
    socket: &core::SocketAddress,
    accept: Accept,
    out: &mut Findings,
) -> Option<Address> {
    use core::socket_address::{PortSpecifier, Protocol};
    if enumeration(&path.name("protocol"), socket.protocol, out) == Some(Protocol::Udp) {
        out.bad(&path.name("protocol"), "UDP", "only TCP is supported (nearest valid TCP)");
    }
    for (field, value) in [
        ("resolver_name", &socket.resolver_name),
        ("network_namespace_filepath", &socket.network_namespace_filepath),
    ] {
        if !value.is_empty() {
            out.bad(&path.name(field), value, "not supported (nearest valid: leave it out)");
        }
    }
    if socket.ipv4_compat {
        out.bad(&path.name("ipv4_compat"), true, "not supported (nearest valid false)");
    }
    let port = match &socket.port_specifier {
        Some(PortSpecifier::PortValue(value)) => port(&path.name("port_value"), *value, out),
        Some(PortSpecifier::NamedPort(name)) => {
            out.bad(&path.name("named_port"), name, "not supported (use port_value)");
            return None;
        }
        None => {
            out.bad(&path.name("port_value"), "", "no port");
            return None;
        }
    };
    let at = path.name("address");
    match socket.address.parse::<IpAddr>() {
        Ok(ip) => Some(Address::Ip(SocketAddr::new(ip, port))),
        Err(_) if socket.address.is_empty() => {
            out.bad(&at, "", "must not be empty");
            None
        }
        Err(_) if accept == Accept::Names => Some(Address::Name(socket.address.clone(), port)),
        Err(_) => {
            out.bad(&at, &socket.address, "must be an IP address (host names need a DNS cluster)");
            None
        }
    }
}

/// An address prefix; an absent length is 0.
pub(super) fn cidr(path: &Path<'_>, range: &core::CidrRange, out: &mut Findings) -> Option<Cidr> {
    let Ok(ip) = range.address_prefix.parse::<IpAddr>() else {
        out.bad(&path.name("address_prefix"), &range.address_prefix, "must be an IP address");
        return None;
    };
    let width = if ip.is_ipv4() { 32 } else { 128 };
    let length = within(&path.name("prefix_len"), range.prefix_len.unwrap_or(0), 0, width, out);
    Cidr::new(ip, u8::try_from(length).ok()?)
}

/// A source that must be the ADS stream; gives `initial_fetch_timeout` (15 s if absent, `None` if zero).
pub(super) fn ads_source(
    path: &Path<'_>,
    source: Option<&core::ConfigSource>,
    out: &mut Findings,
) -> Option<Duration> {
    use core::config_source::ConfigSourceSpecifier as Kind;
    let Some(source) = source else {
        out.bad(path, "", "no configuration source (nearest valid: ads)");
        return None;
    };
    let other = match &source.config_source_specifier {
        Some(Kind::Ads(_) | Kind::Self_(_)) => None,
        Some(Kind::Path(_)) => Some("path"),
        Some(Kind::PathConfigSource(_)) => Some("path_config_source"),
        Some(Kind::ApiConfigSource(api)) => {
            own_stream(&path.name("api_config_source"), api, out);
            None
        }
        None => Some("config_source_specifier"),
    };
    if let Some(field) = other {
        out.bad(
            &path.name(field),
            "",
            "only the ADS stream and streams per type are supported as a source (nearest valid: ads)",
        );
    }
    let default = Some(Duration::from_secs(15));
    timeout(&path.name("initial_fetch_timeout"), source.initial_fetch_timeout.as_ref(), default, out)
}

/// A stream for one type, beside or instead of ADS.
fn own_stream(path: &Path<'_>, source: &core::ApiConfigSource, out: &mut Findings) {
    use core::api_config_source::ApiType;
    use core::grpc_service::TargetSpecifier;
    let delta = match source.api_type() {
        ApiType::Grpc => false,
        ApiType::DeltaGrpc => true,
        other => {
            out.bad(&path.name("api_type"), other.as_str_name(), "nearest valid: GRPC, DELTA_GRPC");
            return;
        }
    };
    let service = source.grpc_services.first().and_then(|service| service.target_specifier.as_ref());
    match service {
        Some(TargetSpecifier::EnvoyGrpc(grpc)) => {
            let kind = NoteKind::OwnStream { cluster: grpc.cluster_name.clone(), delta };
            out.add_note(Note { path: path.to_string(), kind });
        }
        _ => out.bad(&path.name("grpc_services"), "", "one envoy_grpc with a cluster_name is needed"),
    }
}
