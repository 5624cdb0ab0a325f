//! Raglan from outside: the real binary is started, and everything is seen through HTTP, sockets, webhooks and its commands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests fail by panicking

mod answers;
mod cancelling;
mod commands;
mod corpus;
mod documents;
mod evaluation;
mod files;
mod formats;
mod idempotency;
mod language_model;
mod lifetime;
mod malformed;
mod model_servers;
mod openapi;
mod polling;
mod questions;
mod slow_reader;
mod sockets;
mod streaming;
mod tenants;
mod webhooks;
