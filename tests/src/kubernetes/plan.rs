//! Where everything of a control plane is, and how its processes are started.

use std::{
    fs,
    io::Read,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::{ControlPlaneBuilder, Program, kubeconfig::Cluster};
use crate::{
    Child, Scratch,
    child::{self, As},
    ports,
};

/// Who may log in by token, and as a member of what: the names that Kubernetes'
/// own RBAC rules know.
const USERS: &[(&str, &str)] = &[
    (ADMIN, "system:masters"),
    ("system:kube-controller-manager", ""),
    ("system:kube-scheduler", ""),
    ("system:kube-proxy", ""),
    ("system:node:node", "system:nodes"),
    ("poolkeeper:dns", ""),
];
pub(super) const ADMIN: &str = "poolkeeper:admin";

/// Where everything is, from before the first process starts.
#[derive(Debug)]
pub(super) struct Plan {
    dir: Scratch,
    pub(super) address: SocketAddr,
    etcd: SocketAddr,
    etcd_peer: SocketAddr,
    service_cidr: String,
    flags: Vec<String>,
    controller_flags: Vec<String>,
    /// The tokens of [`USERS`], in their order.
    tokens: Vec<String>,
}

impl Plan {
    pub(super) fn make(wished: &ControlPlaneBuilder) -> Result<Self> {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let plan = Self {
            dir: Scratch::new()?,
            address: SocketAddr::from((wished.bind, ports::free()?)),
            etcd: loopback(ports::free()?),
            etcd_peer: loopback(ports::free()?),
            service_cidr: wished.service_cidr.clone(),
            flags: wished.flags.clone(),
            controller_flags: wished.controller_flags.clone(),
            tokens: USERS.iter().map(|_| token()).collect::<Result<_>>()?,
        };
        plan.write_tokens()?;
        plan.make_service_account_key()?;
        Ok(plan)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn token(&self, user: &str) -> &str {
        let index = USERS
            .iter()
            .position(|(name, _)| *name == user)
            .expect("one of the users above");
        &self.tokens[index]
    }

    pub(super) fn authority(&self) -> PathBuf {
        self.path("certificates/apiserver.crt")
    }

    pub(super) fn cluster(&self) -> Cluster {
        Cluster {
            server: format!("https://{}", self.address),
            authority: self.authority(),
        }
    }

    /// `token,user,uid,"group"`: kube-apiserver's static token file.
    fn write_tokens(&self) -> Result<()> {
        let lines: String = USERS
            .iter()
            .zip(&self.tokens)
            .map(|((user, group), token)| format!("{token},{user},{user},\"{group}\"\n"))
            .collect();
        self.dir.write("tokens.csv", &lines)?;
        Ok(())
    }

    fn make_service_account_key(&self) -> Result<()> {
        let output = Command::new("openssl")
            .args([
                "ecparam",
                "-name",
                "prime256v1",
                "-genkey",
                "-noout",
                "-out",
            ])
            .arg(self.path("service-account.key"))
            .stdin(Stdio::null())
            .output()
            .context("openssl does not start; Debian has it in the package openssl")?;
        ensure!(
            output.status.success(),
            "openssl failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    pub(super) fn start_etcd(&self) -> Result<Child> {
        let mut command = child::command(&Program::Etcd.find()?, As::Ourselves);
        let (client, peer) = (
            format!("http://{}", self.etcd),
            format!("http://{}", self.etcd_peer),
        );
        command
            .arg("--name=poolkeeper")
            .arg(format!("--data-dir={}", self.path("etcd").display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=poolkeeper={peer}"))
            // It is thrown away with the test.
            .arg("--unsafe-no-fsync")
            .arg("--logger=zap");
        Child::start(command, &self.path("etcd.log"))
    }

    pub(super) fn start_api_server(&self) -> Result<Child> {
        let mut command = child::command(&Program::ApiServer.find()?, As::Ourselves);
        let key = self.path("service-account.key");
        command
            .arg(format!("--etcd-servers=http://{}", self.etcd))
            .arg(format!("--bind-address={}", self.address.ip()))
            .arg(format!("--secure-port={}", self.address.port()))
            .arg(format!(
                "--cert-dir={}",
                self.path("certificates").display()
            ))
            .arg(format!(
                "--token-auth-file={}",
                self.path("tokens.csv").display()
            ))
            .arg(format!("--service-cluster-ip-range={}", self.service_cidr))
            .arg(format!("--service-account-key-file={}", key.display()))
            .arg(format!(
                "--service-account-signing-key-file={}",
                key.display()
            ))
            .args([
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                "--authorization-mode=Node,RBAC",
                "--allow-privileged=true",
                "--profiling=false",
            ])
            .args(self.endpoint_flags())
            .args(&self.flags);
        Child::start(command, &self.path("kube-apiserver.log"))
    }

    pub(super) fn start_controller_manager(&self, kubeconfig: &Path) -> Result<Child> {
        let mut command = child::command(&Program::ControllerManager.find()?, As::Ourselves);
        command
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!(
                "--service-account-private-key-file={}",
                self.path("service-account.key").display()
            ))
            .arg(format!("--root-ca-file={}", self.authority().display()))
            .args([
                "--use-service-account-credentials",
                "--leader-elect=false",
                // Nobody asks it anything.
                "--secure-port=0",
            ])
            .args(&self.controller_flags);
        let log = self.path("kube-controller-manager.log");
        Child::start(command, &log)
    }

    /// The Service `kubernetes` cannot lead to a loopback address; without
    /// this the API server would try for ever.
    fn endpoint_flags(&self) -> Vec<String> {
        let address = self.address.ip();
        if address.is_loopback() {
            vec!["--endpoint-reconciler-type=none".to_owned()]
        } else {
            vec![format!("--advertise-address={address}")]
        }
    }
}

/// A secret of 128 bits, in hexadecimal digits.
fn token() -> Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
