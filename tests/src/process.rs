//! The binary, and its commands that run and end.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command};

use crate::within;

/// The binary beside the tests.
///
/// # Panics
/// Where it has not been built.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(other) = std::env::var_os("RAGLAN_TEST_BINARY") {
        return other.into();
    }
    let tests = std::env::current_exe().unwrap();
    // target/debug/deps/e2e-… → target/debug/raglan
    let folder = tests.parent().and_then(Path::parent).unwrap();
    let binary = folder.join(format!("raglan{}", std::env::consts::EXE_SUFFIX));
    assert!(
        binary.exists(),
        "{} is not there: build it with `cargo build -p raglan` (scripts/test does that by itself)",
        binary.display()
    );
    binary
}

/// Settings of whoever runs the tests must not reach what is tested.
pub(crate) fn is_setting(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with("RAGLAN_")
}

/// What a command left.
#[derive(Debug)]
pub struct Output {
    /// The exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output as JSON.
    ///
    /// # Panics
    /// Where it is not.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not JSON: {error}\n{self:#?}"))
    }

    /// Itself, where the exit code is `code`.
    ///
    /// # Panics
    /// Where it is another.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }
}

/// Runs `raglan ARGUMENTS` in `folder` with these variables.
pub async fn raglan<A: AsRef<OsStr>>(folder: &Path, env: &[(&str, &str)], arguments: &[A]) -> Output {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(name)) {
        command.env_remove(name);
    }
    command.args(arguments).current_dir(folder).envs(env.iter().copied());
    run(command, "").await
}

/// Runs a command to its end with this input.
pub(crate) async fn run(mut command: Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // A command that reads no input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
    let output = within(&format!("{command:?}"), child.wait_with_output()).await.unwrap();
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs `tests/python/SCRIPT` with this interpreter, arguments and input.
pub async fn python_script(python: &Path, script: &str, arguments: &[&OsStr], input: &str) -> Output {
    let mut command = Command::new(python);
    command.arg(crate::repository().join("tests/python").join(script)).args(arguments);
    run(command, input).await
}
