//! Integration tests: one crate, so that it links once.

mod architecture;
mod commands;
mod crash;
mod door;
mod golden;
mod learn;
mod lfw;
mod support;
