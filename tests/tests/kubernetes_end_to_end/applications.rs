//! Applications at work: each transaction is accounted for, and the database
//! has a row of each that was answered.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{runtime::Runtime, task::JoinHandle, time::timeout};
use tokio_postgres::{Client, Config, NoTls};

use crate::world::{LIMIT, World};

/// Applications under way, with a connection each that they make anew when it ends.
pub(crate) struct Applications {
    runtime: Runtime,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    done: AtomicU64,
    cut: AtomicU64,
    moved: AtomicU64,
    refused: AtomicU64,
}

/// What became of all transactions and connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// Transactions that were answered.
    pub(crate) done: u64,
    /// Transactions that broke off after they had begun.
    pub(crate) cut: u64,
    /// Connections that ended between two transactions, and were made anew.
    pub(crate) moved: u64,
    /// Connections that could not be made at once.
    pub(crate) refused: u64,
}

impl Applications {
    /// Makes the ledger anew and starts `count` of them.
    pub(crate) fn start(world: &World, count: usize) -> Result<Self> {
        world.sql(
            &world.password,
            "DROP TABLE IF EXISTS ledger; CREATE TABLE ledger (entry bigint)",
        )?;
        let address = world.service()?;
        let runtime = Runtime::new()?;
        let shared = Arc::<Shared>::default();
        let tasks = (0..count)
            .map(|_| runtime.spawn(work(config(address, &world.password), shared.clone())))
            .collect();
        Ok(Self {
            runtime,
            shared,
            tasks,
        })
    }

    /// Transactions that were answered so far.
    pub(crate) fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// Waits until `more` transactions were answered from now on.
    pub(crate) fn go_on(&self, world: &World, more: u64) -> Result<()> {
        let wanted = self.done() + more;
        world.until("transactions to go on", || {
            let done = self.done();
            ensure!(done >= wanted, "{done} of {wanted}");
            Ok(())
        })
    }

    /// Ends them and compares what they were told with what the database has.
    pub(crate) fn finish(self, world: &World) -> Result<Account> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            self.runtime.block_on(task)??;
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let account = Account {
            done: count(&self.shared.done),
            cut: count(&self.shared.cut),
            moved: count(&self.shared.moved),
            refused: count(&self.shared.refused),
        };
        let kept: u64 = world
            .sql(&world.password, "SELECT count(*) FROM ledger")?
            .parse()?;
        // A COMMIT whose answer is lost may have counted.
        ensure!(
            (account.done..=account.done + account.cut).contains(&kept),
            "{kept} are in the database: {account:?}"
        );
        println!("    {account:?}");
        Ok(account)
    }
}

impl Account {
    /// Fails if any application noticed more than a connection that ended while
    /// it did nothing.
    pub(crate) fn check_smooth(&self) -> Result<()> {
        ensure!(
            self.done > 0 && self.cut == 0 && self.refused == 0,
            "{self:?}"
        );
        Ok(())
    }
}

/// How an application connects.
pub(crate) fn config(address: SocketAddr, password: &str) -> Config {
    let mut config = Config::new();
    config
        .hostaddr(address.ip())
        .port(address.port())
        .user("app")
        .dbname("postgres")
        .password(password);
    config
}

async fn work(config: Config, shared: Arc<Shared>) -> Result<()> {
    let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
    // As drivers do, so that nobody is flooded.
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    while !shared.stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let connected = timeout(LIMIT, config.connect(NoTls)).await;
        let Ok((client, connection)) = connected.context("a connection took too long")? else {
            count(&shared.refused);
            continue;
        };
        let connection = tokio::spawn(connection);
        while !shared.stop.load(Ordering::Relaxed) {
            match timeout(LIMIT, transact(&client)).await {
                Ok(End::Done) => count(&shared.done),
                Ok(End::Moved) => {
                    count(&shared.moved);
                    break;
                }
                Ok(End::Cut(why)) => {
                    println!("    cut: {why}");
                    count(&shared.cut);
                    break;
                }
                Err(_) => anyhow::bail!("a transaction took longer than {LIMIT:?}"),
            };
        }
        connection.abort();
    }
    Ok(())
}

enum End {
    Done,
    Moved,
    Cut(tokio_postgres::Error),
}

/// One that takes a while, with an answer in the middle.
async fn transact(client: &Client) -> End {
    if client.batch_execute("BEGIN").await.is_err() {
        // An idle session may be closed while we send: PostgreSQL has not seen
        // that BEGIN.
        return End::Moved;
    }
    for step in [
        "INSERT INTO ledger VALUES (1)",
        "SELECT pg_sleep(0.02)",
        "COMMIT",
    ] {
        if let Err(error) = client.batch_execute(step).await {
            return End::Cut(error);
        }
    }
    End::Done
}
