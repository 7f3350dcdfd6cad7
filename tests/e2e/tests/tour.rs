//! The README's tour, command by command, as a newcomer types it; then everything is removed and nothing is left.
use e2e::{Cluster, repository, run};
use std::process::Command;
use std::time::Duration;

/// What each part of the tour must print, by its heading.
const EXPECTED: [(&str, &[&str]); 9] = [
    ("A Deployment behind a Service, reached by name.", &["\"hello\" successfully rolled out", "\nhello-"]),
    ("Scale, update, undo.", &["successfully rolled out", "env updated", "rolled back"]),
    ("Look inside.", &["hello from hello-", "Handling connection for 8081\nhello-", "copied"]),
    (
        "Other workloads.",
        &["1\n2\n3\n", "roll out complete: 2 new pods", "web-1.web.default.svc.cluster.local\nAddress: 10."],
    ),
    ("Data that stays.", &["kept\n", "Bound    pvc-"]),
    ("Who owns a field.", &["conflict with \"kubectl-create\" using v1: .data.color"]),
    ("Your own kinds.", &["condition met", "NAME   LENGTH\npunt   7"]),
    ("Pull the plug.", &["hello-"]),
    ("A node's maintenance.", &["drained", "Pending", "uncordoned", "successfully rolled out"]),
];

#[test]
fn the_tour_of_the_readme_works_and_leaves_nothing() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1)?;
    let readme = std::fs::read_to_string(repository().join("README.md"))?;
    let parts = parts(&readme);
    assert_eq!(parts.iter().map(|part| part.0).collect::<Vec<_>>(), EXPECTED.map(|part| part.0), "the README's tour");
    for ((heading, commands), (_, expected)) in parts.iter().zip(EXPECTED) {
        let before = containers(&cluster)?;
        let output = walk(&cluster, commands)?;
        println!("--- {heading}\n{output}");
        for text in expected {
            assert!(output.contains(text), "{heading}: {text:?} is missing in\n{output}\n{}", cluster.log());
        }
        if commands.contains("kill -9") {
            assert_eq!(before, containers(&cluster)?, "containers went on running");
        }
    }
    the_cron_job_runs(&cluster)?;
    assert_eq!(cluster.end()?, Vec::<String>::new(), "left on the host");
    Ok(())
}

/// Headings of the tour with the commands below each.
fn parts(readme: &str) -> Vec<(&str, String)> {
    let tour = readme.split("## A first tour").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap_or_default();
    let headed = tour.split("\n**").skip(1).filter_map(|part| part.split_once("**"));
    let commands = |text: &str| -> Vec<String> {
        text.split("```sh\n").skip(1).filter_map(|block| Some(block.split_once("\n```")?.0.to_owned())).collect()
    };
    headed.map(|(heading, text)| (heading, commands(text).join("\n"))).collect()
}

/// Runs commands in a terminal, as their reader would, with this cluster's kubectl and process number.
fn walk(cluster: &Cluster, commands: &str) -> anyhow::Result<String> {
    let script = cluster.dir().join("tour.sh");
    let prelude = format!(
        "kubectl() {{ {} kubectl \"$@\"; }}\npidof() {{ echo {}; }}\n\
         pod=$(kubectl get pods -l app=hello -o name 2>/dev/null | head -1)\n",
        cluster.binary().display(),
        cluster.server()?,
    );
    std::fs::write(&script, prelude + commands)?;
    let mut terminal = Command::new("timeout");
    let typed = format!("bash {}; true", script.display());
    terminal.args(["--kill-after=5", "180", "script", "-qec", &typed, "/dev/null"]);
    let output = run(terminal.current_dir(repository()).env("KUBECONFIG", cluster.kubeconfig()))?;
    Ok(output.replace('\r', ""))
}

/// The `hello` pods with their containers: equal before and after when none was restarted.
fn containers(cluster: &Cluster) -> anyhow::Result<String> {
    let columns = "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID}{\"\\n\"}{end}";
    cluster.kubectl(&["get", "pods", "-l", "app=hello", "-o", columns])
}

/// The tour's CronJob runs each minute.
fn the_cron_job_runs(cluster: &Cluster) -> anyhow::Result<()> {
    let jobs = || cluster.kubectl(&["get", "jobs", "-o", "name"]);
    for _ in 0..90 {
        if let Some(job) = jobs()?.lines().find(|job| job.contains("tick-")) {
            cluster.kubectl(&["wait", job, "--for=condition=complete", "--timeout=60s"])?;
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    anyhow::bail!("the CronJob made no Job; the log ends:\n{}", cluster.log())
}
