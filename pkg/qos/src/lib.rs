//! Control groups, version 1 and 2, behind one executor.
//!
//! Place in the flow: `agent ─► qos (cgroups)`. The agent says where a pod's group lies and what it may use; nobody
//! else's groups are touched.

mod cgroup;
mod plan;
mod usage;

pub use cgroup::{Cgroups, Error};
pub use plan::{Limits, NO_LIMIT, Version};
pub use usage::{Io, Usage};
