//! Other people's commands with our settings: kubectl, ctr, crictl.
use crate::Argv;
use crate::args::KUBECONFIG;
use anyhow::{Context, bail};
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const TOOLS: [&str; 3] = ["kubectl", "ctr", "crictl"];

/// `kubectl get pods` by way of a link to this binary means `eyot kubectl get pods`.
pub fn by_program_name(argv: Argv) -> Argv {
    let name = argv.first().map(Path::new).and_then(Path::file_name).and_then(OsStr::to_str);
    match name.filter(|name| TOOLS.contains(name)) {
        Some(name) => ["eyot".into(), OsString::from(name)].into_iter().chain(argv.into_iter().skip(1)).collect(),
        None => argv,
    }
}

/// kubectl with the admin's kubeconfig, unless KUBECONFIG names another.
pub fn kubectl(args: Argv) -> anyhow::Result<ExitCode> {
    let mut command =
        Command::new(find("kubectl", "install it, for example from https://kubernetes.io/docs/tasks/tools")?);
    if std::env::var_os("KUBECONFIG").is_none() {
        let path = Path::new(KUBECONFIG);
        if path.exists() && std::fs::File::open(path).is_err() {
            bail!(
                "{KUBECONFIG} is readable by its owner alone: use sudo, or start the server with --write-kubeconfig-mode"
            );
        }
        command.env("KUBECONFIG", KUBECONFIG);
    }
    exec(command.args(args))
}

pub fn ctr(args: Argv) -> anyhow::Result<ExitCode> {
    let mut command = Command::new(find("ctr", "it comes with containerd")?);
    exec(command.arg("--address").arg(socket()).args(["--namespace", "k8s.io"]).args(args))
}

pub fn crictl(args: Argv) -> anyhow::Result<ExitCode> {
    let endpoint = format!("unix://{}", socket().display());
    let mut command = Command::new(find("crictl", "it comes with cri-tools")?);
    exec(command.args(["--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint]).args(args))
}

/// The socket of Eyot's containerd, of the instance that `EYOT_INSTANCE` names.
fn socket() -> PathBuf {
    let instance = std::env::var("EYOT_INSTANCE").unwrap_or_else(|_| "eyot".into());
    Path::new("/run").join(instance).join("containerd/containerd.sock")
}

/// The bundled program if there is one, else the first on PATH that is not this binary.
fn find(name: &str, hint: &str) -> anyhow::Result<PathBuf> {
    let me = std::fs::canonicalize("/proc/self/exe").ok();
    let bundled = PathBuf::from("/var/lib/eyot/data/current/bin").join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join(name));
    std::iter::once(bundled)
        .chain(on_path)
        .find(|file| file.is_file() && std::fs::canonicalize(file).ok() != me)
        .with_context(|| format!("{name} is not on PATH: {hint}"))
}

/// Becomes the command; returns only when that failed.
fn exec(command: &mut Command) -> anyhow::Result<ExitCode> {
    Err(command.exec()).with_context(|| command.get_program().display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Argv {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn a_link_named_kubectl_is_kubectl() {
        assert_eq!(by_program_name(argv(&["/bin/kubectl", "get", "pods"])), argv(&["eyot", "kubectl", "get", "pods"]));
        assert_eq!(by_program_name(argv(&["/bin/eyot", "status"])), argv(&["/bin/eyot", "status"]));
    }

    #[test]
    fn a_missing_program_is_said_with_its_remedy() {
        let error = find("no-such-program", "install it").unwrap_err().to_string();
        assert_eq!(error, "no-such-program is not on PATH: install it");
    }
}
