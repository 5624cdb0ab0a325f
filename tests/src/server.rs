//! A running Raglan: `raglan serve`, or the processes of the distributed shape.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::{
    Api, BOUND, Socket, eventually,
    process::is_setting,
    shape::{Addresses, Servers, Shape},
};

/// The processes of the distributed shape, where each role has one.
pub const ROLES: [&str; 6] = ["api", "retrieval", "generation", "ingestion", "webhook", "maintenance"];

/// So much of a server's standard error is kept.
const STDERR_KEPT: usize = 1 << 20;

/// How a server is started.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    config: Value,
    arguments: Vec<String>,
    env: Vec<(String, String)>,
    ready_within: Duration,
    shape: Shape,
    /// A process for each role of the distributed shape.
    apart: bool,
    addresses: Addresses,
}

impl Default for ServerOptions {
    /// Keyword mode, quick leases, webhooks to this machine, and two simulated generators beside the extractive one: `fast` writes
    /// twenty words at once, `slow` twenty words a second until it is stopped.
    fn default() -> Self {
        Self {
            config: json!({
                "log": {"format": "text"},
                "models": {"embedding": {"name": "none"}},
                "generators": [
                    {"name": "extractive", "type": "extractive"},
                    {"name": "fast", "type": "simulated", "tokens": 20, "tokens_per_s": 0},
                    {"name": "slow", "type": "simulated", "tokens": 100_000, "tokens_per_s": 20},
                ],
                "query_pipelines": [
                    {"name": "default"},
                    {"name": "fast", "generate": {"generator": "fast"}},
                    {"name": "slow", "generate": {"generator": "slow"}},
                ],
                "jobs": {"lease_s": 2, "republish_after_s": 2},
                "webhooks": {"allowed_ranges": ["127.0.0.1/32"]},
                "shutdown": {"drain_s": 2},
            }),
            arguments: Vec::new(),
            env: Vec::new(),
            ready_within: BOUND,
            shape: Shape::of_this_run(),
            apart: false,
            addresses: Addresses::default(),
        }
    }
}

impl ServerOptions {
    /// Lays settings over those that are there, as a configuration file does: sections are merged, lists and values replaced.
    #[must_use]
    pub fn with(mut self, config: Value) -> Self {
        merge(&mut self.config, config);
        self
    }

    /// Everything in one process, whatever the shape of this run is: for what only that shape has.
    #[must_use]
    pub fn embedded(mut self) -> Self {
        self.shape = Shape::Embedded;
        self
    }

    /// The distributed shape over these servers, with a process for each role (see [`ROLES`]).
    #[must_use]
    pub fn apart(mut self, addresses: Addresses) -> Self {
        (self.shape, self.apart, self.addresses) = (Shape::Distributed, true, addresses);
        self
    }

    /// Adds an argument of `raglan serve`.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.shape = Shape::Embedded;
        self.arguments.push(argument.into());
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// How long it may take to be ready, where that is longer than usual.
    #[must_use]
    pub fn ready_within(mut self, bound: Duration) -> Self {
        self.ready_within = bound;
        self
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Value {
        &self.config
    }
}

/// Lays JSON over JSON: objects are merged, everything else is replaced.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// A running server with a data folder of its own. Dropped, it is killed and the folder removed; where the test fails, what the server wrote on standard
/// error is shown.
pub struct Server {
    options: ServerOptions,
    folder: TempDir,
    stderr: Arc<Mutex<String>>,
    running: Option<Running>,
    /// What the distributed shape has on its servers.
    servers: Option<Servers>,
}

struct Running {
    /// The one that serves the API comes first.
    children: Vec<Child>,
    url: String,
}

impl Server {
    /// Starts a server and waits until it is ready.
    ///
    /// # Panics
    /// Where it does not become ready; the message has what it wrote.
    pub async fn start(options: ServerOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let servers = match options.shape {
            Shape::Embedded => None,
            Shape::Distributed => Some(Servers::new(options.addresses.clone())),
        };
        let mut server = Self { options, folder, stderr: Arc::default(), running: None, servers };
        server.spawn().await;
        server
    }

