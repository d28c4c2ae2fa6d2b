//! What the parts of a tier know and nobody else: the key that they prove
//! themselves to each other by.

use k8s_openapi::api::core::v1::Secret;

use super::metadata::{Family, Owner};

/// The Secret's key that holds it.
pub const INTERNAL_KEY: &str = "key";

/// Name of the Secret.
#[must_use]
pub fn internal_name(cluster: &str) -> String {
    format!("{cluster}-internal")
}

/// The Secret, without the key: whoever makes it draws one.
#[must_use]
pub fn internal_secret(cluster: &str, owner: &Owner) -> Secret {
    let family = Family {
        name: cluster,
        owner,
    };
    Secret {
        metadata: family.metadata_of(internal_name(cluster), "tier"),
        ..Secret::default()
    }
}
