//! `/version`: the Kubernetes version that is served.

/// The API's version; what follows the plus names the distribution, as k3s and others do.
pub const GIT_VERSION: &str = "v1.36.3+eyot";

/// `version.Info` (`k8s.io/apimachinery/pkg/version`).
pub fn json() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    serde_json::json!({
        "major": "1", "minor": "36",
        "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": format!("linux/{arch}"),
    })
    .to_string()
}
