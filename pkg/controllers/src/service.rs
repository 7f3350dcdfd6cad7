//! All controllers of a server, each an owned task with an identity of its own.
use crate::error::Error;
use crate::execute::Executor;
use crate::options::Options;
use crate::runner::{self, Reconciler};
use crate::{
    account_token, bootstrap_token, cluster_role, cron_job, daemon_set, deployment, disruption, endpoint_slice,
    garbage_collector, job, namespace, node_ipam, node_lifecycle, pod_autoscaler, pod_gc, replica_set, resource_quota,
    root_ca, service_account, service_lb, site, stateful_set, volume,
};
use client::events;
use client::informers::Cached;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use parking_lot::Mutex;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long reconciliations under way may take at shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs every controller until shutdown.
pub struct Service {
    options: Options,
}

impl Service {
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    /// # Errors
    /// When an option is unusable; nothing is running then.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let tasks = TaskTracker::new();
        let started = self.start(&tasks, &shutdown);
        if started.is_ok() {
            shutdown.cancelled().await;
        }
        shutdown.cancel();
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            tracing::warn!("controllers were still at work after {} s and are dropped", DRAIN.as_secs());
        }
        started
    }

    fn start(&self, tasks: &TaskTracker, shutdown: &CancellationToken) -> Result<(), Error> {
        let start = Start { options: &self.options, tasks, shutdown };
        let Options { cluster_cidr, node_cidr_mask, root_ca_pem, .. } = &self.options;
        start.controller(node_ipam::NodeIpam::new(
            start.cache(),
            cluster_cidr,
            *node_cidr_mask,
            self.options.share.clone(),
        )?);
        start.controller(service_account::DefaultServiceAccount { namespaces: start.cache(), accounts: start.cache() });
        if !root_ca_pem.is_empty() {
            let pem = root_ca_pem.clone();
            start.controller(root_ca::RootCa { namespaces: start.cache(), maps: start.cache(), pem });
        }
        start.controller(replica_set::Replicas::<ReplicaSet>::new(start.cache(), start.cache::<Pod>()));
        start.controller(replica_set::Replicas::<ReplicationController>::new(start.cache(), start.cache::<Pod>()));
        start.controller(deployment::Deployments {
            deployments: start.cache(),
            sets: start.cache(),
            pods: start.cache(),
        });
        let sources = endpoint_slice::Sources { services: start.cache(), pods: start.cache() };
        start.controller(endpoint_slice::EndpointSlices {
            sources: sources.clone(),
            nodes: start.cache(),
            slices: start.cache(),
        });
        start.controller(endpoint_slice::LegacyEndpoints { sources, endpoints: start.cache() });
        start.controller(endpoint_slice::Mirror {
            endpoints: start.cache(),
            services: start.cache(),
            slices: start.cache(),
        });
        if self.options.service_lb {
            start.controller(service_lb::ServiceLoadBalancer {
                services: start.cache(),
                nodes: start.cache(),
                slices: start.cache(),
                reserved_ports: self.options.reserved_ports.clone(),
            });
        }
        start.controller(namespace::Namespaces { namespaces: start.cache() });
        start.controller(node_lifecycle::NodeLifecycle::new(start.cache(), start.cache(), start.cache()));
        start.controller(resource_quota::ResourceQuotas { quotas: start.cache() });
        start.controller(pod_gc::PodGc::new(start.cache(), start.cache()));
        start.controller(stateful_set::StatefulSets {
            sets: start.cache(),
            pods: start.cache(),
            claims: start.cache(),
            revisions: start.cache(),
        });
        start.controller(daemon_set::DaemonSets {
            sets: start.cache(),
            pods: start.cache(),
            nodes: start.cache(),
            revisions: start.cache(),
        });
        start.controller(cron_job::CronJobs { crons: start.cache(), jobs: start.cache() });
        start.controller(job::Jobs { jobs: start.cache(), pods: start.cache() });
        start.controller(job::Orphans { jobs: start.cache(), pods: start.cache() });
        start.controller(job::TtlAfterFinished { jobs: start.cache() });
        start.controller(disruption::Disruption {
            budgets: start.cache(),
            pods: start.cache(),
            deployments: start.cache(),
            sets: start.cache(),
            controllers: start.cache(),
            stateful: start.cache(),
        });
        start.controller(disruption::StaleDisruptions { pods: start.cache() });
        start.controller(account_token::AccountTokens {
            secrets: start.cache(),
            accounts: start.cache(),
            root_ca_pem: root_ca_pem.clone(),
        });
        start.controller(bootstrap_token::TokenCleaner { secrets: start.cache() });
        start.controller(cluster_role::Aggregation { roles: start.cache() });
        start.volumes();
        start.sites();
        start.controller(pod_autoscaler::PodAutoscalers {
            autoscalers: start.cache(),
            pods: start.cache(),
            histories: Mutex::default(),
        });
        let client = (self.options.client_for)(garbage_collector::NAME);
        let sites = garbage_collector::Sites {
            ownership: self.options.ownership.clone(),
            tombstones: self.options.tombstones.clone(),
        };
        tasks.spawn(garbage_collector::run(client, sites, shutdown.clone()));
        Ok(())
    }
}

struct Start<'a> {
    options: &'a Options,
    tasks: &'a TaskTracker,
    shutdown: &'a CancellationToken,
}

impl Start<'_> {
    fn cache<K: Cached>(&self) -> client::Reflector<K> {
        self.options.informers.reflector()
    }

    fn sites(&self) {
        self.controller(site::NodeSite { nodes: self.cache() });
        self.controller(site::Parts::<ReplicaSet> { parts: self.cache(), wholes: self.cache() });
        self.controller(site::Parts::<Job> { parts: self.cache(), wholes: self.cache() });
    }

    fn volumes(&self) {
        self.controller(volume::ClaimBinder { claims: self.cache(), volumes: self.cache(), classes: self.cache() });
        self.controller(volume::VolumeBinder { claims: self.cache(), volumes: self.cache() });
        self.controller(volume::ClaimProtection { claims: self.cache(), pods: self.cache() });
        self.controller(volume::VolumeProtection { volumes: self.cache() });
        self.controller(volume::AttributesProtection {
            classes: self.cache(),
            claims: self.cache(),
            volumes: self.cache(),
        });
        self.controller(volume::EphemeralVolumes { pods: self.cache(), claims: self.cache() });
    }

    /// A controller's own client and Events, and its task.
    fn controller<R: Reconciler>(&self, reconciler: R) {
        let client = (self.options.client_for)(R::NAME);
        let events = events::Service::new(events::Options {
            client: client.clone(),
            component: R::NAME.to_owned(),
            host: String::new(),
        });
        let informers = self.options.informers.clone();
        let ownership = self.options.ownership.clone();
        let executor = Executor { client, informers, recorder: events.recorder(), ownership };
        self.tasks.spawn(events.run(self.shutdown.clone()));
        self.tasks.spawn(runner::run(reconciler, executor, self.shutdown.clone()));
    }
}
