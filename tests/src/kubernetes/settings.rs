//! The files that the programs of a node read.

use std::path::Path;

use serde_json::{Value, json};

use super::{Image, network::Network};

/// Where containerd listens, in the node.
pub(crate) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// Where CoreDNS says that it is ready.
pub(crate) const DNS_READY_PORT: u16 = 8181;

/// containerd's config.toml, version 2.
pub(crate) fn containerd(cni: &Path) -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{}"
# A machine that is itself a container may not lower it.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{}"
"#,
        Image::NAME,
        cni.display()
    )
}

/// Pods are joined one by one, not by a bridge: everything between two pods
/// passes the node's routing, where Services are, even on kernels that do not
/// filter what a bridge forwards.
pub(crate) fn pod_network(network: Network) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp",
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "subnet": network.pods(),
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    })
}

/// KubeletConfiguration.
pub(crate) fn kubelet(network: Network, resolv_conf: &Path) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network.node().to_string(),
        // Who can reach it sits at this machine, or in one of its pods.
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", network.name()),
        "clusterDNS": [network.node().to_string()],
        "clusterDomain": "cluster.local",
        "resolvConf": resolv_conf,
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        // Machines that are themselves containers lack some rights, and
        // are full or small: pods run nevertheless.
        "featureGates": { "KubeletInUserNamespace": true },
        // A heartbeat every quarter of it; see the control plane's grace period.
        "nodeLeaseDurationSeconds": 8,
        "failCgroupV1": false,
        "failSwapOn": false,
        "localStorageCapacityIsolation": false,
        "enforceNodeAllocatable": [],
        "oomScoreAdj": 0,
        "evictionHard": {
            "memory.available": "50Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
            "imagefs.available": "0%", "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "makeIPTablesUtilChains": false,
    })
}

/// KubeProxyConfiguration.
pub(crate) fn proxy(network: Network, kubeconfig: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": { "kubeconfig": kubeconfig },
        "clusterCIDR": network.pods(),
        "hostnameOverride": super::node::NAME,
        // The kernel's, which belong to the whole machine, stay as they are.
        "conntrack": {
            "maxPerCore": 0, "min": 0,
            "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
        },
    })
}

/// CoreDNS's Corefile. It answers for the cluster alone: nothing leads out of the machine.
pub(crate) fn dns(network: Network, kubeconfig: &Path) -> String {
    format!(
        ".:53 {{\n    bind {node}\n    errors\n    ready {node}:{DNS_READY_PORT}\n    \
         kubernetes cluster.local in-addr.arpa ip6.arpa {{\n        \
         kubeconfig {} poolkeeper\n        pods insecure\n        ttl 5\n    }}\n}}\n",
        kubeconfig.display(),
        node = network.node()
    )
}

/// A PersistentVolume: a folder of the node.
pub(crate) fn volume(name: &str, folder: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": { "name": name },
        "spec": {
            "capacity": { "storage": "10Gi" },
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            // kubelet gives it to a pod's fsGroup, which it does not with hostPath.
            "local": { "path": folder },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "kubernetes.io/hostname", "operator": "In", "values": [super::node::NAME] },
            ] }] } },
        },
    })
}

/// What CoreDNS may read.
pub(crate) const DNS_ACCESS: &str = "\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: poolkeeper-dns}
rules:
- {apiGroups: [''], resources: [services, pods, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: poolkeeper-dns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: poolkeeper-dns}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: 'poolkeeper:dns'}
";
