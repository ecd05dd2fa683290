//! Integration tests: one crate, so that it links once.

mod architecture;
mod commands;
mod crash;
mod door;
mod fusion;
mod golden;
mod lfw;
mod support;
