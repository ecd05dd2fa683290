//! From a camera's bytes to a unit-length embedding: nothing here knows people, thresholds, doors or the time of day.

pub mod embed;
pub mod frame;
pub mod geometry;
pub mod pixels;
