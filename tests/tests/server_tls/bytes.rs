//! What goes over TLS to PostgreSQL: cancels, much of it, and cut anywhere.

use std::{io::Write, sync::atomic::AtomicUsize, sync::atomic::Ordering::SeqCst};

use anyhow::{Context, Result, ensure};
use proxy_core::wire;
use tests::{Authority, Pooler, PoolerBuilder, Postgres, Raw, Validity, raw, wait};

use crate::{
    LIMIT, NAMES,
    relay::{Deed, Relay},
};

/// The request code of an SSLRequest.
const SSL: u32 = 80_877_103;
const MIB: u64 = 1024 * 1024;
/// More than sockets and buffers on the way can take.
const ROWS: usize = 640;
const ROW: usize = 100_000;

/// A PostgreSQL that lets nobody in without TLS, behind a relay.
struct World {
    authority: Authority,
    postgres: Postgres,
    relay: Relay,
}

impl World {
    fn new(deed: Deed) -> Result<Self> {
        let authority = Authority::new()?;
        let certificate = authority.issue("postgres", NAMES, Validity::Today)?;
        let postgres = Postgres::builder()
            .tls(&certificate)
            .hba("hostssl all all 127.0.0.1/32 scram-sha-256")
            .start()?;
        let relay = Relay::start(postgres.address(), deed)?;
        Ok(Self {
            authority,
            postgres,
            relay,
        })
    }

    fn pooler(&self) -> PoolerBuilder {
        let entry = format!("host=127.0.0.1 port={}", self.relay.port);
        Pooler::in_front_of(&self.postgres)
            .database_line("shop", &entry)
            .server_tls("verify-full", &self.authority.cert)
    }

    /// Waits until a server of ours waits for that.
    fn wait_for_event(&self, event: &str) -> Result<()> {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND wait_event = '{event}'"
        );
        wait::until_true(event, LIMIT, || {
            self.postgres
                .sql("postgres", &sql)
                .is_ok_and(|count| count == "1")
        })?;
        Ok(())
    }
}

/// Its key is a secret: nobody on the way may see it.
#[test]
fn a_cancel_goes_to_postgresql_over_tls() -> Result<()> {
    for deed in [Deed::Pass, Deed::Cut(7)] {
        let world = World::new(deed)?;
        let pooler = world.pooler().start()?;
        let mut client = pooler.client()?;
        client.send(&wire::query("SELECT pg_sleep(300)"))?;
        world.wait_for_event("PgSleep")?;
        raw::cancel(pooler.address(), &client.key)?;
        assert_eq!(client.until_ready()?.code(), "57014");
        assert_eq!(client.value("SELECT 1")?, "1", "the session goes on");
        assert_eq!(world.relay.codes(), [SSL, SSL], "a server and a cancel");
    }
    Ok(())
}

/// A cancel that cannot be sent in secret is not sent.
#[test]
fn a_cancel_is_not_sent_to_who_tampers_with_it() -> Result<()> {
    let world = World::new(Deed::Pass)?;
    let pooler = world.pooler().start()?;
    let mut client = pooler.client()?;
    client.send(&wire::query("SELECT pg_sleep(300)"))?;
    world.wait_for_event("PgSleep")?;
    for deed in [Deed::Append, Deed::Follow] {
        world.relay.turn(deed);
        raw::cancel(pooler.address(), &client.key)?;
    }
    wait::until_true("both to be told", LIMIT, || {
        pooler.log().matches("cancel request lost").count() == 2
    })?;
    world.wait_for_event("PgSleep")?;
    world.relay.turn(Deed::Pass);
    raw::cancel(pooler.address(), &client.key)?;
    assert_eq!(client.until_ready()?.code(), "57014");
    assert_eq!(world.relay.codes(), [SSL; 4]);
    Ok(())
}

/// CVE-2021-23222.
#[test]
fn what_comes_in_clear_with_the_answer_is_refused() -> Result<()> {
    let world = World::new(Deed::Append)?;
    let pooler = world.pooler().set("server_login_retry", "0.1").start()?;
    let error = pooler.psql("", "SELECT 1").err().context("a server")?;
    let told = "9 bytes in clear after its answer to an SSLRequest";
    assert!(error.to_string().contains(told), "{error}");

    // As a record it is none, and the handshake fails. Where both come in one
    // read it is the same as above.
    world.relay.turn(Deed::Follow);
    let refused = |error: &anyhow::Error| error.to_string().contains("cannot log in");
    for _ in 0..5 {
        let error = pooler.psql("", "SELECT 1").err().context("a server")?;
        assert!(refused(&error), "{error}");
    }
    world.relay.turn(Deed::Pass);
    wait::until_true("PostgreSQL to be trusted again", LIMIT, || {
        pooler.psql("", "SELECT 1").is_ok()
    })?;
    Ok(())
}

fn table(client: &mut Raw) -> Result<()> {
    let made = client.query(
        "CREATE TABLE t (id int, text text); \
         CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END'; \
         CREATE TRIGGER wait BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION wait()",
    )?;
    ensure!(made.error().is_none(), "{:?}", made.error());
    Ok(())
}

fn line(index: usize) -> String {
    let letter = char::from(b'a' + (index % 26) as u8);
    format!("{index}\t{}\n", letter.to_string().repeat(ROW))
}

