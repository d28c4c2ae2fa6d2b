//! A node with the images, PostgreSQL and an operator, and ways to ask it.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;
use tests::{
    kubernetes::{Image, Node, ShippedImages, shell},
    psql, wait,
};

use crate::{api::Api, secure_inbox::SecureInbox};

pub(crate) const QUICKSTART: &str = include_str!("../../../examples/quickstart.yaml");

/// Ample for a machine that is busy; nothing takes so long that goes well.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Where the operator is, as the README has it.
pub(crate) const SYSTEM: &str = "poolkeeper-system";
/// What a later version's images are called.
pub(crate) const LATER: &str = "later";

/// A Pod that waits, for psql to be run in. It knows the tier by its binding alone.
const APPLICATION: &str = "
apiVersion: v1
kind: Pod
metadata: {name: application, namespace: default}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: application
    image: docker.io/library/postgres:17
    command: [sleep, infinity]
    env:
    - {name: PGCONNECT_TIMEOUT, value: '10'}
    - {name: URI, valueFrom: {secretKeyRef: {name: shop-binding-app, key: uri}}}
";

pub(crate) struct World {
    pub(crate) node: Node,
    pub(crate) api: Api,
    pub(crate) images: ShippedImages,
    /// Who is told.
    pub(crate) inbox: SecureInbox,
    /// Of the user app.
    pub(crate) password: String,
    /// pool.maxServerConnections, while there is one.
    pub(crate) budget: Option<u64>,
}

/// A Pod: its name, and what changes when it, or its process, is another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodIdentity {
    pub(crate) name: String,
    uid: String,
    restarts: u64,
}

impl World {
    pub(crate) fn start() -> Result<Self> {
        let images = ShippedImages::make()?;
        let node = Node::start()?;
        for program in ShippedImages::PROGRAMS {
            node.load(&images.archive(program))?;
            let later = format!("poolkeeper.dev/{program}:{LATER}");
            node.tag(&ShippedImages::name(program), &later)?;
        }
        node.load(&Image::of_postgres("docker.io/library/postgres:17")?.path())?;
        node.add_volume("postgres")?;
        let inbox = SecureInbox::start(node.machine())?;
        let api = Api::connect(&node.kubeconfig())?;
        Ok(Self {
            node,
            api,
            images,
            inbox,
            password: "change-me".to_owned(),
            budget: None,
        })
    }

    /// Words that are separated by blanks.
    pub(crate) fn kubectl(&self, line: &str) -> Result<String> {
        self.node.kubectl(&line.split(' ').collect::<Vec<_>>())
    }

    /// Lines of shell, as the README has them.
    pub(crate) fn shell(&self, lines: &str) -> Result<String> {
        shell(&self.node.kubeconfig(), lines)
    }

    /// Gives the release other values, and waits until it is as they say.
    pub(crate) fn upgrade(&self, values: &[&str]) -> Result<()> {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/poolkeeper");
        let chart = chart.to_string_lossy();
        let release = ["upgrade", "poolkeeper", &chart, "--namespace", SYSTEM];
        let how = ["--reuse-values", "--wait"];
        let arguments = [&release[..], &how, values].concat();
        self.node.helm(&arguments).map(drop)
    }

    pub(crate) fn patch(&self, patch: &Json) -> Result<()> {
        let patch = patch.to_string();
        let arguments = ["patch", "pgpc", "shop", "--type=merge", "-p", &patch];
        self.node.kubectl(&arguments).map(drop)
    }

    pub(crate) fn condition(&self, type_: &str, wanted: &str) -> Result<()> {
        self.api.wait_for_condition("shop", type_, wanted)
    }

    /// Waits for `probe` to say what is so; what it lacks is in the error.
    pub(crate) fn until<T>(&self, what: &str, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
        wait::until(what, LIMIT, || {
            probe().map_err(|error| format!("{error:#}"))
        })
    }

    /// Where this machine reaches the Service for applications.
    pub(crate) fn service(&self) -> Result<SocketAddr> {
        let service = self.api.core("services", "shop")?;
        let address = service["spec"]["clusterIP"].as_str();
        let address = address.context("the Service has no address")?.parse()?;
        Ok(SocketAddr::new(address, 5432))
    }

    /// Where this machine reaches PostgreSQL itself.
    pub(crate) fn postgres(&self) -> Result<SocketAddr> {
        let pod = self.api.core("pods", "postgres-0")?;
        let address = pod["status"]["podIP"].as_str();
        let address = address.context("PostgreSQL has no address")?.parse()?;
        Ok(SocketAddr::new(address, 5432))
    }

