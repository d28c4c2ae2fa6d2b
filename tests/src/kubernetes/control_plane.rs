//! The API of Kubernetes, with no node: etcd, kube-apiserver and, where asked
//! for, kube-controller-manager.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    Program,
    calls::{helm, kubectl},
    kubeconfig::Login,
    plan::{ADMIN, Plan},
};
use crate::{Child, Signal, wait};

/// Ample: on two processors that compile at the same time it has taken 15 s.
const START_LIMIT: Duration = Duration::from_secs(120);

/// A running API server with a store of its own.
///
/// Everything ends when it is dropped, also when the test is killed. Many may
/// run at once.
#[derive(Debug)]
pub struct ControlPlane {
    controller_manager: Option<Child>,
    api_server: Child,
    etcd: Child,
    plan: Plan,
}

/// What a control plane should be like.
#[derive(Clone, Debug)]
pub struct ControlPlaneBuilder {
    controller_manager: bool,
    pub(super) bind: IpAddr,
    pub(super) service_cidr: String,
    pub(super) flags: Vec<String>,
    pub(super) controller_flags: Vec<String>,
}

impl ControlPlane {
    /// etcd and kube-apiserver on 127.0.0.1.
    #[must_use]
    pub fn builder() -> ControlPlaneBuilder {
        ControlPlaneBuilder {
            controller_manager: false,
            bind: Ipv4Addr::LOCALHOST.into(),
            service_cidr: "10.96.0.0/16".to_owned(),
            flags: Vec::new(),
            controller_flags: Vec::new(),
        }
    }

    /// The builder's defaults, started.
    ///
    /// # Errors
    /// See [`ControlPlaneBuilder::start`].
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// The kubeconfig of an administrator, who may do everything.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.plan.path("kubeconfig")
    }

    /// Writes a kubeconfig that acts as `user`, who belongs to `groups` and to
    /// `system:authenticated`, and may do what RBAC lets them.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<PathBuf> {
        let path = self
            .plan
            .path(&format!("kubeconfig-as-{}", file_name(user)));
        let groups = [groups, &["system:authenticated"]].concat();
        let login = Login {
            token: self.plan.token(ADMIN),
            acting_as: Some((user, &groups)),
        };
        self.plan.cluster().write(&path, &login)?;
        Ok(path)
    }

    /// Writes a kubeconfig with a fresh token of a service account, as its pods
    /// would have.
    ///
    /// # Errors
    /// When there is no such account, or the file cannot be written.
    pub fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let token = self.kubectl(&["create", "token", name, "--namespace", namespace])?;
        let file = format!("kubeconfig-of-{}-{}", file_name(namespace), file_name(name));
        let path = self.plan.path(&file);
        let login = Login {
            token: token.trim(),
            acting_as: None,
        };
        self.plan.cluster().write(&path, &login)?;
        Ok(path)
    }

    /// Where the API server listens, with TLS.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.plan.address
    }

    /// Runs `kubectl` as administrator and returns what it printed.
    ///
    /// # Errors
    /// When it fails, with what it complained of; or after two minutes.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        kubectl(&self.kubeconfig(), arguments, None)
    }

    /// Applies manifests and returns what `kubectl apply` printed.
    ///
    /// # Errors
    /// As [`Self::kubectl`].
    pub fn apply(&self, yaml: &str) -> Result<String> {
        kubectl(&self.kubeconfig(), &["apply", "-f", "-"], Some(yaml))
    }

    /// Applies our CRDs and waits until the API server serves what they define.
    ///
    /// # Errors
    /// When they are refused, or not served within a minute.
    pub fn install_crds(&self) -> Result<()> {
        let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds");
        self.kubectl(&[
            "apply",
            "--server-side",
            "--force-conflicts",
            "-f",
            &crds.to_string_lossy(),
        ])?;
        let established = ["wait", "--for=condition=Established", "--timeout=60s"];
        // kubectl fails at one that has no conditions yet.
        wait::until("pgpc to be established", Duration::from_secs(60), || {
            self.kubectl(&[&established[..], &["crd", "--all"]].concat())
                .map_err(|error| error.to_string())
        })?;
        // Established, they may still be missing in what the server offers.
        wait::until("pgpc to be served", Duration::from_secs(60), || {
            self.kubectl(&["explain", "pgpc"])
                .map_err(|error| error.to_string())
        })?;
        Ok(())
    }

    /// Runs `helm` as administrator and returns what it printed.
    ///
    /// # Errors
    /// As [`Self::kubectl`].
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        helm(Some(&self.kubeconfig()), arguments)
    }

    /// Stops the API server in its tracks: connections stay open, nothing is
    /// answered.
    pub fn freeze(&mut self) {
        self.api_server.signal(Signal::STOP);
    }

    /// Lets a frozen API server go on.
    pub fn thaw(&mut self) {
        self.api_server.signal(Signal::CONT);
    }

    /// Kills the API server: connections break, new ones are refused.
    pub fn kill_api_server(&mut self) {
        self.api_server.kill9();
    }

    /// Starts the API server again, at the same address and with the same
    /// contents, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart_api_server(&mut self) -> Result<()> {
        self.api_server.kill9();
        self.api_server = self.plan.start_api_server()?;
        self.wait_until_ready()
    }

    /// Fails, with the end of its log, if one of its programs has ended.
    ///
    /// # Errors
    /// Then.
    pub fn check_runs(&mut self) -> Result<()> {
        self.etcd.check_runs("etcd")?;
        self.api_server.check_runs("kube-apiserver")?;
        if let Some(child) = &mut self.controller_manager {
            child.check_runs("kube-controller-manager")?;
        }
        Ok(())
    }

    /// What the API server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.api_server.log()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let kubeconfig = self.kubeconfig();
        let (plan, api_server) = (&self.plan, &mut self.api_server);
        wait::until("the API server to be ready", START_LIMIT, || {
            if let Err(ended) = api_server.check_runs("kube-apiserver") {
                return Ok(Err(ended));
            }
            // Cheaper than kubectl, which needs a tenth of a second of processor.
            TcpStream::connect(plan.address).map_err(|error| error.to_string())?;
            kubectl(&kubeconfig, &["get", "--raw", "/readyz"], None)
                .map(|_| Ok(()))
                .map_err(|error| error.to_string())
        })
        .with_context(|| format!("it says:\n{}", api_server.log_tail()))?
    }
}

