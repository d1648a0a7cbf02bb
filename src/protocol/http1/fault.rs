//! What a message is refused for.

use http::StatusCode;

/// A message that is refused: the answer its sender gets and the word in logs. The connection is of no use
/// afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Status of the answer to a faulty request.
    pub status: StatusCode,
    /// Response code details, Envoy's where Envoy has one.
    pub details: &'static str,
}

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = ($status:ident, $details:literal);)*) => {
        impl Fault {
            $($(#[$doc])* pub const $name: Fault =
                Fault { status: StatusCode::$status, details: $details };)*
        }
    };
}

faults! {
    /// Not HTTP/1, or a line that cannot be read.
    CODEC = (BAD_REQUEST, "http1.codec_error");
    /// A method that nobody has registered.
    METHOD = (BAD_REQUEST, "http1.invalid_method");
    /// Control bytes, bare CR or LF, folds, or blanks where none belong.
    CHARACTERS = (BAD_REQUEST, "http1.invalid_characters");
    /// A target that is none.
    URL = (BAD_REQUEST, "http1.invalid_url");
    /// A target of a scheme other than http and https.
    SCHEME = (BAD_REQUEST, "http1.invalid_scheme");
    /// An https target in plain text.
    HTTPS_IN_PLAINTEXT = (FORBIDDEN, "http1.https_url_on_plaintext_connection");
    /// An absolute target where none are allowed.
    ABSOLUTE_URL = (NOT_FOUND, "absolute_path_rejected");
    /// A target with a fragment.
    FRAGMENT = (BAD_REQUEST, "path_normalization_failed");
    /// No Host, or an empty one.
    NO_HOST = (BAD_REQUEST, "missing_host_header");
    /// More than one Host, one that is no authority, or one that differs from the target's.
    HOST = (BAD_REQUEST, "http1.invalid_host");
    /// A protocol version other than 1.0 and 1.1.
    VERSION = (HTTP_VERSION_NOT_SUPPORTED, "http1.unsupported_version");
    /// HTTP/1.0 where it is not allowed.
    LOW_VERSION = (UPGRADE_REQUIRED, "low_version");
    /// More fields than allowed.
    TOO_MANY_HEADERS = (REQUEST_HEADER_FIELDS_TOO_LARGE, "http1.too_many_headers");
    /// A longer head than allowed.
    HEADERS_TOO_LARGE = (REQUEST_HEADER_FIELDS_TOO_LARGE, "http1.headers_too_large");
    /// A longer request line than allowed.
    URI_TOO_LONG = (URI_TOO_LONG, "http1.headers_too_large");
    /// A Connection field that names what it must not.
    CONNECTION_HEADER = (BAD_REQUEST, "http1.connection_header_rejected");
    /// Transfer-Encoding other than one final `chunked`.
    TRANSFER_ENCODING = (BAD_REQUEST, "http1.invalid_transfer_encoding");
    /// A transfer coding nobody here knows.
    UNKNOWN_CODING = (NOT_IMPLEMENTED, "http1.invalid_transfer_encoding");
    /// Transfer-Encoding in a message that cannot have it.
    TRANSFER_ENCODING_NOT_ALLOWED = (BAD_REQUEST, "http1.transfer_encoding_not_allowed");
    /// Transfer-Encoding beside Content-Length.
    CHUNKED_CONTENT_LENGTH = (BAD_REQUEST, "http1.content_length_and_chunked_not_allowed");
    /// Content-Length that is no number, too large, or there twice.
    CONTENT_LENGTH = (BAD_REQUEST, "http1.invalid_content_length");
    /// Content-Length in a message that cannot have it.
    CONTENT_LENGTH_NOT_ALLOWED = (BAD_REQUEST, "http1.content_length_not_allowed");
    /// A body where none can be.
    BODY_DISALLOWED = (BAD_REQUEST, "http1.body_disallowed");
    /// A chunk's size, extension or end.
    CHUNK = (BAD_REQUEST, "http1.invalid_chunk");
    /// The connection ended within a message.
    CUT_SHORT = (BAD_REQUEST, "http1.incomplete_message");
    /// A status line that is none, or a status nobody asked for.
    STATUS = (BAD_GATEWAY, "http1.invalid_status");
}
