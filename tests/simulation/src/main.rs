//! Runs the simulation: one seed to replay a failure, or one after the other until one fails.
use clap::Parser;
use eyot_simulation::{Plan, run};
use std::process::ExitCode;
use std::time::Instant;

/// Simulates servers that are written, cut off, crashed and healed.
#[derive(Parser)]
struct Args {
    /// The first seed; a random one when none is given.
    #[arg(long)]
    seed: Option<u64>,
    /// Steps of each run.
    #[arg(long, default_value_t = 20_000)]
    steps: u64,
    /// Servers at the beginning; 0: from 2 to 9, as the seed says.
    #[arg(long, default_value_t = 0)]
    servers: u16,
    /// How many seeds to run.
    #[arg(long, default_value_t = 1)]
    runs: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let first = args.seed.unwrap_or_else(rand::random);
    for seed in first..first.saturating_add(args.runs) {
        let servers = if args.servers == 0 { 2 + (seed % 8) as u16 } else { args.servers };
        let plan = Plan { seed, steps: args.steps, servers };
        let began = Instant::now();
        let dir = tempfile::tempdir_in(scratch()).expect("a directory for the stores");
        match run(&plan, dir.path().into()) {
            Ok(report) => {
                println!("seed {seed}: {servers} servers, {} steps, {report:?}, {:?}", args.steps, began.elapsed())
            }
            Err(failure) => {
                println!("{failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Memory where there is such a file system: disks are simulated, and fsync should cost nothing.
fn scratch() -> std::path::PathBuf {
    let memory = std::path::PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}
