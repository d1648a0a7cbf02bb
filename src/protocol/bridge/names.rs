//! Header names on the HTTP/2 side: which of them are bolt fields, which belong to the transport, and which
//! are the application's.
//!
//! A bolt key travels as itself, lower-cased, unless HTTP could not carry it or would take it for something
//! else; then its name is [`KEY_PREFIX`] and the key with `%xx` for every byte that is no token character. The
//! form is canonical: a key has exactly one name, so nothing can hide behind a second spelling.

use http::HeaderName;

/// Side channel: what the header map looked like.
pub const LAYOUT: HeaderName = HeaderName::from_static("x-mizzen-bolt");
/// Side channel: checksums of values that were restored by more than their order.
pub const SUMS: HeaderName = HeaderName::from_static("x-mizzen-bolt-sums");
/// Name of the pair whose key is null.
pub const NULL_KEY: HeaderName = HeaderName::from_static("x-mizzen-null-key");
/// In front of keys that cannot travel as themselves.
pub const KEY_PREFIX: &str = "x-mizzen-key-";

/// A bolt field that has a header of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Field {
    Protocol,
    CmdType,
    CmdCode,
    Version,
    RequestId,
    Codec,
    Timeout,
    ClassName,
    RespStatus,
}

impl Field {
    /// How many there are.
    pub const COUNT: usize = 9;

    /// The header's name as text.
    pub fn as_str(self) -> &'static str {
        NAMES.get(self as usize).map_or("", HeaderName::as_str)
    }

    /// The header's name.
    pub fn name(self) -> HeaderName {
        NAMES.get(self as usize).cloned().unwrap_or(NULL_KEY)
    }
}

/// Names of the fields in their order; checked when this is compiled, which costs more than writing them.
static NAMES: [HeaderName; Field::COUNT] = [
    HeaderName::from_static("protocol"),
    HeaderName::from_static("cmdtype"),
    HeaderName::from_static("cmdcode"),
    HeaderName::from_static("version"),
    HeaderName::from_static("requestid"),
    HeaderName::from_static("codec"),
    HeaderName::from_static("timeout"),
    HeaderName::from_static("classname"),
    HeaderName::from_static("respstatus"),
];

/// Length of the content, written for old peers and not believed.
pub const CONTENT_LEN: HeaderName = HeaderName::from_static("contentlen");

/// Whom a header on the HTTP/2 side belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A field of the bolt frame.
    Field(Field),
    /// HTTP, a proxy or the bridge itself: never part of the bolt map.
    Transport,
    /// Side channel: the layout.
    Layout,
    /// Side channel: the checksums.
    Sums,
    /// A pair whose key is null.
    NullKey,
    /// A pair whose key is spelled out behind [`KEY_PREFIX`].
    Spelled,
    /// A pair of the bolt map.
    User,
}

/// The role of a header name in lower case. By first letter, since this runs for every header.
pub fn role(name: &str) -> Role {
    match name.as_bytes().first() {
        Some(b'a') => transport(matches!(
            name,
            "accept" | "accept-charset" | "accept-encoding" | "accept-language" | "age" | "alt-svc"
        )),
        Some(b'c') => match name {
            "cmdtype" => Role::Field(Field::CmdType),
            "cmdcode" => Role::Field(Field::CmdCode),
            "codec" => Role::Field(Field::Codec),
            "classname" => Role::Field(Field::ClassName),
            "contentlen" | "classlen" | "connection" | "content-length" | "content-type"
            | "content-encoding" => Role::Transport,
            _ => Role::User,
        },
        Some(b'd') => transport(name == "date"),
        Some(b'e') => transport(name == "expect"),
        Some(b'f') => transport(name == "forwarded"),
        Some(b'h') => transport(matches!(name, "host" | "headerlen" | "http2-settings")),
        Some(b'k') => transport(name == "keep-alive"),
        Some(b'p') => match name {
            "protocol" => Role::Field(Field::Protocol),
            "priority" | "proxy-connection" => Role::Transport,
            _ => Role::User,
        },
        Some(b'r') => match name {
            "requestid" => Role::Field(Field::RequestId),
            "respstatus" => Role::Field(Field::RespStatus),
            "resptimemills" => Role::Transport,
            _ => Role::User,
        },
        Some(b's') => transport(matches!(name, "server" | "switchcode")),
        Some(b't') => match name {
            "timeout" => Role::Field(Field::Timeout),
            "te" | "trailer" | "transfer-encoding" => Role::Transport,
            _ => Role::User,
        },
        Some(b'u') => transport(matches!(name, "upgrade" | "user-agent")),
        Some(b'v') => match name {
            "version" => Role::Field(Field::Version),
            "ver1" | "via" => Role::Transport,
            _ => Role::User,
        },
        Some(b'x') => role_of_extension(name),
        _ => Role::User,
    }
}

fn transport(yes: bool) -> Role {
    if yes { Role::Transport } else { Role::User }
}

