//! Every shape of conversation that drivers have with PostgreSQL, through the
//! pooler, in transaction mode unless a test says otherwise.

use anyhow::Result;
use sha2::{Digest, Sha256};
use tests::{
    Pooler, Postgres, Raw, pooler,
    raw::{
        bind, close_statement, copy_data, copy_done, copy_fail, describe_portal,
        describe_statement, execute, flush, function_call, parse, sync,
    },
};

/// A server, and a pooler with one server connection: whatever leaks from one
/// client to the next has nowhere else to go.
fn one_server() -> Result<(Postgres, Pooler)> {
    servers(1)
}

fn servers(count: u32) -> Result<(Postgres, Pooler)> {
    let postgres = Postgres::start()?;
    let pooler = Pooler::in_front_of(&postgres)
        .set("default_pool_size", &count.to_string())
        .start()?;
    Ok((postgres, pooler))
}

#[test]
fn simple_queries_answer_as_postgresql_does() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut client = pooler.client()?;
    let outcome = client.query("SELECT 1 AS one, NULL AS none, 'x' AS text")?;
    assert_eq!(outcome.kinds(), "TDCZ");
    assert_eq!(outcome.columns(), ["one", "none", "text"]);
    assert_eq!(outcome.rows(), [[Some("1".into()), None, Some("x".into())]]);
    assert_eq!(client.query("")?.kinds(), "IZ");
    assert_eq!(client.query("SELECT 1/0")?.code(), "22012");
    assert_eq!(client.value("SELECT 2")?, "2");
    Ok(())
}

#[test]
fn several_statements_in_one_query_stop_at_the_first_error() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut client = pooler.client()?;
    let outcome = client.query("SELECT 1; SELECT 2; SELECT 3")?;
    assert_eq!(outcome.kinds(), "TDCTDCTDCZ");
    let outcome = client.query("CREATE TABLE gone (x int); SELECT 1/0; SELECT 3")?;
    assert_eq!(outcome.kinds(), "CEZ");
    let outcome = client.query("SELECT * FROM gone")?;
    assert_eq!(
        outcome.code(),
        "42P01",
        "the implicit transaction was rolled back"
    );
    Ok(())
}

#[test]
fn a_transaction_keeps_its_server_and_gives_it_back() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut first = pooler.client()?;
    let mut second = pooler.client()?;
    assert_eq!(first.query("BEGIN")?.status, 'T');
    first.query("CREATE TABLE seen (x int)")?;
    // Sent now, answered only when the one server is free.
    second.send(&proxy_core::wire::query("SELECT count(*) FROM seen"))?;
    assert_eq!(first.query("INSERT INTO seen VALUES (1)")?.status, 'T');
    assert_eq!(first.query("COMMIT")?.status, 'I');
    assert_eq!(second.until_ready()?.value().as_deref(), Some("1"));
    Ok(())
}

#[test]
fn a_failed_transaction_stays_failed_until_it_ends() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut client = pooler.client()?;
    client.query("BEGIN")?;
    assert_eq!(client.query("SELECT 1/0")?.status, 'E');
    assert_eq!(client.query("SELECT 1")?.code(), "25P02");
    assert_eq!(client.query("ROLLBACK")?.status, 'I');
    Ok(())
}

#[test]
fn a_client_that_leaves_inside_a_transaction_changes_nothing() -> Result<()> {
    let (postgres, pooler) = one_server()?;
    postgres.sql("shop", "CREATE TABLE t (x int); GRANT ALL ON t TO app")?;
    let mut leaving = pooler.client()?;
    leaving.query("BEGIN")?;
    leaving.query("INSERT INTO t VALUES (1)")?;
    drop(leaving);
    let mut next = pooler.client()?;
    assert_eq!(next.value("SELECT count(*) FROM t")?, "0");
    assert_eq!(
        next.query("SELECT 1")?.status,
        'I',
        "no transaction was inherited"
    );
    Ok(())
}

#[test]
fn extended_queries_answer_as_postgresql_does() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut client = pooler.client()?;
    let outcome = client.batch(&[
        parse("", "SELECT $1::int + 1 AS next"),
        bind("", "", &[Some("41")]),
        describe_portal(""),
        execute("", 0),
    ])?;
    assert_eq!(outcome.kinds(), "12TDCZ");
    assert_eq!(outcome.value().as_deref(), Some("42"));
    Ok(())
}

