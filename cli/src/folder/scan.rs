//! Finding the files under a path.

use std::{
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

/// The files under a path, by external id. Hidden files and what `.gitignore` and `.ignore` name are left out; a file given by itself
/// is always taken. A file that cannot be looked at is told of through `problem` and left out.
pub fn scan(root: &Path, problem: &mut dyn FnMut(String)) -> anyhow::Result<Vec<FileEntry>> {
    let root = root.canonicalize().with_context(|| format!("{} cannot be read", root.display()))?;
    let name = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if root.is_file() {
        return Ok(vec![entry(&root, name)?]);
    }
    let mut files = Vec::new();
    for found in WalkBuilder::new(&root).require_git(false).build() {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                problem(error.to_string());
                continue;
            }
        };
        let path = found.path();
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
        if !found.file_type().is_some_and(|kind| kind.is_file()) || !ENDINGS.contains(&ending.as_str()) {
            continue;
        }
        let within = path.strip_prefix(&root).unwrap_or(path);
        let parts: Vec<String> =
            within.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        match entry(path, format!("{name}/{}", parts.join("/"))) {
            Ok(file) => files.push(file),
            // It went between the listing and the look, or may not be read.
            Err(error) => problem(format!("{error:#}")),
        }
    }
    files.sort_by(|a, b| a.external_id.cmp(&b.external_id));
    Ok(files)
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
            scan(&root, &mut |p| panic!("{p}")).unwrap().into_iter().map(|file| file.external_id).collect();
        assert_eq!(ids, ["manual/a/b/y.PDF", "manual/x.md"]);
        let single = scan(&root.join("a/z.exe"), &mut |p| panic!("{p}")).unwrap();
        assert_eq!(single[0].external_id, "z.exe");
        assert!(scan(&root.join("nothing"), &mut |_| ()).is_err());
    }
}
