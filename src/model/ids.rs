//! Numbers that stand for names in compiled tables.

use serde::Serialize;

/// A cluster name, interned by the snapshot builder; stable while any snapshot names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ClusterId(pub u32);

/// A route table: an RDS name, or the inline table of one filter chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct RouteId(pub u32);

impl ClusterId {
    /// As an index into tables by cluster.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl RouteId {
    /// As an index into tables by route table.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