#[test]
fn an_error_skips_to_the_next_sync() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut client = pooler.client()?;
    let outcome = client.batch(&[
        parse("", "SELECT 1/$1::int"),
        bind("", "", &[Some("0")]),
        execute("", 0),
        parse("", "SELECT 2"),
        bind("", "", &[]),
        execute("", 0),
    ])?;
    // The division is tried as early as at Bind, when the plan is made.
    assert_eq!(outcome.kinds(), "1EZ");
    assert_eq!(outcome.code(), "22012");
    assert_eq!(client.value("SELECT 3")?, "3");
    Ok(())
}

#[test]
fn a_pipeline_of_batches_is_answered_in_order() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut client = pooler.client()?;
    let mut bytes = Vec::new();
    for number in 0..100 {
        bytes.extend(parse("", "SELECT $1::text"));
        bytes.extend(bind("", "", &[Some(&number.to_string())]));
        bytes.extend(execute("", 0));
        bytes.extend(sync());
    }
    client.send(&bytes)?;
    for number in 0..100 {
        let outcome = client.until_ready()?;
        assert_eq!(outcome.kinds(), "12DCZ");
        assert_eq!(outcome.value(), Some(number.to_string()));
    }
    Ok(())
}

/// Errors in the middle of a pipeline belong to their own batch alone.
#[test]
fn a_batch_that_fails_in_a_pipeline_leaves_its_neighbours_alone() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut client = pooler.client()?;
    let mut bytes = Vec::new();
    for divisor in ["1", "0", "1"] {
        bytes.extend(parse("", "SELECT 1/$1::int"));
        bytes.extend(bind("", "", &[Some(divisor)]));
        bytes.extend(execute("", 0));
        bytes.extend(sync());
    }
    client.send(&bytes)?;
    let kinds: Vec<String> = (0..3)
        .map(|_| Ok(client.until_ready()?.kinds()))
        .collect::<Result<_>>()?;
    assert_eq!(kinds, ["12DCZ", "1EZ", "12DCZ"]);
    Ok(())
}

/// asyncpg prepares with Flush and no Sync, reads the answer, then goes on.
#[test]
fn a_batch_that_ends_in_flush_is_answered_and_keeps_its_server() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut client = pooler.client()?;
    client.send(&[parse("", "SELECT $1::int"), describe_statement(""), flush()].concat())?;
    let kinds: Vec<char> = (0..3)
        .map(|_| Ok(char::from(client.receive()?.kind)))
        .collect::<Result<_>>()?;
    assert_eq!(kinds, ['1', 't', 'T']);
    let mut other = pooler.client()?;
    other.send(&proxy_core::wire::query("SELECT 'other'"))?;
    let outcome = client.batch(&[bind("", "", &[Some("7")]), execute("", 0)])?;
    assert_eq!(outcome.kinds(), "2DCZ");
    assert_eq!(outcome.value().as_deref(), Some("7"));
    assert_eq!(other.until_ready()?.value().as_deref(), Some("other"));
    Ok(())
}

#[test]
fn portals_are_read_in_portions_within_a_transaction() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut client = pooler.client()?;
    client.query("BEGIN")?;
    let outcome = client.batch(&[
        parse("", "SELECT generate_series(1, 5)"),
        bind("p", "", &[]),
        execute("p", 2),
    ])?;
    assert_eq!(outcome.kinds(), "12DDsZ");
    assert_eq!(client.batch(&[execute("p", 2)])?.kinds(), "DDsZ");
    assert_eq!(client.batch(&[execute("p", 2)])?.kinds(), "DCZ");
    client.query("COMMIT")?;
    Ok(())
}

#[test]
fn copy_out_and_in_by_simple_query() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut client = pooler.client()?;
    let outcome = client.query("COPY (SELECT generate_series(1, 3)) TO STDOUT")?;
    assert_eq!(outcome.kinds(), "HdddcCZ");
    client.query("CREATE TABLE copied (x int)")?;
    client.send(&proxy_core::wire::query("COPY copied FROM STDIN"))?;
    assert_eq!(client.receive()?.kind, b'G');
    for chunk in ["1\n2", "\n3\n"] {
        client.send(&copy_data(chunk.as_bytes()))?;
    }
    client.send(&copy_done())?;
    let outcome = client.until_ready()?;
    assert_eq!(outcome.tags(), ["COPY 3"]);
    assert_eq!(client.value("SELECT sum(x) FROM copied")?, "6");
    Ok(())
}

