//! Seeds that every run passes; `cargo run -p eyot-simulation -- --runs N` looks for others.
use eyot_simulation::{Plan, run};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    (100..106).for_each(|seed| simulate(seed, 2, 10_000));
}

#[test]
fn three_servers() {
    (200..206).for_each(|seed| simulate(seed, 3, 10_000));
}

#[test]
fn five_servers() {
    (300..304).for_each(|seed| simulate(seed, 5, 6000));
}

#[test]
fn many_servers() {
    simulate(400, 20, 1000);
    simulate(401, 50, 300);
}

/// Seeds that once failed: what was wrong has a test of its own where it was wrong.
#[test]
fn seeds_that_failed_once() {
    // A life made anew hid, untold, what another server had written inside it.
    simulate(9, 8, 10_000);
    // A write on half a snapshot was held back for ever; a tick that only a server had that left was waited for.
    simulate(3, 3, 6000);
}

/// A million steps, on as many threads as there are cores: `cargo test -p eyot-simulation -- --ignored`.
#[test]
#[ignore = "takes minutes"]
fn a_million_steps() {
    let few = (1000..1030).map(|seed| (seed, 2, 10_000)).chain((2000..2040).map(|seed| (seed, 3, 10_000)));
    let more = (3000..3015).map(|seed| (seed, 5, 10_000)).chain((4000..4013).map(|seed| (seed, 8, 10_000)));
    let many = [(5000, 20, 10_000), (5001, 50, 5000), (5002, 100, 5000)];
    let runs: Vec<(u64, u16, u64)> = many.into_iter().chain(more).chain(few).collect();
    assert!(runs.iter().map(|(_, _, steps)| steps).sum::<u64>() >= 1_000_000);
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((seed, servers, steps)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    simulate(*seed, *servers, *steps);
                }
            });
        }
    });
}
