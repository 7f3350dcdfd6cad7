//! The programs of others that a node runs: looked for in PATH, versions checked, one clear line for each problem.
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How long a program may take to tell its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Where distributions put the reference CNI plugins, in order of preference.
const CNI_DIRS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// Directories of administration programs that a user's PATH often lacks.
const SYSTEM_DIRS: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin"];

/// The CNI plugins that the pod network is made of.
pub const CNI_PLUGINS: [&str; 3] = ["ptp", "host-local", "loopback"];

/// The oldest CNI protocol that our configuration is written in.
const CNI_VERSION: &str = "0.4.0";

/// A program and the oldest version that does.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    pub name: &'static str,
    pub oldest: (u32, u32, u32),
    /// Debian's package.
    pub package: &'static str,
}

/// What a node runs besides the CNI plugins. containerd 1.6 is the first that answers CRI v1; nftables 1.0 the
/// first with what the Service rules use.
pub const PROGRAMS: [Program; 3] = [
    Program { name: "containerd", oldest: (1, 6, 0), package: "containerd" },
    Program { name: "runc", oldest: (1, 1, 0), package: "runc" },
    Program { name: "nft", oldest: (1, 0, 0), package: "nftables" },
];

/// Why a program can't be used; each displays as one line that says what to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    Missing { name: String, package: &'static str },
    TooOld { name: String, found: String, oldest: String, package: &'static str },
    Silent { path: PathBuf, reason: String, package: &'static str },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name, package } => write!(f, "{name} is not installed (Debian package: {package})"),
            Self::TooOld { name, found, oldest, package } => {
                write!(f, "{name} {found} is too old, {oldest} or newer is needed (Debian package: {package})")
            }
            Self::Silent { path, reason, package } => {
                write!(f, "{} does not tell its version: {reason} (Debian package: {package})", path.display())
            }
        }
    }
}

/// Where the program is: in PATH or in a system directory.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_in(name, std::env::split_paths(&path).chain(SYSTEM_DIRS.map(PathBuf::from)))
}

fn find_in(name: &str, dirs: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    dirs.map(|dir| dir.join(name)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// The first directory that holds all [`CNI_PLUGINS`].
pub fn find_cni_dir() -> Option<PathBuf> {
    let complete = |dir: &Path| CNI_PLUGINS.iter().all(|plugin| is_executable(&dir.join(plugin)));
    CNI_DIRS.map(PathBuf::from).into_iter().find(|dir| complete(dir))
}

/// All that is wrong with the programs of this machine; empty when a node can run.
pub async fn check() -> Vec<Problem> {
    let programs = futures::future::join_all(PROGRAMS.map(check_program)).await;
    let cni = check_cni().await;
    programs.into_iter().chain([cni]).filter_map(Result::err).collect()
}

async fn check_program(program: Program) -> Result<(), Problem> {
    let Program { name, oldest, package } = program;
    let path = find(name).ok_or(Problem::Missing { name: name.to_owned(), package })?;
    let silent = |reason: String| Problem::Silent { path: path.clone(), reason, package };
    let text = output(&path, ["--version"], "").await.map_err(silent)?;
    let found = parse_version(&text).ok_or_else(|| silent(format!("it says {:?}", text.trim())))?;
    if found < oldest {
        return Err(Problem::TooOld { name: name.to_owned(), found: show(found), oldest: show(oldest), package });
    }
    Ok(())
}

/// Asks each plugin which protocol versions it speaks (CNI spec 1.0.0, "VERSION").
async fn check_cni() -> Result<(), Problem> {
    const PACKAGE: &str = "containernetworking-plugins";
    let names = || format!("one of the CNI plugins {}", CNI_PLUGINS.join(", "));
    let dir = find_cni_dir().ok_or_else(|| Problem::Missing { name: names(), package: PACKAGE })?;
    for plugin in CNI_PLUGINS {
        let path = dir.join(plugin);
        let question = format!(r#"{{"cniVersion":"{CNI_VERSION}"}}"#);
        let answer = output(&path, [], &question).await;
        let answer = answer.map_err(|reason| Problem::Silent { path: path.clone(), reason, package: PACKAGE })?;
        if !answer.contains(&format!("\"{CNI_VERSION}\"")) {
            let (name, found) = (format!("CNI plugin {}", path.display()), answer.trim().to_owned());
            return Err(Problem::TooOld { name, found, oldest: CNI_VERSION.to_owned(), package: PACKAGE });
        }
    }
    Ok(())
}

async fn output<const N: usize>(path: &Path, args: [&str; N], stdin: &str) -> Result<String, String> {
    let mut command = Command::new(path);
    command.args(args.map(OsStr::new)).env("CNI_COMMAND", "VERSION").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let run = async {
        let mut child = command.spawn()?;
        if let Some(mut pipe) = child.stdin.take() {
            // A program that doesn't read its input is no error.
            let _ = pipe.write_all(stdin.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    match tokio::time::timeout(VERSION_TIMEOUT, run).await {
        Ok(Ok(output)) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", VERSION_TIMEOUT.as_secs())),
    }
}

/// The first `major.minor[.patch]` in what a program says about itself.
fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let words = text.split(|c: char| c.is_whitespace() || c == ',');
    words.map(|word| word.strip_prefix('v').unwrap_or(word)).find_map(parse_word)
}

fn parse_word(word: &str) -> Option<(u32, u32, u32)> {
    let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
    let mut numbers = word[..end].split('.').map(|part| part.parse::<u32>().ok());
    let (major, minor) = (numbers.next()??, numbers.next()??);
    Some((major, minor, numbers.next().flatten().unwrap_or(0)))
}

fn show((major, minor, patch): (u32, u32, u32)) -> String {
    format!("{major}.{minor}.{patch}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_distributions_print_them() {
        let debian = "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3\n";
        assert_eq!(parse_version(debian), Some((1, 6, 20)));
        assert_eq!(parse_version("containerd containerd.io v2.1.4 75cb2b7193e4"), Some((2, 1, 4)));
        assert_eq!(parse_version("runc version 1.1.5+ds1\ncommit: 1.1.5"), Some((1, 1, 5)));
        assert_eq!(parse_version("runc version 1.3.0-rc.1\n"), Some((1, 3, 0)));
        assert_eq!(parse_version("nftables v1.0.6 (Lester Gooch #5)\n"), Some((1, 0, 6)));
        assert_eq!(parse_version("no number here"), None);
    }

    #[test]
    fn a_problem_is_one_line_that_says_what_to_install() {
        let missing = Problem::Missing { name: "nft".to_owned(), package: "nftables" };
        assert_eq!(missing.to_string(), "nft is not installed (Debian package: nftables)");
    }

    #[tokio::test]
    async fn an_old_program_is_named_with_both_versions() {
        let Some(_) = find("runc") else { return eprintln!("skipped: no runc here") };
        let future = Program { name: "runc", oldest: (99, 0, 0), package: "runc" };
        let problem = check_program(future).await.expect_err("too old");
        assert!(
            problem.to_string().ends_with("is too old, 99.0.0 or newer is needed (Debian package: runc)"),
            "{problem}"
        );
        let none = Program { name: "no-such-program", oldest: (1, 0, 0), package: "none" };
        assert!(matches!(check_program(none).await, Err(Problem::Missing { .. })));
    }
}
