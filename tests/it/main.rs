//! Integration tests: one crate, so that it links once.

mod architecture;
mod camera;
mod commands;
mod covers;
mod crash;
mod door;
mod enroll;
mod events;
mod facenet;
mod folder;
mod fusion;
mod golden;
mod hidden;
mod large;
mod learn;
mod lfw;
mod manual;
mod models;
mod mosquitto;
mod page;
mod relay;
mod scale;
mod sight;
mod strangers;
mod support;
mod visits;
