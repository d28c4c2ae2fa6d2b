//! Reading objects of a real API server, cheaply enough to wait for them.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use kube::{Client, Config, config::Kubeconfig};
use serde_json::Value as Json;
use tests::wait;
use tokio::runtime::Runtime;

/// Ample for a machine that is busy; nothing takes so long that goes well.
const LIMIT: Duration = Duration::from_secs(90);

/// An API server, seen from a namespace.
#[derive(Clone)]
pub(crate) struct Api {
    runtime: Arc<Runtime>,
    client: Client,
    namespace: String,
}

/// Waits for something to be so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    wait::until(what, LIMIT, || {
        is_so()
            .then_some(())
            .ok_or_else(|| "it is not so".to_owned())
    })
}

impl Api {
    pub(crate) fn connect(kubeconfig: &Path) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = Arc::new(Runtime::new()?);
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let client = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Self {
            runtime,
            client,
            namespace: "default".to_owned(),
        })
    }

    /// The same, seen from another namespace.
    pub(crate) fn within(&self, namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            ..self.clone()
        }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Json> {
        let request = http::Request::get(path).body(Vec::new())?;
        let call = async {
            let limit = Duration::from_secs(30);
            tokio::time::timeout(limit, self.client.request(request)).await
        };
        Ok(self.runtime.block_on(call)??)
    }

    pub(crate) fn patch_status(&self, path: &str, patch: &Json) -> Result<()> {
        self.patch(&format!("{path}/status"), patch)
    }

    pub(crate) fn patch(&self, path: &str, patch: &Json) -> Result<()> {
        let request = http::Request::patch(path)
            .header("content-type", "application/merge-patch+json")
            .body(patch.to_string().into_bytes())?;
        let call = async {
            let limit = Duration::from_secs(30);
            tokio::time::timeout(limit, self.client.request::<Json>(request)).await
        };
        self.runtime.block_on(call)??;
        Ok(())
    }

    pub(crate) fn named(&self, group: &str, resource: &str, name: &str) -> Result<Json> {
        let namespace = &self.namespace;
        self.get(&format!("{group}/namespaces/{namespace}/{resource}/{name}"))
    }

    pub(crate) fn core(&self, resource: &str, name: &str) -> Result<Json> {
        self.named("/api/v1", resource, name)
    }

    pub(crate) fn deployment(&self, name: &str) -> Result<Json> {
        self.named("/apis/apps/v1", "deployments", name)
    }

    pub(crate) fn cluster(&self, name: &str) -> Result<Json> {
        self.named("/apis/poolkeeper.dev/v1alpha1", "pgpoolclusters", name)
    }

    pub(crate) fn list(&self, group: &str, resource: &str, selector: &str) -> Result<Vec<Json>> {
        let selector = selector.replace('=', "%3D").replace(',', "%2C");
        let namespace = &self.namespace;
        let path = format!("{group}/namespaces/{namespace}/{resource}?labelSelector={selector}");
        Ok(self.get(&path)?["items"]
            .as_array()
            .cloned()
            .unwrap_or_default())
    }

    /// Everything that the operator made, as `kind/name`.
    pub(crate) fn ours(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for (group, resource) in [
            ("/api/v1", "serviceaccounts"),
            ("/api/v1", "secrets"),
            ("/api/v1", "configmaps"),
            ("/api/v1", "services"),
            ("/api/v1", "pods"),
            ("/apis/policy/v1", "poddisruptionbudgets"),
            ("/apis/networking.k8s.io/v1", "networkpolicies"),
            ("/apis/apps/v1", "replicasets"),
            ("/apis/apps/v1", "deployments"),
        ] {
            let selector = "app.kubernetes.io/managed-by=poolkeeper-operator";
            for object in self.list(group, resource, selector)? {
                names.push(format!("{resource}/{}", object["metadata"]["name"]));
            }
        }
        Ok(names)
    }

    pub(crate) fn events(&self, cluster: &str) -> Vec<Json> {
        let namespace = &self.namespace;
        let events = self
            .get(&format!("/api/v1/namespaces/{namespace}/events"))
            .unwrap_or_default();
        let events = events["items"].as_array().cloned().unwrap_or_default();
        let about = |event: &Json| event["involvedObject"]["name"] == cluster;
        events.into_iter().filter(about).collect()
    }

    pub(crate) fn condition(&self, cluster: &str, type_: &str) -> Result<Json> {
        let cluster = self.cluster(cluster)?;
        let conditions = cluster["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        conditions
            .into_iter()
            .find(|one| one["type"] == type_)
            .with_context(|| format!("no condition {type_}"))
    }

    /// Waits for status and reason of a condition, such as `True Serving`.
    pub(crate) fn wait_for_condition(
        &self,
        cluster: &str,
        type_: &str,
        wanted: &str,
    ) -> Result<()> {
        wait::until(&format!("{cluster}: {type_} {wanted}"), LIMIT, || {
            let found = self
                .condition(cluster, type_)
                .map_err(|error| error.to_string())?;
            let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
            let shown = format!("{} {}", text("status"), text("reason"));
            match shown == wanted {
                true => Ok(()),
                false => Err(format!("{shown}: {}", text("message"))),
            }
        })
    }

    /// The revision that the poolers of a cluster are told.
    pub(crate) fn revision(&self, cluster: &str) -> Result<String> {
        use base64::Engine as _;
        let secret = self.core("secrets", &format!("{cluster}-pooler-config"))?;
        let ini = secret["data"]["pooler.ini"].as_str().unwrap_or_default();
        let ini = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(ini)?)?;
        let line = ini
            .lines()
            .find_map(|line| line.strip_prefix("config_revision = "));
        line.map(str::to_owned)
            .context("no config_revision in pooler.ini")
    }
}
