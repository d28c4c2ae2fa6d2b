use std::path::Path;

use proxy_core::{
    pool::Pool,
    upstream::{self, Observation},
};

use super::*;

fn config(databases: &str) -> PoolerConfig {
    let text = format!(
        "[databases]\n{databases}\n[pgbouncer]\nauth_type = trust\nauth_file = users\nmin_pool_size = 2\n"
    );
    proxy_core::config::load(Path::new("pooler.ini"), &mut |path| {
        Ok(match path.to_str() {
            Some("pooler.ini") => text.clone(),
            _ => "\"ann\" \"\"\n".to_owned(),
        })
    })
    .unwrap()
}

fn at(seconds: u64) -> Moment {
    Moment(seconds * 1_000_000)
}

const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn a_database_without_an_entry_is_forgotten_when_it_has_been_unused_for_long() {
    let config = config("shop = host=10.0.0.1\n* = host=10.0.0.1");
    let pools = Pools::new(1, Arc::default());
    let named = pools.admit(&config, "shop", "ann").unwrap();
    let auto = pools.admit(&config, "tenant", "ann").unwrap();
    pools.leave(&named, "ann");
    pools.forget_unused(HOUR, at(1));
    pools.leave(&auto, "ann");
    pools.forget_unused(HOUR, at(2));
    pools.forget_unused(HOUR, at(3_601));
    assert!(!auto.is_forgotten(), "for less than an hour");
    pools.forget_unused(Duration::ZERO, at(9_000));
    assert!(!auto.is_forgotten(), "zero is for ever");
    pools.forget_unused(HOUR, at(3_602));
    assert!(auto.is_forgotten());
    pools.forget_unused(HOUR, at(9_000));
    assert!(!named.is_forgotten());
    assert_eq!(pools.all().len(), 1);
    assert_eq!(pools.databases().into_keys().collect::<Vec<_>>(), ["shop"]);

    let again = pools.admit(&config, "tenant", "ann").unwrap();
    assert_ne!(again.id, auto.id, "nothing of the old one is the new one's");
}

#[test]
fn a_user_without_a_pool_is_forgotten() {
    let config = config("* = host=10.0.0.1");
    let pools = Pools::new(1, Arc::default());
    let info = pools.admit(&config, "tenant", "ann").unwrap();
    assert!(pools.users().contains_key("ann"));
    pools.leave(&info, "ann");
    pools.set_missing(&info, true);
    assert!(info.is_forgotten());
    assert!(pools.users().is_empty());
}

#[test]
fn a_database_that_is_missing_stays_while_it_is_used() {
    let config = config("* = host=10.0.0.1");
    let pools = Pools::new(1, Arc::default());
    let info = pools.admit(&config, "tenant", "ann").unwrap();
    pools.set_missing(&info, true);
    assert!(!info.is_forgotten(), "a client is there");
    pools.leave(&info, "ann");
    assert!(info.is_forgotten());
}

#[test]
fn a_paused_database_is_not_forgotten() {
    let config = config("* = host=10.0.0.1");
    let pools = Pools::new(1, Arc::default());
    pools
        .set_database_paused(&config, "tenant", true, Moment(0))
        .unwrap();
    pools.forget_unused(HOUR, at(1));
    pools.forget_unused(HOUR, at(9_000));
    assert!(pools.databases()["tenant"].paused);
    pools
        .set_database_paused(&config, "tenant", false, Moment(0))
        .unwrap();
    pools.forget_unused(HOUR, at(9_001));
    pools.forget_unused(HOUR, at(20_000));
    assert!(pools.databases().is_empty());
}

#[test]
fn who_waited_while_postgresql_was_away_shows_no_want() {
    let config = config("shop = host=10.0.0.1");
    let (pools, upstreams) = (Pools::new(1, Arc::default()), Upstreams::default());
    upstreams.reconfigure(&config);
    let info = pools.admit(&config, "shop", "ann").unwrap();
    let mut waits = Pool::new(0, info.shared.clone(), false);
    waits.request(1, at(1));
    let late = |seconds| pools.late(Duration::from_secs(5), &upstreams, at(seconds));
    assert_eq!(late(5), []);
    assert_eq!(late(6), [Reason::ClientsWait]);

    let observe = |observation, seconds| {
        upstreams.observe("10.0.0.1", 5432, observation, at(seconds));
    };
    for _ in 0..2 {
        observe(Observation::Failed(upstream::Reason::Timeout), 7);
    }
    assert_eq!(late(8), [], "PostgreSQL is away");
    observe(Observation::Answered, 20);
    assert_eq!(late(24), [], "the wait is of the time before");
    assert_eq!(
        late(25),
        [Reason::ClientsWait],
        "all this time it was there"
    );
}

