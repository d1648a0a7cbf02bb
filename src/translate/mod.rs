//! Foreign dialects → [`crate::model`].
//!
//! Pure functions. Takes in decoded documents; gives out models, or [`Finding`]s that name field path and
//! value.

mod finding;

pub use finding::{Finding, Severity, join};
