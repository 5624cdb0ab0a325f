//! Reading what a person gave: files, packed or not, and lines of JSON. What is wrong is told with its place.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use serde::de::DeserializeOwned;

/// What a person gave is not as it must be. The command ends with exit code 2, as it does for a wrong option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InputError(pub String);

/// What reading brings.
pub type InputResult<T> = Result<T, InputError>;

/// An [`InputError`] from a format string.
macro_rules! wrong {
    ($($part:tt)*) => { $crate::eval::input::InputError(format!($($part)*)) };
}
pub(crate) use wrong;

/// The first two bytes of a gzip file (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Opens a file for reading by lines; one that is packed with gzip, whatever its name, is unpacked on the way.
pub fn open(path: &Path) -> InputResult<Box<dyn BufRead>> {
    let unreadable = |error: std::io::Error| wrong!("{} cannot be read: {error}", path.display());
    if path.is_dir() {
        return Err(wrong!("{} is a folder, not a file", path.display()));
    }
    let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let begins = reader.fill_buf().map_err(unreadable)?;
    if begins.starts_with(&GZIP) {
        return Ok(Box::new(BufReader::new(MultiGzDecoder::new(reader))));
    }
    Ok(Box::new(reader))
}

/// A file by its plain name, or packed under the same name with `.gz`; none where neither is there.
pub fn packed_or_plain(folder: &Path, name: &str) -> Option<PathBuf> {
    [folder.join(name), folder.join(format!("{name}.gz"))].into_iter().find(|path| path.is_file())
}

/// A line with its place.
#[derive(Debug)]
pub struct Line {
    /// From 1.
    pub number: usize,
    /// Without its line break.
    pub text: String,
}

/// The longest line that is read. A document's text is at most as long as the server takes it.
const LONGEST_LINE: u64 = 256 << 20;

/// The lines of a file that are not blank.
pub fn lines(path: &Path) -> InputResult<impl Iterator<Item = InputResult<Line>> + use<>> {
    let mut reader = open(path)?;
    let name = path.display().to_string();
    let mut number = 0;
    let mut ended = false;
    Ok(std::iter::from_fn(move || {
        while !ended {
            number += 1;
            let mut bytes = Vec::new();
            let read = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut bytes);
            let text = match read {
                Ok(0) => {
                    ended = true;
                    return None;
                }
                Ok(_) if bytes.len() as u64 == LONGEST_LINE => Err("is too long".to_owned()),
                Ok(_) => String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned()),
                Err(error) => Err(format!("cannot be read: {error}")),
            };
            match text {
                Ok(text) => {
                    // Editors on Windows mark the beginning of a file, and end lines with two characters.
                    let text = if number == 1 { text.trim_start_matches('\u{feff}') } else { &text };
                    let text = text.trim_end_matches(['\n', '\r']);
                    if !text.trim().is_empty() {
                        return Some(Ok(Line { number, text: text.to_owned() }));
                    }
                }
                Err(problem) => {
                    ended = true;
                    return Some(Err(wrong!("{name}: line {number} {problem}")));
                }
            }
        }
        None
    }))
}

/// A JSON value of each line, with the line's number.
pub fn json_lines<T: DeserializeOwned>(
    path: &Path,
) -> InputResult<impl Iterator<Item = InputResult<(usize, T)>> + use<T>> {
    let name = path.display().to_string();
    Ok(lines(path)?.map(move |line| {
        let line = line?;
        let value = serde_json::from_str(&line.text)
            .map_err(|error| wrong!("{name}: line {}: {}", line.number, without_place(&error)))?;
        Ok((line.number, value))
    }))
}

/// What is wrong, and the column: the line that the parser counts is always its first.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line 1 column ") {
        Some((text, column)) => format!("{text} (column {column})"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn read(bytes: &[u8]) -> InputResult<Vec<(usize, String)>> {
        lines(file(bytes).path())?.map(|line| line.map(|line| (line.number, line.text))).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    #[test]
    fn lines_have_their_numbers_whatever_ends_them_and_packed_or_not() {
        let text = "\u{feff}one\r\n\n  \ntwo\nthree".as_bytes();
        let expected = vec![(1, "one".to_owned()), (4, "two".to_owned()), (5, "three".to_owned())];
        assert_eq!(read(text).unwrap(), expected);
        assert_eq!(read(&gzip(text)).unwrap(), expected);
        // Two members one after the other, as `cat a.gz b.gz` makes them.
        let joined = [gzip(b"one\n"), gzip(b"two\n")].concat();
        assert_eq!(read(&joined).unwrap(), [(1, "one".to_owned()), (2, "two".to_owned())]);
        assert_eq!(read(b"").unwrap(), []);
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let missing = open(&folder.path().join("x.jsonl")).err().unwrap().to_string();
        assert!(missing.contains("x.jsonl cannot be read"), "{missing}");
        assert!(open(folder.path()).err().unwrap().to_string().contains("is a folder"));
        assert!(read(b"fine\n\xff\xfe\n").unwrap_err().to_string().contains("line 2 is not UTF-8"));
        let torn = &gzip(b"one\ntwo\nthree\n")[..20];
        assert!(read(torn).unwrap_err().to_string().contains("cannot be read"));
        let bad = file(b"{\"a\": 1}\n\n{\"a\": }\n");
        let error = json_lines::<serde_json::Value>(bad.path()).unwrap().nth(1).unwrap().unwrap_err();
        assert!(error.to_string().ends_with("line 3: expected value (column 7)"), "{error}");
    }
}
