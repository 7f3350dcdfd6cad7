//! `eyot snapshot`: what happened, in a line each.
use crate::args::SnapshotCommand;
use std::process::ExitCode;

pub fn run(command: SnapshotCommand) -> anyhow::Result<ExitCode> {
    match command {
        SnapshotCommand::Save { at, name } => {
            println!("{}", node::snapshot::save(&at.data_dir, &at.dir(), &name)?.display());
        }
        SnapshotCommand::Restore { at, file } => {
            let restored = node::snapshot::restore(&at.data_dir, &at.dir(), &file)?;
            println!("restored {}", file.display());
            if let Some(imported) = &restored.imported {
                tell(imported);
            }
            if let Some(replaced) = restored.replaced {
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

/// What came out of an etcd's snapshot.
fn tell(imported: &node::snapshot::Imported) {
    let node::snapshot::Imported { revision, keys, decoded, .. } = imported;
    println!("{keys} keys of an etcd at revision {revision}, {decoded} of them protobuf that is JSON now");
    for (why, keys) in &imported.left {
        println!("left out: {keys} keys, {why}");
    }
    for (kind, objects) in &imported.unserved {
        println!("kept, but not in the version that is stored here: {objects} of {kind}");
    }
    for cidr in &imported.service_cidrs {
        println!("Services have addresses of {cidr}: start the server with --service-cidr {cidr}");
    }
}
