//! Cancel requests, which reach any pooler.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::{runtime::Runtime, time::timeout};
use tokio_postgres::{NoTls, error::SqlState};

use crate::{applications::config, world::World};

/// Connections are spread: hardly all of them reach the pooler of their session.
const CANCELS: usize = 6;
/// As long as an application would wait; the query lasts for longer.
const PATIENCE: Duration = Duration::from_secs(60);
const QUERY: &str = "SELECT pg_sleep(600)";
const RUNNING: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE state = 'active' AND query = 'SELECT pg_sleep(600)'";

pub(crate) fn reach_their_queries(world: &mut World) -> Result<()> {
    for _ in 0..CANCELS {
        cancel(world)?;
    }
    // Those who are new are found, and find the others.
    let before = world.pods("pooler")?;
    let gone = before.first().context("there is no pooler")?;
    world.kubectl(&format!("delete pod {}", gone.name))?;
    world.until("another pooler", || {
        let now = world.pods("pooler")?;
        ensure!(now.len() == 3 && !now.contains(gone), "{now:?}");
        Ok(())
    })?;
    world.settled(3)?;
    for _ in 0..CANCELS {
        cancel(world)?;
    }
    Ok(())
}

fn cancel(world: &World) -> Result<()> {
    let runtime = Runtime::new()?;
    let config = config(world.service()?, &world.password);
    let (client, connection) = runtime.block_on(config.connect(NoTls))?;
    runtime.spawn(connection);
    let token = client.cancel_token();
    let query = runtime.spawn(async move { client.simple_query(QUERY).await.map(|_| ()) });
    world.until("the query to run", || {
        let running = world.sql(&world.password, RUNNING)?;
        ensure!(running == "1", "{running} run");
        Ok(())
    })?;
    runtime.block_on(token.cancel_query(NoTls))?;
    let ended = runtime.block_on(async { timeout(PATIENCE, query).await });
    let ended = ended.context("the query was not cancelled")??;
    let code = ended.err().and_then(|error| error.code().cloned());
    ensure!(code == Some(SqlState::QUERY_CANCELED), "{code:?}");
    Ok(())
}
