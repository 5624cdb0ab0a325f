//! Finding the files under a path.

use std::{
    collections::HashSet,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use anyhow::Context;
use ignore::WalkBuilder;

/// Endings that a parser reads; other files are passed over unless they are named themselves.
const ENDINGS: [&str; 16] = [
    "txt", "text", "md", "markdown", "html", "htm", "xhtml", "pdf", "docx", "csv", "tsv", "json", "ndjson",
    "jsonl", "rst", "log",
];

/// A file to take in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Where it lies.
    pub path: PathBuf,
    /// Its document's external id: the name of the folder that was given and the path within it, with `/`.
    pub external_id: String,
    /// Bytes.
    pub size: u64,
    /// When it was last changed, in milliseconds since 1970.
    pub modified_ms: u64,
}

/// What was found under a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The files, by external id.
    pub files: Vec<FileEntry>,
    /// What could not be looked at: the beginnings of the external ids that may stand behind it. Nothing is known of those.
    pub unknown: Vec<String>,
}

impl Found {
    /// Whether there is certainly no file with this external id. `known` are the ids of [`Self::files`].
    pub fn lacks(&self, external_id: &str, known: &HashSet<&str>) -> bool {
        let within = |beginning: &String| {
            let rest = external_id.strip_prefix(beginning.as_str());
            rest.is_some_and(|rest| beginning.is_empty() || rest.is_empty() || rest.starts_with('/'))
        };
        !known.contains(external_id) && !self.unknown.iter().any(within)
    }
}

/// The files under a path, by external id. Hidden files and what `.gitignore` and `.ignore` name are left out; a file given by itself
/// is always taken. What cannot be looked at is told of through `problem` and noted.
pub fn scan(root: &Path, problem: &mut dyn FnMut(String)) -> anyhow::Result<Found> {
    let root = root.canonicalize().with_context(|| format!("{} cannot be read", root.display()))?;
    let name = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if root.is_file() {
        return Ok(Found { files: vec![entry(&root, name)?], unknown: Vec::new() });
    }
    let id_of = |path: &Path| {
        let within = path.strip_prefix(&root).unwrap_or(path);
        let parts = within.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
        std::iter::once(name.clone()).chain(parts).collect::<Vec<_>>().join("/")
    };
    let mut found = Found::default();
    for entry_of_walk in WalkBuilder::new(&root).require_git(false).build() {
        let seen = match entry_of_walk {
            Ok(seen) => seen,
            // It went between the listing and the look.
            Err(error) if error.io_error().is_some_and(|e| e.kind() == ErrorKind::NotFound) => continue,
            Err(error) => {
                problem(error.to_string());
                found.unknown.push(path_of(&error).map(id_of).unwrap_or_default());
                continue;
            }
        };
        let path = seen.path();
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
        if !seen.file_type().is_some_and(|kind| kind.is_file()) || !ENDINGS.contains(&ending.as_str()) {
            continue;
        }
        let external_id = id_of(path);
        match entry(path, external_id.clone()) {
            Ok(file) => found.files.push(file),
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                problem(format!("{error:#}"));
                found.unknown.push(external_id);
            }
        }
    }
    found.files.sort_by(|a, b| a.external_id.cmp(&b.external_id));
    Ok(found)
}

/// What an error of the walk is about, where it says so.
fn path_of(error: &ignore::Error) -> Option<&Path> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => path_of(err),
        _ => None,
    }
}

fn is_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

fn entry(path: &Path, external_id: String) -> anyhow::Result<FileEntry> {
    let metadata = path.metadata().with_context(|| format!("{} cannot be read", path.display()))?;
    let modified =
        metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Ok(FileEntry {
        path: path.to_owned(),
        external_id,
        size: metadata.len(),
        modified_ms: u64::try_from(modified.as_millis()).unwrap_or(u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_by_ending_and_named_from_the_folder_on() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("manual");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        for file in ["x.md", "a/b/y.PDF", "a/z.exe", ".hidden.md", "skip.txt"] {
            std::fs::write(root.join(file), "x").unwrap();
        }
        std::fs::write(root.join(".gitignore"), "skip.txt\n").unwrap();
        let ids: Vec<String> =
            scan(&root, &mut |p| panic!("{p}")).unwrap().files.into_iter().map(|f| f.external_id).collect();
        assert_eq!(ids, ["manual/a/b/y.PDF", "manual/x.md"]);
        let single = scan(&root.join("a/z.exe"), &mut |p| panic!("{p}")).unwrap();
        assert_eq!(single.files[0].external_id, "z.exe");
        assert!(scan(&root.join("nothing"), &mut |_| ()).is_err());
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_gone() {
        let found =
            Found { files: Vec::new(), unknown: vec!["manual/a".to_owned(), "manual/b.md".to_owned()] };
        let known = HashSet::from(["manual/there.md"]);
        for id in ["manual/a/x.md", "manual/a/b/y.md", "manual/b.md", "manual/there.md"] {
            assert!(!found.lacks(id, &known), "{id}");
        }
        for id in ["manual/ab.md", "manual/b.mdx", "manual/c.md"] {
            assert!(found.lacks(id, &known), "{id}");
        }
        let nothing = Found { files: Vec::new(), unknown: vec![String::new()] };
        assert!(!nothing.lacks("manual/c.md", &known), "an error without a path may be about anything");
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_may_not_be_read_is_told_of() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let closed = folder.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::write(closed.join("x.md"), "x").unwrap();
        std::fs::write(folder.path().join("y.md"), "y").unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
        if std::fs::read_dir(&closed).is_ok() {
            // Nothing is closed to the superuser.
            return;
        }
        let mut problems = Vec::new();
        let found = scan(folder.path(), &mut |problem| problems.push(problem)).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!((found.files.len(), problems.len()), (1, 1), "{problems:?}");
        assert!(found.unknown[0].ends_with("/closed"), "{:?}", found.unknown);
    }
}
