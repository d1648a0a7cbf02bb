//! Compiled route tables.
//!
//! Owns matching: virtual host, route, weighted draw, header edits, path rewrites. Takes in models and a
//! cluster-id resolver; gives out [`RouteTable`]s. Sees requests only through `message::Head`. A look-up
//! allocates nothing and takes no lock: virtual hosts are found by hash, routes by an index over exact
//! paths and one exact header, the rest by scan; the first match in configured order wins.

mod compile;
mod domains;
mod edits;
mod host;
mod matcher;
mod rewrite;
mod routes;
mod table;
mod weighted;

pub use edits::{Edit, EditPlan};
pub use host::{ActionSpec, ClusterPick, CompiledHost, Drawn, ForwardSpec, RouteSpec};
pub use table::RouteTable;
pub use weighted::{Choice, WeightedPick};

#[cfg(test)]
mod tests;
