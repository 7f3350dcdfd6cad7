//! A whole API server on a store of its own, for tests.
use apiserver::engine::{self, Engine};
use apiserver::registry::Registry;
use apiserver::registry::summarize::Summarizer;
use apiserver::{Cluster, FrontProxy, Handle, Options, Service, Tls, TokenKeys, User};
use eyot_apiserver as apiserver;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

pub struct Server {
    pub handle: Handle,
    pub port: u16,
    pub ca_pem: String,
    store: Arc<store::Store>,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    issuer: Issuer<'static, KeyPair>,
    dir: PathBuf,
}

/// A client's certificate and key in PEM.
pub struct Client {
    pub certificate: String,
    pub key: String,
}

impl Server {
    pub async fn start(dir: &Path) -> Self {
        let registry = Arc::new(Registry::builtin(api::schema::Schemas::builtin()));
        let store = store::Store::open(store::Options {
            dir: dir.to_owned(),
            server: 1,
            summarize: Arc::new(Summarizer::new(registry.clone())),
            keep: store::KEEP,
        })
        .unwrap();
        Self::over(store, registry, dir, apiserver::Sites::default()).await
    }

    /// One of several servers that see the same at once: as replication without delay would have it.
    #[allow(dead_code, reason = "not every test of those that share this server needs a second one")]
    pub async fn beside(&self, sites: apiserver::Sites) -> Self {
        let registry = Arc::new(Registry::builtin(api::schema::Schemas::builtin()));
        Self::over(self.store.clone(), registry, &self.dir, sites).await
    }

    async fn over(store: Arc<store::Store>, registry: Arc<Registry>, dir: &Path, sites: apiserver::Sites) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let engine = Engine::new(engine::Options {
            backend: store.clone(),
            registry: registry.clone(),
            service_cidr: apiserver::alloc::pools::Cidr::parse("10.43.0.0/16").unwrap(),
            node_port_range: 30000..=32767,
            clock: jiff::Timestamp::now,
            sites,
            tunnels: None,
        });
        let (issuer, ca_pem) = authority();
        let serving = leaf(&issuer, &[], None);
        let proxy = leaf(&issuer, &[(DnType::CommonName, "front")], None);
        let options = Options {
            listener,
            backend: store.clone(),
            engine,
            registry,
            tls: Tls {
                cert_chain: vec![CertificateDer::from_pem_slice(serving.certificate.as_bytes()).unwrap()],
                key: PrivateKeyDer::from_pem_slice(serving.key.as_bytes()).unwrap(),
                clients: clients(&ca_pem),
                distrust: tokio::sync::watch::channel(0).1,
                client_roots_pem: ca_pem.clone(),
            },
            tokens: apiserver::Tokens::new([("secret-token", User::new("robot", &["robots"]))]),
            service_accounts: TokenKeys {
                signing_key_pem: KeyPair::generate().unwrap().serialize_pem(),
                verifying_keys_pem: Vec::new(),
                issuer: apiserver::options::ISSUER.into(),
                audiences: Vec::new(),
            },
            cluster: Cluster {
                id: uuid::Uuid::from_u128(7),
                api_service_ip: [10, 43, 0, 1].into(),
                dns_ip: [10, 43, 0, 10].into(),
                service_cidr: "10.43.0.0/16".into(),
                advertise: format!("127.0.0.1:{port}").parse().unwrap(),
            },
            kubelet_client: Arc::new(agents_tls(&ca_pem)),
            tunnels: None,
            front_proxy: FrontProxy {
                ca_pem: ca_pem.clone(),
                name: "front".into(),
                cert_chain: vec![CertificateDer::from_pem_slice(proxy.certificate.as_bytes()).unwrap()],
                key: PrivateKeyDer::from_pem_slice(proxy.key.as_bytes()).unwrap(),
            },
            root_ca_pem: ca_pem.clone(),
            extension: None,
        };
        let service = Service::new(options).await.unwrap();
        let (handle, shutdown) = (service.handle(), CancellationToken::new());
        let running = tokio::spawn(service.run(shutdown.clone()));
        Self { handle, port, ca_pem, store, shutdown, running, issuer, dir: dir.to_owned() }
    }

    /// Stores an object as it is, past the API.
    #[allow(dead_code, reason = "not every test of those that share this server stores so")]
    pub async fn put(&self, key: &str, value: &serde_json::Value) {
        let op = store::Op::Put { key: key.to_owned().into(), value: value.to_string().into(), lease: None };
        store::Backend::txn(&*self.store, store::Txn { then: vec![op], ..store::Txn::default() }).await.unwrap();
    }

    /// A certificate of this user; `valid_days` in the past for one that has expired.
    pub fn client(&self, name: &str, group: &str, expired: bool) -> Client {
        leaf(&self.issuer, &[(DnType::CommonName, name), (DnType::OrganizationName, group)], expired.then_some(()))
    }

    /// Writes a kubeconfig for the client and returns its path.
    pub fn kubeconfig(&self, name: &str, client: &Client) -> PathBuf {
        let file = |suffix: &str, text: &str| {
            let path = self.dir.join(format!("{name}.{suffix}"));
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority": file("ca", &self.ca_pem)}}],
            "users": [{"name": "c", "user": {
                "client-certificate": file("crt", &client.certificate), "client-key": file("key", &client.key)}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        });
        file("kubeconfig", &config.to_string()).into()
    }

    /// Ends it, and leaves the store to the others beside it.
    #[allow(dead_code, reason = "not every test of those that share this server has a second one")]
    pub async fn leave(self) {
        self.shutdown.cancel();
        self.running.await.unwrap();
    }

    /// Ends it in good order; returns how long that took.
    pub async fn stop(self) -> std::time::Duration {
        let began = std::time::Instant::now();
        self.shutdown.cancel();
        self.running.await.unwrap();
        let took = began.elapsed();
        self.store.close().await.unwrap();
        took
    }
}

fn authority() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test-ca");
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

fn leaf(issuer: &Issuer<'static, KeyPair>, subject: &[(DnType, &str)], expired: Option<()>) -> Client {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["127.0.0.1", "localhost", "ext.default.svc"].map(str::to_owned)).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (kind, value) in subject {
        params.distinguished_name.push(kind.clone(), *value);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    if expired.is_some() {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 2);
    }
    Client { certificate: params.signed_by(&key, issuer).unwrap().pem(), key: key.serialize_pem() }
}

fn clients(ca_pem: &str) -> Arc<dyn rustls::server::danger::ClientCertVerifier> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    builder.allow_unauthenticated().build().unwrap()
}

fn agents_tls(ca_pem: &str) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}
