//! Pods that run here and that the server's list lacks. That alone ends none of them: the node may have moved to a server that
//! has not heard yet of what another one made just before it was lost. So the server is asked for the pod, in a state not older
//! than the one last shown here: only once it has all that the other had is "not found" the truth.
use super::Manager;
use crate::context::Context;
use crate::worker::Wanted;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, GetParams};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Before a server that can't tell is asked again; it has waited some seconds itself.
const AGAIN: Duration = Duration::from_secs(1);

/// What a server knows of a pod that its list lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was deleted: whoever knew of it last has been heard.
    Gone,
    /// It is there: the watch will show it.
    There,
    /// The server has not heard yet of all that was known when the pod was last shown, or does not answer.
    Unknown,
}

/// Pods that are asked for. At most one question a pod.
#[derive(Default)]
pub(super) struct Absent {
    asked: BTreeSet<String>,
    /// Those of which a server could not tell, which is said once.
    doubted: BTreeSet<String>,
    questions: JoinSet<(Arc<Pod>, Verdict)>,
}

impl Absent {
    /// The next answer; none when nothing is asked.
    pub async fn answer(&mut self) -> Option<(Arc<Pod>, Verdict)> {
        // A question that panicked is a bug; the pod goes on until it is missed again.
        self.questions.join_next().await?.ok()
    }

    fn ask(&mut self, context: Arc<Context>, pod: Arc<Pod>, after: Duration) {
        self.questions.spawn(async move {
            tokio::time::sleep(after).await;
            let verdict = ask(&context, &pod).await;
            (pod, verdict)
        });
    }
}

async fn ask(context: &Context, pod: &Pod) -> Verdict {
    let metadata = &pod.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(context.options.client.clone(), namespace);
    let version = GetParams::at(metadata.resource_version.as_deref().unwrap_or_default());
    let answer = api.get_metadata_with(metadata.name.as_deref().unwrap_or_default(), &version).await;
    judge(metadata.uid.as_deref(), answer.map(|found| found.metadata.uid))
}

/// `uid` is the pod's, and the answer's that of the pod that has its name now.
fn judge(uid: Option<&str>, answer: Result<Option<String>, kube::Error>) -> Verdict {
    match answer {
        Ok(found) if found.as_deref() == uid => Verdict::There,
        Ok(_) => Verdict::Gone,
        Err(kube::Error::Api(status)) if status.code == 404 => Verdict::Gone,
        Err(_) => Verdict::Unknown,
    }
}

/// Whether somebody told of the end of the pod that was `shown`, as `last`: a watch tells the revision of the end. What a list
/// lacks is as it was shown.
pub(super) fn was_told(shown: &Pod, last: &Pod) -> bool {
    shown.metadata.resource_version != last.metadata.resource_version
}

/// Whether a pod that a list lacks may be one that the server has not heard of. One that was being deleted needs nobody's word,
/// and of one without a version nobody ever said how new it is.
fn may_be_there(pod: &Pod) -> bool {
    pod.metadata.resource_version.is_some() && pod.metadata.deletion_timestamp.is_none()
}

impl Manager {
    /// The server's list lacks this pod, which runs here or was to.
    pub(super) fn miss(&mut self, pod: &Arc<Pod>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if !may_be_there(pod) {
            return self.end_absent(&uid, pod);
        }
        if self.absent.asked.insert(uid) {
            self.absent.ask(self.context.clone(), pod.clone(), Duration::ZERO);
        }
    }

    /// An answer has come; `listed`: the pod was shown meanwhile.
    pub(super) fn answered(&mut self, pod: &Arc<Pod>, verdict: Verdict, listed: bool) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if !self.absent.asked.remove(&uid) {
            return;
        }
        if listed || verdict != Verdict::Unknown {
            self.absent.doubted.remove(&uid);
        }
        match verdict {
            _ if listed => {}
            Verdict::There => {}
            Verdict::Gone => {
                tracing::info!(pod = pod.metadata.name, uid, "ended: it is not in the API");
                self.end_absent(&uid, pod);
            }
            Verdict::Unknown => {
                if self.absent.doubted.insert(uid.clone()) {
                    tracing::info!(pod = pod.metadata.name, uid, "goes on: the server may not have heard of it yet");
                }
                self.keep(&uid, pod);
                self.absent.asked.insert(uid);
                self.absent.ask(self.context.clone(), pod.clone(), AGAIN);
            }
        }
    }

    /// Nothing is asked about a pod any more: it is known to be gone.
    pub(super) fn stop_asking(&mut self, uid: &str) {
        self.absent.asked.remove(uid);
        self.absent.doubted.remove(uid);
    }

    /// As little of it as its end needs, where an earlier process ran it.
    fn end_absent(&mut self, uid: &str, pod: &Arc<Pod>) {
        match self.workers.contains_key(uid) {
            true => self.gone(pod),
            false => self.spawn(uid.to_owned(), Wanted { pod: pod.clone(), gone: true, mirror: None }),
        }
    }

    /// It goes on as it was, and is looked after also where an earlier process ran it.
    fn keep(&mut self, uid: &str, pod: &Arc<Pod>) {
        if !self.workers.contains_key(uid) {
            self.spawn(uid.to_owned(), Wanted { pod: pod.clone(), gone: false, mirror: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn refused(code: u16) -> Result<Option<String>, kube::Error> {
        Err(kube::Error::Api(Box::new(Status { code, ..Status::default() })))
    }

    #[test]
    fn only_not_found_of_a_server_that_has_everything_ends_a_pod() {
        let judge = |answer| judge(Some("u"), answer);
        assert_eq!(judge(refused(404)), Verdict::Gone);
        assert_eq!(judge(Ok(Some("another life".into()))), Verdict::Gone);
        assert_eq!(judge(Ok(Some("u".into()))), Verdict::There);
        for code in [504, 503, 403, 429, 500] {
            assert_eq!(judge(refused(code)), Verdict::Unknown, "{code}");
        }
    }

    #[test]
    fn what_was_being_deleted_needs_nobodys_word() {
        let mut pod = Pod::default();
        assert!(!may_be_there(&pod), "as kept by an agent that did not keep versions");
        pod.metadata.resource_version = Some("5".into());
        assert!(may_be_there(&pod));
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now()));
        assert!(!may_be_there(&pod));
    }

    #[test]
    fn a_watch_tells_of_an_end_and_a_list_does_not() {
        let at = |version: &str| {
            let mut pod = Pod::default();
            pod.metadata.resource_version = Some(version.into());
            pod
        };
        assert!(was_told(&at("5"), &at("9")));
        assert!(!was_told(&at("5"), &at("5")));
    }
}