#[test]
fn a_failed_copy_in_leaves_the_session_usable() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut client = pooler.client()?;
    client.query("CREATE TABLE copied (x int)")?;
    client.send(&proxy_core::wire::query("COPY copied FROM STDIN"))?;
    assert_eq!(client.receive()?.kind, b'G');
    client.send(&copy_fail("changed my mind"))?;
    assert_eq!(client.until_ready()?.code(), "57014");
    // The server notices bad data while more is on its way; what is late is dropped.
    client.send(&proxy_core::wire::query("COPY copied FROM STDIN"))?;
    assert_eq!(client.receive()?.kind, b'G');
    client.send(&copy_data(b"not a number\n"))?;
    assert_eq!(client.receive()?.kind, b'E');
    client.send(&copy_data(b"1\n"))?;
    client.send(&copy_done())?;
    assert_eq!(client.until_ready()?.kinds(), "Z");
    assert_eq!(client.value("SELECT count(*) FROM copied")?, "0");
    Ok(())
}

/// While copying in, Sync is ignored; the one after CopyDone ends the batch.
#[test]
fn copy_in_by_extended_query() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut client = pooler.client()?;
    client.query("CREATE TABLE copied (x int)")?;
    let start = [
        parse("", "COPY copied FROM STDIN"),
        bind("", "", &[]),
        execute("", 0),
    ]
    .concat();
    client.send(&[start, sync()].concat())?;
    let kinds: Vec<char> = (0..3)
        .map(|_| Ok(char::from(client.receive()?.kind)))
        .collect::<Result<_>>()?;
    assert_eq!(kinds, ['1', '2', 'G']);
    client.send(&[copy_data(b"5\n6\n"), copy_done(), sync()].concat())?;
    let outcome = client.until_ready()?;
    assert_eq!(outcome.kinds(), "CZ");
    assert_eq!(client.value("SELECT sum(x) FROM copied")?, "11");
    Ok(())
}

#[test]
fn a_large_copy_in_arrives_whole() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut client = pooler.client()?;
    client.query("CREATE TABLE copied (x int, filler text)")?;
    client.send(&proxy_core::wire::query("COPY copied FROM STDIN"))?;
    assert_eq!(client.receive()?.kind, b'G');
    let filler = "f".repeat(1000);
    for block in 0..100 {
        let lines: String = (0..100)
            .map(|line| format!("{}\t{filler}\n", block * 100 + line))
            .collect();
        client.send(&copy_data(lines.as_bytes()))?;
    }
    client.send(&copy_done())?;
    assert_eq!(client.until_ready()?.tags(), ["COPY 10000"]);
    let sums = client.value("SELECT sum(x) || ' ' || sum(length(filler)) FROM copied")?;
    assert_eq!(sums, "49995000 10000000");
    Ok(())
}

/// The same bytes as straight from PostgreSQL, whatever they were cut into.
#[test]
fn big_results_arrive_unchanged() -> Result<()> {
    let (postgres, pooler) = one_server()?;
    let sql = "SELECT n, md5(n::text), repeat(md5(n::text), 30) FROM generate_series(1, 20000) n";
    let hash = |client: &mut Raw| -> Result<(usize, String)> {
        client.send(&proxy_core::wire::query(sql))?;
        let (mut hasher, mut length) = (Sha256::new(), 0);
        loop {
            let message = client.receive()?;
            hasher.update([message.kind]);
            hasher.update(&message.body);
            length += message.body.len();
            if message.kind == b'Z' {
                let digest = hasher.finalize();
                return Ok((
                    length,
                    digest.iter().map(|byte| format!("{byte:02x}")).collect(),
                ));
            }
        }
    };
    // Straight to PostgreSQL as somebody who needs no password there.
    postgres.sql("shop", "CREATE ROLE trusted LOGIN")?;
    let data = postgres.sql("shop", "SHOW hba_file")?;
    let hba = std::fs::read_to_string(&data)?;
    std::fs::write(&data, format!("host all trusted 127.0.0.1/32 trust\n{hba}"))?;
    postgres.sql("shop", "SELECT pg_reload_conf()")?;
    let mut direct = tests::wait::until(
        "PostgreSQL to trust",
        std::time::Duration::from_secs(5),
        || Raw::connect(postgres.address(), "trusted", "shop").map_err(|error| error.to_string()),
    )?;
    let expected = hash(&mut direct)?;
    assert!(expected.0 > 19_000_000, "{} bytes", expected.0);
    let mut client = pooler.client()?;
    assert_eq!(hash(&mut client)?, expected);
    assert_eq!(hash(&mut client)?, expected);
    Ok(())
}