    /// A server with the default test configuration.
    pub async fn plain() -> Self {
        Self::start(ServerOptions::default()).await
    }

    async fn spawn(&mut self) {
        let config = self.config_file();
        let mut settings = json!({});
        if let Some(servers) = &self.servers {
            merge(&mut settings, servers.config());
            // Where `raglan serve` keeps the one that it makes.
            std::fs::create_dir_all(self.data_dir()).unwrap();
            std::fs::write(self.data_dir().join("webhook-secret"), Servers::SIGNING_SECRET).unwrap();
        }
        // Last, so that a test's own settings hold in every shape.
        merge(&mut settings, self.options.config.clone());
        std::fs::write(&config, serde_json::to_string_pretty(&settings).unwrap()).unwrap();
        // Kept from the first on, so that they are killed even where they never become ready.
        self.running = Some(Running { children: Vec::new(), url: String::new() });
        let mut ready = Vec::new();
        for command in self.commands() {
            let (child, said) = self.spawn_one(command);
            self.running.as_mut().unwrap().children.push(child);
            ready.push(said);
        }
        for (process, ready) in ready.into_iter().enumerate() {
            self.ready(process, ready).await;
        }
    }

    /// The command line of each process.
    fn commands(&self) -> &'static [&'static [&'static str]] {
        match self.options.shape {
            Shape::Embedded => &[&["serve", "--listen", "127.0.0.1:0"]],
            Shape::Distributed if self.options.apart => &[
                &["api", "--listen", "127.0.0.1:0"],
                &["worker", "retrieval"],
                &["worker", "generation"],
                &["worker", "ingestion"],
                &["worker", "webhook"],
                &["worker", "maintenance"],
            ],
            Shape::Distributed => &[
                &["api", "--listen", "127.0.0.1:0"],
                &["worker", "retrieval", "generation", "ingestion", "webhook", "maintenance"],
            ],
        }
    }

    /// Waits until a process says that it is ready.
    async fn ready(&mut self, process: usize, ready: oneshot::Receiver<String>) {
        let bound = self.options.ready_within;
        let Ok(said) = tokio::time::timeout(bound, ready).await else {
            panic!("the server did not say `ready` within {bound:?}:\n{}", self.stderr())
        };
        let running = self.running.as_mut().unwrap();
        match said {
            Ok(said) if process == 0 => running.url = said,
            Ok(_) => {}
            Err(_) => {
                let status = running.children[process].wait().unwrap();
                panic!("the server ended before it was ready ({status}):\n{}", self.stderr());
            }
        }
    }

    /// SIGKILL of one process (the number of its role in [`ROLES`]).
    ///
    /// # Panics
    /// Where it does not run.
    pub fn kill_one(&mut self, process: usize) {
        let child = &mut self.running.as_mut().expect("the server does not run").children[process];
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sets a variable for the processes that are started from now on, or takes it away.
    pub fn set_env(&mut self, name: &str, value: Option<&str>) {
        self.options.env.retain(|(other, _)| other != name);
        self.options.env.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }

    /// Starts a process again that was killed, and waits until it is ready.
    ///
    /// # Panics
    /// Where it does not become ready.
    pub async fn restart_one(&mut self, process: usize) {
        let (child, ready) = self.spawn_one(self.commands()[process]);
        self.running.as_mut().expect("the server does not run").children[process] = child;
        self.ready(process, ready).await;
    }

    /// Starts one process; what it says after `ready` comes back.
    fn spawn_one(&self, arguments: &[&str]) -> (Child, oneshot::Receiver<String>) {
        let mut command = Command::new(crate::binary());
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(name)) {
            command.env_remove(name);
        }
        if self.servers.is_some() && !arguments.contains(&"webhook") {
            // Only who sends webhooks needs to have it.
            command.env("RAGLAN__WEBHOOKS__SIGNING_SECRETS", "[]");
        }
        command
            .args(arguments)
            .arg("--config")
            .arg(self.config_file())
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(&self.options.arguments)
            .envs(self.options.env.iter().map(|(name, value)| (name, value)))
            // So that no ./raglan.yaml is found.
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (tell, ready) = oneshot::channel();
        let stdout = child.stdout.take().unwrap();
        thread::spawn(move || {
            let mut tell = Some(tell);
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(said) = line.strip_prefix("ready ")
                    && let Some(tell) = tell.take()
                {
                    let _ = tell.send(said.to_owned());
                }
            }
        });
        let stderr = child.stderr.take().unwrap();
        let kept = self.stderr.clone();
        thread::spawn(move || keep(stderr, &kept));
        (child, ready)
    }

