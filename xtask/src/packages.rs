//! What each command needs from the system, and how it gets there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

/// The commands that need something, for the table below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    Test,
    Demo,
    Bench,
    Cluster,
    Images,
}

/// A Debian package.
struct Package {
    name: &'static str,
    /// Files of which one must exist; `*` stands for one directory.
    present: &'static [&'static str],
    needed_for: &'static [For],
    why: &'static str,
}

const PACKAGES: &[Package] = &[
    Package {
        name: "postgresql",
        present: &["/usr/lib/postgresql/*/bin/initdb"],
        needed_for: &[For::Test, For::Demo, For::Bench],
        why: "the throwaway servers, and pgbench",
    },
    Package {
        name: "postgresql-client",
        present: &["/usr/lib/postgresql/*/bin/psql"],
        needed_for: &[For::Test, For::Demo, For::Bench],
        why: "psql",
    },
    Package {
        name: "util-linux",
        present: &["/usr/bin/setpriv"],
        needed_for: &[For::Test, For::Demo, For::Bench, For::Cluster],
        why: "setpriv: children end with us, PostgreSQL does not run as root",
    },
    Package {
        name: "openssl",
        present: &["/usr/bin/openssl"],
        needed_for: &[For::Test, For::Bench, For::Cluster],
        why: "certificates for TLS, keys",
    },
    Package {
        name: "etcd-server",
        present: &["/usr/bin/etcd"],
        needed_for: &[For::Test, For::Cluster, For::Bench],
        why: "the store of the Kubernetes API",
    },
    Package {
        name: "libfaketime",
        present: &["/usr/lib/*/faketime/libfaketime.so.1"],
        needed_for: &[For::Test],
        why: "operators whose clocks differ",
    },
    Package {
        name: "buildah",
        present: &["/usr/bin/buildah"],
        needed_for: &[For::Images],
        why: "builds images without a daemon",
    },
    Package {
        name: "containerd",
        present: &["/usr/bin/containerd"],
        needed_for: &[For::Test, For::Cluster],
        why: "runs the containers of the Kubernetes node",
    },
    Package {
        name: "runc",
        present: &["/usr/sbin/runc"],
        needed_for: &[For::Test, For::Cluster],
        why: "starts them",
    },
    Package {
        name: "containernetworking-plugins",
        present: &["/usr/lib/cni/ptp"],
        needed_for: &[For::Test, For::Cluster],
        why: "gives each pod its address",
    },
    Package {
        name: "nftables",
        present: &["/usr/sbin/nft"],
        needed_for: &[For::Test, For::Cluster],
        why: "kube-proxy makes Services with it",
    },
    Package {
        name: "iproute2",
        present: &["/usr/sbin/ip", "/bin/ip"],
        needed_for: &[For::Test, For::Cluster],
        why: "joins the node to this machine",
    },
    Package {
        name: "lua5.4",
        present: &["/usr/bin/lua5.4"],
        needed_for: &[For::Test],
        why: "runs the health check for Argo CD",
    },
    Package {
        name: "prometheus",
        present: &["/usr/bin/promtool"],
        needed_for: &[For::Test],
        why: "promtool tries the chart's rules",
    },
    Package {
        name: "pgbouncer",
        present: &["/usr/sbin/pgbouncer"],
        needed_for: &[For::Bench],
        why: "what the pooler is compared with",
    },
    Package {
        name: "haproxy",
        present: &["/usr/sbin/haproxy"],
        needed_for: &[For::Bench],
        why: "what the balancer is compared with",
    },
    Package {
        name: "valgrind",
        present: &["/usr/bin/valgrind"],
        needed_for: &[For::Bench],
        why: "callgrind counts instructions",
    },
];

/// Installs what `command` needs and is not there.
///
/// Returns the names that were installed, so that a stage can say so.
pub(crate) fn install(command: For) -> Result<Vec<&'static str>> {
    let missing: Vec<&Package> = PACKAGES
        .iter()
        .filter(|package| package.needed_for.contains(&command))
        .filter(|package| !package.present.iter().any(|pattern| exists(pattern)))
        .collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    for package in &missing {
        println!("  {} is missing ({})", package.name, package.why);
    }
    let by_hand = format!("apt-get install {}", names.join(" "));
    ensure!(
        Path::new("/usr/bin/apt-get").exists(),
        "no apt-get on this machine: install by hand what Debian calls {}",
        names.join(", ")
    );
    ensure!(
        rustix::process::geteuid().is_root(),
        "installing needs root; run once: sudo {by_hand}"
    );
    let _quiet = Quiet::begin()?;
    apt_get(&["update"])?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(&names);
    apt_get(&arguments)?;
    for package in &missing {
        ensure!(
            package.present.iter().any(|pattern| exists(pattern)),
            "{} was installed, but none of {:?} exists",
            package.name,
            package.present
        );
    }
    Ok(names)
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .args([
            "-q",
            "-o",
            "Dpkg::Use-Pty=0",
            "-o",
            "DPkg::Lock::Timeout=300",
        ])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .context("apt-get does not start")?;
    if !output.status.success() {
        bail!(
            "apt-get {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Keeps packages from starting services and from creating a default cluster
/// while we install: two files, removed again when this is dropped, and never
/// written over ones that exist.
struct Quiet {
    written: Vec<PathBuf>,
}

impl Quiet {
    fn begin() -> Result<Self> {
        let mut quiet = Self {
            written: Vec::new(),
        };
        quiet.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")?;
        // Read through include_dir of createcluster.conf, which stays as it is.
        quiet.write(
            "/etc/postgresql-common/createcluster.d/poolkeeper.conf",
            "create_main_cluster = false\n",
        )?;
        Ok(quiet)
    }

    fn write(&mut self, path: &str, text: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let path = PathBuf::from(path);
        if path.exists() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        self.written.push(path);
        Ok(())
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        for path in &self.written {
            let _ = fs::remove_file(path);
            // Fails, as it should, when something else is in there.
            if path.ends_with("poolkeeper.conf") {
                let _ = path.parent().map(fs::remove_dir);
            }
        }
    }
}

/// Whether a file exists; one `*` in the pattern stands for a directory name.
fn exists(pattern: &str) -> bool {
    match pattern.split_once("*/") {
        None => Path::new(pattern).exists(),
        Some((above, below)) => fs::read_dir(above).is_ok_and(|mut entries| {
            entries.any(|entry| entry.is_ok_and(|entry| entry.path().join(below).exists()))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_directory() {
        let above = tempfile::tempdir().unwrap();
        let pattern = format!("{}/*/bin/initdb", above.path().display());
        fs::create_dir_all(above.path().join("15/bin")).unwrap();
        assert!(!exists(&pattern));
        fs::write(above.path().join("15/bin/initdb"), "").unwrap();
        assert!(exists(&pattern));
    }

    #[test]
    fn every_command_gets_postgresql() {
        for command in [For::Test, For::Demo, For::Bench] {
            assert!(
                PACKAGES
                    .iter()
                    .any(|package| package.name == "postgresql"
                        && package.needed_for.contains(&command)),
                "{command:?}"
            );
        }
    }
}
