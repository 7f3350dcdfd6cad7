//! `eyot snapshot`: what happened, in a line each.
use crate::args::SnapshotCommand;
use std::process::ExitCode;

pub fn run(command: SnapshotCommand) -> anyhow::Result<ExitCode> {
    match command {
        SnapshotCommand::Save { at, name } => {
            println!("{}", node::snapshot::save(&at.data_dir, &at.dir(), &name)?.display());
        }
        SnapshotCommand::Restore { at, file } => {
            let replaced = node::snapshot::restore(&at.data_dir, &at.dir(), &file)?;
            println!("restored {}", file.display());
            if let Some(replaced) = replaced {
                println!("the store before it is kept as {}", replaced.display());
            }
        }
        SnapshotCommand::Ls { at } => {
            for taken in node::snapshot::list(&at.dir())? {
                println!("{}  {:>12}  {}", taken.time, taken.size_bytes, taken.path.display());
            }
        }
        SnapshotCommand::Prune { at, name, keep } => {
            for gone in node::snapshot::prune(&at.dir(), &name, keep)? {
                println!("deleted {}", gone.display());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
