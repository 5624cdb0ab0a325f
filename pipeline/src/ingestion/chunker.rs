//! Cuts a parsed document into chunks by the embedding model's tokens.
