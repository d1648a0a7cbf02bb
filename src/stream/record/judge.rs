//! Which streams get a log line.

use super::attributes::Over;
use super::ended::Ended;
use crate::filter::metadata_holds;
use crate::message::{Facts, Point, grpc_of_http};
use crate::model::LogFilter;

impl Ended<'_> {
    /// Whether a log with this filter gets a line; without one it does.
    pub(super) fn passes(&self, filter: Option<&LogFilter>) -> bool {
        filter.is_none_or(|filter| self.satisfies(filter))
    }

    pub(super) fn satisfies(&self, filter: &LogFilter) -> bool {
        let record = self.record;
        match filter {
            LogFilter::Status(wanted) => wanted.holds(record.status.into()),
            LogFilter::Duration(wanted) => {
                let time = self.elapsed(Point::SendEnd).unwrap_or_default();
                wanted.holds(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
            }
            LogFilter::NotHealthCheck => !record.health_check,
            LogFilter::Traceable => !record.health_check && self.is_traced(),
            LogFilter::Runtime { share, independent } => {
                let known = if *independent { None } else { self.id_number() };
                share.holds(known.unwrap_or_else(|| self.random.next()))
            }
            LogFilter::And(all) => all.iter().all(|filter| self.satisfies(filter)),
            LogFilter::Or(all) => all.iter().any(|filter| self.satisfies(filter)),
            LogFilter::Header(header) => header.holds(self.request_header(&header.name).as_deref()),
            LogFilter::Flags(flags) if flags.is_empty() => !record.flags.is_empty(),
            LogFilter::Flags(flags) => record.flags.meets(*flags),
            LogFilter::GrpcStatus { codes, exclude } => {
                let hit = 1u32.checked_shl(self.grpc_status()).is_some_and(|bit| codes & bit != 0);
                hit != *exclude
            }
            LogFilter::Expression(expr) => {
                expr.holds(&Over { ended: self, report: record.report.as_deref() })
            }
            // Nothing is asked for, and nothing is found.
            LogFilter::Metadata { matcher: None, absent } => *absent,
            LogFilter::Metadata { matcher: Some(matcher), absent } => {
                match record.metadata.find(&matcher.namespace, &matcher.path) {
                    None => *absent,
                    Some(_) => metadata_holds(matcher, &record.metadata),
                }
            }
            LogFilter::Kinds { kinds, exclude } => kinds.contains(&record.kind) != *exclude,
        }
    }

    /// The request's id begins with a number that is the same on every hop.
    fn id_number(&self) -> Option<u64> {
        let id = self.request_header("x-request-id")?;
        let digits = std::str::from_utf8(id.get(..8)?).ok()?;
        u64::from_str_radix(digits, 16).ok()
    }

    /// As the id tells: sampled, forced, or by the client's wish.
    fn is_traced(&self) -> bool {
        let id = self.request_header("x-request-id");
        id.is_some_and(|id| id.len() == 36 && matches!(id.get(14), Some(b'9' | b'a' | b'b')))
    }

    /// From trailers or the head, else what gRPC makes of the HTTP status.
    fn grpc_status(&self) -> u32 {
        let told = self.response_trailer("grpc-status").or_else(|| self.response_header("grpc-status"));
        let told = told.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok());
        told.unwrap_or_else(|| grpc_of_http(self.record.status).into())
    }
}
