//! Compiles the pause program, a static binary without libc, which the agent embeds, and the gRPC clients.
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = "../../embedded/pause/pause.rs";

fn main() {
    protocols();
    pause();
}

/// CRI, containerd's events and gRPC's health checks as Rust.
fn protocols() {
    println!("cargo::rerun-if-changed=proto");
    let files = ["proto/cri.proto", "proto/events.proto", "proto/health.proto"].map(Path::new);
    let descriptors = protox::compile(files, [Path::new("proto")]).unwrap_or_else(|error| panic!("{error}"));
    let done = tonic_prost_build::configure().build_server(false).compile_fds(descriptors);
    done.unwrap_or_else(|error| panic!("generating the clients of CRI: {error}"));
}

fn pause() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(variable("OUT_DIR")).join("pause");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--edition=2024", "--crate-type=bin", "--crate-name=pause", "--target", &variable("TARGET")]);
    rustc.args(["-Cpanic=abort", "-Copt-level=s", "-Cstrip=symbols", "-Crelocation-model=static"]);
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-Wl,--build-id=none", "-Wl,-z,norelro"] {
        rustc.arg(format!("-Clink-arg={argument}"));
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    rustc.arg("-o").arg(&out).arg(SOURCE);
    // Flags of the outer build (coverage, sanitizers) do not fit a program without a runtime.
    rustc.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    let status = rustc.status().unwrap_or_else(|error| panic!("{rustc:?} could not be started: {error}"));
    assert!(status.success(), "{rustc:?} failed: {status}");
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