fn role_of_extension(name: &str) -> Role {
    match name.strip_prefix("x-mizzen-") {
        Some("bolt") => Role::Layout,
        Some("bolt-sums") => Role::Sums,
        Some("null-key") => Role::NullKey,
        Some(own) if own.starts_with("key-") => Role::Spelled,
        Some(_) => Role::Transport,
        None => transport(
            name == "x-request-id"
                || name.starts_with("x-mosn-")
                || name.starts_with("x-envoy-")
                || name.starts_with("x-forwarded-"),
        ),
    }
}

/// The header name for a bolt key; `None`: too long for one.
pub fn flat_name(key: &[u8]) -> Option<HeaderName> {
    if let Some(name) = well_known(key) {
        return Some(name);
    }
    if key.iter().copied().all(is_key_char)
        && let Ok(name) = HeaderName::from_bytes(key)
        && role(name.as_str()) == Role::User
    {
        return Some(name);
    }
    let mut spelled = KEY_PREFIX.as_bytes().to_vec();
    escape(key, is_key_char, &mut spelled);
    HeaderName::from_bytes(&spelled).ok()
}

/// Names of the keys every SOFA RPC request carries, so that they need no allocation.
fn well_known(key: &[u8]) -> Option<HeaderName> {
    Some(match key {
        b"service" => const { HeaderName::from_static("service") },
        b"app" => const { HeaderName::from_static("app") },
        b"type" => const { HeaderName::from_static("type") },
        b"protocol" => const { HeaderName::from_static("x-mizzen-key-protocol") },
        b"sofa_head_target_service" => const { HeaderName::from_static("sofa_head_target_service") },
        b"sofa_head_target_app" => const { HeaderName::from_static("sofa_head_target_app") },
        b"sofa_head_method_name" => const { HeaderName::from_static("sofa_head_method_name") },
        b"sofa_head_response_error" => const { HeaderName::from_static("sofa_head_response_error") },
        b"rpc_trace_context.sofaRpcId" => const { HeaderName::from_static("rpc_trace_context.sofarpcid") },
        b"rpc_trace_context.sofaTraceId" => {
            const { HeaderName::from_static("rpc_trace_context.sofatraceid") }
        }
        b"rpc_trace_context.sofaCallerIp" => {
            const { HeaderName::from_static("rpc_trace_context.sofacallerip") }
        }
        b"rpc_trace_context.sofaCallerZone" => {
            const { HeaderName::from_static("rpc_trace_context.sofacallerzone") }
        }
        b"rpc_trace_context.sofaCallerApp" => {
            const { HeaderName::from_static("rpc_trace_context.sofacallerapp") }
        }
        b"rpc_trace_context.sofaPenAttrs" => {
            const { HeaderName::from_static("rpc_trace_context.sofapenattrs") }
        }
        b"rpc_trace_context.sysPenAttrs" => {
            const { HeaderName::from_static("rpc_trace_context.syspenattrs") }
        }
        b"rpc_trace_context.samp" => const { HeaderName::from_static("rpc_trace_context.samp") },
        _ => return None,
    })
}

/// Token characters (RFC 9110 §5.6.2) that stand for themselves in a spelled key.
pub fn is_key_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte)
}

/// Characters that stand for themselves in an escaped value.
pub fn is_value_char(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'%'
}

/// Appends `text` with `%xx` (lower-case hex) for every byte that does not stand for itself.
pub fn escape(text: &[u8], itself: fn(u8) -> bool, out: &mut Vec<u8>) {
    for &byte in text {
        if itself(byte) {
            out.push(byte);
        } else {
            let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

/// Undoes [`escape`]; `None` unless `escape` would give exactly this text.
pub fn unescape(text: &[u8], itself: fn(u8) -> bool) -> Option<Vec<u8>> {
    let hex = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter().copied();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let byte = hex(rest.next()?)? << 4 | hex(rest.next()?)?;
            if itself(byte) {
                return None;
            }
            out.push(byte);
        } else if itself(byte) {
            out.push(byte);
        } else {
            return None;
        }
    }
    Some(out)
}

/// The key whose flat name is [`KEY_PREFIX`] and `spelled`, with the case `spelled` has; `None` if no key has
/// that name.
pub fn spelled_key(spelled: &[u8]) -> Option<Vec<u8>> {
    let key = unescape(spelled, is_key_char)?;
    let travels_as_itself = !spelled.contains(&b'%')
        && std::str::from_utf8(&key.to_ascii_lowercase())
            .is_ok_and(|name| !name.is_empty() && role(name) == Role::User);
    (!travels_as_itself).then_some(key)
}

/// Whether HTTP/2 carries this value as it is (RFC 9113 §8.2.1: no control characters, no blank at the ends).
pub fn is_plain_value(value: &[u8]) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    !blank(value.first())
        && !blank(value.last())
        && value.iter().all(|&byte| (byte >= b' ' && byte != 0x7f) || byte == b'\t')
}
