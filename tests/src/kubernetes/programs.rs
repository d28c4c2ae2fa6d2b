//! The programs of Kubernetes: found where the machine has them, else built
//! from their Go modules, once for each version, into the user's cache.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use crate::binaries;

/// A Go module of which we run programs; `tests/kubernetes/NAME/go.mod` pins
/// the module and all that it is built from.
struct Module {
    name: &'static str,
    path: &'static str,
    go_mod: &'static str,
    /// Where in the program the version is kept, that it prints and serves.
    version_variables: &'static [&'static str],
}

const KUBERNETES: Module = Module {
    name: "kubernetes",
    path: "k8s.io/kubernetes",
    go_mod: include_str!("../../kubernetes/kubernetes/go.mod"),
    version_variables: &[
        "k8s.io/component-base/version.gitVersion",
        "k8s.io/client-go/pkg/version.gitVersion",
    ],
};

const HELM: Module = Module {
    name: "helm",
    path: "helm.sh/helm/v4",
    go_mod: include_str!("../../kubernetes/helm/go.mod"),
    version_variables: &["helm.sh/helm/v4/internal/version.version"],
};

const COREDNS: Module = Module {
    name: "coredns",
    path: "github.com/coredns/coredns",
    go_mod: include_str!("../../kubernetes/coredns/go.mod"),
    version_variables: &[],
};

/// Ours: what is in the image that the harness makes.
const POD: Module = Module {
    name: "pod",
    path: "pod",
    go_mod: include_str!("../../kubernetes/pod/go.mod"),
    version_variables: &[],
};
const POD_SOURCE: &str = include_str!("../../kubernetes/pod/main.go");

/// A program that the harness runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The API server's store, a Debian package.
    Etcd,
    /// Serves the API.
    ApiServer,
    /// Deployments, garbage collection, namespaces, service accounts.
    ControllerManager,
    /// Chooses nodes for pods.
    Scheduler,
    /// Runs the pods of a node.
    Kubelet,
    /// Makes Services reachable on a node.
    Proxy,
    /// Answers for the names of Services.
    CoreDns,
    /// The command line of Kubernetes.
    Kubectl,
    /// Installs charts.
    Helm,
    /// Waits, serves and asks, in pods.
    Pod,
}

impl Program {
    /// All, those first that others wait for.
    pub const ALL: [Self; 10] = [
        Self::Etcd,
        Self::Kubectl,
        Self::ApiServer,
        Self::ControllerManager,
        Self::Scheduler,
        Self::Kubelet,
        Self::Proxy,
        Self::CoreDns,
        Self::Pod,
        Self::Helm,
    ];

