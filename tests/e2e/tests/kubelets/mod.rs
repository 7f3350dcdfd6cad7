//! A kubelet's way to its certificate, as kubeadm prepares it: by a bootstrap token first, by its own identity later.
use anyhow::Context;
use e2e::Cluster;
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::config::{AuthInfo, Kubeconfig};
use kube::runtime::wait::await_condition;
use serde_json::json;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);
const MACHINES: &str = "system:bootstrappers:kubeadm:default-node-token";
const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";

pub async fn certificates(cluster: &Cluster, client: &kube::Client) -> anyhow::Result<()> {
    prepare(client).await?;
    let config = Kubeconfig::read_from(cluster.kubeconfig())?;
    let token = |auth: &mut AuthInfo| auth.token = Some("abcdef.0123456789abcdef".to_owned().into());
    let machine = with(&config, token).await?;

    let (key, request) = request("machine-1")?;
    let (message, certificate) = sign(client, &machine, "first", request).await?;
    assert_eq!(message, "Auto approving kubelet client certificate after SubjectAccessReview.");
    let identity = |auth: &mut AuthInfo| {
        let inline = |pem: &[u8]| k8s_openapi::serde_json::to_value(ByteString(pem.to_vec())).ok();
        auth.client_certificate_data = inline(&certificate).and_then(|text| text.as_str().map(str::to_owned));
        let key = inline(key.as_bytes()).and_then(|text| text.as_str().map(str::to_owned));
        auth.client_key_data = key.map(Into::into);
    };
    let node = with(&config, identity).await?;
    let me = Api::<SelfSubjectReview>::all(node.clone()).create(&PostParams::default(), &Default::default()).await?;
    let me = me.status.and_then(|status| status.user_info).context("nobody")?;
    assert_eq!(me.username.as_deref(), Some("system:node:machine-1"));
    assert!(me.groups.is_some_and(|groups| groups.iter().any(|group| group == "system:nodes")));

    let (_, again) = self::request("machine-1")?;
    let (message, _) = sign(client, &node, "renewed", again).await?;
    assert_eq!(message, "Auto approving self kubelet client certificate after SubjectAccessReview.");
    let (_, other) = self::request("machine-2")?;
    let refused = Api::all(node).create(&PostParams::default(), &object("other", other)).await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 403), "a node asks for itself alone");
    Ok(())
}

/// A token, and who may have what: `kubeadm init phase bootstrap-token`.
async fn prepare(client: &kube::Client) -> anyhow::Result<()> {
    let post = PostParams::default();
    let token = json!({
        "metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token", "stringData": {
            "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "auth-extra-groups": MACHINES}});
    Api::<Secret>::namespaced(client.clone(), "kube-system").create(&post, &serde_json::from_value(token)?).await?;
    let requests = "system:certificates.k8s.io:certificatesigningrequests";
    for (name, role, group) in [
        ("kubeadm:kubelet-bootstrap", "system:node-bootstrapper".to_owned(), MACHINES),
        ("kubeadm:node-autoapprove-bootstrap", format!("{requests}:nodeclient"), MACHINES),
        ("kubeadm:node-autoapprove-certificate-rotation", format!("{requests}:selfnodeclient"), "system:nodes"),
    ] {
        let binding = json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}]});
        Api::<ClusterRoleBinding>::all(client.clone()).create(&post, &serde_json::from_value(binding)?).await?;
    }
    Ok(())
}

/// A client of who `change` makes of nobody.
async fn with(config: &Kubeconfig, change: impl FnOnce(&mut AuthInfo)) -> anyhow::Result<kube::Client> {
    let mut config = config.clone();
    let auth = config.auth_infos[0].auth_info.get_or_insert_default();
    (auth.client_certificate_data, auth.client_key_data) = (None, None);
    change(auth);
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// A key and a request for it, both PEM, as a kubelet of this name makes them.
fn request(node: &str) -> anyhow::Result<(String, String)> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
    let pem = params.serialize_request(&key)?.pem()?;
    Ok((key.serialize_pem(), pem))
}

fn object(name: &str, pem: String) -> CertificateSigningRequest {
    let spec = CertificateSigningRequestSpec {
        request: ByteString(pem.into_bytes()),
        signer_name: SIGNER.into(),
        usages: Some(vec!["digital signature".into(), "client auth".into()]),
        ..Default::default()
    };
    let metadata = ObjectMeta { name: Some(format!("kubelet-{name}")), ..Default::default() };
    CertificateSigningRequest { metadata, spec, status: None }
}

/// Asks as somebody, and waits until nobody had to approve it: what the approval says, and the certificate.
async fn sign(client: &kube::Client, who: &kube::Client, name: &str, pem: String) -> anyhow::Result<(String, Vec<u8>)> {
    let (mine, object, begun) = (Api::all(who.clone()), object(name, pem), Instant::now());
    // A binding holds from a moment after it was made.
    while let Err(error) = mine.create(&PostParams::default(), &object).await {
        anyhow::ensure!(begun.elapsed() < SOON, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let all: Api<CertificateSigningRequest> = Api::all(client.clone());
    let signed = |request: Option<&CertificateSigningRequest>| {
        request.is_some_and(|r| r.status.as_ref().is_some_and(|status| status.certificate.is_some()))
    };
    let name = format!("kubelet-{name}");
    let request = tokio::time::timeout(2 * SOON, await_condition(all, &name, signed)).await.context("not signed")??;
    let status = request.and_then(|request| request.status).context("it is gone")?;
    let approval = status.conditions.unwrap_or_default().into_iter().next().context("no condition")?;
    assert_eq!((approval.type_.as_str(), approval.reason.as_deref()), ("Approved", Some("AutoApproved")));
    Ok((approval.message.unwrap_or_default(), status.certificate.context("no certificate")?.0))
}
