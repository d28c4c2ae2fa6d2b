//! What an application needs to log in as a user.

use crate::controller::{
    dereference::SecretValue,
    validate::{Login, ValidatedCluster},
};

/// What an application needs to log in as a user, besides the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The user.
    pub user: String,
    /// Its password.
    pub password: SecretValue,
    /// The database; without one, what libpq takes is the user's name.
    pub database: Option<String>,
}

pub(super) fn bindings(cluster: &ValidatedCluster) -> Vec<Binding> {
    let database = database(cluster);
    let logins = cluster.logins.iter();
    logins
        .map(|Login { user, password }| Binding {
            user: user.clone(),
            password: password.clone(),
            database: database.map(str::to_owned),
        })
        .collect()
}

/// That of the upstream, if it is served; or the only one that is listed. Of
/// several nobody knows which one a user means.
fn database(cluster: &ValidatedCluster) -> Option<&str> {
    let listed = || cluster.databases.iter().map(|one| one.name.as_str());
    let is_served = |name: &str| {
        cluster.databases.is_empty() || listed().any(|listed| listed == name || listed == "*")
    };
    let only = || {
        let mut named = listed().filter(|listed| *listed != "*");
        named.next().filter(|_| named.next().is_none())
    };
    let of_upstream = cluster.upstream_database.as_deref();
    of_upstream.filter(|name| is_served(name)).or_else(only)
}

#[cfg(test)]
mod tests {
    use super::super::{tests::tier_of, tier};
    use crate::{
        controller::validate::validate,
        manifest::{self, Source},
        webhook::WebhookPolicy,
    };

    #[test]
    fn the_database_is_one_that_is_served() {
        let of = |listed: &str| {
            let users = r#""users": [{"name": "app"}]"#;
            let tier = tier_of(&format!(r#"{{{users}, "databases": [{listed}]}}"#));
            let mut bindings = tier.bindings.into_iter();
            bindings.next().and_then(|binding| binding.database)
        };
        assert_eq!(of(""), None);
        assert_eq!(of(r#"{"name": "*"}, {"name": "b"}"#).as_deref(), Some("b"));
        assert_eq!(of(r#"{"name": "a"}, {"name": "b"}"#), None);
    }

    #[test]
    fn the_database_of_the_upstream_counts_if_applications_can_ask_for_it() {
        let of = |listed: &str| {
            let text = format!(
                "apiVersion: poolkeeper.dev/v1alpha1\nkind: PgPoolCluster\nmetadata: {{name: shop}}\n\
                 spec:\n  upstream: {{uriSecretRef: {{name: pg}}}}\n  databases: [{listed}]\n\
                 ---\napiVersion: v1\nkind: Secret\nmetadata: {{name: pg}}\n\
                 stringData: {{uri: \"postgresql://a:b@db/shop\"}}\n"
            );
            let source = Source {
                name: "f".to_owned(),
                text,
            };
            let manifest = manifest::read(&[source]).unwrap();
            let cluster = validate(&manifest.dereference(), &WebhookPolicy::default()).unwrap();
            let mut bindings = tier(&cluster).bindings.into_iter();
            bindings.next().unwrap().database
        };
        assert_eq!(of("").as_deref(), Some("shop"));
        assert_eq!(of("{name: '*'}, {name: b}").as_deref(), Some("shop"));
        assert_eq!(of("{name: b}").as_deref(), Some("b"));
    }
}