    /// Its configuration file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("test-config.yaml")
    }

    /// Its data folder.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A folder of the test's own, removed with the server.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its address, `http://127.0.0.1:PORT`. A restart changes the port.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.running.as_ref().expect("the server does not run").url
    }

    /// The id of the process that serves the API.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("the server does not run").children[0].id()
    }

    /// A client without a key.
    #[must_use]
    pub fn api(&self) -> Api {
        Api::new(self.url(), None)
    }

    /// A client with a key.
    #[must_use]
    pub fn api_with_key(&self, key: &str) -> Api {
        Api::new(self.url(), Some(key))
    }

    /// A WebSocket to a path.
    pub async fn socket(&self, path: &str) -> Socket {
        Socket::connect(self.url(), path, None).await
    }

    /// What the server wrote on standard error, all of its lives together (the last mebibyte).
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// The memory that the process of the API holds now, in bytes; none where the system does not tell.
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
    }

    /// SIGKILL: nothing that the process does can soften it.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn kill9(&mut self) {
        let mut running = self.running.take().expect("the server does not run");
        for child in &mut running.children {
            child.kill().unwrap();
        }
        for child in &mut running.children {
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and waits until the process has ended.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn signal(&self, signal: Signal) {
        for child in &self.running.as_ref().expect("the server does not run").children {
            kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        }
    }

    /// Waits until all its processes have ended; the status is of the first that did not end well, else of the one that serves the API.
    ///
    /// # Panics
    /// Where it does not run, or does not end.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut statuses = Vec::new();
        for child in &mut self.running.as_mut().expect("the server does not run").children {
            statuses.push(eventually("the server's end", async || child.try_wait().unwrap()).await);
        }
        self.running = None;
        statuses.iter().copied().find(|status| !status.success()).unwrap_or(statuses[0])
    }

    /// Starts it again on the same data, on another port. It must not run.
    ///
    /// # Panics
    /// Where it runs, or does not become ready.
    pub async fn restart(&mut self) {
        assert!(self.running.is_none(), "the server runs still");
        self.spawn().await;
    }

    /// Starts it again on the same data with other settings laid over its configuration.
    pub async fn restart_with(&mut self, config: Value) {
        merge(&mut self.options.config, config);
        self.restart().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for mut child in self.running.take().into_iter().flat_map(|running| running.children) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.servers.is_some() {
            crate::shape::clear(&self.config_file(), self.folder.path());
        }
        if thread::panicking() {
            println!("--- the server's standard error ---\n{}", self.stderr());
        }
    }
}

/// Keeps the end of what comes.
fn keep(stderr: impl Read, kept: &Mutex<String>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let mut kept = kept.lock().unwrap();
        kept.push_str(&line);
        kept.push('\n');
        if kept.len() > STDERR_KEPT {
            let mut cut = kept.len() - STDERR_KEPT / 2;
            while !kept.is_char_boundary(cut) {
                cut += 1;
            }
            kept.drain(..cut);
        }
    }
}
