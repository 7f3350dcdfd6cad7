//! A static pod's mirror in the API: made, and made anew when it is not what it should be.
use super::{Job, Outcome, Worker};
use crate::context::Context;
use crate::statics::{self, Difference};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use std::sync::Arc;
use std::time::Duration;

impl Worker {
    /// Begins what the mirror needs; the time until it is looked at again.
    pub(super) fn keep_mirror(&mut self) -> Duration {
        if self.gone || !statics::is_static(&self.pod) {
            return super::REFRESH;
        }
        let (context, pod) = self.shared();
        match (statics::compare(&pod, self.mirror.as_deref()), self.mirror.clone()) {
            (Difference::Stale, Some(mirror)) => self.job(Job::Mirror, async move { remove(&context, &mirror).await }),
            (Difference::Missing, _) => self.job(Job::Mirror, async move { make(&context, &pod).await }),
            _ => super::REFRESH,
        }
    }

    /// What the API shows of this static pod from now on.
    pub(super) fn show_as(&mut self, mirror: Option<Arc<Pod>>) {
        let uid = |mirror: &Option<Arc<Pod>>| mirror.as_ref().and_then(|pod| pod.metadata.uid.clone());
        if uid(&self.mirror) != uid(&mirror)
            && let Some(mirror) = &mirror
        {
            self.reporter.begin(mirror);
            if let Some(began) = mirror.status.as_ref().and_then(|status| status.start_time.as_ref()) {
                self.began = began.0;
            }
        }
        self.mirror = mirror;
    }

    /// The uid of the object that shows this pod's status; `None` while there is none.
    pub(super) fn shown_uid(&self) -> Option<String> {
        if !statics::is_static(&self.pod) {
            return Some(self.uid.clone());
        }
        let mirror = self.mirror.as_deref();
        let fits = statics::compare(&self.pod, mirror) == Difference::None;
        mirror.filter(|_| fits).and_then(|mirror| mirror.metadata.uid.clone())
    }
}

fn api(context: &Context, pod: &Pod) -> Api<Pod> {
    Api::namespaced(context.options.client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default())
}

async fn make(context: &Context, pod: &Pod) -> Outcome {
    let made = async {
        let node = Api::<Node>::all(context.options.client.clone()).get(&context.options.node_name).await?;
        api(context, pod).create(&PostParams::default(), &statics::mirror(pod, &node)).await
    };
    match made.await {
        Ok(mirror) => Outcome::Shown(Some(Arc::new(mirror))),
        Err(error) => {
            tracing::debug!(pod = pod.metadata.name, %error, "no mirror pod yet");
            Outcome::Failed
        }
    }
}

async fn remove(context: &Context, mirror: &Pod) -> Outcome {
    let name = mirror.metadata.name.as_deref().unwrap_or_default();
    let preconditions = Some(Preconditions { uid: mirror.metadata.uid.clone(), resource_version: None });
    let params = DeleteParams { preconditions, ..DeleteParams::default().grace_period(0) };
    match api(context, mirror).delete(name, &params).await {
        Ok(_) => Outcome::Shown(None),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Outcome::Shown(None),
        Err(error) => {
            tracing::debug!(pod = name, %error, "mirror pod not deleted yet");
            Outcome::Failed
        }
    }
}