/// A message far larger than any buffer, towards the server.
#[test]
fn a_big_query_arrives_unchanged() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut client = pooler.client()?;
    let text = "abcdefghij".repeat(500_000);
    let digest: String = Sha256::digest(&text)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let outcome = client.batch(&[
        parse("", "SELECT encode(sha256($1::text::bytea), 'hex')"),
        bind("", "", &[Some(&text)]),
        execute("", 0),
    ])?;
    assert_eq!(outcome.value(), Some(digest));
    Ok(())
}

/// pgjdbc's large objects.
#[test]
fn function_calls_pass() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut client = pooler.client()?;
    let oid: u32 = client
        .value("SELECT 'pg_catalog.int4pl(int,int)'::regprocedure::oid")?
        .parse()?;
    client.send(&function_call(oid, &[Some("40"), Some("2")]))?;
    let outcome = client.until_ready()?;
    assert_eq!(outcome.kinds(), "VZ");
    assert_eq!(outcome.messages[0].body, b"\0\0\0\x0242");
    assert_eq!(client.value("SELECT 1")?, "1");
    Ok(())
}

#[test]
fn notices_reach_the_client_they_are_for() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut client = pooler.client()?;
    client.send(&proxy_core::wire::query(
        "DO $$ BEGIN RAISE NOTICE 'mind the gap'; END $$",
    ))?;
    let notice = client.receive()?;
    assert_eq!(notice.kind, b'N');
    assert!(String::from_utf8_lossy(&notice.body).contains("mind the gap"));
    client.until_ready()?;
    Ok(())
}

/// Named statements belong to a client, whichever server it gets.
mod prepared {
    use super::*;

    /// Debian's PgBouncer 1.18 does not track statements.
    fn original_cannot() -> bool {
        pooler::is_original()
    }

    /// Holds `count` servers of the pool, so that the next client gets another.
    fn hold(pooler: &Pooler, count: usize) -> Result<Vec<Raw>> {
        (0..count)
            .map(|_| {
                let mut holder = pooler.client()?;
                holder.query("BEGIN")?;
                Ok(holder)
            })
            .collect()
    }

    fn backend(client: &mut Raw) -> Result<String> {
        client.value("SELECT pg_backend_pid()")
    }

    #[test]
    fn a_statement_follows_its_client_to_another_server() -> Result<()> {
        if original_cannot() {
            return Ok(());
        }
        let (_postgres, pooler) = servers(2)?;
        let mut client = pooler.client()?;
        let outcome = client.batch(&[parse("s", "SELECT $1::int, pg_backend_pid()")])?;
        assert_eq!(outcome.kinds(), "1Z");
        let mut seen = Vec::new();
        for round in 0..2 {
            // The first round holds a server, so that the second is opened;
            // then the other way round.
            let run = [bind("", "s", &[Some("5")]), execute("", 0)];
            let outcome = client.batch(&run)?;
            assert_eq!(outcome.kinds(), "2DCZ", "round {round}");
            let row = outcome.rows().remove(0);
            assert_eq!(row[0].as_deref(), Some("5"));
            let pid = row[1].clone().unwrap();
            seen.push(pid.clone());
            // Takes the server that the client just used.
            let mut holder = pooler.client()?;
            holder.query("BEGIN")?;
            if backend(&mut holder)? == pid {
                let outcome = client.batch(&run)?;
                assert_eq!(outcome.kinds(), "2DCZ");
                seen.push(outcome.rows()[0][1].clone().unwrap());
            }
            holder.query("COMMIT")?;
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 2, "two servers ran it: {seen:?}");
        Ok(())
    }

    #[test]
    fn clients_may_use_the_same_name_for_different_statements() -> Result<()> {
        if original_cannot() {
            return Ok(());
        }
        let (_postgres, pooler) = one_server()?;
        let mut clients = Vec::new();
        for number in 0..10 {
            let mut client = pooler.client()?;
            let outcome = client.batch(&[parse("s", &format!("SELECT {number}, $1::text"))])?;
            assert_eq!(outcome.kinds(), "1Z");
            clients.push(client);
        }
        for round in 0..3 {
            for (number, client) in clients.iter_mut().enumerate() {
                let text = format!("round {round}");
                let outcome = client.batch(&[bind("", "s", &[Some(&text)]), execute("", 0)])?;
                assert_eq!(
                    outcome.rows(),
                    [[Some(number.to_string()), Some(text.clone())]]
                );
            }
        }
        Ok(())
    }

