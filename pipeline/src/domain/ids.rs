//! Identifiers. Each is a type of its own, so that a document's id is never passed for a chunk's.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new, time-ordered id (UUID version 7).
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(s).map(Self)
            }
        }
    };
}

uuid_id!(
    /// A job. Time-ordered, so that newer jobs sort after older ones.
    JobId
);
uuid_id!(
    /// A document. It stays the same through all versions of the document.
    DocumentId
);
uuid_id!(
    /// A chunk of a document. Derived from the document and the chunk's content (see
    /// [`ChunkId::derive`]), so that an unchanged chunk keeps its id from version to version.
    ChunkId
);
uuid_id!(
    /// One webhook delivery: one event of one job to one URL, however often it is tried.
    DeliveryId
);

impl DeliveryId {
    /// The `webhook-id` header: the same on every try.
    #[must_use]
    pub fn webhook_id(&self) -> String {
        format!("msg_{}", self.0.simple())
    }
}

impl ChunkId {
    /// The id of a chunk with this content in this document. `occurrence` counts chunks of the same
    /// content within one document, from 0.
    #[must_use]
    pub fn derive(document: DocumentId, content_hash: &str, occurrence: u32) -> Self {
        Self(Uuid::new_v5(&document.0, format!("{content_hash}/{occurrence}").as_bytes()))
    }
}

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks and wraps a name: 1 to 64 of `a-z A-Z 0-9 . _ -`, beginning with a letter or a digit.
            ///
            /// # Errors
            /// [`InvalidName`] with the reason in words.
            pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
                let name = name.into();
                check_name($what, &name)?;
                Ok(Self(name))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self("default".to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Self::new(s)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_id!(
    /// Whose data it is. With authentication off there is one tenant, `default`.
    Tenant,
    "tenant"
);
name_id!(
    /// A set of documents that are searched together, within a tenant.
    Collection,
    "collection"
);
name_id!(
    /// The name of a query or indexing pipeline of the configuration.
    PipelineName,
    "pipeline"
);

/// A name that breaks the rule for names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {what} name is 1 to 64 of a-z A-Z 0-9 . _ - and begins with a letter or a digit; got {got:?}")]
pub struct InvalidName {
    what: &'static str,
    got: String,
}

fn check_name(what: &'static str, name: &str) -> Result<(), InvalidName> {
    let fits = (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if fits { Ok(()) } else { Err(InvalidName { what, got: name.chars().take(80).collect() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_when_made_and_when_read() {
        assert!(Collection::new("docs-2026.v1").is_ok());
        for bad in ["", "-x", "a b", "ä", "a/b", &"x".repeat(65)] {
            assert!(Collection::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(serde_json::from_str::<Tenant>("\"../etc\"").is_err());
    }

    #[test]
    fn a_chunk_id_depends_on_document_content_and_occurrence() {
        let (a, b) = (DocumentId::generate(), DocumentId::generate());
        assert_eq!(ChunkId::derive(a, "h", 0), ChunkId::derive(a, "h", 0));
        assert_ne!(ChunkId::derive(a, "h", 0), ChunkId::derive(a, "h", 1));
        assert_ne!(ChunkId::derive(a, "h", 0), ChunkId::derive(b, "h", 0));
    }
}
