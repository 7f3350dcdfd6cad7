//! Nothing fails: what the servers say to each other while some of them write, and that all get it.
use crate::world::{Checked, Failure, Plan, Report, World};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use store::Op;

/// Between two writes, all servers together.
const WRITE_MS: u64 = 60;
/// Links look at what came so often.
const LOOK_MS: u64 = 20;
const BEAT_MS: u64 = 5_000;
const VALUE_BYTES: usize = 1000;

/// How servers are linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Mesh,
    Line,
    Ring,
}

/// Runs so many steps, each a write of 1 KB at the next server; returns what was sent for them.
///
/// # Errors
/// The first invariant that did not hold.
pub fn quiet(plan: &Plan, shape: Shape, root: PathBuf) -> Result<Report, Box<Failure>> {
    let mut world = World::new(plan, root)?;
    let last = plan.servers;
    for a in 1..=last {
        for b in a + 1..=last {
            if shape == Shape::Mesh || b == a + 1 || (shape == Shape::Ring && a == 1 && b == last) {
                world.heal(a, b);
            }
        }
    }
    world.pass(2 * BEAT_MS)?;
    world.report = Report::default();
    for step in 0..plan.steps {
        let number = (step % u64::from(last)) as u16 + 1;
        let value = format!("{step:0width$}", width = VALUE_BYTES);
        let key = format!("/registry/configmaps/quiet/{number}").into();
        world.commit(number, Op::Put { key, value: value.into(), lease: None })?;
        let derived = world.server(number).bare.derive();
        derived.map(drop).or_else(|error| world.fail("derives", error.to_string()))?;
        world.pass(WRITE_MS)?;
    }
    let report = world.report.clone();
    world.settle()?;
    Ok(report)
}

impl World {
    /// Lets time pass in which all links work.
    fn pass(&mut self, ms: u64) -> Checked {
        let links: Vec<_> = self.net.links.keys().copied().collect();
        for _ in 0..ms / LOOK_MS {
            let now = self.clock.fetch_add(LOOK_MS, Ordering::Relaxed) + LOOK_MS;
            if now % BEAT_MS < LOOK_MS {
                self.beat(&self.servers.keys().copied().collect::<Vec<_>>())?;
            }
            for (a, b) in links.iter().copied() {
                self.deliver(a, b)?;
                self.deliver(b, a)?;
            }
        }
        Ok(())
    }
}
