//! Compiled route tables.
//!
//! Owns matching: virtual host, route, weighted draw, header edits, path rewrites. Takes in models and a
//! cluster-id resolver; gives out [`RouteTable`]s. Sees requests only through `message::Head`. A look-up
//! allocates nothing and takes no lock: virtual hosts are found by hash, routes by an index over paths and one
//! exact header, the rest by scan; the first match in configured order wins.

mod compile;
mod domains;
mod edits;
mod explain;
mod hash;
mod host;
mod limits;
mod matcher;
mod paths;
/// Which outcomes a retry policy wants to try again.
pub mod retry;
mod rewrite;
mod routes;
mod scopes;
mod table;
mod weighted;

pub use domains::without_port;
pub use edits::{Edit, EditPlan};
pub use explain::Explanation;
pub use hash::{Hash, NewCookie};
pub use host::{ActionSpec, ClusterPick, CompiledHost, Draw, Drawn, ForwardSpec, MirrorSpec, RouteSpec};
pub use limits::Limits;
pub use matcher::{header_holds, path_of, query_holds, query_of, route_holds};
pub use scopes::{Scopes, key_of as scope_key};
pub use table::RouteTable;
pub use weighted::{Choice, HostCriteria, WeightedPick};

#[cfg(test)]
mod tests;
