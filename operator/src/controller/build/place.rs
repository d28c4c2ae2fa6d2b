//! Where a tier runs: addresses, ports and folders, on one machine or in Pods.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use proxy_core::config::{
    Bind,
    balancer::{Discovery, Target},
};

use super::Tier;

/// Where a tier runs.
#[derive(Clone, Debug)]
pub struct Realisation {
    /// Where applications connect.
    pub service: SocketAddr,
    /// Whether balancers share that address with each other.
    pub shared_service: bool,
    /// One for each pooler.
    pub poolers: Vec<PoolerAddresses>,
    /// Where each balancer serves its dashboard.
    pub dashboards: Vec<SocketAddr>,
    /// The folder of the pooler's files.
    pub files: PathBuf,
    /// Names the configuration, see [`revision`](super::revision).
    pub revision: String,
}

/// Where a pooler listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolerAddresses {
    /// For clients.
    pub data: SocketAddr,
    /// For `/status` and the like.
    pub http: SocketAddr,
}

impl Realisation {
    /// A realisation that exists on paper: what is checked before anything is
    /// started.
    #[must_use]
    pub fn example(tier: &Tier) -> Self {
        let address = |port: u32| {
            let port = u16::try_from(port).expect("replicas are few");
            SocketAddr::from(([127, 0, 0, 1], port))
        };
        Self {
            service: address(u32::from(tier.service_port)),
            shared_service: true,
            poolers: (0..tier.pooler.replicas)
                .map(|index| PoolerAddresses {
                    data: address(6432 + index),
                    http: address(9127 + index),
                })
                .collect(),
            dashboards: (0..tier.balancer.replicas)
                .map(|index| address(8404 + index))
                .collect(),
            files: PathBuf::from("/etc/poolkeeper"),
            revision: "example".to_owned(),
        }
    }

    /// Pooler `index` of it.
    #[must_use]
    pub fn pooler(&self, index: usize) -> PoolerPlace<'_> {
        PoolerPlace {
            data: self.poolers[index].data.into(),
            http: self.poolers[index].http.into(),
            peers: Peers::Listed {
                all: &self.poolers,
                own: index,
            },
            files: &self.files,
            // They are told when there is something new.
            reload_on_change: false,
            shared_key_file: None,
            revision: Some(&self.revision),
        }
    }

    /// Balancer `index` of it.
    #[must_use]
    pub fn balancer(&self, index: usize) -> BalancerPlace<'_> {
        let poolers = self.poolers.iter().enumerate();
        BalancerPlace {
            service: self.service.into(),
            shared_service: self.shared_service,
            dashboard: self.dashboards[index].into(),
            targets: poolers
                .map(|(index, pooler)| Target {
                    name: pooler_name(index),
                    address: pooler.data,
                })
                .collect(),
            discovery: None,
            reload_on_change: false,
            shared_key_file: None,
            revision: Some(&self.revision),
        }
    }
}

/// What a pooler is told of where it and others run.
#[derive(Clone, Copy, Debug)]
pub struct PoolerPlace<'a> {
    /// Where it listens for clients.
    pub data: Bind,
    /// Where it serves `/status` and the like.
    pub http: Bind,
    /// How it knows the other poolers.
    pub peers: Peers<'a>,
    /// The folder of its files.
    pub files: &'a Path,
    /// Whether it looks itself whether they have changed.
    pub reload_on_change: bool,
    /// The file of the key by which the parts of the tier know each other, where
    /// they have one: balancers prove with it what they say of clients.
    pub shared_key_file: Option<&'a Path>,
    /// Names the configuration, see [`revision`](super::revision).
    pub revision: Option<&'a str>,
}

/// How poolers know each other, to pass cancel requests on.
#[derive(Clone, Copy, Debug)]
pub enum Peers<'a> {
    /// They are told.
    Listed {
        /// Where all of them listen.
        all: &'a [PoolerAddresses],
        /// Which of them is told, from 0.
        own: usize,
    },
    /// A name stands for all of them, and each learns its own address from where
    /// it runs.
    Found {
        /// The name.
        dns: &'a str,
        /// The port of all of them.
        port: u16,
    },
}

/// What a balancer is told of where it and the poolers run.
#[derive(Clone, Debug)]
pub struct BalancerPlace<'a> {
    /// Where applications connect.
    pub service: Bind,
    /// Whether it shares that address with other balancers.
    pub shared_service: bool,
    /// Where it serves its dashboard.
    pub dashboard: Bind,
    /// The poolers, where they are known.
    pub targets: Vec<Target>,
    /// Where they are found by name otherwise.
    pub discovery: Option<Discovery>,
    /// Whether it looks itself whether its file has changed.
    pub reload_on_change: bool,
    /// The file of the key by which the parts of the tier know each other, where
    /// they have one: balancers prove with it what they say of clients.
    pub shared_key_file: Option<&'a Path>,
    /// Names the configuration, see [`revision`](super::revision).
    pub revision: Option<&'a str>,
}

/// Name of pooler `index`, from 0.
#[must_use]
pub fn pooler_name(index: usize) -> String {
    format!("pooler-{index}")
}

/// Name of balancer `index`, from 0.
#[must_use]
pub fn balancer_name(index: usize) -> String {
    format!("balancer-{index}")
}
