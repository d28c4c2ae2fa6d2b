//! What poolers of an earlier version are not told: a file with a key that they do
//! not know they refuse as a whole, and go on with what they had.

use proxy_core::config::settings::{DATABASE_KEYS, Release, SETTINGS, USER_KEYS};

use super::Tier;
use crate::controller::validate::Setting;

/// A table of keys.
type Keys = &'static [proxy_core::config::settings::Setting];

impl Tier {
    /// Leaves out of the poolers' settings what `oldest`, the oldest release among
    /// them, does not know. Returns what that is, by its field and key.
    pub fn leave_out_newer(&mut self, oldest: Release) -> Vec<String> {
        let pooler = &mut self.pooler;
        let databases = pooler.databases.iter_mut();
        let databases = databases.map(|entry| (&mut entry.settings, DATABASE_KEYS));
        let users = pooler.users.iter_mut();
        let users = users.map(|entry| (&mut entry.settings, USER_KEYS));
        let mut left_out = Vec::new();
        for (settings, keys) in [(&mut pooler.settings, SETTINGS)]
            .into_iter()
            .chain(databases)
            .chain(users)
        {
            settings.retain(|setting| {
                let is_known = is_known(keys, setting, oldest);
                if !is_known {
                    left_out.push(format!("{} ({})", setting.origin, setting.key));
                }
                is_known
            });
        }
        left_out
    }
}

fn is_known(keys: Keys, setting: &Setting, release: Release) -> bool {
    let mut keys = keys.iter();
    keys.find(|key| key.name == setting.key)
        .is_none_or(|key| key.since <= release)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::build::tests::tier_of;

    const SPEC: &str = r#"{
        "databases": [{"name": "shop", "poolSize": 3}],
        "users": [{"name": "app", "mode": "session"}]
    }"#;

    #[test]
    fn what_every_pooler_knows_stays() {
        let mut tier = tier_of(SPEC);
        let before = format!("{:?}", tier.pooler);
        assert!(tier.leave_out_newer(Release::ours()).is_empty());
        assert_eq!(format!("{:?}", tier.pooler), before);
    }

    /// A release before the first, for which all keys are new.
    #[test]
    fn what_the_oldest_pooler_does_not_know_is_left_out_and_named() {
        let mut tier = tier_of(SPEC);
        let left_out = tier.leave_out_newer(Release::new(0, 0));
        for field in [
            "spec.auth.type (auth_type)",
            "spec.databases[0].poolSize (pool_size)",
            "spec.users[0].mode (pool_mode)",
        ] {
            assert!(left_out.iter().any(|one| one == field), "{left_out:?}");
        }
        assert_eq!(tier.pooler.settings, []);
        assert_eq!(tier.pooler.databases[0].name, "shop");
        assert_eq!(tier.pooler.databases[0].settings, []);
        assert_eq!(tier.pooler.users[0].settings, []);
    }
}
