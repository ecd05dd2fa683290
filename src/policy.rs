//! The only place that decides to open.