    #[test]
    fn describe_tells_types_on_any_server() -> Result<()> {
        if original_cannot() {
            return Ok(());
        }
        let (_postgres, pooler) = servers(2)?;
        let mut client = pooler.client()?;
        client.batch(&[parse("s", "SELECT $1::int AS a, $2::text AS b")])?;
        let _held = hold(&pooler, 1)?;
        let outcome = client.batch(&[describe_statement("s")])?;
        assert_eq!(outcome.kinds(), "tTZ");
        assert_eq!(outcome.columns(), ["a", "b"]);
        assert_eq!(outcome.column_types(), [23, 25]);
        Ok(())
    }

    #[test]
    fn a_client_has_ten_thousand_names_at_most() -> Result<()> {
        if original_cannot() {
            return Ok(());
        }
        let (_postgres, pooler) = one_server()?;
        let mut client = pooler.client()?;
        let names: Vec<_> = (0..10_000)
            .map(|number| parse(&format!("s{number}"), "SELECT 1"))
            .collect();
        assert_eq!(client.batch(&names)?.code(), "");
        let one_more = parse("one more", "SELECT 1");
        assert_eq!(
            client.batch(std::slice::from_ref(&one_more))?.code(),
            "53400"
        );
        let outcome = client.batch(&[close_statement("s0"), one_more])?;
        assert_eq!(outcome.kinds(), "31Z");
        Ok(())
    }

    #[test]
    fn a_name_is_taken_until_it_is_closed() -> Result<()> {
        if original_cannot() {
            return Ok(());
        }
        let (_postgres, pooler) = one_server()?;
        let mut client = pooler.client()?;
        client.batch(&[parse("s", "SELECT 1")])?;
        assert_eq!(client.batch(&[parse("s", "SELECT 2")])?.code(), "42P05");
        assert_eq!(client.batch(&[close_statement("s")])?.kinds(), "3Z");
        assert_eq!(client.batch(&[parse("s", "SELECT 3")])?.kinds(), "1Z");
        let outcome = client.batch(&[bind("", "s", &[]), execute("", 0)])?;
        assert_eq!(outcome.value().as_deref(), Some("3"));
        assert_eq!(client.batch(&[close_statement("never was")])?.kinds(), "3Z");
        Ok(())
    }

    #[test]
    fn a_missing_statement_is_26000() -> Result<()> {
        if original_cannot() {
            return Ok(());
        }
        let (_postgres, pooler) = one_server()?;
        let mut other = pooler.client()?;
        other.batch(&[parse("theirs", "SELECT 1")])?;
        let mut client = pooler.client()?;
        let outcome = client.batch(&[bind("", "theirs", &[]), execute("", 0)])?;
        assert_eq!(outcome.code(), "26000");
        assert_eq!(client.batch(&[describe_statement("none")])?.code(), "26000");
        assert_eq!(client.value("SELECT 1")?, "1", "the session goes on");
        Ok(())
    }

    /// A Parse that fails must not be remembered as done, by anybody.
    #[test]
    fn a_parse_that_failed_can_be_repeated() -> Result<()> {
        if original_cannot() {
            return Ok(());
        }
        let (postgres, pooler) = one_server()?;
        let mut client = pooler.client()?;
        let mut other = pooler.client()?;
        for session in [&mut client, &mut other] {
            let outcome = session.batch(&[parse("s", "SELECT x FROM later")])?;
            assert_eq!(outcome.code(), "42P01");
            let outcome = session.batch(&[bind("", "s", &[]), execute("", 0)])?;
            assert_eq!(outcome.code(), "26000");
        }
        postgres.sql(
            "shop",
            "CREATE TABLE later AS SELECT 9 AS x; GRANT ALL ON later TO app",
        )?;
        for session in [&mut client, &mut other] {
            assert_eq!(
                session.batch(&[parse("s", "SELECT x FROM later")])?.kinds(),
                "1Z"
            );
            let outcome = session.batch(&[bind("", "s", &[]), execute("", 0)])?;
            assert_eq!(outcome.value().as_deref(), Some("9"));
        }
        Ok(())
    }

