//! Reading: positions, fetching, and membership in groups.

pub mod assignor;
