//! Compiles etcd's and gRPC health's services and their messages to Rust.
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=proto");
    let files = ["proto/rpc.proto", "proto/health.proto"].map(Path::new);
    let descriptors = protox::compile(files, [Path::new("proto")]).unwrap_or_else(|error| panic!("{error}"));
    let done = tonic_prost_build::configure().bytes(".").compile_fds(descriptors);
    done.unwrap_or_else(|error| panic!("generating etcd's services: {error}"));
}
