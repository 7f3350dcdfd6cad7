//! The composition root: configuration, certificates, tokens, and the tasks of a process from start to shutdown.
//!
//! Place in the flow: the binary calls [`server::run`]; here the store, the API front, the controllers, the
//! scheduler, the agent and the network are made, handed to one another through their constructors, and ended.

pub mod agent;
mod api;
pub mod cleanup;
mod components;
pub mod config;
pub mod conflicts;
mod datastore;
mod dial;
mod etcd;
pub mod files;
pub mod host;
mod http_proxy;
mod join;
pub mod kubeconfig;
pub mod lock;
pub mod nodes;
mod parts;
pub mod peers;
pub mod pki;
mod role;
pub mod server;
mod signing;
mod site;
pub mod snapshot;
pub mod status;
pub mod tls;
pub mod token;
pub mod trust;
