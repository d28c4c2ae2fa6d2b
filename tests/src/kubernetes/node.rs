//! One real node: containerd, kubelet, kube-proxy and CoreDNS, and the control
//! plane that they belong to.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    ControlPlane, Image, Program,
    isolation::{Cgroup, Isolation, load},
    network::Network,
    settings,
};
use crate::{
    Child, Scratch, Signal, binaries,
    child::{self, As},
    http, wait,
};

/// What the node is called in its cluster.
pub(crate) const NAME: &str = "node";

const LIMIT: Duration = Duration::from_secs(120);

/// A cluster of one node, for root.
///
/// It runs in namespaces of its own, so that several may run at once and nothing
/// of it outlives this value, also when the process is killed. This machine
/// reaches its pods and Services by their addresses.
#[derive(Debug)]
pub struct Node {
    /// Ended first.
    programs: Vec<(&'static str, Child)>,
    control_plane: ControlPlane,
    isolation: Isolation,
    /// After what ends the processes in it.
    _cgroup: Cgroup,
    network: Network,
    dir: Scratch,
}

impl Node {
    /// Starts it and waits until it takes pods and answers for names: about ten
    /// seconds. The image [`Image::NAME`] is there.
    ///
    /// # Errors
    /// When we are not root, a program is missing, or one does not come up, with
    /// the end of its log.
    pub fn start() -> Result<Self> {
        check_machine()?;
        let dir = Scratch::new()?;
        let isolation = Isolation::start(&dir.path().join("namespaces.log"))?;
        let network = Network::join(&isolation)?;
        let cgroup = Cgroup::make(&network.name())?;
        let containerd = start_containerd(&isolation, network, &dir)?;
        let control_plane = ControlPlane::builder()
            .with_controller_manager()
            .bind(network.machine().into())
            .service_cidr(&network.services())
            .flag("--kubelet-preferred-address-types=InternalIP")
            // Eight of kubelet's heartbeats; by default it is 50 s.
            .controller_flag("--node-monitor-grace-period=16s")
            .controller_flag("--node-monitor-period=2s")
            .start()?;
        let mut node = Self {
            programs: vec![("containerd", containerd)],
            control_plane,
            isolation,
            _cgroup: cgroup,
            network,
            dir,
        };
        node.start_programs()?;
        node.wait_until_ready()?;
        Ok(node)
    }

    /// The API that it belongs to.
    pub fn control_plane(&mut self) -> &mut ControlPlane {
        &mut self.control_plane
    }

    /// As [`ControlPlane::kubectl`].
    ///
    /// # Errors
    /// As there.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.control_plane.kubectl(arguments)
    }

