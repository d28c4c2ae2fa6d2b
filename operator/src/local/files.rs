//! The files that children read, and what a change of them takes: nothing, a
//! reload, or a restart.

use std::{collections::BTreeMap, fs, io, path::Path};

use proxy_core::config::{Bind, balancer, pooler};

use super::{ports::Held, store::Store};
use crate::{
    api::Component,
    controller::build::{
        PoolerAddresses, Realisation, Tier, balancer_name, balancer_yaml, pooler_ini, pooler_name,
    },
    endpoints::Id,
};

/// What each child is told.
pub type Texts = BTreeMap<Id, String>;

/// Name of a child's file below `conf/`.
#[must_use]
pub fn name(id: Id) -> String {
    match id.component {
        Component::Pooler => format!("{}.ini", pooler_name(id.index)),
        Component::Balancer => format!("{}.yaml", balancer_name(id.index)),
    }
}

/// The file of each child.
#[must_use]
pub fn render(tier: &Tier, realisation: &Realisation) -> Texts {
    let poolers = (0..tier.pooler.replicas as usize).map(|index| {
        let ini = pooler_ini(tier, &realisation.pooler(index));
        (Id::pooler(index), ini.text)
    });
    let balancers = (0..tier.balancer.replicas as usize).map(|index| {
        let yaml = balancer_yaml(tier, &realisation.balancer(index));
        (Id::balancer(index), yaml)
    });
    poolers.chain(balancers).collect()
}

/// What a changed file takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The file is as it was.
    None,
    /// The child can take it over as it runs.
    Reload,
    /// Only a new process can; says because of what.
    Restart(String),
}

/// Compares a child's file as it is on disk, by which the child runs, with what
/// it should be. With `shared`, a file that it reads beside its own changed.
#[must_use]
pub fn compare(store: &Store, id: Id, text: &str, shared: bool) -> Change {
    let path = store.conf().join(name(id));
    let Ok(present) = fs::read_to_string(&path) else {
        return Change::Restart("its configuration is gone".to_owned());
    };
    if present == text {
        return match id.component {
            Component::Pooler if shared => Change::Reload,
            Component::Pooler | Component::Balancer => Change::None,
        };
    }
    let restart = match id.component {
        Component::Pooler => pooler_restart(&path, text),
        Component::Balancer => balancer_restart(&present, text),
    };
    match restart {
        None => Change::Restart("its configuration cannot be read".to_owned()),
        Some(keys) if keys.is_empty() => Change::Reload,
        Some(keys) => Change::Restart(format!("{} changed", keys.join(", "))),
    }
}

/// Keys that only a restart applies; `None` if that cannot be told.
fn pooler_restart(path: &Path, text: &str) -> Option<Vec<&'static str>> {
    let present = pooler::load(path, &mut |path| fs::read_to_string(path)).ok()?;
    // The files beside it may not be there yet; they never take a restart.
    let mut read = |asked: &Path| match asked == path {
        true => Ok(text.to_owned()),
        false => fs::read_to_string(asked).or(Ok::<_, io::Error>(String::new())),
    };
    let wanted = pooler::load(path, &mut read).ok()?;
    Some(present.changes_needing_restart(&wanted))
}

/// Keys that only a restart applies, as the balancer has it; `None` if that
/// cannot be told.
fn balancer_restart(present: &str, text: &str) -> Option<Vec<&'static str>> {
    let present = balancer::parse("present", present).ok()?;
    let wanted = balancer::parse("wanted", text).ok()?;
    let fixed = [
        ("frontends", present.frontends != wanted.frontends),
        ("http", present.http != wanted.http),
        ("threads", present.threads != wanted.threads),
    ];
    Some(
        fixed
            .into_iter()
            .filter_map(|(key, changed)| changed.then_some(key))
            .collect(),
    )
}

/// The ports that children hold who run by the files on disk.
#[must_use]
pub fn held(store: &Store, running: &[Id], poolers: usize) -> Held {
    let mut held = Held {
        poolers: vec![None; poolers],
        balancers: Vec::new(),
    };
    for id in running {
        let path = store.conf().join(name(*id));
        match id.component {
            Component::Pooler => {
                if let Some(slot) = held.poolers.get_mut(id.index) {
                    *slot = pooler_addresses(&path);
                }
            }
            Component::Balancer => held.balancers.extend(balancer_addresses(&path)),
        }
    }
    held
}