/// A client that does not read holds PostgreSQL back, costs little, and misses
/// nothing; a PostgreSQL that does not read holds the client back in the same way.
#[test]
fn much_goes_both_ways_and_who_is_slow_holds_the_other_back() -> Result<()> {
    let world = World::new(Deed::Pass)?;
    let pooler = world.pooler().start()?;
    table(&mut pooler.client()?)?;
    let before = pooler.rss()?;

    let mut holder = pooler.client()?;
    holder.query("BEGIN; SELECT pg_advisory_xact_lock(1)")?;
    let mut client = pooler.client()?;
    client.send(&wire::query("COPY t FROM STDIN"))?;
    assert_eq!(client.receive()?.kind, b'G');
    let mut stream = client.stream().try_clone()?;
    let sent = AtomicUsize::new(0);
    std::thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| -> std::io::Result<()> {
            stream.set_write_timeout(Some(LIMIT))?;
            for index in 0..ROWS {
                stream.write_all(&raw::copy_data(line(index).as_bytes()))?;
                sent.fetch_add(1, SeqCst);
            }
            stream.write_all(&raw::copy_done())
        });
        world.wait_for_event("advisory")?;
        settle(|| sent.load(SeqCst) as u64)?;
        let rows = sent.load(SeqCst);
        let grown = pooler.rss()?.saturating_sub(before);
        // Whatever fails here, the writer is not to wait.
        holder.query("COMMIT")?;
        writer.join().expect("does not panic")?;
        ensure!(rows < ROWS, "PostgreSQL did not read, and all was taken");
        ensure!(grown < 16 * MIB, "grew by {grown} bytes");
        Ok(())
    })?;
    assert_eq!(client.until_ready()?.tags(), [format!("COPY {ROWS}")]);

    for (sql, kind) in [
        (
            "SELECT id || E'\\t' || text || E'\\n' FROM t ORDER BY id",
            b'D',
        ),
        ("COPY (SELECT * FROM t ORDER BY id) TO STDOUT", b'd'),
    ] {
        client.send(&wire::query(sql))?;
        world.wait_for_event("ClientWrite")?;
        settle(|| pooler.rss().unwrap_or_default())?;
        let grown = pooler.rss()?.saturating_sub(before);
        ensure!(grown < 16 * MIB, "{sql}: grew by {grown} bytes");
        let outcome = client.until_ready()?;
        let of_kind = |message: &&raw::Received| message.kind == kind;
        let rows: Vec<_> = outcome.messages.iter().filter(of_kind).collect();
        assert_eq!(rows.len(), ROWS, "{sql}");
        for (index, row) in rows.iter().enumerate() {
            // A DataRow begins with the number of columns, and a length.
            let skipped = if kind == b'D' { 6 } else { 0 };
            ensure!(
                row.body[skipped..] == *line(index).as_bytes(),
                "{sql}: {index}"
            );
        }
    }
    Ok(())
}

/// Waits until a count has not grown for a while: what is checked then may only
/// turn out too well, not fail, where the machine was merely slow.
fn settle(count: impl Fn() -> u64) -> Result<()> {
    let (mut seen, mut same) = (count(), 0);
    wait::until_true("it to stand still", LIMIT, || {
        let now = count();
        same = if now == seen { same + 1 } else { 0 };
        seen = now;
        same > 50
    })?;
    Ok(())
}

/// Every kind of traffic, through a relay that cuts it where it likes.
#[test]
fn records_may_be_cut_anywhere() -> Result<()> {
    for seed in seeds() {
        println!("seed {seed}");
        let world = World::new(Deed::Cut(seed))?;
        for protocol in ["tlsv1.2", "tlsv1.3"] {
            let pooler = world
                .pooler()
                .set("server_tls_protocols", protocol)
                .set("default_pool_size", "1")
                .start()?;
            let mut client = pooler.client()?;
            talk(&mut client).with_context(|| format!("seed {seed}, {protocol}"))?;
        }
    }
    Ok(())
}

/// A few that are always the same, and one that never is.
fn seeds() -> [u64; 3] {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
    [1, 20, now.map_or(3, |time| u64::from(time.subsec_nanos()))]
}

fn talk(client: &mut Raw) -> Result<()> {
    client.query("CREATE TEMP TABLE u (text text); BEGIN")?;
    for length in [1, 100, 8_000, 16_383, 16_384, 16_385, 70_000, 1_000_000] {
        let sql = format!("SELECT repeat('x', {length})");
        ensure!(client.value(&sql)? == "x".repeat(length), "{sql}");
        // As long the other way.
        let text = "y".repeat(length);
        let answer = client.value(&format!("SELECT length('{text}')"))?;
        ensure!(answer == length.to_string(), "{length} sent, {answer} came");
        let batch = [
            raw::parse("", "SELECT $1"),
            raw::bind("", "", &[Some(&text)]),
            raw::execute("", 0),
        ];
        ensure!(client.batch(&batch)?.value() == Some(text), "{length}");
    }
    client.send(&wire::query("COPY u FROM STDIN"))?;
    for index in 0..300 {
        client.send(&raw::copy_data(
            format!("{}\n", "z".repeat(index)).as_bytes(),
        ))?;
    }
    client.send(&raw::copy_done())?;
    let copied = client.until_ready()?;
    ensure!(copied.tags() == ["COPY 300"], "{copied:?}");
    let sum = client.value("SELECT sum(length(text)) FROM u")?;
    ensure!(sum == "44850", "{sum}");
    client.query("COMMIT")?;
    Ok(())
}
