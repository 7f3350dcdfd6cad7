//! Seeds that every run passes; `cargo run -p eyot-simulation -- --runs N` looks for others.
use eyot_simulation::{Plan, run};
use std::path::Path;

/// Memory, where there is such a file system: the disk is not what is tested.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

fn simulate(seed: u64, servers: u16, steps: u64) {
    let dir = scratch();
    let plan = Plan { seed, steps, servers };
    match run(&plan, dir.path().into()) {
        Ok(report) => println!("seed {seed}: {report:?}"),
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn two_servers() {
    (100..104).for_each(|seed| simulate(seed, 2, 6000));
}

#[test]
fn three_servers() {
    (200..204).for_each(|seed| simulate(seed, 3, 6000));
}

#[test]
fn five_servers() {
    (300..302).for_each(|seed| simulate(seed, 5, 6000));
}

/// Seeds that once failed: what was wrong has a test of its own where it was wrong.
#[test]
fn seeds_that_failed_once() {
    // A life made anew hid, untold, what another server had written inside it.
    simulate(9, 8, 10_000);
}
