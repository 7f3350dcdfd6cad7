//! The signers of CertificateSigningRequests: approved requests for Kubernetes' own signers get a certificate of this
//! server's CA, kubelets' own are approved for who may have them so, and those that nobody needs any more go
//! (`pkg/controller/certificates/{approver,signer,cleaner}`).
//!
//! Place in the flow: `kubectl certificate approve -> apiserver -> [signing] -> status.certificate`.

mod plan;
mod subject;

use crate::pki::Authority;
use api::home::Ownership;
use client::kube::api::{DeleteParams, PostParams, Preconditions};
use client::kube::{self, Api, ResourceExt};
use client::{Event, Informers, Reflector};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use plan::{Decision, Grant};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often what is stale is looked for, and what failed is tried again.
const ROUND: Duration = Duration::from_secs(60);

/// The signing controller of one server.
pub(crate) struct Service {
    pub authority: Arc<Authority>,
    /// Acts as `certificate-controller`.
    pub client: kube::Client,
    pub informers: Informers,
    /// A request's home signs it.
    pub ownership: watch::Receiver<Ownership>,
}

impl Service {
    /// Runs until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let requests = self.informers.reflector::<CertificateSigningRequest>();
        shutdown.run_until_cancelled(self.follow(&requests)).await;
    }

    async fn follow(&self, requests: &Reflector<CertificateSigningRequest>) {
        let mut notices = requests.subscribe();
        requests.synced().await;
        let mut round = tokio::time::interval(ROUND);
        loop {
            tokio::select! {
                event = notices.next() => match event {
                    Some(Event::Applied { new, .. }) => self.look_at(&new).await,
                    Some(Event::Deleted(_)) => {}
                    Some(Event::Resync) => round.reset_immediately(),
                    None => return,
                },
                _ = round.tick() => {
                    for request in requests.list() {
                        self.look_at(&request).await;
                    }
                }
            }
        }
    }

    async fn look_at(&self, request: &CertificateSigningRequest) {
        if !self.ownership.borrow().is_home(&client::home::claim(request)) {
            return;
        }
        let decision = plan::decide(request, Timestamp::now());
        let done = match decision {
            Decision::Nothing => return,
            Decision::Sign { seconds } => match self.authority.sign_request(&request.spec, seconds) {
                Ok(chain_pem) => self.issued(request, chain_pem).await,
                Err(error) => self.refused(request, &error.to_string()).await,
            },
            Decision::ApproveFor(grants) => self.approve_for(request, &grants).await,
            Decision::Refuse(why) => self.refused(request, &why).await,
            Decision::Delete => self.delete(request).await,
        };
        if let Err(error) = done {
            tracing::debug!(name = %request.name_any(), %error, "a signing request waits for the next round");
        }
    }

    fn api(&self) -> Api<CertificateSigningRequest> {
        Api::all(self.client.clone())
    }

    /// Approves what the requester has one of these grants for; else somebody has to decide.
    async fn approve_for(&self, request: &CertificateSigningRequest, grants: &[Grant]) -> kube::Result<()> {
        for grant in grants {
            if self.is_granted(request, grant).await? {
                return self.approve(request, grant).await;
            }
        }
        Ok(())
    }

    async fn is_granted(&self, request: &CertificateSigningRequest, grant: &Grant) -> kube::Result<bool> {
        let spec = &request.spec;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some("create".into()),
                    group: Some("certificates.k8s.io".into()),
                    version: Some("*".into()),
                    resource: Some("certificatesigningrequests".into()),
                    subresource: Some(grant.subresource.into()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    async fn approve(&self, request: &CertificateSigningRequest, grant: &Grant) -> kube::Result<()> {
        let condition = CertificateSigningRequestCondition {
            type_: "Approved".into(),
            status: "True".into(),
            reason: Some("AutoApproved".into()),
            message: Some(grant.message.into()),
            ..Default::default()
        };
        let mut new = request.clone();
        new.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
        let name = request.name_any();
        self.api().replace_subresource("approval", &name, &PostParams::default(), &new).await.map(drop)
    }

    async fn issued(&self, request: &CertificateSigningRequest, chain_pem: String) -> kube::Result<()> {
        self.write(request, |status| status.certificate = Some(ByteString(chain_pem.into_bytes()))).await
    }

    async fn refused(&self, request: &CertificateSigningRequest, why: &str) -> kube::Result<()> {
        let condition = CertificateSigningRequestCondition {
            type_: "Failed".into(),
            status: "True".into(),
            reason: Some("SignerValidationFailure".into()),
            message: Some(why.into()),
            last_update_time: Some(Time(Timestamp::now())),
            ..Default::default()
        };
        self.write(request, |status| status.conditions.get_or_insert_default().push(condition)).await
    }

    async fn write(
        &self,
        request: &CertificateSigningRequest,
        change: impl FnOnce(&mut CertificateSigningRequestStatus),
    ) -> kube::Result<()> {
        let mut new = request.clone();
        change(new.status.get_or_insert_default());
        self.api().replace_status(&request.name_any(), &PostParams::default(), &new).await.map(drop)
    }

    async fn delete(&self, request: &CertificateSigningRequest) -> kube::Result<()> {
        let preconditions = Preconditions { uid: request.uid(), resource_version: None };
        let params = DeleteParams::default().preconditions(preconditions);
        self.api().delete(&request.name_any(), &params).await.map(drop)
    }
}