    /// As [`ControlPlane::apply`].
    ///
    /// # Errors
    /// As there.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.control_plane.apply(yaml)
    }

    /// As [`ControlPlane::helm`].
    ///
    /// # Errors
    /// As there.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        self.control_plane.helm(arguments)
    }

    /// As [`ControlPlane::install_crds`].
    ///
    /// # Errors
    /// As there.
    pub fn install_crds(&self) -> Result<()> {
        self.control_plane.install_crds()
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.control_plane.kubeconfig()
    }

    /// This machine's address, as pods see it.
    #[must_use]
    pub fn machine(&self) -> std::net::Ipv4Addr {
        self.network.machine()
    }

    /// What everything that it has on this machine (a network device, control
    /// groups) is called.
    #[must_use]
    pub fn name(&self) -> String {
        self.network.name()
    }

    /// The process that its namespaces hang on, for [`load`].
    #[must_use]
    pub fn init(&self) -> u32 {
        self.isolation.init()
    }

    /// Where its programs write their logs.
    #[must_use]
    pub fn logs(&self) -> &Path {
        self.dir.path()
    }

    /// Gives it an image, a file in the layout of `docker save`.
    ///
    /// # Errors
    /// When the file cannot be read, or containerd does not take it.
    pub fn load(&self, image: &Path) -> Result<()> {
        load(self.init(), image)
    }

    /// Gives an image that it has another name too.
    ///
    /// # Errors
    /// When it has no such image.
    pub fn tag(&self, image: &str, name: &str) -> Result<()> {
        self.isolation.shell(&format!(
            "ctr --address {} --namespace k8s.io images tag {image} {name}",
            settings::CONTAINERD_SOCKET
        ))
    }

    /// Gives it a volume of its own, for one claim of at most 10 GiB that names
    /// no storage class.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn add_volume(&self, name: &str) -> Result<()> {
        let folder = format!("/var/lib/volumes/{name}");
        self.isolation.shell(&format!("mkdir -p {folder}"))?;
        self.apply(&settings::volume(name, &folder).to_string())
            .map(drop)
    }

    /// Stops kubelet in its tracks, or lets it go on: pods run, and nobody looks
    /// after them.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze_kubelet(&mut self, frozen: bool) -> Result<()> {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        let kubelet = self.programs.iter().find(|(name, _)| *name == "kubelet");
        let (_, nsenter) = kubelet.context("kubelet was not started")?;
        let inside = child::children(nsenter.pid());
        ensure!(!inside.is_empty(), "kubelet does not run");
        for process in inside {
            child::kill(process, signal);
        }
        Ok(())
    }

    /// Kills the process of a container outright, as if it had crashed.
    ///
    /// # Errors
    /// When there is none of this name in the pod.
    pub fn kill_container(&self, namespace: &str, pod: &str, container: &str) -> Result<()> {
        let path =
            format!("jsonpath={{.status.containerStatuses[?(@.name=='{container}')].containerID}}");
        let id = self.kubectl(&["get", "pod", pod, "--namespace", namespace, "-o", &path])?;
        let id = id
            .strip_prefix("containerd://")
            .with_context(|| format!("pod {pod} has no container {container} that runs: {id:?}"))?;
        self.isolation.shell(&format!(
            "ctr --address {} --namespace k8s.io task kill --signal KILL {id}",
            settings::CONTAINERD_SOCKET
        ))
    }

    /// Fails, with the end of its log, if a program of it or of its control plane
    /// has ended.
    ///
    /// # Errors
    /// Then.
    pub fn check_runs(&mut self) -> Result<()> {
        for (name, child) in &mut self.programs {
            child.check_runs(name)?;
        }
        self.control_plane.check_runs()
    }

    fn start_programs(&mut self) -> Result<()> {
        let plane = &self.control_plane;
        let scheduler = plane.kubeconfig_of("system:kube-scheduler")?;
        let kubelet = plane.kubeconfig_of("system:node:node")?;
        let proxy = plane.kubeconfig_of("system:kube-proxy")?;
        let dns = plane.kubeconfig_of("poolkeeper:dns")?;
        plane.apply(settings::DNS_ACCESS)?;

        let resolv_conf = self.dir.write(
            "resolv.conf",
            &format!("nameserver {}\n", self.network.node()),
        )?;
        let kubelet_config = settings::kubelet(self.network, &resolv_conf).to_string();
        let kubelet_config = self.dir.write("kubelet.json", &kubelet_config)?;
        let proxy_config = settings::proxy(self.network, &proxy).to_string();
        let proxy_config = self.dir.write("kube-proxy.json", &proxy_config)?;
        let dns_config = self
            .dir
            .write("Corefile", &settings::dns(self.network, &dns))?;

        self.run_outside(
            Program::Scheduler,
            &[
                &format!("--kubeconfig={}", scheduler.display()),
                "--leader-elect=false",
                // Nobody asks it anything.
                "--secure-port=0",
            ],
        )?;
        self.run_inside(
            Program::Kubelet,
            &[
                &format!("--config={}", kubelet_config.display()),
                &format!("--kubeconfig={}", kubelet.display()),
                &format!("--hostname-override={NAME}"),
                &format!("--node-ip={}", self.network.node()),
            ],
        )?;
        self.run_inside(
            Program::Proxy,
            &[&format!("--config={}", proxy_config.display())],
        )?;
        self.run_inside(
            Program::CoreDns,
            &["-conf", &dns_config.display().to_string()],
        )
    }

    fn run_inside(&mut self, program: Program, arguments: &[&str]) -> Result<()> {
        let mut command = self.isolation.command(&program.find()?)?;
        command.args(arguments);
        self.run(program.name(), command)
    }

    fn run_outside(&mut self, program: Program, arguments: &[&str]) -> Result<()> {
        let mut command = child::command(&program.find()?, As::Ourselves);
        command.args(arguments);
        self.run(program.name(), command)
    }

    fn run(&mut self, name: &'static str, command: std::process::Command) -> Result<()> {
        let log = self.dir.path().join(format!("{name}.log"));
        self.programs.push((name, Child::start(command, &log)?));
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let dns = SocketAddr::from((self.network.node(), settings::DNS_READY_PORT));
        wait::until("the node to be ready", LIMIT, || {
            if let Err(ended) = self.check_runs() {
                return Ok(Err(ended));
            }
            let missing = |error: anyhow::Error| error.to_string();
            let answer = http::get(dns, "/ready").map_err(missing)?;
            if answer.status != 200 {
                return Err("CoreDNS is not ready".to_owned());
            }
            let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")]}"#;
            let ready = self.kubectl(&["get", "node", NAME, "-o", path]);
            let ready = ready.map_err(missing)?;
            if ready.contains(r#""status":"True""#) {
                Ok(Ok(()))
            } else {
                Err(ready)
            }
        })
        .with_context(|| self.log_tails())?
    }

    fn log_tails(&self) -> String {
        let tails = self
            .programs
            .iter()
            .map(|(name, child)| format!("--- {name}\n{}\n", child.log_tail()));
        tails.collect()
    }
}

/// What a node needs of the machine, besides programs that can be built.
fn check_machine() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "a node needs root: it makes namespaces, mounts and control groups"
    );
    for program in [
        "containerd",
        "ctr",
        "runc",
        "nft",
        "ip",
        "unshare",
        "nsenter",
    ] {
        binaries::on_path(program).with_context(|| {
            format!(
                "{program} is not installed; `cargo xtask cluster up` installs what a node needs"
            )
        })?;
    }
    ensure!(
        Path::new("/usr/lib/cni/ptp").exists(),
        "/usr/lib/cni/ptp is not there; Debian has it in the package containernetworking-plugins"
    );
    for program in Program::ALL {
        if program != Program::Helm {
            program.find()?;
        }
    }
    Ok(())
}

fn start_containerd(isolation: &Isolation, network: Network, dir: &Scratch) -> Result<Child> {
    let cni = dir.path().join("cni");
    fs::create_dir(&cni)?;
    fs::write(
        cni.join("pods.conflist"),
        settings::pod_network(network).to_string(),
    )?;
    let config = dir.write("containerd.toml", &settings::containerd(&cni))?;
    let program = binaries::on_path("containerd").context("containerd is not installed")?;
    let mut command = isolation.command(&program)?;
    command.arg("--config").arg(config);
    let mut child = Child::start(command, &dir.path().join("containerd.log"))?;
    let image = Image::of_pod()?;
    wait::until("containerd to take an image", LIMIT, || {
        if let Err(ended) = child.check_runs("containerd") {
            return Ok(Err(ended));
        }
        load(isolation.init(), &image.path())
            .map(Ok)
            .map_err(|error| format!("{error:#}"))
    })
    .with_context(|| child.log_tail())??;
    Ok(child)
}