    /// A Parse behind an error in its batch is never run.
    #[test]
    fn a_parse_that_was_skipped_is_not_there() -> Result<()> {
        if original_cannot() {
            return Ok(());
        }
        let (_postgres, pooler) = one_server()?;
        let mut client = pooler.client()?;
        let outcome = client.batch(&[
            parse("", "SELECT 1/0"),
            bind("", "", &[]),
            execute("", 0),
            parse("skipped", "SELECT 1"),
        ])?;
        assert_eq!(outcome.code(), "22012");
        let outcome = client.batch(&[bind("", "skipped", &[]), execute("", 0)])?;
        assert_eq!(outcome.code(), "26000");
        assert_eq!(client.batch(&[parse("skipped", "SELECT 4")])?.kinds(), "1Z");
        let outcome = client.batch(&[bind("", "skipped", &[]), execute("", 0)])?;
        assert_eq!(outcome.value().as_deref(), Some("4"));
        Ok(())
    }

    #[test]
    fn more_statements_than_a_server_keeps() -> Result<()> {
        if original_cannot() {
            return Ok(());
        }
        let postgres = Postgres::start()?;
        let pooler = Pooler::in_front_of(&postgres)
            .set("default_pool_size", "1")
            .set("max_prepared_statements", "5")
            .start()?;
        let mut client = pooler.client()?;
        for number in 0..20 {
            client.batch(&[parse(&format!("s{number}"), &format!("SELECT {number}"))])?;
        }
        // In one batch too: what is bound must not be evicted under its Bind.
        let batch: Vec<Vec<u8>> = (0..20)
            .flat_map(|number| [bind("", &format!("s{number}"), &[]), execute("", 0)])
            .collect();
        let outcome = client.batch(&batch)?;
        let values: Vec<String> = outcome
            .rows()
            .into_iter()
            .filter_map(|row| row[0].clone())
            .collect();
        let expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        assert_eq!(values, expected);
        Ok(())
    }

    #[test]
    fn discard_all_and_deallocate_all_forget_them() -> Result<()> {
        if original_cannot() {
            return Ok(());
        }
        let (_postgres, pooler) = one_server()?;
        for forget in ["DISCARD ALL", "DEALLOCATE ALL"] {
            let mut client = pooler.client()?;
            client.batch(&[parse("s", "SELECT 1")])?;
            assert_eq!(client.query(forget)?.code(), "");
            let outcome = client.batch(&[bind("", "s", &[]), execute("", 0)])?;
            assert_eq!(outcome.code(), "26000", "after {forget}");
            // And everybody else's are still what they were.
            assert_eq!(client.batch(&[parse("s", "SELECT 2")])?.kinds(), "1Z");
            let outcome = client.batch(&[bind("", "s", &[]), execute("", 0)])?;
            assert_eq!(outcome.value().as_deref(), Some("2"));
        }
        Ok(())
    }

    #[test]
    fn one_client_forgetting_does_not_touch_another() -> Result<()> {
        if original_cannot() {
            return Ok(());
        }
        let (_postgres, pooler) = one_server()?;
        let mut client = pooler.client()?;
        let mut other = pooler.client()?;
        client.batch(&[parse("s", "SELECT 1")])?;
        other.batch(&[parse("s", "SELECT 1")])?;
        other.query("DISCARD ALL")?;
        let outcome = client.batch(&[bind("", "s", &[]), execute("", 0)])?;
        assert_eq!(outcome.value().as_deref(), Some("1"));
        Ok(())
    }

    /// Its definition is kept for other servers, so that it is refused by its
    /// length before any of it is held, and what comes of it is dropped.
    #[test]
    fn a_named_statement_is_no_longer_than_it_may_be() -> Result<()> {
        let (_postgres, pooler) = one_server()?;
        let mut client = pooler.client()?;
        let around = parse("s", "").len();
        let longest = 16 * 1024 * 1024 - around;
        let sql = format!("SELECT 1 --{}", "x".repeat(longest - 11));
        assert_eq!(client.batch(&[parse("s", &sql)])?.kinds(), "1Z");
        let outcome = client.batch(&[parse("t", &format!("{sql}x"))])?;
        assert_eq!(outcome.code(), "54000");
        assert_eq!(client.value("SELECT 2")?, "2", "the session goes on");
        let outcome = client.batch(&[bind("", "s", &[]), execute("", 0)])?;
        assert_eq!(outcome.value().as_deref(), Some("1"));
        Ok(())
    }

