//! `cargo xtask demo`: the whole tier on this machine, under load, and what
//! happens when a pooler dies. Two minutes at most once built.

use std::{
    fs,
    io::{BufRead, IsTerminal},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tests::{Inbox, Load, Operator, Pgbench, Postgres, Signal, http, load, pgbench, wait};

use crate::{
    calls::{cargo, root, succeeds},
    packages::{self, For},
    stage::seconds,
};

/// Applications, each with one connection.
const WORKERS: usize = 24;
/// Long enough for the pooler to be down and up again under load.
const LOAD: Duration = Duration::from_secs(30);
/// Load before the pooler is killed.
const BEFORE: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Leave everything running at the end, and say what to try.
    #[arg(long)]
    keep: bool,
    /// Keep PostgreSQL's data in this directory, and use what is there already.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    stop_when_told()?;
    let mut steps = Steps::new();
    steps.say("system packages");
    let installed = packages::install(For::Demo)?;
    steps.done(&match installed.len() {
        0 => "all there".to_owned(),
        _ => format!("installed {}", installed.join(", ")),
    });
    steps.say("build");
    let built = succeeds(&mut cargo(&["build", "--workspace", "--bins"]))?;
    ensure!(built, "the workspace does not build");
    steps.done("pooler, balancer, operator");
    // The promise of two minutes starts here.
    let started = Instant::now();

    steps.say("PostgreSQL");
    let postgres = postgres(flags)?;
    steps.done(&format!(
        "listens on {}, max_connections 300",
        postgres.address()
    ));

    steps.say("tier");
    let inbox = Inbox::start()?;
    let manifest = fs::read_to_string(root().join("examples/quickstart.yaml"))
        .context("examples/quickstart.yaml cannot be read")?;
    let mut operator = Operator::builder(&manifest)
        .secrets(&inbox)
        .upstream(&postgres)
        .well_known_ports_if_free()
        .start()?;
    if operator.port_offset() > 0 {
        println!(
            "  one of the ports 5432, 8404, 8405, 8080 is taken: all are moved by {}",
            operator.port_offset()
        );
    }
    operator.wait_until_ready()?;
    operator.wait_until_it_serves()?;
    let poolers = operator.parts("pooler");
    steps.done(&format!(
        "{} poolers behind {} balancers; applications connect to {}, dashboards are at \
         http://{}/stats and http://{}/stats",
        poolers.len(),
        operator.parts("balancer").len(),
        operator.service(),
        operator.dashboard(),
        operator.second_dashboard()
    ));

    steps.say("load");
    let before = History::of(&postgres)?;
    let load = Load::start(operator.service(), WORKERS, LOAD, |run: Pgbench| run);
    steps.done(&format!(
        "{WORKERS} applications run pgbench's read-write transactions for {LOAD:?}"
    ));
    wait::holds_for("the tier serves", BEFORE, || true)?;

    let failure = fail(&mut steps, &mut operator, &inbox)?;
    steps.say("rest of the load");
    let account = load.finish()?;
    steps.done(&format!("{} transactions", account.transactions));
    let told = inbox.messages();
    let after = History::of(&postgres)?;
    print_account(&account, &failure, &(before, after));
    ensure!(
        told.len() == 2,
        "the inbox has {} messages, expected a DOWN and an UP: {:?}",
        told.len(),
        told.iter().map(tests::Message::text).collect::<Vec<_>>()
    );
    println!(
        "\n  the whole took {} after the build",
        seconds(started.elapsed())
    );

    if flags.keep {
        keep(&operator, &postgres, &inbox)?;
    }
    steps.say("clean up");
    let status = operator.terminate(Duration::from_secs(90))?;
    ensure!(status.success(), "the operator ended with {status}");
    drop(postgres);
    steps.done("nothing is left running");
    Ok(())
}

fn postgres(flags: &Flags) -> Result<Postgres> {
    let mut builder = Postgres::builder().max_connections(300);
    if let Some(dir) = &flags.data_dir {
        fs::create_dir_all(dir)?;
        builder = builder.data_dir(&dir.canonicalize()?);
    }
    let postgres = builder.start()?;
    let tables = postgres.sql(
        "shop",
        "SELECT count(*) FROM pg_class WHERE relname = 'pgbench_accounts'",
    )?;
    if tables == "0" {
        pgbench::initialise(&postgres, "app", "shop", 10)?;
    }
    Ok(postgres)
}

/// What happened when a pooler was killed.
struct Failure {
    /// When, as pgbench's log counts.
    at: Duration,
    /// Until the balancer said that it is down, or restarted.
    balancer_knew: Duration,
    /// Until the message was in the inbox.
    down_told: Duration,
    /// Until the message of its return was in the inbox.
    up_told: Duration,
}

fn fail(steps: &mut Steps, operator: &mut Operator, inbox: &Inbox) -> Result<Failure> {
    let victim = *operator.parts("pooler").first().context("no pooler runs")?;
    steps.say(&format!("kill -9 {} (a pooler), under load", victim.pid));
    let seen = newest_transition(operator)?;
    let (killed, at) = (Instant::now(), load::now());
    victim.signal(Signal::KILL);
    let dashboard = operator.dashboard();
    let watcher = thread::spawn(move || {
        wait::until("the balancer to notice", Duration::from_secs(20), || {
            let status = http::get(dashboard, "/status")
                .and_then(|response| response.json())
                .map_err(|error| error.to_string())?;
            if status["newest"].as_u64() > Some(seen) {
                Ok(killed.elapsed())
            } else {
                Err("it has not".to_owned())
            }
        })
    });
    let down = inbox.wait_for("the DOWN message", Duration::from_secs(20), |text| {
        text.contains("DOWN")
    })?;
    println!("\n    {}", indented(down.text()));
    let up = inbox.wait_for("the UP message", Duration::from_secs(40), |text| {
        text.contains("UP")
    })?;
    println!("\n    {}\n", indented(up.text()));
    let balancer_knew = watcher.join().expect("does not panic")?;
    steps.done("it was down, was told, came back, and was told");
    Ok(Failure {
        at,
        balancer_knew,
        down_told: down.at - killed,
        up_told: up.at - killed,
    })
}

