//! Services: the one for applications, and one for each component.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    balancer,
    metadata::Family,
    pooler,
    workload::{PORT_HTTP, PORT_POSTGRES},
};
use crate::{api::Component, controller::build::Tier};

/// Where applications connect: the balancers, at the port they were told.
pub(super) fn applications(family: &Family<'_>, tier: &Tier) -> Service {
    let wished = &tier.service;
    let ranges = &wished.load_balancer_source_ranges;
    let spec = ServiceSpec {
        type_: Some(wished.r#type.word().to_owned()),
        ports: Some(vec![ServicePort {
            node_port: wished.node_port,
            ..port(PORT_POSTGRES, tier.service_port)
        }]),
        load_balancer_class: wished.load_balancer_class.clone(),
        load_balancer_source_ranges: (!ranges.is_empty()).then(|| ranges.clone()),
        external_traffic_policy: wished
            .external_traffic_policy
            .map(|policy| policy.word().to_owned()),
        ..ServiceSpec::default()
    };
    let mut made = service(family, Component::Balancer, family.name.to_owned(), spec);
    let labels = made.metadata.labels.get_or_insert_default();
    labels.extend(wished.labels.clone());
    let annotations = &wished.annotations;
    made.metadata.annotations = (!annotations.is_empty()).then(|| annotations.clone());
    made
}

/// The poolers, each by its own address. Those that are not ready stay listed:
/// one that drains still answers checks and cancel requests.
pub(super) fn poolers(family: &Family<'_>) -> Service {
    let spec = ServiceSpec {
        cluster_ip: Some("None".to_owned()),
        publish_not_ready_addresses: Some(true),
        ports: Some(vec![
            port(PORT_POSTGRES, pooler::PORTS.postgres),
            port(PORT_HTTP, pooler::PORTS.http),
        ]),
        ..ServiceSpec::default()
    };
    let name = family.component_name(Component::Pooler);
    service(family, Component::Pooler, name, spec)
}

/// The dashboard of a balancer, any of them.
pub(super) fn balancers(family: &Family<'_>) -> Service {
    let spec = ServiceSpec {
        ports: Some(vec![port(PORT_HTTP, balancer::PORTS.http)]),
        ..ServiceSpec::default()
    };
    let name = family.component_name(Component::Balancer);
    service(family, Component::Balancer, name, spec)
}

fn service(family: &Family<'_>, component: Component, name: String, spec: ServiceSpec) -> Service {
    Service {
        metadata: family.metadata(name, component),
        spec: Some(ServiceSpec {
            selector: Some(family.selecting(component)),
            ..spec
        }),
        status: None,
    }
}

/// A port that leads to the container's port of the same name.
fn port(name: &str, port: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: port.into(),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    }
}
