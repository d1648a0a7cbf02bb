//! Envoy's response flags: what went wrong with a stream, as a set.

macro_rules! flags {
    ($($name:ident = ($short:literal, $long:literal);)*) => {
        #[derive(Clone, Copy)]
        enum Bit { $($name,)* }

        /// A set of response flags.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct Flags(u64);

        #[allow(non_upper_case_globals, reason = "named as Envoy's long flags are")]
        impl Flags {
            $(#[doc = $long] pub const $name: Flags = Flags(1 << Bit::$name as u32);)*

            /// Short and long name of every flag, in the order they are written.
            const NAMES: &[(&str, &str)] = &[$(($short, $long),)*];
        }
    };
}

// In Envoy's order, which is the order in a log line.
flags! {
    FailedLocalHealthCheck = ("LH", "FailedLocalHealthCheck");
    NoHealthyUpstream = ("UH", "NoHealthyUpstream");
    UpstreamRequestTimeout = ("UT", "UpstreamRequestTimeout");
    LocalReset = ("LR", "LocalReset");
    UpstreamRemoteReset = ("UR", "UpstreamRemoteReset");
    UpstreamConnectionFailure = ("UF", "UpstreamConnectionFailure");
    UpstreamConnectionTermination = ("UC", "UpstreamConnectionTermination");
    UpstreamOverflow = ("UO", "UpstreamOverflow");
    NoRouteFound = ("NR", "NoRouteFound");
    DelayInjected = ("DI", "DelayInjected");
    FaultInjected = ("FI", "FaultInjected");
    RateLimited = ("RL", "RateLimited");
    UnauthorizedExternalService = ("UAEX", "UnauthorizedExternalService");
    RateLimitServiceError = ("RLSE", "RateLimitServiceError");
    DownstreamConnectionTermination = ("DC", "DownstreamConnectionTermination");
    UpstreamRetryLimitExceeded = ("URX", "UpstreamRetryLimitExceeded");
    StreamIdleTimeout = ("SI", "StreamIdleTimeout");
    InvalidEnvoyRequestHeaders = ("IH", "InvalidEnvoyRequestHeaders");
    DownstreamProtocolError = ("DPE", "DownstreamProtocolError");
    UpstreamMaxStreamDurationReached = ("UMSDR", "UpstreamMaxStreamDurationReached");
    ResponseFromCacheFilter = ("RFCF", "ResponseFromCacheFilter");
    NoFilterConfigFound = ("NFCF", "NoFilterConfigFound");
    DurationTimeout = ("DT", "DurationTimeout");
    UpstreamProtocolError = ("UPE", "UpstreamProtocolError");
    NoClusterFound = ("NC", "NoClusterFound");
    OverloadManagerTerminated = ("OM", "OverloadManagerTerminated");
    DnsResolutionFailed = ("DF", "DnsResolutionFailed");
    DropOverload = ("DO", "DropOverload");
    DownstreamRemoteReset = ("DR", "DownstreamRemoteReset");
    UnconditionalDropOverload = ("UDO", "UnconditionalDropOverload");
}

impl Flags {
    /// As one number, a bit for each.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The flag with this short name, such as `UH`.
    pub fn named(short: &str) -> Option<Flags> {
        let at = Self::NAMES.iter().position(|(name, _)| *name == short)?;
        Some(Flags(1 << at))
    }

    /// Whether no flag is set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the two have a flag in common.
    pub fn meets(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// Adds the flags of `other`.
    pub fn add(&mut self, other: Flags) {
        self.0 |= other.0;
    }

    /// Short and long names of the flags set.
    pub fn names(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        Self::NAMES.iter().enumerate().filter(move |(at, _)| self.0 & (1 << at) != 0).map(|(_, names)| *names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Reason;

    #[test]
    fn flags_are_written_in_order_and_every_reason_knows_its_own() {
        let mut set = Flags::UpstreamRetryLimitExceeded;
        set.add(Flags::named("UF").unwrap());
        assert_eq!(set.names().map(|(short, _)| short).collect::<Vec<_>>(), ["UF", "URX"]);
        assert!(set.meets(Flags::UpstreamConnectionFailure) && !set.meets(Flags::NoRouteFound));
        for reason in Reason::ALL {
            let short = reason.flag();
            assert_eq!(Flags::named(short).unwrap_or_default(), reason.flags(), "{short}");
            assert_eq!(short == "-", reason.flags().is_empty(), "{short}");
        }
    }
}