fn newest_transition(operator: &Operator) -> Result<u64> {
    let status = http::get(operator.dashboard(), "/status")?.json()?;
    status["newest"]
        .as_u64()
        .with_context(|| format!("no transitions in {status}"))
}

fn indented(text: &str) -> String {
    text.replace('\n', "\n    ")
}

/// What PostgreSQL itself has kept of pgbench's transactions.
struct History {
    transactions: u64,
    consistent: bool,
}

impl History {
    fn of(postgres: &Postgres) -> Result<Self> {
        let line = postgres.sql(
            "shop",
            "SELECT count(*), \
             coalesce(sum(delta), 0) = (SELECT sum(abalance) FROM pgbench_accounts) AND \
             coalesce(sum(delta), 0) = (SELECT sum(bbalance) FROM pgbench_branches) AND \
             coalesce(sum(delta), 0) = (SELECT sum(tbalance) FROM pgbench_tellers) \
             FROM pgbench_history",
        )?;
        let (count, consistent) = line.split_once('|').context("two values")?;
        Ok(Self {
            transactions: count.parse()?,
            consistent: consistent == "t",
        })
    }
}

fn print_account(account: &load::Account, failure: &Failure, history: &(History, History)) {
    let ms = |duration: Duration| format!("{:.0} ms", duration.as_secs_f64() * 1e3);
    let window = Duration::from_secs(3);
    let committed = history.1.transactions - history.0.transactions;
    let worst = account.without_service.iter().max();
    println!("\n  In numbers");
    println!("    transactions answered      {}", account.transactions);
    println!("    transactions committed     {committed}, by PostgreSQL's own count");
    println!(
        "    accounts, branches, tellers and history agree: {}",
        if history.1.consistent { "yes" } else { "NO" }
    );
    println!(
        "    connections broken         {} of {WORKERS}, those on the killed pooler",
        account.broken
    );
    for complaint in account.complaints.iter().take(2) {
        println!("      {complaint}");
    }
    println!(
        "    rate before, after         {:.0}/s, {:.0}/s",
        account.rate(failure.at.saturating_sub(window), failure.at),
        account.rate(failure.at, failure.at + window)
    );
    if let Some(next) = account.next_after(failure.at) {
        println!("    next transaction after     {}", ms(next));
    }
    println!(
        "    longest gap for everybody  {}",
        ms(account.longest_gap(failure.at, failure.at + window))
    );
    if let Some(worst) = worst {
        println!(
            "    longest for one of those   {}, reconnect and first answer",
            ms(*worst)
        );
    }
    println!(
        "    detected by the balancer   {}",
        ms(failure.balancer_knew)
    );
    println!("    DOWN in the inbox          {}", ms(failure.down_told));
    println!("    UP in the inbox            {}", ms(failure.up_told));
}

/// Says what to try and what arrives in the inbox, until told to end.
fn keep(operator: &Operator, postgres: &Postgres, inbox: &Inbox) -> Result<()> {
    let service = operator.service();
    println!("\n  It goes on running. Try:");
    println!(
        "    PGPASSWORD=secret psql -h {} -p {} -U app shop",
        service.ip(),
        service.port()
    );
    println!(
        "    PGPASSWORD=secret psql -h {} -p {} -U admin pgbouncer -c 'SHOW POOLS'",
        service.ip(),
        service.port()
    );
    println!(
        "    http://{}/stats in a browser, or with /stats;csv in a script",
        operator.dashboard()
    );
    println!("    curl http://{}/status", operator.http());
    println!(
        "    kill -9 {}, and watch the dashboard; what is told about it appears here",
        operator
            .parts("pooler")
            .first()
            .map_or_else(|| "PID".to_owned(), |part| part.pid.to_string())
    );
    println!("  PostgreSQL itself is at {}.", postgres.address());
    if std::io::stdin().is_terminal() {
        println!("  Enter or Ctrl-C ends it.");
        thread::spawn(|| {
            let _ = std::io::stdin().lock().read_line(&mut String::new());
            wait::interrupt();
        });
    } else {
        println!(
            "  SIGTERM or SIGINT to process {} ends it.",
            std::process::id()
        );
    }
    // Ends only by being interrupted.
    let mut shown = inbox.messages().len();
    let _ = wait::holds_for("it runs", Duration::MAX / 4, || {
        let messages = inbox.messages();
        for message in messages.iter().skip(shown) {
            println!("    {}", message.text());
        }
        shown = messages.len();
        true
    });
    wait::resume();
    Ok(())
}

/// SIGINT and SIGTERM end the wait that is under way, and with it the command, by
/// the same path as any error: everything is cleaned up.
pub(crate) fn stop_when_told() -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
    ])?;
    thread::spawn(move || {
        for _ in signals.forever() {
            wait::interrupt();
        }
    });
    Ok(())
}

/// Progress, with the time that each step took.
struct Steps {
    started: Instant,
}

impl Steps {
    fn new() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    fn say(&mut self, what: &str) {
        self.started = Instant::now();
        println!("== {what}");
    }

    fn done(&self, what: &str) {
        println!("  {what} ({})", seconds(self.started.elapsed()));
    }
}
