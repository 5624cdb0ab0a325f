//! The `raglan` binary.

mod client;
mod commands;
mod compose;
mod config;
mod eval;
mod folder;
mod logging;
mod terminal;

use std::{
    collections::BTreeMap,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use serde::Serialize;

use client::{Api, Connection};
use commands::{
    api, ask, check, destroy, eval as eval_command, health, ingest, jobs, migrate, models, search, serve,
    worker,
};
use compose::Problems;

/// Everything here allocates small things on many threads, at which the system's allocator is slow.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Answers questions from your own documents, as asynchronous jobs.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    /// Configuration file; ./raglan.yaml where there is one and none is named.
    #[arg(long, short, global = true, env = "RAGLAN_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Api(api::Api),
    Worker(worker::Worker),
    Migrate(migrate::Migrate),
    Destroy(destroy::Destroy),
    Ask(ask::Ask),
    Search(search::Search),
    Ingest(ingest::Ingest),
    Jobs(jobs::Jobs),
    Cancel(jobs::Cancel),
    Eval(Box<eval_command::Eval>),
    Check(check::Check),
    Health(health::Health),
    #[command(subcommand)]
    Models(models::Models),
    /// Print the default configuration with its comments.
    Config,
    /// Print the OpenAPI document.
    Openapi,
    /// Print shell completions.
    Completions {
        /// For which shell.
        shell: Shell,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Several drivers speak TLS, and with two providers compiled in none of them would choose. An error means that one is chosen already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return fail(&anyhow::Error::new(error).context("the process could not start its threads"), 1);
        }
    };
    let code = runtime.block_on(run(cli));
    // A parser that hangs on a bad file must not keep the process alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}

async fn run(cli: Cli) -> ExitCode {
    let env: BTreeMap<String, String> = std::env::vars().collect();
    let file = cli.config.or_else(|| Some(PathBuf::from("raglan.yaml")).filter(|path| path.exists()));
    let done = match cli.command {
        Command::Serve(command) => match config(file.as_deref(), &env, command.listen) {
            Ok(config) => serve::run(config, command).await,
            Err(error) => return fail(&error, 2),
        },
        Command::Api(command) => match config(file.as_deref(), &env, command.listen) {
            Ok(config) => api::run(config, command).await,
            Err(error) => return fail(&error, 2),
        },
        Command::Worker(command) => match config(file.as_deref(), &env, None) {
            Ok(config) => worker::run(config, command).await,
            Err(error) => return fail(&error, 2),
        },
        Command::Migrate(_) => match config(file.as_deref(), &env, None) {
            Ok(config) => migrate::run(&config).await,
            Err(error) => return fail(&error, 2),
        },
        Command::Destroy(command) => match config(file.as_deref(), &env, None) {
            Ok(config) => destroy::run(&config, command).await,
            Err(error) => return fail(&error, 2),
        },
        Command::Models(command) => match config::load(file.as_deref(), &env) {
            Ok(config) => models::run(&config, command).await,
            Err(error) => return fail(&error.into(), 2),
        },
        Command::Check(command) => match check::run(file.as_deref(), &env, &command).await {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Config => print(config::DEFAULTS),
        Command::Openapi => print(&String::from_utf8_lossy(&raglan_api::openapi_json())),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "raglan", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Ask(command) => with(cli.connection, async |api| ask::run(&api, command).await).await,
        Command::Search(command) => with(cli.connection, async |api| search::run(&api, command).await).await,
        Command::Ingest(command) => with(cli.connection, async |api| ingest::run(&api, command).await).await,
        Command::Eval(command) => {
            let done = with(cli.connection, async |api| eval_command::run(&api, *command).await).await;
            match done {
                Err(error) => return fail(&error, eval_command::exit_code(&error)),
                done => done,
            }
        }
        Command::Health(command) => with(cli.connection, async |api| health::run(&api, command).await).await,
        Command::Jobs(command) => with(cli.connection, async |api| jobs::list(&api, command).await).await,
        Command::Cancel(command) => with(cli.connection, async |api| jobs::cancel(&api, command).await).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // What is wrong with the configuration or the servers that it names, all of it.
        Err(error) if error.is::<Problems>() => fail(&error, 2),
        Err(error) => fail(&error, 1),
    }
}

async fn with(
    connection: Connection,
    act: impl AsyncFnOnce(Api) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    act(Api::new(connection)?).await
}

/// The configuration of a server, with the command line's own settings laid over it, and the log begun.
fn config(
    file: Option<&Path>,
    env: &BTreeMap<String, String>,
    listen: Option<SocketAddr>,
) -> anyhow::Result<config::Config> {
    let mut env = env.clone();
    if let Some(listen) = listen {
        // Through the same door as the variable, so that it is checked as well.
        env.insert("RAGLAN__SERVER__LISTEN".to_owned(), listen.to_string());
    }
    let config = config::load(file, &env)?;
    logging::start(&config.log)?;
    Ok(config)
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr().lock(), "error: {error:#}");
    ExitCode::from(code)
}

/// Writes to standard output; a reader that has left is no error worth telling.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn print_line(text: &str) -> anyhow::Result<()> {
    print(&format!("{text}\n"))
}

fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    print_line(&serde_json::to_string_pretty(value)?)
}
