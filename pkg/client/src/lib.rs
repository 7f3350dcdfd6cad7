//! How every component talks to the API: a `kube::Client`, over HTTPS or straight onto the router in the same
//! process, and the shared reflectors on top of it.
//!
//! Place in the flow: `apiserver -> client -> controllers | scheduler | agent | net`, and their writes back.

pub mod in_process;
pub mod informers;

pub use in_process::in_process;
pub use informers::{Event, Informers, Reflector, Subscription};
pub use kube;
