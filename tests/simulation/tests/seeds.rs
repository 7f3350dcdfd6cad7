//! Seeds that every run passes; `cargo run -p eyot-simulation -- --runs N` looks for others.
use eyot_simulation::{Plan, Report, Shape, quiet, run};
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

fn undisturbed(servers: u16, shape: Shape, writes: u64) -> Report {
    let dir = scratch();
    let report = quiet(&Plan { seed: 1, steps: writes, servers }, shape, dir.path().into());
    let report = report.unwrap_or_else(|failure| panic!("{failure}"));
    println!("{servers} servers in a {shape:?}: {report:?}");
    report
}

/// Everybody hears everybody: nobody tells what others wrote.
#[test]
fn a_mesh_relays_nothing() {
    let (servers, writes) = (8, 160);
    let report = undisturbed(servers, Shape::Mesh, writes);
    let most = report.own_bytes + report.own_bytes / 10;
    assert!(report.own_bytes >= writes * u64::from(servers - 1) * 1000, "all were told: {report:?}");
    assert!(report.row_bytes <= most, "relayed: {report:?}");
    assert!(report.all_bytes <= report.own_bytes * 13 / 10, "said besides: {report:?}");
}

/// Each change crosses each link of a line once, and of a ring about so.
#[test]
fn lines_and_rings_relay_what_they_must() {
    let (servers, writes) = (5, 100);
    for (shape, crossings) in [(Shape::Line, 4), (Shape::Ring, 6)] {
        let report = undisturbed(servers, shape, writes);
        assert!(report.row_bytes > writes * u64::from(servers - 1) * 950, "{report:?}");
        assert!(report.row_bytes < writes * crossings * 1100, "{report:?}");
    }
}

/// On as many threads as there are cores.
fn simulate_all(runs: &[(u64, u16, u64)]) {
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

#[test]
fn a_million_steps() {
    let two = (1000..1030).map(|seed| (seed, 2, 10_000));
    let three = (2000..2040).map(|seed| (seed, 3, 10_000));
    let five = (3000..3030).map(|seed| (seed, 5, 10_000));
    let runs: Vec<(u64, u16, u64)> = five.chain(three).chain(two).collect();
    assert!(runs.iter().map(|(_, _, steps)| steps).sum::<u64>() >= 1_000_000);
    simulate_all(&runs);
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
    // Others' writes on top of what was held back here were told without it.
    simulate(3019, 5, 10_000);
    // A clock was righted without regard to what had been written by it and was not derived yet.
    simulate(128, 3, 10_000);
    // The rest of a snapshot was given up after minutes, and what rested on it told without it.
    simulate(3001, 5, 10_000);
    // Who had been away too long merged with servers of which some had forgotten a removal.
    simulate(134, 3, 10_000);
    // Another's store was taken over, and a younger object's uid served on.
    simulate(229, 4, 10_000);
    // Half a snapshot was given, and the rest was nowhere any more.
    simulate(301, 8, 10_000);
}

/// `cargo test -p eyot-simulation -- --ignored`.
#[test]
#[ignore = "takes many minutes"]
fn large_clusters() {
    let more = (4000..4013).map(|seed| (seed, 8, 10_000));
    let runs: Vec<(u64, u16, u64)> =
        [(5002, 100, 2000), (5001, 50, 5000), (5000, 20, 10_000)].into_iter().chain(more).collect();
    simulate_all(&runs);
}