fn pooler_addresses(path: &Path) -> Option<PoolerAddresses> {
    let config = pooler::load(path, &mut |path| fs::read_to_string(path))
        .ok()?
        .global;
    let one = |address, port| Bind { address, port }.one();
    Some(PoolerAddresses {
        data: one(*config.listen_addr.first()?, config.listen_port)?,
        http: one(config.http_addr, config.http_port)?,
    })
}

fn balancer_addresses(path: &Path) -> Vec<std::net::SocketAddr> {
    let Ok(text) = fs::read_to_string(path) else {
        return Vec::new();
    };
    let Ok(config) = balancer::parse("present", &text) else {
        return Vec::new();
    };
    let frontends = config.frontends.iter().map(|frontend| frontend.bind);
    let all = frontends.chain(config.http.map(|http| http.bind));
    all.filter_map(Bind::one).collect()
}

/// Writes the files that poolers share. True if one of them changed.
///
/// # Errors
/// If the disk does not take them.
pub fn write_shared(store: &Store, tier: &Tier) -> io::Result<bool> {
    let mut changed = false;
    for file in &tier.pooler.files {
        let present = fs::read(store.conf().join(file.name));
        changed |= present.is_ok_and(|present| present != file.content.bytes());
        store.write_conf(file.name, file.content.bytes())?;
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        controller::{build, validate::validate},
        manifest::{self, Source},
        webhook::WebhookPolicy,
    };

    const MANIFEST: &str = include_str!("../../../examples/quickstart.yaml");

    fn tier(change: impl Fn(&str) -> String) -> Tier {
        let source = Source {
            name: "f".to_owned(),
            text: change(MANIFEST),
        };
        let manifest = manifest::read(&[source]).map_err(|_| ()).unwrap();
        let cluster = validate(&manifest.dereference(), &WebhookPolicy::default()).unwrap();
        build::tier(&cluster)
    }

    /// What it takes to go from the quickstart to a changed one, for pooler-0
    /// and balancer-0.
    fn check(change: impl Fn(&str) -> String) -> (Change, Change) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let texts = |tier: &Tier| {
            let mut realisation = Realisation::example(tier);
            realisation.files = store.conf();
            realisation.revision = build::revision(tier, b"key");
            render(tier, &realisation)
        };
        let before = tier(str::to_owned);
        assert!(!write_shared(&store, &before).unwrap());
        for (id, text) in texts(&before) {
            store.write_conf(&name(id), text.as_bytes()).unwrap();
        }
        let after = tier(change);
        let shared = write_shared(&store, &after).unwrap();
        let texts = texts(&after);
        let compare = |id| compare(&store, id, &texts[&id], shared);
        (compare(Id::pooler(0)), compare(Id::balancer(0)))
    }

    #[test]
    fn changes_take_no_more_than_they_must() {
        let restart = |keys: &str| Change::Restart(format!("{keys} changed"));
        assert_eq!(check(str::to_owned), (Change::None, Change::None));
        assert_eq!(
            check(|text| text.replace("defaultPoolSize: 70", "defaultPoolSize: 71")),
            (Change::Reload, Change::Reload)
        );
        assert_eq!(
            check(|text| text.replace("change-me-too", "another")),
            (Change::Reload, Change::Reload)
        );
        assert_eq!(
            check(|text| text.replace("admin_users: admin", "threads: 2")),
            (restart("threads"), Change::Reload)
        );
        assert_eq!(
            check(|text| text.replace("type: ClusterIP\n    port: 5432", "port: 5433")),
            (Change::None, restart("frontends"))
        );
    }

    #[test]
    fn ports_of_children_that_run_are_read_from_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let tier = tier(str::to_owned);
        let mut realisation = Realisation::example(&tier);
        realisation.files = store.conf();
        write_shared(&store, &tier).unwrap();
        for (id, text) in render(&tier, &realisation) {
            store.write_conf(&name(id), text.as_bytes()).unwrap();
        }
        let running = [Id::pooler(2), Id::balancer(1)];
        let held = held(&store, &running, 3);
        assert_eq!(held.poolers, [None, None, Some(realisation.poolers[2])]);
        assert_eq!(
            held.balancers,
            [realisation.service, realisation.dashboards[1]]
        );
    }
}