impl ControlPlaneBuilder {
    /// Also runs kube-controller-manager: Deployments make ReplicaSets and
    /// those pods, owners' ends are their dependents', namespaces go, service
    /// accounts exist. Without it none of that happens.
    #[must_use]
    pub fn with_controller_manager(mut self) -> Self {
        self.controller_manager = true;
        self
    }

    /// The address that the API server listens on.
    #[must_use]
    pub fn bind(mut self, address: IpAddr) -> Self {
        self.bind = address;
        self
    }

    /// The addresses of Services.
    #[must_use]
    pub fn service_cidr(mut self, cidr: &str) -> Self {
        cidr.clone_into(&mut self.service_cidr);
        self
    }

    /// Any flag of kube-apiserver, `--name=value`.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Any flag of kube-controller-manager, `--name=value`.
    #[must_use]
    pub fn controller_flag(mut self, flag: &str) -> Self {
        self.controller_flags.push(flag.to_owned());
        self
    }

    /// Starts it and waits until it serves, which takes a few seconds.
    ///
    /// # Errors
    /// When a program is missing or does not come up, with the end of its log.
    pub fn start(self) -> Result<ControlPlane> {
        // Before anything runs: they may have to be built.
        Program::ApiServer.find()?;
        Program::Kubectl.find()?;
        if self.controller_manager {
            Program::ControllerManager.find()?;
        }
        let plan = Plan::make(&self)?;
        let etcd = plan.start_etcd()?;
        let api_server = plan.start_api_server()?;
        let mut control_plane = ControlPlane {
            controller_manager: None,
            api_server,
            etcd,
            plan,
        };
        control_plane.wait_for_certificate()?;
        let login = Login {
            token: control_plane.plan.token(ADMIN),
            acting_as: None,
        };
        let kubeconfig = control_plane.kubeconfig();
        control_plane.plan.cluster().write(&kubeconfig, &login)?;
        control_plane.wait_until_ready()?;
        if self.controller_manager {
            control_plane.start_controller_manager()?;
        }
        Ok(control_plane)
    }
}

impl ControlPlane {
    /// The API server makes its certificate itself, at its first start.
    fn wait_for_certificate(&mut self) -> Result<()> {
        let authority = self.plan.authority();
        wait::until("the API server's certificate", START_LIMIT, || {
            if let Err(ended) = self.api_server.check_runs("kube-apiserver") {
                return Ok(Err(ended));
            }
            match fs::read_to_string(&authority) {
                Ok(text) if text.ends_with("-----END CERTIFICATE-----\n") => Ok(Ok(())),
                _ => Err("it is not there".to_owned()),
            }
        })?
    }

    fn start_controller_manager(&mut self) -> Result<()> {
        let kubeconfig = self.kubeconfig_of("system:kube-controller-manager")?;
        let mut child = self.plan.start_controller_manager(&kubeconfig)?;
        let kubeconfig = self.kubeconfig();
        wait::until("kube-controller-manager to act", START_LIMIT, || {
            if let Err(ended) = child.check_runs("kube-controller-manager") {
                return Ok(Err(ended));
            }
            let account = ["get", "serviceaccount", "default", "--namespace", "default"];
            kubectl(&kubeconfig, &account, None)
                .map(|_| Ok(()))
                .map_err(|error| error.to_string())
        })
        .with_context(|| format!("it says:\n{}", child.log_tail()))??;
        self.controller_manager = Some(child);
        Ok(())
    }

    /// Writes the kubeconfig of a user whom the plan knows.
    pub(crate) fn kubeconfig_of(&self, user: &str) -> Result<PathBuf> {
        let path = self
            .plan
            .path(&format!("kubeconfig-of-{}", file_name(user)));
        let login = Login {
            token: self.plan.token(user),
            acting_as: None,
        };
        self.plan.cluster().write(&path, &login)?;
        Ok(path)
    }
}

/// A name as part of a file's name.
fn file_name(name: &str) -> String {
    name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "-")
}