/// Who leaves a database that clients made up leaves no servers behind.
#[test]
fn a_minimum_of_servers_is_kept_for_clients_or_an_entry() {
    let before = config("shop = host=10.0.0.1\n* = host=10.0.0.1");
    let pools = Pools::new(1, Arc::default());
    let waits = |info: &PoolInfo| {
        let mut part = Pool::new(0, info.shared.clone(), false);
        part.next_step(at(1)) == pool::Step::Wait
    };
    let named = pools.admit(&before, "shop", "ann").unwrap();
    let auto = pools.admit(&before, "tenant", "ann").unwrap();
    pools.leave(&named, "ann");
    pools.leave(&auto, "ann");
    assert!(waits(&auto));
    pools.reconfigure(&before, &Arc::default());
    assert!(waits(&auto));
    assert!(!waits(&named));
    pools.admit(&before, "tenant", "ann").unwrap();
    assert!(!waits(&auto));
}

#[test]
fn databases_without_an_entry_are_bounded_and_unused_ones_make_room() {
    let config = config("shop = host=10.0.0.1\n* = host=10.0.0.1");
    let pools = Pools::new(1, Arc::default());
    let all: Vec<_> = (0..AUTO_POOLS_MAX)
        .map(|n| pools.admit(&config, &n.to_string(), "ann").unwrap())
        .collect();
    let refused = pools.admit(&config, "more", "ann").unwrap_err();
    assert_eq!(refused, NotAdmitted::AutoPools);
    assert_eq!(refused.code().0, "53300");
    assert!(pools.admit(&config, "0", "ann").is_ok(), "it is there");
    assert!(pools.admit(&config, "shop", "ann").is_ok(), "not counted");

    for (gone_at, index) in [(7, 3), (8, 2)] {
        pools.leave(&all[index], "ann");
        pools.forget_unused(HOUR, at(gone_at));
    }
    assert!(pools.admit(&config, "more", "ann").is_ok());
    assert!(all[3].is_forgotten(), "unused for longest");
    assert!(!all[2].is_forgotten());
}

#[test]
fn limits_of_clients_hold_over_the_pools_of_a_database() {
    let config = config("shop = host=10.0.0.1 max_db_client_connections=1");
    let pools = Pools::new(1, Arc::default());
    let info = pools.admit(&config, "shop", "ann").unwrap();
    let refused = pools.admit(&config, "shop", "bob").unwrap_err();
    let setting = "max_db_client_connections";
    assert_eq!(refused, NotAdmitted::Clients { setting, max: 1 });
    assert_eq!(pools.all().len(), 1, "who is refused makes no pool");
    pools.leave(&info, "ann");
    assert!(pools.admit(&config, "shop", "bob").is_ok());
}

fn global(settings: &str) -> PoolerConfig {
    let text = format!(
        "[databases]\n* = host=10.0.0.1\n[pgbouncer]\nauth_type = trust\nauth_file = users\n{settings}"
    );
    proxy_core::config::load(Path::new("pooler.ini"), &mut |path| {
        Ok(match path.to_str() {
            Some("pooler.ini") => text.clone(),
            _ => "\"ann\" \"\"\n".to_owned(),
        })
    })
    .unwrap()
}

#[test]
fn all_pools_share_max_server_connections() {
    let config = global("max_server_connections = 1\n");
    let pools = Pools::new(1, Arc::default());
    pools.begin(&config);
    let [one, other] = [("one", "ann"), ("other", "bob")]
        .map(|(database, user)| pools.admit(&config, database, user).unwrap());
    let mut pool = Pool::new(0, one.shared.clone(), false);
    pool.request(0, at(0));
    assert!(!other.shares_limit(&one));
    assert_eq!(pool.next_step(at(0)), pool::Step::Open);
    let mut second = Pool::new(0, other.shared.clone(), false);
    second.request(0, at(0));
    assert_eq!(second.next_step(at(0)), pool::Step::Evict);
    assert!(other.shares_limit(&one));
    pools.reconfigure(&global(""), &Arc::default());
    assert_eq!(second.next_step(at(0)), pool::Step::Open);

    // Lowered again while both are in use, and long after either looked.
    for (pool, server) in [(&mut pool, 10), (&mut second, 20)] {
        pool.opened();
        assert_eq!(pool.returned(server, at(0)), pool::Returned::Serve(0));
    }
    pools.reconfigure(&config, &Arc::default());
    assert_eq!(second.returned(20, at(0)), pool::Returned::Close);
    second.closed(20);
    assert_eq!(pool.returned(10, at(0)), pool::Returned::Kept);
}

#[test]
fn pools_can_be_paused_from_the_start() {
    let config = global("paused = 1\n");
    let pools = Pools::new(1, Arc::default());
    pools.begin(&config);
    assert!(pools.is_paused());
    let info = pools.admit(&config, "shop", "ann").unwrap();
    assert!(info.shared.is_paused());
    pools.set_all_paused(false, Moment(0)).unwrap();
    assert!(!info.shared.is_paused());
}
