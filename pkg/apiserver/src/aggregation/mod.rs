//! The aggregation layer: which API server serves which group (`APIService`), whether it is there, and requests
//! handed on to those that are not this one (`k8s.io/kube-aggregator`).
//!
//! Place in the flow: `front (authn, authz) -> [aggregation] -> an extension API server`; discovery and OpenAPI
//! take from [`Remotes`] what those servers say of themselves.

pub(crate) mod availability;
mod follow;
mod forward;
pub(crate) mod local;
mod remote;

pub(crate) use follow::run;
pub(crate) use forward::forward;
pub(crate) use remote::{Identity, Remote, Remotes};
