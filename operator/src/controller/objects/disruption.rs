//! PodDisruptionBudgets: how many Pods may be evicted at once.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::metadata::{Family, Owner};
use crate::api::Component;

/// That of a cluster's poolers, as it is while nothing keeps them from going.
#[must_use]
pub fn pooler_budget(cluster: &str, owner: &Owner) -> PodDisruptionBudget {
    let family = Family {
        name: cluster,
        owner,
    };
    budget(&family, Component::Pooler)
}

/// One Pod of a component at a time. One that is not ready may always go: it
/// serves nobody, and kept it would keep its node from being drained.
pub(super) fn budget(family: &Family<'_>, component: Component) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: family.metadata(family.component_name(component), component),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(family.selector(component)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
