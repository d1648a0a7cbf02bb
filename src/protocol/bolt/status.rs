//! Response status codes and what they are in HTTP.

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = ($code:literal, $word:literal, $http:literal);)*) => {
        /// A response status of the bolt protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Status { $($(#[$doc])* $name = $code,)* }

        impl Status {
            /// Every status.
            pub const ALL: &'static [Status] = &[$(Status::$name,)*];

            /// The status with this code on the wire.
            pub fn from_code(code: u16) -> Option<Status> {
                match code { $($code => Some(Status::$name),)* _ => None }
            }

            /// The name in logs and tools.
            pub fn name(self) -> &'static str { match self { $(Status::$name => $word,)* } }

            /// The HTTP status that retry policies, logs and metrics take it for.
            pub fn http_status(self) -> u16 { match self { $(Status::$name => $http,)* } }
        }
    };
}

// Code, name, HTTP status. The codes jump from 9 to 16: Java clients throw on any other.
statuses! {
    /// Answered. SOFA RPC also sends it when the called service threw.
    Success = (0, "SUCCESS", 200);
    /// Failed, no more is known.
    Error = (1, "ERROR", 500);
    /// The server's processor threw.
    ServerException = (2, "SERVER_EXCEPTION", 500);
    /// Failed for a reason without a code.
    Unknown = (3, "UNKNOWN", 500);
    /// The server is saturated.
    ServerThreadpoolBusy = (4, "SERVER_THREADPOOL_BUSY", 503);
    /// Communication failed.
    ErrorComm = (5, "ERROR_COMM", 500);
    /// Nobody serves this request.
    NoProcessor = (6, "NO_PROCESSOR", 500);
    /// Not answered in time.
    Timeout = (7, "TIMEOUT", 504);
    /// Could not be sent.
    ClientSendError = (8, "CLIENT_SEND_ERROR", 500);
    /// Could not be decoded.
    CodecException = (9, "CODEC_EXCEPTION", 500);
    /// The connection ended first.
    ConnectionClosed = (16, "CONNECTION_CLOSED", 502);
    /// The server could not serialise its answer.
    ServerSerialException = (17, "SERVER_SERIAL_EXCEPTION", 500);
    /// The server could not deserialise the request.
    ServerDeserialException = (18, "SERVER_DESERIAL_EXCEPTION", 500);
}

impl Status {
    /// What an HTTP status says to a bolt caller, where nothing more exact is known.
    pub fn from_http(status: u16) -> Status {
        match status {
            200..=299 => Status::Success,
            400 => Status::CodecException,
            403 => Status::ServerException,
            404 => Status::NoProcessor,
            502 => Status::ConnectionClosed,
            503 => Status::ServerThreadpoolBusy,
            504 => Status::Timeout,
            _ => Status::Unknown,
        }
    }

    /// The code on the wire.
    pub fn code(self) -> u16 {
        self as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_statuses_pair_up() {
        for status in Status::ALL {
            assert_eq!(Status::from_code(status.code()), Some(*status));
        }
        assert_eq!(Status::ALL.len(), 13);
        for unknown in (10..16).chain([19, 100, u16::MAX]) {
            assert_eq!(Status::from_code(unknown), None);
        }
    }
}
