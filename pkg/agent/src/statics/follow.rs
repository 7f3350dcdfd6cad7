//! The directory of manifests: read at start and whenever something in it changes.
use super::manifest::parse;
use k8s_openapi::api::core::v1::Pod;
use notify::{RecursiveMode, Watcher};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// The net below the notices (the kubelet's fileCheckFrequency).
const LOOK: Duration = Duration::from_secs(20);
/// Changes that come together are looked at together: editors write in steps.
const SETTLE: Duration = Duration::from_millis(100);
/// No manifest is larger (the kubelet's bound).
const FILE_BYTES: u64 = 10 << 20;
/// Pods of one directory; more than any node runs.
const FILES: usize = 1000;

/// The pods that the directory describes, in order of their files. What is wrong with a file is logged and keeps nothing
/// else from running. Two files of one name: the first counts.
pub fn read(dir: &Path, node: &str) -> io::Result<Vec<Pod>> {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut pods: BTreeMap<(String, String), Pod> = BTreeMap::new();
    for file in manifests(dir)? {
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "manifest can't be read");
                continue;
            }
        };
        match parse(&bytes, &file.display().to_string(), node, &now) {
            Ok(pod) => drop(pods.entry(super::full_name(&pod)).or_insert(pod)),
            Err(error) => tracing::warn!(file = %file.display(), %error, "manifest describes no static pod"),
        }
    }
    Ok(pods.into_values().collect())
}

/// Files that don't begin with a dot, as upstream's kubelet takes them, whatever they end with.
fn manifests(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let plain = |path: &PathBuf| {
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        !hidden && fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() <= FILE_BYTES)
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(plain).collect();
    files.sort();
    files.truncate(FILES);
    Ok(files)
}

/// Sends what the directory describes whenever that may have changed, until nobody listens.
pub async fn follow(dir: PathBuf, node: String, pods: mpsc::Sender<Vec<Pod>>) {
    let (sender, mut changed) = mpsc::channel(1);
    let _watcher = watch(&dir, sender).inspect_err(|error| {
        tracing::debug!(dir = %dir.display(), %error, "manifests are looked at from time to time only");
    });
    let mut seen = fingerprint(&dir);
    loop {
        tokio::select! {
            () = pods.closed() => return,
            Some(()) = changed.recv() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = fingerprint(&dir);
        if now == seen {
            continue;
        }
        let (at, name) = (dir.clone(), node.clone());
        match tokio::task::spawn_blocking(move || read(&at, &name)).await {
            Ok(Ok(found)) => {
                seen = now;
                if pods.send(found).await.is_err() {
                    return;
                }
            }
            // What can't be read now runs on as it is.
            Ok(Err(error)) => tracing::warn!(dir = %dir.display(), %error, "manifests can't be read"),
            Err(error) => tracing::error!(%error, "reading manifests failed"),
        }
    }
}

/// Which files there are and when they were written.
fn fingerprint(dir: &Path) -> Vec<(PathBuf, Option<std::time::SystemTime>, u64)> {
    let files = manifests(dir).unwrap_or_default().into_iter();
    files
        .filter_map(|file| {
            let metadata = fs::metadata(&file).ok()?;
            Some((file, metadata.modified().ok(), metadata.len()))
        })
        .collect()
}

fn watch(dir: &Path, changed: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // Full: somebody is told already.
            let _ = changed.try_send(());
        }
    })?;
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: i}}]}}\n"
        )
    }

    #[test]
    fn a_bad_file_keeps_nobody_else_from_running() {
        let dir = tempfile::tempdir().expect("directory");
        for (file, text) in
            [("b.yaml", manifest("b")), ("a", manifest("a")), (".c.yaml", manifest("c")), ("d", "{".into())]
        {
            fs::write(dir.path().join(file), text).expect("written");
        }
        fs::create_dir(dir.path().join("sub")).expect("directory");
        let names = |pods: Vec<Pod>| pods.into_iter().filter_map(|pod| pod.metadata.name).collect::<Vec<_>>();
        assert_eq!(names(read(dir.path(), "n1").expect("read")), ["a-n1", "b-n1"]);
        assert!(read(&dir.path().join("none"), "n1").expect("nothing").is_empty());
    }

    #[tokio::test]
    async fn changes_are_noticed() {
        let dir = tempfile::tempdir().expect("directory");
        let (sender, mut pods) = mpsc::channel(1);
        let following = tokio::spawn(follow(dir.path().to_owned(), "n1".into(), sender));
        // Written again until it is seen: the watch may not have begun.
        let mut written = 0;
        let found = loop {
            written += 1;
            fs::write(dir.path().join("a.yaml"), manifest(&format!("a{written}"))).expect("written");
            match tokio::time::timeout(Duration::from_secs(1), pods.recv()).await {
                Ok(found) => break found.expect("it follows"),
                Err(_) => continue,
            }
        };
        assert!(found[0].metadata.name.as_deref().is_some_and(|name| name.starts_with('a')));
        drop(pods);
        following.await.expect("it ends when nobody listens");
    }
}
