//! The node agent, Kubernetes' kubelet: runs the pods that are bound to this node.
//!
//! ```text
//! apiserver ─► client ─► manager ─► worker (an actor a pod) ─► cri ─► containerd
//!                           ▲           │ step, status, config, env, probe: pure, in `pod`
//!      containerd's events ─┘           ├─► volumes, images, objects, hooks
//!                                       └─► status patches and Events, back through the client
//! node: Node object, status, Lease        server: logs, exec, attach, port-forward, metrics on port 10250
//! ```
//!
//! `statics` are pods of this node's own manifests; `stats` samples what pods use for the server's metrics; `service` makes and drains it all; `runtime` supervises our own containerd; `logs` reads and rotates logs.

mod context;
mod cri;
mod files;
mod images;
pub mod local_path;
mod logs;
mod machine;
mod manager;
mod node;
mod objects;
mod options;
mod pod;
pub mod runtime;
mod server;
mod service;
mod statics;
mod stats;
mod tls;
mod volumes;
mod worker;

pub use node::evict::{Threshold, Thresholds};
pub use node::shutdown::GracePeriod;
pub use options::{DEFAULT_MAX_PODS, DEFAULT_PORT, Guard, Options, Stream};
pub use service::{Error, Handle, Service, cleanup};
