//! The etcd v3 API over gRPC on [`store::Backend`]: what an unmodified kube-apiserver, `etcdctl` and other clients
//! of etcd speak. It keeps nothing of its own: keys, revisions, watches and leases are the store's.
//!
//! Place in the flow: `etcd client -> gRPC -> (KV | Watch | Lease | Maintenance | Cluster | Auth) -> Backend`. A
//! verb plans what to ask of the store, asks, and puts the answer into etcd's words; planning and wording are pure.
//! Defined by `api/etcdserverpb/rpc.proto` of etcd v3 and, for errors, by `api/v3rpc/rpctypes`.

mod auth;
mod bolt;
mod cluster;
mod context;
mod error;
mod health;
mod kv;
mod lease;
mod maintenance;
mod options;
pub mod remote;
mod ride;
mod service;
pub mod snapshot;
mod watch;

pub use options::{Identity, Limits, Options};
pub use service::{Error, Service};

/// The wire's messages and services.
#[allow(clippy::all, clippy::large_futures, rustdoc::all)]
pub mod proto {
    pub mod mvccpb {
        tonic::include_proto!("mvccpb");
    }
    pub mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
    pub mod health {
        tonic::include_proto!("grpc.health.v1");
    }
}
pub(crate) use proto::{etcdserverpb as pb, mvccpb};
