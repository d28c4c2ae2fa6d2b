//! Applications at work: each transaction is accounted for, and the database
//! has a row of each that was answered.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{runtime::Runtime, task::JoinHandle, time::timeout};
use tokio_postgres::{Client, Config, NoTls, error::SqlState};

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
    cuts: Mutex<Vec<Cut>>,
    moved: AtomicU64,
    refused: AtomicU64,
    looks: AtomicU64,
    most: Mutex<Servers>,
}

/// What a tier has open at PostgreSQL.
#[derive(Clone, Debug, Default)]
struct Servers {
    sum: i64,
    /// By the address that they come from.
    each: Vec<(String, i64)>,
}

/// A transaction that broke off after it had begun.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    /// When that was seen.
    pub(crate) at: Instant,
    /// What was said, if anything was.
    pub(crate) code: Option<SqlState>,
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
        let mut tasks: Vec<_> = (0..count)
            .map(|_| runtime.spawn(work(config(address, &world.password), shared.clone())))
            .collect();
        if world.budget.is_some() {
            let direct = config(world.postgres()?, &world.password);
            tasks.push(runtime.spawn(count_servers(direct, shared.clone())));
        }
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

    /// Those that broke off so far.
    pub(crate) fn cuts(&self) -> Vec<Cut> {
        self.shared.cuts().clone()
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
            cut: self.shared.cuts().len() as u64,
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
        if let Some(budget) = world.budget {
            let Servers { sum: most, each } = self.shared.most().clone();
            let looks = count(&self.shared.looks);
            println!("    at most {most} servers of {budget}, in {looks} looks: {each:?}");
            // Enough to tell a tier that keeps it from one that has nothing to do.
            let most = u64::try_from(most)?;
            ensure!(
                most > budget / 2 && looks > 100,
                "too little was seen: {most}, {looks} looks"
            );
            ensure!(most <= budget, "{most} servers, of {budget}: {each:?}");
        }
        Ok(account)
    }
}

impl Shared {
    fn most(&self) -> MutexGuard<'_, Servers> {
        self.most.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cuts(&self) -> MutexGuard<'_, Vec<Cut>> {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut connection = tokio::spawn(connection);
        while !shared.stop.load(Ordering::Relaxed) {
            match timeout(LIMIT, transact(&client)).await {
                Ok(End::Done) => {
                    count(&shared.done);
                }
                Ok(End::Moved) => {
                    count(&shared.moved);
                    break;
                }
                Ok(End::Cut(mut why)) => {
                    // What was said when no answer was awaited.
                    if let Some(said) = last_words(&why, &mut connection).await {
                        why = said;
                    }
                    println!("    cut: {why}");
                    let (at, code) = (Instant::now(), why.code().cloned());
                    shared.cuts().push(Cut { at, code });
                    break;
                }
                Err(_) => anyhow::bail!("a transaction took longer than {LIMIT:?}"),
            }
        }
        connection.abort();
    }
    Ok(())
}

/// Counts what the tier has open at PostgreSQL, again and again.
async fn count_servers(config: Config, shared: Arc<Shared>) -> Result<()> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    let query = client.prepare(SERVERS).await?;
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    while !shared.stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let rows = timeout(LIMIT, client.query(&query, &[])).await??;
        let each: Vec<(String, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let sum = each.iter().map(|(_, count)| count).sum();
        let mut most = shared.most();
        if sum > most.sum {
            *most = Servers { sum, each };
        }
        drop(most);
        shared.looks.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// PostgreSQL's own processes are of that user too, which made the cluster.
const SERVERS: &str = "SELECT host(client_addr), count(*) FROM pg_stat_activity \
    WHERE usename = 'app' AND backend_type = 'client backend' AND pid <> pg_backend_pid() \
    GROUP BY 1";

/// With what a connection ended, where that was its end.
async fn last_words(
    why: &tokio_postgres::Error,
    connection: &mut JoinHandle<Result<(), tokio_postgres::Error>>,
) -> Option<tokio_postgres::Error> {
    if !why.is_closed() {
        return None;
    }
    connection.await.ok()?.err()
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