    /// Drivers that ask for a statement's parameters before they bind them
    /// (pg8000, lib/pq, pgx in describe mode) send two batches.
    #[test]
    fn a_statement_without_a_name_follows_its_client() -> Result<()> {
        let (_postgres, pooler) = servers(2)?;
        let mut client = pooler.client()?;
        let described = client.batch(&[parse("", "SELECT 7"), describe_statement("")])?;
        assert_eq!(described.kinds(), "1tTZ");
        // The server that parsed it has another client now.
        let mut other = pooler.client()?;
        other.query("BEGIN")?;
        other.batch(&[parse("", "SELECT 'not yours'"), describe_statement("")])?;
        let mut third = pooler.client()?;
        third.query("BEGIN")?;
        third.batch(&[parse("", "SELECT 'nor this'"), describe_statement("")])?;
        other.query("COMMIT")?;
        for _ in 0..3 {
            let outcome = client.batch(&[bind("", "", &[]), execute("", 0)])?;
            assert_eq!(outcome.value().as_deref(), Some("7"));
        }
        Ok(())
    }

    /// Where a server still holds the text as it was understood before a column
    /// changed its type, a value of the new type must not be read as one of the old.
    #[test]
    fn a_statement_without_a_name_is_of_the_types_that_were_described() -> Result<()> {
        let (postgres, pooler) = servers(1)?;
        postgres.sql(
            "shop",
            "CREATE TABLE changes (v int8); ALTER TABLE changes OWNER TO app",
        )?;
        let insert = "INSERT INTO changes VALUES ($1)";
        let mut other = pooler.client()?;
        other.batch(&[
            parse("s", insert),
            bind("", "s", &[Some("1")]),
            execute("", 0),
        ])?;
        other.query("ALTER TABLE changes ALTER v TYPE float8")?;
        let mut client = pooler.client()?;
        let described = client.batch(&[parse("", insert), describe_statement("")])?;
        assert_eq!(described.kinds(), "1tnZ");
        let outcome = client.batch(&[bind("", "", &[Some("1.5")]), execute("", 0)])?;
        assert_eq!(outcome.kinds(), "2CZ");
        assert_eq!(client.value("SELECT max(v) FROM changes")?, "1.5");
        Ok(())
    }

    /// The unnamed statement lives until the next Parse of it or simple query,
    /// here within one transaction.
    #[test]
    fn the_unnamed_statement_stays_within_a_transaction() -> Result<()> {
        let (_postgres, pooler) = one_server()?;
        let mut client = pooler.client()?;
        client.query("BEGIN")?;
        client.batch(&[parse("", "SELECT 6")])?;
        let outcome = client.batch(&[bind("", "", &[]), execute("", 0)])?;
        assert_eq!(outcome.value().as_deref(), Some("6"));
        client.query("COMMIT")?;
        Ok(())
    }
}

/// Parameters that PgBouncer tracks follow the client.
mod parameters {
    use super::*;

    #[test]
    fn start_up_values_follow_the_client() -> Result<()> {
        let (_postgres, pooler) = one_server()?;
        let connect = |name: &str, zone: &str, style: &str| {
            Raw::connect_with(
                pooler.address(),
                &[
                    ("user", "app"),
                    ("database", "shop"),
                    ("application_name", name),
                    ("TimeZone", zone),
                    ("DateStyle", style),
                    ("client_encoding", "UTF8"),
                ],
            )
        };
        let mut first = connect("first", "America/New_York", "ISO, DMY")?;
        let mut second = connect("second", "Asia/Tokyo", "ISO, MDY")?;
        for _ in 0..3 {
            for (client, name, zone, style) in [
                (&mut first, "first", "America/New_York", "ISO, DMY"),
                (&mut second, "second", "Asia/Tokyo", "ISO, MDY"),
            ] {
                assert_eq!(client.value("SHOW application_name")?, name);
                assert_eq!(client.value("SHOW TimeZone")?, zone);
                assert_eq!(client.value("SHOW DateStyle")?, style);
            }
        }
        Ok(())
    }

