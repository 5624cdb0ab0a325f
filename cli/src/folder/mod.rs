//! Folders of documents: finding their files, sending what is new, removing what is gone, watching.

mod board;
mod scan;
mod send;
mod sync;
mod watch;

pub use scan::{FileEntry, scan};
pub use send::{Outcome, Sender};
pub use sync::{Sync, summary};
pub use watch::watch;
