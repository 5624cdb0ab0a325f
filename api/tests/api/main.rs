//! The API over in-memory ports, request by request.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod access;
mod documents;
mod fake_documents;
mod fakes;
mod jobs;
mod malformed;
mod openapi;
mod streams;
mod world;
