//! Compiled route tables.
//!
//! Owns matching: virtual host, route, weighted draw, header edits. Takes in models and a cluster-id
//! resolver; gives out [`RouteTable`]s. Sees requests only through `message::Head`.

mod weighted;

pub use weighted::{Choice, WeightedPick};

/// A compiled RouteConfiguration.
#[derive(Default)]
pub struct RouteTable {}