    /// What its file is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::Proxy => "kube-proxy",
            Self::CoreDns => "coredns",
            Self::Kubectl => "kubectl",
            Self::Helm => "helm",
            Self::Pod => "pod",
        }
    }

    /// Where it is. What is neither in `KUBEBUILDER_ASSETS` (etcd,
    /// kube-apiserver, kubectl) nor installed (etcd, kubectl) nor in the cache is
    /// built now, which takes minutes.
    ///
    /// # Errors
    /// When it is not installed, or cannot be built.
    pub fn find(self) -> Result<PathBuf> {
        if let Some(found) = self.assets() {
            return found;
        }
        match self {
            Self::Etcd => {
                return binaries::on_path("etcd").context(
                    "etcd is not installed; Debian has it in the package etcd-server, \
                     and `cargo xtask test` installs it",
                );
            }
            Self::Kubectl => {
                if let Some(installed) = binaries::on_path("kubectl") {
                    return Ok(installed);
                }
            }
            _ => {}
        }
        let cached = self.cached()?;
        if !cached.exists() {
            self.build(&cached)?;
        }
        Ok(cached)
    }

    /// Whether [`Self::find`] would have to build it.
    #[must_use]
    pub fn is_to_be_built(self) -> bool {
        let installed = matches!(self, Self::Etcd)
            || self.assets().is_some()
            || (self == Self::Kubectl && binaries::on_path("kubectl").is_some());
        !installed && self.cached().is_ok_and(|path| !path.exists())
    }

    /// Whether those that are missing can be built at all.
    ///
    /// # Errors
    /// When one is missing, and no Go is there to build it.
    pub fn check_tools() -> Result<()> {
        match Self::ALL
            .into_iter()
            .find(|program| program.is_to_be_built())
        {
            Some(program) => program.go().map(drop),
            None => Ok(()),
        }
    }

    fn go(self) -> Result<PathBuf> {
        go().with_context(|| {
            format!(
                "{} is built from its Go module, and go is neither on the path nor in \
                 /usr/local/go/bin; install Go {} or newer",
                self.name(),
                self.module().go_version()
            )
        })
    }

    /// The folder of binaries that people who test controllers in Go have already.
    fn assets(self) -> Option<Result<PathBuf>> {
        if !matches!(self, Self::Etcd | Self::ApiServer | Self::Kubectl) {
            return None;
        }
        let dir = PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS")?);
        let path = dir.join(self.name());
        Some(if path.exists() {
            Ok(path)
        } else {
            Err(anyhow::anyhow!(
                "KUBEBUILDER_ASSETS is {}, where no {} is; correct it or leave it away",
                dir.display(),
                self.name()
            ))
        })
    }

    fn module(self) -> &'static Module {
        match self {
            Self::CoreDns => &COREDNS,
            Self::Helm => &HELM,
            Self::Pod => &POD,
            _ => &KUBERNETES,
        }
    }

    /// The package that is built.
    fn package(self) -> String {
        match self {
            Self::CoreDns | Self::Pod => self.module().path.to_owned(),
            _ => format!("{}/cmd/{}", self.module().path, self.name()),
        }
    }

    fn cached(self) -> Result<PathBuf> {
        let module = self.module();
        Ok(cache()?
            .join(format!("{}-{}", module.name, module.version()))
            .join(self.name()))
    }

    /// Builds it beside its place and moves it there when it is whole, so that
    /// nobody finds half of it; one at a time, because two would do the same work.
    fn build(self, place: &Path) -> Result<()> {
        let dir = place.parent().context("a file lies in a folder")?;
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let lock = File::create(dir.join(".lock"))?;
        lock.lock()?;
        if place.exists() {
            return Ok(());
        }
        eprintln!(
            "  building {} {} into {}, once",
            self.name(),
            self.module().version(),
            dir.display()
        );
        let half = dir.join(format!(".{}.half", self.name()));
        let started = Instant::now();
        self.go_build(&half)?;
        fs::rename(&half, place)?;
        eprintln!(
            "  {} took {:.0} s",
            self.name(),
            started.elapsed().as_secs_f64()
        );
        Ok(())
    }

    fn go_build(self, to: &Path) -> Result<()> {
        let module = self.module();
        let go = self.go()?;
        let output = Command::new("nice")
            .args(["-n", "10"])
            .arg(go)
            .args(["build", "-trimpath", "-buildvcs=false"])
            // What debuggers want is not linked: it need not be compiled either.
            .args(["-gcflags=all=-dwarf=false", "-ldflags"])
            .arg(module.linker_flags())
            .arg("-o")
            .arg(to)
            .arg(self.package())
            .current_dir(module.dir())
            .env("CGO_ENABLED", "0")
            .env("GOWORK", "off")
            // The compiler's own: a fifth less work for some memory.
            .env("GOGC", "400")
            .stdin(Stdio::null())
            .output()
            .context("go does not start")?;
        ensure!(
            output.status.success(),
            "go build {} failed in {}:\n{}",
            self.package(),
            module.dir().display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

/// On the path, or where go.dev's instructions put it.
fn go() -> Option<PathBuf> {
    binaries::on_path("go")
        .or_else(|| Some(PathBuf::from("/usr/local/go/bin/go")).filter(|path| path.exists()))
}

impl Module {
    fn dir(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("kubernetes")
            .join(self.name)
    }

    /// `v1.34.4`: what go.mod requires of the module itself. Our own has none:
    /// its contents stand for it.
    fn version(&self) -> String {
        if self.path == POD.path {
            return format!("{:016x}", fingerprint(POD_SOURCE));
        }
        self.go_mod
            .lines()
            .map(|line| line.split_whitespace().filter(|word| *word != "require"))
            .find_map(|mut words| (words.next() == Some(self.path)).then(|| words.next())?)
            .expect("its go.mod requires it")
            .to_owned()
    }

    /// The Go that go.mod asks for.
    fn go_version(&self) -> &'static str {
        self.go_mod
            .lines()
            .find_map(|line| line.strip_prefix("go "))
            .expect("its go.mod says which Go")
    }

    /// No symbols for debuggers, which are half of the size; and the version,
    /// which releases are told the same way.
    fn linker_flags(&self) -> String {
        let version = self.version();
        let mut flags = "-s -w".to_owned();
        for variable in self.version_variables {
            flags.push_str(&format!(" -X {variable}={version}"));
        }
        if self.path == KUBERNETES.path {
            let mut numbers = version.trim_start_matches('v').split('.');
            for part in ["gitMajor", "gitMinor"] {
                let number = numbers.next().unwrap_or_default();
                flags.push_str(&format!(
                    " -X k8s.io/component-base/version.{part}={number}"
                ));
            }
        }
        flags
    }
}

/// FNV-1a, which stays what it is from one Rust to the next.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// `$XDG_CACHE_HOME/poolkeeper`, or below `~/.cache`: outside the checkout, so
/// that every checkout shares what took minutes to build.
///
/// # Errors
/// When neither is known.
pub fn cache() -> Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let above = absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: no place to keep what is built")?;
    Ok(above.join("poolkeeper"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_go_mods() {
        for module in [&KUBERNETES, &HELM, &COREDNS] {
            let version = module.version();
            assert!(version.starts_with('v'), "{version}");
            assert!(module.dir().join("go.sum").exists(), "{}", module.name);
        }
    }

    #[test]
    fn every_program_that_is_built_is_a_tool_of_its_module() {
        for program in Program::ALL {
            if matches!(program, Program::Etcd | Program::Pod) {
                continue;
            }
            let package = program.package();
            let named = program
                .module()
                .go_mod
                .lines()
                .any(|line| line.trim() == package || line.trim() == format!("tool {package}"));
            assert!(named, "{package}");
        }
    }

    #[test]
    fn kubernetes_is_told_its_version_in_full() {
        let flags = KUBERNETES.linker_flags();
        assert!(flags.contains("version.gitMajor=1 "), "{flags}");
        assert!(flags.contains(&KUBERNETES.version()), "{flags}");
    }
}
