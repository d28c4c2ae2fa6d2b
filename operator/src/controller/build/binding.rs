//! What an application needs to log in as a user.

use crate::controller::{
    dereference::SecretValue,
    validate::{Credentials, Database, ValidatedCluster},
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
    let credentials = cluster.credentials.iter();
    credentials
        .map(|Credentials { user, password }| Binding {
            user: user.clone(),
            password: password.clone(),
            database: database.map(str::to_owned),
        })
        .collect()
}

/// What applications call the upstream's database, if it is served; or the only
/// one that is listed. Of several nobody knows which one a user means.
fn database(cluster: &ValidatedCluster) -> Option<&str> {
    let listed = &cluster.databases;
    let of_upstream = || {
        let wanted = cluster.upstream_database.as_deref()?;
        let is_it = |one: &&Database| {
            let name = one.upstream_name.as_ref().unwrap_or(&one.name);
            name == wanted && one.address == cluster.upstream
        };
        if let Some(database) = listed.iter().find(is_it) {
            return Some(database.name.as_str());
        }
        // One that is listed by that name is another.
        let is_taken = listed.iter().any(|one| one.name == wanted);
        let others = listed.iter().find(|one| one.name == "*");
        let serves_others = others.is_some_and(|others| others.address == cluster.upstream);
        (listed.is_empty() || (serves_others && !is_taken)).then_some(wanted)
    };
    let only = || {
        let mut named = listed.iter().filter(|one| one.name != "*");
        let name = named.next()?.name.as_str();
        named.next().is_none().then_some(name)
    };
    of_upstream().or_else(only)
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
        // By the name that it has here, and never another one's.
        let renamed = "{name: orders, database: shop}, {name: '*'}";
        assert_eq!(of(renamed).as_deref(), Some("orders"));
        assert_eq!(
            of("{name: shop, database: b}, {name: c}, {name: '*'}"),
            None
        );
        assert_eq!(of("{name: shop, host: elsewhere}, {name: c}"), None);
        assert_eq!(
            of("{name: a}, {name: c}, {name: '*', host: elsewhere}"),
            None
        );
    }
}