    /// Through the tier, from this machine.
    pub(crate) fn sql(&self, password: &str, sql: &str) -> Result<String> {
        let password = format!("password={password}");
        psql::run(self.service()?, "app", "postgres", &password, sql)
    }

    /// That a password is not taken, and for no other reason.
    pub(crate) fn check_refused(&self, password: &str) -> Result<()> {
        match self.sql(password, "SELECT 1") {
            Ok(_) => bail!("the password {password:?} is taken"),
            Err(error) => {
                let refused = error.to_string().contains("password authentication failed");
                ensure!(refused, "with {password:?}: {error}");
                Ok(())
            }
        }
    }

    /// Starts an application.
    pub(crate) fn start_application(&self) -> Result<()> {
        self.node.apply(APPLICATION).map(drop)
    }

    /// Through the tier, from the application.
    pub(crate) fn sql_in_pod(&self, sql: &str) -> Result<String> {
        let psql = ["sh", "-c", "psql -XAtqc \"$0\" \"$URI\"", sql];
        let exec = ["exec", "application", "--"];
        let said = self.node.kubectl(&[&exec[..], &psql].concat())?;
        Ok(said.trim_end().to_owned())
    }

    /// Pods of a component that were not told to end.
    pub(crate) fn pods(&self, component: &str) -> Result<Vec<PodIdentity>> {
        let selector =
            format!("app.kubernetes.io/instance=shop,app.kubernetes.io/component={component}");
        let pods = self.api.list("/api/v1", "pods", &selector)?;
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        let living = pods
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let mut found: Vec<_> = living
            .map(|pod| PodIdentity {
                name: text(&pod["metadata"]["name"]),
                uid: text(&pod["metadata"]["uid"]),
                restarts: pod["status"]["containerStatuses"][0]["restartCount"]
                    .as_u64()
                    .unwrap_or(0),
            })
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Poolers and balancers.
    pub(crate) fn all_pods(&self) -> Result<Vec<PodIdentity>> {
        Ok([self.pods("pooler")?, self.pods("balancer")?].concat())
    }

    pub(crate) fn endpoints(&self) -> Result<Vec<Json>> {
        let cluster = self.api.cluster("shop")?;
        let endpoints = cluster["status"]["endpoints"].as_array().cloned();
        Ok(endpoints.unwrap_or_default())
    }

    /// Waits until the tier is as its spec says: so many poolers, both
    /// balancers, all up with the present configuration.
    pub(crate) fn settled(&self, poolers: usize) -> Result<()> {
        self.until("the tier to be as its spec says", || {
            let endpoints = self.endpoints()?;
            let revision = self.api.revision("shop")?;
            let as_wished = endpoints
                .iter()
                .filter(|one| one["state"] == "Up" && one["configRevision"] == revision.as_str())
                .count();
            ensure!(
                as_wished == poolers + 2 && endpoints.len() == poolers + 2,
                "revision {revision}, endpoints {}",
                Json::from(endpoints)
            );
            let cluster = self.api.cluster("shop")?;
            ensure!(
                cluster["status"]["observedGeneration"] == cluster["metadata"]["generation"],
                "the spec was not looked at yet"
            );
            let reconciling = self.api.condition("shop", "Reconciling")?;
            ensure!(reconciling["status"] == "False", "{reconciling}");
            for name in ["shop-pooler", "shop-balancer"] {
                check_rolled(&self.api.deployment(name)?)?;
            }
            Ok(())
        })
    }

    /// What there is to say when something went wrong.
    pub(crate) fn account(&self) -> String {
        let mut account = String::new();
        for line in [
            "get pgpc,deployments,replicasets,pods,services,endpointslices -A -o wide",
            "get pgpc shop -o yaml",
            "get events -A --sort-by=.lastTimestamp",
            "logs -l app.kubernetes.io/name=poolkeeper --prefix --tail=8",
            "logs -n poolkeeper-system -l app.kubernetes.io/component=operator --prefix --tail=30",
        ] {
            let said = self
                .kubectl(line)
                .unwrap_or_else(|error| format!("{error:#}"));
            account.push_str(&format!("$ kubectl {line}\n{said}\n"));
        }
        account
    }
}

/// Fails unless a Deployment has the Pods that it says, and no others.
fn check_rolled(deployment: &Json) -> Result<()> {
    let (wished, status) = (&deployment["spec"]["replicas"], &deployment["status"]);
    let counts = ["replicas", "updatedReplicas", "availableReplicas"];
    ensure!(
        status["observedGeneration"] == deployment["metadata"]["generation"]
            && counts.iter().all(|count| status[count] == *wished),
        "of {wished}: {status}"
    );
    Ok(())
}