    #[test]
    fn set_values_follow_the_client_and_do_not_leak() -> Result<()> {
        let (_postgres, pooler) = one_server()?;
        let mut first = pooler.client()?;
        let mut second = pooler.client()?;
        first.query("SET application_name TO 'changed'")?;
        first.query("SET client_encoding TO 'LATIN1'")?;
        first.query("SET TimeZone TO 'Asia/Tokyo'")?;
        assert_eq!(first.parameters["application_name"], "changed");
        assert_eq!(first.parameters["client_encoding"], "LATIN1");
        assert_eq!(second.value("SHOW client_encoding")?, "UTF8");
        assert_ne!(second.value("SHOW TimeZone")?, "Asia/Tokyo");
        if !pooler::is_original() {
            // PgBouncer leaves the server's name to a client that has none.
            assert_ne!(second.value("SHOW application_name")?, "changed");
        }
        assert_eq!(first.value("SHOW application_name")?, "changed");
        assert_eq!(first.value("SHOW client_encoding")?, "LATIN1");
        assert_eq!(first.value("SHOW TimeZone")?, "Asia/Tokyo");
        Ok(())
    }

    #[test]
    fn start_up_reports_what_drivers_expect() -> Result<()> {
        let (_postgres, pooler) = one_server()?;
        let client = pooler.client()?;
        for name in [
            "server_version",
            "server_encoding",
            "client_encoding",
            "DateStyle",
            "TimeZone",
            "integer_datetimes",
            "standard_conforming_strings",
        ] {
            assert!(client.parameters.contains_key(name), "{name} is missing");
        }
        assert_eq!(client.key.len(), 8);
        Ok(())
    }

    #[test]
    fn an_unknown_start_up_parameter_is_refused_by_name_unless_ignored() -> Result<()> {
        let postgres = Postgres::start()?;
        let pooler = Pooler::in_front_of(&postgres)
            .set("ignore_startup_parameters", "extra_float_digits")
            .start()?;
        let connect = |name, value| {
            Raw::connect_with(
                pooler.address(),
                &[("user", "app"), ("database", "shop"), (name, value)],
            )
        };
        connect("extra_float_digits", "3")?.value("SELECT 1")?;
        let refused = connect("statement_timeout", "5s").unwrap_err();
        assert!(
            refused.to_string().contains("statement_timeout"),
            "{refused:#}"
        );
        Ok(())
    }
}

/// The two other pool modes.
mod modes {
    use super::*;

    fn in_mode(mode: &str) -> Result<(Postgres, Pooler)> {
        let postgres = Postgres::start()?;
        let pooler = Pooler::in_front_of(&postgres)
            .set("pool_mode", mode)
            .set("default_pool_size", "2")
            .start()?;
        Ok((postgres, pooler))
    }

    #[test]
    fn a_session_keeps_its_server_until_it_ends() -> Result<()> {
        let (_postgres, pooler) = in_mode("session")?;
        let mut first = pooler.client()?;
        let mut second = pooler.client()?;
        let pid = first.value("SELECT pg_backend_pid()")?;
        assert_ne!(second.value("SELECT pg_backend_pid()")?, pid);
        first.query("CREATE TEMP TABLE mine (x int)")?;
        first.query("SET search_path TO pg_temp")?;
        assert_eq!(first.value("SELECT count(*) FROM mine")?, "0");
        drop(first);
        // The server is cleaned by server_reset_query before the next client.
        let mut next = pooler.client()?;
        assert_eq!(next.value("SELECT pg_backend_pid()")?, pid);
        assert_eq!(next.query("SELECT * FROM mine")?.code(), "42P01");
        assert_ne!(next.value("SHOW search_path")?, "pg_temp");
        Ok(())
    }

    #[test]
    fn statement_mode_refuses_transactions() -> Result<()> {
        let (_postgres, pooler) = in_mode("statement")?;
        let mut client = pooler.client()?;
        assert_eq!(client.value("SELECT 1")?, "1");
        let refused = match client.query("BEGIN") {
            Ok(outcome) => outcome.error().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        assert!(refused.is_some(), "BEGIN was let through");
        let mut next = pooler.client()?;
        assert_eq!(next.value("SELECT 2")?, "2");
        Ok(())
    }

    #[test]
    fn listen_works_in_session_mode() -> Result<()> {
        let (postgres, pooler) = in_mode("session")?;
        let mut client = pooler.client()?;
        client.query("LISTEN news")?;
        postgres.sql("shop", "NOTIFY news, 'extra'")?;
        let message = client.receive()?;
        assert_eq!(message.kind, b'A');
        assert!(String::from_utf8_lossy(&message.body).contains("extra"));
        Ok(())
    }
}
