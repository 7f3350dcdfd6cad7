//! Servers that write, cut off and meeting again in any order, say the same in the end, and no write is lost silently.
mod support;

use proptest::prelude::*;
use support::{Cluster, Step, steps};

fn run(servers: usize, steps: &[Step]) {
    let mut cluster = Cluster::new(servers);
    steps.iter().for_each(|step| cluster.step(step));
    cluster.heal();
    cluster.assert_pruned_at_once();
    cluster.assert_same();
    cluster.assert_nothing_lost();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 20000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_orders_converge_and_nothing_is_lost(servers in 2..5usize, steps in steps(60)) {
        run(servers, &steps);
    }
}
