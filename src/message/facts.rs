//! What format strings may ask about a stream: headers, and facts by name.
//!
//! Owns the list of operators without argument ([`Fact`]) and the trait their values come from. Drivers
//! implement it; `model::Format` asks it, for header edits and for access logs alike.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

macro_rules! facts {
    ($($(#[$doc:meta])* $name:ident = $word:literal;)*) => {
        /// An operator of format strings that takes no argument.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fact { $($(#[$doc])* $name,)* }

        impl Fact {
            /// By its name in a format string, such as `PROTOCOL`.
            pub fn named(word: &str) -> Option<Fact> {
                match word { $($word => Some(Fact::$name),)* _ => None }
            }

            /// Its name in a format string.
            pub fn word(self) -> &'static str {
                match self { $(Fact::$name => $word,)* }
            }
        }
    };
}

facts! {
    /// `HTTP/1.0`, `HTTP/1.1`, `HTTP/2` or the RPC protocol's name.
    Protocol = "PROTOCOL";
    /// The same towards the upstream.
    UpstreamProtocol = "UPSTREAM_PROTOCOL";
    /// Bytes of the request's head as received.
    RequestHeadersBytes = "REQUEST_HEADERS_BYTES";
    /// Bytes of the request's body.
    BytesReceived = "BYTES_RECEIVED";
    /// Bytes of the response's body.
    BytesSent = "BYTES_SENT";
    /// Bytes of the response's head.
    ResponseHeadersBytes = "RESPONSE_HEADERS_BYTES";
    /// Bytes of the response's trailers.
    ResponseTrailersBytes = "RESPONSE_TRAILERS_BYTES";
    /// Bytes on the wire, everything counted.
    DownstreamWireBytesSent = "DOWNSTREAM_WIRE_BYTES_SENT";
    /// Likewise.
    DownstreamWireBytesReceived = "DOWNSTREAM_WIRE_BYTES_RECEIVED";
    /// Bytes of heads only.
    DownstreamHeaderBytesSent = "DOWNSTREAM_HEADER_BYTES_SENT";
    /// Likewise.
    DownstreamHeaderBytesReceived = "DOWNSTREAM_HEADER_BYTES_RECEIVED";
    /// Bytes on the upstream's wire.
    UpstreamWireBytesSent = "UPSTREAM_WIRE_BYTES_SENT";
    /// Likewise.
    UpstreamWireBytesReceived = "UPSTREAM_WIRE_BYTES_RECEIVED";
    /// Bytes of heads to and from the upstream.
    UpstreamHeaderBytesSent = "UPSTREAM_HEADER_BYTES_SENT";
    /// Likewise.
    UpstreamHeaderBytesReceived = "UPSTREAM_HEADER_BYTES_RECEIVED";
    /// Status of the response, 0 if there was none.
    ResponseCode = "RESPONSE_CODE";
    /// Who decided on the status, and why.
    ResponseCodeDetails = "RESPONSE_CODE_DETAILS";
    /// Why the client's connection was ended.
    ConnectionTerminationDetails = "CONNECTION_TERMINATION_DETAILS";
    /// Short flags, such as `UH`.
    ResponseFlags = "RESPONSE_FLAGS";
    /// Long flags.
    ResponseFlagsLong = "RESPONSE_FLAGS_LONG";
    /// Tries made.
    UpstreamRequestAttemptCount = "UPSTREAM_REQUEST_ATTEMPT_COUNT";
    /// Milliseconds from the first byte to the end of the stream.
    Duration = "DURATION";
    /// To the last byte of the request.
    RequestDuration = "REQUEST_DURATION";
    /// To the first byte of the upstream's response.
    ResponseDuration = "RESPONSE_DURATION";
    /// From the upstream's first byte to the last one sent.
    ResponseTxDuration = "RESPONSE_TX_DURATION";
    /// Of the TLS handshake.
    DownstreamHandshakeDuration = "DOWNSTREAM_HANDSHAKE_DURATION";
    /// Waiting for an upstream connection.
    UpstreamConnectionPoolReadyDuration = "UPSTREAM_CONNECTION_POOL_READY_DURATION";
    /// Address and port of the picked host.
    UpstreamHost = "UPSTREAM_HOST";
    /// Its name, else its address.
    UpstreamHostName = "UPSTREAM_HOST_NAME";
    /// Without the port.
    UpstreamHostNameWithoutPort = "UPSTREAM_HOST_NAME_WITHOUT_PORT";
    /// A number per connection.
    UpstreamConnectionId = "UPSTREAM_CONNECTION_ID";
    /// The cluster's name for observers (its `alt_stat_name` if it has one).
    UpstreamCluster = "UPSTREAM_CLUSTER";
    /// The cluster's name as configured.
    UpstreamClusterRaw = "UPSTREAM_CLUSTER_RAW";
    /// Our address towards the upstream.
    UpstreamLocalAddress = "UPSTREAM_LOCAL_ADDRESS";
    /// Without the port.
    UpstreamLocalAddressWithoutPort = "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT";
    /// The port alone.
    UpstreamLocalPort = "UPSTREAM_LOCAL_PORT";
    /// The upstream's address as connected.
    UpstreamRemoteAddress = "UPSTREAM_REMOTE_ADDRESS";
    /// Without the port.
    UpstreamRemoteAddressWithoutPort = "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT";
    /// The port alone.
    UpstreamRemotePort = "UPSTREAM_REMOTE_PORT";
    /// Why the upstream's transport failed.
    UpstreamTransportFailureReason = "UPSTREAM_TRANSPORT_FAILURE_REASON";
    /// Why the client's transport failed.
    DownstreamTransportFailureReason = "DOWNSTREAM_TRANSPORT_FAILURE_REASON";
    /// The client, as trusted headers may tell.
    DownstreamRemoteAddress = "DOWNSTREAM_REMOTE_ADDRESS";
    /// Without the port.
    DownstreamRemoteAddressWithoutPort = "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT";
    /// The port alone.
    DownstreamRemotePort = "DOWNSTREAM_REMOTE_PORT";
    /// The peer of the connection, whatever headers tell.
    DownstreamDirectRemoteAddress = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS";
    /// Without the port.
    DownstreamDirectRemoteAddressWithoutPort = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT";
    /// The port alone.
    DownstreamDirectRemotePort = "DOWNSTREAM_DIRECT_REMOTE_PORT";
    /// The address the client connected to.
    DownstreamLocalAddress = "DOWNSTREAM_LOCAL_ADDRESS";
    /// Without the port.
    DownstreamLocalAddressWithoutPort = "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT";
    /// The port alone.
    DownstreamLocalPort = "DOWNSTREAM_LOCAL_PORT";
    /// A number per connection.
    ConnectionId = "CONNECTION_ID";
    /// SNI.
    RequestedServerName = "REQUESTED_SERVER_NAME";
    /// The matched route's name.
    RouteName = "ROUTE_NAME";
    /// The matched virtual host's name.
    VirtualHostName = "VIRTUAL_HOST_NAME";
    /// The matched virtual cluster's name.
    VirtualClusterName = "VIRTUAL_CLUSTER_NAME";
    /// The filter chain's name.
    FilterChainName = "FILTER_CHAIN_NAME";
    /// The machine's name.
    Hostname = "HOSTNAME";
    /// A number per stream.
    StreamId = "STREAM_ID";
    /// A random id of the line.
    UniqueId = "UNIQUE_ID";
    /// Who closed the client's connection.
    DownstreamDetectedCloseType = "DOWNSTREAM_DETECTED_CLOSE_TYPE";
    /// Why we closed the client's connection.
    DownstreamLocalCloseReason = "DOWNSTREAM_LOCAL_CLOSE_REASON";
    /// Who closed the upstream's connection.
    UpstreamDetectedCloseType = "UPSTREAM_DETECTED_CLOSE_TYPE";
    /// Why we closed the upstream's connection.
    UpstreamLocalCloseReason = "UPSTREAM_LOCAL_CLOSE_REASON";
    /// Every host that was tried.
    UpstreamHostsAttempted = "UPSTREAM_HOSTS_ATTEMPTED";
    /// The listener's name (MOSN).
    ListenerName = "LISTENER_NAME";
    /// Its port (MOSN).
    ListenerPort = "LISTENER_PORT";
    /// When in a stream's life a log line was written.
    AccessLogType = "ACCESS_LOG_TYPE";
    /// The body of a reply of our own.
    LocalReplyBody = "LOCAL_REPLY_BODY";
    /// The client certificate's URI names.
    DownstreamPeerUriSan = "DOWNSTREAM_PEER_URI_SAN";
    /// Its DNS names.
    DownstreamPeerDnsSan = "DOWNSTREAM_PEER_DNS_SAN";
    /// Its subject.
    DownstreamPeerSubject = "DOWNSTREAM_PEER_SUBJECT";
    /// Its issuer.
    DownstreamPeerIssuer = "DOWNSTREAM_PEER_ISSUER";
    /// Its serial number.
    DownstreamPeerSerial = "DOWNSTREAM_PEER_SERIAL";
    /// Its SHA-256.
    DownstreamPeerFingerprint256 = "DOWNSTREAM_PEER_FINGERPRINT_256";
    /// The certificate itself.
    DownstreamPeerCert = "DOWNSTREAM_PEER_CERT";
    /// Our certificate's URI names.
    DownstreamLocalUriSan = "DOWNSTREAM_LOCAL_URI_SAN";
    /// Our certificate's subject.
    DownstreamLocalSubject = "DOWNSTREAM_LOCAL_SUBJECT";
    /// Cipher of the client's connection.
    DownstreamTlsCipher = "DOWNSTREAM_TLS_CIPHER";
    /// TLS version of the client's connection.
    DownstreamTlsVersion = "DOWNSTREAM_TLS_VERSION";
    /// Id of the client's TLS session.
    DownstreamTlsSessionId = "DOWNSTREAM_TLS_SESSION_ID";
    /// Start of the client certificate's validity.
    DownstreamPeerCertStart = "DOWNSTREAM_PEER_CERT_V_START";
    /// Its end.
    DownstreamPeerCertEnd = "DOWNSTREAM_PEER_CERT_V_END";
    /// The client certificate's addresses.
    DownstreamPeerIpSan = "DOWNSTREAM_PEER_IP_SAN";
    /// Its mail names.
    DownstreamPeerEmailSan = "DOWNSTREAM_PEER_EMAIL_SAN";
    /// Its SHA-1.
    DownstreamPeerFingerprint1 = "DOWNSTREAM_PEER_FINGERPRINT_1";
    /// Our certificate's DNS names.
    DownstreamLocalDnsSan = "DOWNSTREAM_LOCAL_DNS_SAN";
    /// Its addresses.
    DownstreamLocalIpSan = "DOWNSTREAM_LOCAL_IP_SAN";
    /// Its mail names.
    DownstreamLocalEmailSan = "DOWNSTREAM_LOCAL_EMAIL_SAN";
    /// Our certificate's URI names towards the upstream.
    UpstreamLocalUriSan = "UPSTREAM_LOCAL_URI_SAN";
    /// Our certificate's subject towards the upstream.
    UpstreamLocalSubject = "UPSTREAM_LOCAL_SUBJECT";
    /// Its DNS names.
    UpstreamLocalDnsSan = "UPSTREAM_LOCAL_DNS_SAN";
    /// Its addresses.
    UpstreamLocalIpSan = "UPSTREAM_LOCAL_IP_SAN";
    /// Its mail names.
    UpstreamLocalEmailSan = "UPSTREAM_LOCAL_EMAIL_SAN";
    /// The upstream certificate itself.
    UpstreamPeerCert = "UPSTREAM_PEER_CERT";
    /// Its addresses.
    UpstreamPeerIpSan = "UPSTREAM_PEER_IP_SAN";
    /// Its mail names.
    UpstreamPeerEmailSan = "UPSTREAM_PEER_EMAIL_SAN";
    /// The upstream certificate's DNS names.
    UpstreamPeerDnsSan = "UPSTREAM_PEER_DNS_SAN";
    /// Its issuer.
    UpstreamPeerIssuer = "UPSTREAM_PEER_ISSUER";
    /// The upstream certificate's URI names.
    UpstreamPeerUriSan = "UPSTREAM_PEER_URI_SAN";
    /// Its subject.
    UpstreamPeerSubject = "UPSTREAM_PEER_SUBJECT";
    /// Cipher of the upstream connection.
    UpstreamTlsCipher = "UPSTREAM_TLS_CIPHER";
    /// TLS version of the upstream connection.
    UpstreamTlsVersion = "UPSTREAM_TLS_VERSION";
    /// Id of the upstream's TLS session.
    UpstreamTlsSessionId = "UPSTREAM_TLS_SESSION_ID";
}

impl Fact {
    /// Those that the TLS session with the host tells.
    pub const OF_UPSTREAM_TLS: &[Fact] = &[
        Fact::UpstreamTlsVersion,
        Fact::UpstreamTlsCipher,
        Fact::UpstreamPeerSubject,
        Fact::UpstreamPeerIssuer,
        Fact::UpstreamPeerCert,
        Fact::UpstreamPeerUriSan,
        Fact::UpstreamPeerDnsSan,
        Fact::UpstreamPeerIpSan,
        Fact::UpstreamPeerEmailSan,
        Fact::UpstreamLocalSubject,
        Fact::UpstreamLocalUriSan,
        Fact::UpstreamLocalDnsSan,
        Fact::UpstreamLocalIpSan,
        Fact::UpstreamLocalEmailSan,
    ];

    /// Whether its value is a number.
    pub fn is_number(self) -> bool {
        matches!(
            self,
            Fact::RequestHeadersBytes
                | Fact::BytesReceived
                | Fact::BytesSent
                | Fact::ResponseHeadersBytes
                | Fact::ResponseTrailersBytes
                | Fact::DownstreamWireBytesSent
                | Fact::DownstreamWireBytesReceived
                | Fact::DownstreamHeaderBytesSent
                | Fact::DownstreamHeaderBytesReceived
                | Fact::UpstreamWireBytesSent
                | Fact::UpstreamWireBytesReceived
                | Fact::UpstreamHeaderBytesSent
                | Fact::UpstreamHeaderBytesReceived
                | Fact::ResponseCode
                | Fact::UpstreamRequestAttemptCount
                | Fact::Duration
                | Fact::RequestDuration
                | Fact::ResponseDuration
                | Fact::ResponseTxDuration
                | Fact::DownstreamHandshakeDuration
                | Fact::UpstreamConnectionPoolReadyDuration
                | Fact::UpstreamConnectionId
                | Fact::UpstreamLocalPort
                | Fact::UpstreamRemotePort
                | Fact::DownstreamRemotePort
                | Fact::DownstreamDirectRemotePort
                | Fact::DownstreamLocalPort
                | Fact::ConnectionId
                | Fact::ListenerPort
        )
    }
}

/// A point in a stream's life on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The request's first byte from the client.
    RequestStart,
    /// Its last.
    RequestEnd,
    /// Its first byte to the upstream.
    UpstreamSendStart,
    /// Its last.
    UpstreamSendEnd,
    /// The response's first byte from the upstream.
    ResponseStart,
    /// Its last.
    ResponseEnd,
    /// Its first byte to the client.
    SendStart,
    /// Its last.
    SendEnd,
}

/// A point in a stream's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Its first byte.
    Start,
    /// Now.
    Emit,
}

/// Everything a format string can ask. What is not known (yet) is `None` or `false`.
pub trait Facts {
    /// The first value of a request header; pseudo headers included.
    fn request_header(&self, name: &str) -> Option<Cow<'_, [u8]>>;

    /// A response header, likewise.
    fn response_header(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
        None
    }

    /// A trailer of the response.
    fn response_trailer(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
        None
    }

    /// Appends the value of `fact`; `false` when it has none, and then nothing is appended.
    fn fact(&self, fact: Fact, out: &mut Vec<u8>) -> bool;

    /// When `moment` was.
    fn time(&self, _moment: Moment) -> Option<SystemTime> {
        None
    }

    /// How long after the stream's first byte `point` was.
    fn elapsed(&self, _point: Point) -> Option<Duration> {
        None
    }

    /// The filter state under `key`.
    fn filter_state(&self, _key: &str) -> Option<&str> {
        None
    }

    /// Appends what filters left under `path` in `namespace`, as JSON but for a lone string.
    fn dynamic_metadata(&self, _namespace: &str, _path: &[Box<str>], _out: &mut Vec<u8>) -> bool {
        false
    }
}
