//! Integration tests: one crate, so that it links once.

mod architecture;
mod commands;
mod covers;
mod crash;
mod door;
mod facenet;
mod fusion;
mod golden;
mod hidden;
mod learn;
mod lfw;
mod manual;
mod models;
mod mosquitto;
mod page;
mod sight;
mod support;
