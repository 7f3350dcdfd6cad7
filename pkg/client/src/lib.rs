//! How every component talks to the API: a `kube::Client`, over HTTPS or straight onto the router in the same
//! process, the shared reflectors on top of it, and what reconcilers need: a work queue and an event recorder.
//!
//! Place in the flow: `apiserver -> client -> controllers | scheduler | agent | net`, and their writes back.

pub mod events;
pub mod home;
pub mod in_process;
pub mod informers;
pub mod node_selector;
pub mod projection;
pub mod queue;
pub mod taints;
pub mod volumes;

pub use events::{Recorder, reference};
pub use in_process::in_process;
pub use informers::{Event, Informers, Mark, Progress, Reflector, Subscription};
pub use kube;
pub use projection::Whole;
pub use queue::WorkQueue;
