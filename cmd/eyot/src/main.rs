//! The one binary: flags to configuration to [`node`], and an exit code. Called as `kubectl`, `ctr` or `crictl`
//! it is that command.
mod args;
mod file;
mod snapshot;
mod tools;

use args::{Cli, Command, TokenCommand};
use clap::Parser;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let argv = tools::by_program_name(std::env::args_os().collect());
    let argv = match file::with_file(argv, Path::new(args::CONFIG)) {
        Ok(argv) => argv,
        Err(error) => return failed(&error),
    };
    match run(Cli::parse_from(argv)) {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

/// One line that says what happened to what.
fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("eyot: {error:#}");
    ExitCode::FAILURE
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Server(args) => {
            logging();
            let config = args.into_config()?;
            runtime()?.block_on(node::server::run(config))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Agent(args) => {
            logging();
            let config = args.into_config()?;
            runtime()?.block_on(node::agent::run(config))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Kubectl(pass) => tools::kubectl(pass.args),
        Command::Ctr(pass) => tools::ctr(pass.args),
        Command::Crictl(pass) => tools::crictl(pass.args),
        Command::Status(args) => {
            let place = node::status::Place { data_dir: args.place.data_dir, kubeconfig: args.kubeconfig };
            let report = runtime()?.block_on(node::status::report(&place));
            print!("{report}");
            Ok(if report.healthy() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Conflicts { at, watch } => {
            let place = node::status::Place { data_dir: at.place.data_dir, kubeconfig: at.kubeconfig };
            runtime()?.block_on(node::conflicts::print(&place, watch, &mut std::io::stdout().lock()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Token(TokenCommand::Show { place, agent }) => {
            let text = match agent {
                true => node::nodes::token::show(&place.data_dir)?,
                false => node::files::read(&place.data_dir.join("server/token"))?,
            };
            print!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Token(TokenCommand::Rotate { at, agent: _, new_token }) => {
            let place = node::status::Place { data_dir: at.place.data_dir, kubeconfig: at.kubeconfig };
            println!("{}", runtime()?.block_on(node::nodes::token::rotate(&place, new_token.as_deref()))?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Snapshot(command) => snapshot::run(command),
        Command::Cleanup(args) => {
            logging();
            runtime()?.block_on(node::cleanup::run(&args.place.data_dir, &args.place.instance))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn logging() {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_env("EYOT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let stderr = std::io::stderr;
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(stderr().is_terminal()).with_writer(stderr).init();
}

/// The arguments, of the process or after a change.
type Argv = Vec<OsString>;
