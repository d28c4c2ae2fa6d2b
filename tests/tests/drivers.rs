//! A driver as applications use it: tokio-postgres prepares everything under
//! names of its own, pipelines, and speaks the binary formats.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::{SinkExt, StreamExt, future::try_join_all};
use tests::{Balancer, Pooler, Postgres};
use tokio_postgres::{Client, NoTls, error::SqlState};

/// A server, and a pooler with `servers` connections to it.
fn tier(servers: u32) -> Result<(Postgres, Pooler)> {
    let postgres = Postgres::start()?;
    let pooler = Pooler::in_front_of(&postgres)
        .set("auth_type", "scram-sha-256")
        .set("default_pool_size", &servers.to_string())
        .start()?;
    Ok((postgres, pooler))
}

async fn connect(address: std::net::SocketAddr) -> Result<Client> {
    let settings = format!(
        "host={} port={} user=app password=secret dbname=shop application_name=drivers",
        address.ip(),
        address.port()
    );
    let (client, connection) = tokio_postgres::connect(&settings, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

#[tokio::test]
async fn many_clients_with_many_statements_on_few_servers() -> Result<()> {
    let (_postgres, pooler) = tier(3)?;
    let address = pooler.address();
    let clients = (0..40_i64).map(|number| {
        tokio::spawn(async move {
            let client = connect(address).await?;
            // Half of the statements are everybody's, half are this client's alone.
            let shared = client.prepare("SELECT $1::int8 * 2").await?;
            let own = client
                .prepare(&format!("SELECT $1::int8 + {number}"))
                .await?;
            for round in 0..30_i64 {
                let doubled: i64 = client.query_one(&shared, &[&round]).await?.get(0);
                let added: i64 = client.query_one(&own, &[&round]).await?.get(0);
                ensure!(
                    (doubled, added) == (round * 2, round + number),
                    "client {number} got another's answer in round {round}"
                );
            }
            anyhow::Ok(())
        })
    });
    for done in try_join_all(clients).await? {
        done?;
    }
    Ok(())
}

#[tokio::test]
async fn pipelined_queries_come_back_to_who_asked() -> Result<()> {
    let (_postgres, pooler) = tier(2)?;
    let client = Arc::new(connect(pooler.address()).await?);
    let statement = client.prepare("SELECT $1::int4, pg_sleep(0.001)").await?;
    let queries = (0..200).map(|number| {
        let (client, statement) = (Arc::clone(&client), statement.clone());
        async move {
            let row = client.query_one(&statement, &[&number]).await?;
            ensure!(
                row.get::<_, i32>(0) == number,
                "{number} got another's answer"
            );
            Ok(())
        }
    });
    try_join_all(queries).await?;
    Ok(())
}

#[tokio::test]
async fn transactions_commit_and_roll_back() -> Result<()> {
    let (_postgres, pooler) = tier(1)?;
    let mut client = connect(pooler.address()).await?;
    client.batch_execute("CREATE TABLE t (x int8)").await?;
    let transaction = client.transaction().await?;
    transaction
        .execute("INSERT INTO t VALUES ($1)", &[&1_i64])
        .await?;
    transaction.commit().await?;
    let transaction = client.transaction().await?;
    transaction
        .execute("INSERT INTO t VALUES ($1)", &[&2_i64])
        .await?;
    drop(transaction);
    let mut transaction = client.transaction().await?;
    let savepoint = transaction.transaction().await?;
    let error = savepoint
        .execute("SELECT 1/$1::int8", &[&0_i64])
        .await
        .unwrap_err();
    ensure!(
        error.code() == Some(&SqlState::DIVISION_BY_ZERO),
        "{error:?}"
    );
    savepoint.rollback().await?;
    transaction
        .execute("INSERT INTO t VALUES ($1)", &[&4_i64])
        .await?;
    transaction.commit().await?;
    let sum: i64 = client
        .query_one("SELECT sum(x)::int8 FROM t", &[])
        .await?
        .get(0);
    ensure!(sum == 5, "{sum}");
    Ok(())
}

#[tokio::test]
async fn copy_both_ways() -> Result<()> {
    let (_postgres, pooler) = tier(1)?;
    let client = connect(pooler.address()).await?;
    client
        .batch_execute("CREATE TABLE copied (x int8, y text)")
        .await?;
    let sink = client.copy_in("COPY copied FROM STDIN").await?;
    let mut sink = std::pin::pin!(sink);
    let mut expected = String::new();
    for number in 0..5000 {
        let line = format!("{number}\trow {number}\n");
        expected.push_str(&line);
        sink.send(std::io::Cursor::new(line.into_bytes())).await?;
    }
    let rows = sink.finish().await?;
    ensure!(rows == 5000, "{rows} rows");
    let stream = client
        .copy_out("COPY (SELECT * FROM copied ORDER BY x) TO STDOUT")
        .await?;
    let mut stream = std::pin::pin!(stream);
    let mut received = Vec::new();
    while let Some(chunk) = stream.next().await {
        received.extend_from_slice(&chunk?);
    }
    ensure!(
        received == expected.as_bytes(),
        "{} bytes came back",
        received.len()
    );
    Ok(())
}

#[tokio::test]
async fn a_cancel_token_ends_its_query_through_a_balancer() -> Result<()> {
    let (_postgres, pooler) = tier(2)?;
    let balancer = Balancer::builder()
        .poolers(std::slice::from_ref(&pooler))
        .start()?;
    let client = connect(balancer.address()).await?;
    let token = client.cancel_token();
    let sleeping = client.batch_execute("SELECT pg_sleep(30)");
    let cancelling = async {
        // Again until it hits: the query may not have begun when the first comes.
        loop {
            token.cancel_query(NoTls).await?;
            tokio::task::yield_now().await;
            if client.is_closed() {
                return anyhow::Ok(());
            }
        }
    };
    let limit = tokio::time::timeout(Duration::from_secs(10), async {
        tokio::select! {
            ended = sleeping => ended.map_err(|error| error.code().cloned()),
            _ = cancelling => Err(None),
        }
    });
    let ended = limit.await.context("it was not cancelled")?;
    ensure!(ended == Err(Some(SqlState::QUERY_CANCELED)), "{ended:?}");
    // The driver does not wait for a cancel to be dealt with: one more may
    // still hit what this client does next.
    for _ in 0..10 {
        match client.simple_query("SELECT 1").await {
            Ok(_) => return Ok(()),
            Err(error) => ensure!(error.code() == Some(&SqlState::QUERY_CANCELED), "{error}"),
        }
    }
    anyhow::bail!("the session is of no more use")
}

#[tokio::test]
async fn binary_values_arrive_unchanged() -> Result<()> {
    let (_postgres, pooler) = tier(1)?;
    let client = connect(pooler.address()).await?;
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let texts = vec!["a", "ä", "", "\\N", "tab\tline\n"];
    let row = client
        .query_one(
            "SELECT $1::bytea, $2::text[], $3::float8, $4::int8[], NULL::text",
            &[
                &bytes,
                &texts,
                &f64::MIN_POSITIVE,
                &vec![i64::MIN, 0, i64::MAX],
            ],
        )
        .await?;
    ensure!(row.get::<_, Vec<u8>>(0) == bytes);
    ensure!(row.get::<_, Vec<String>>(1) == texts);
    ensure!(row.get::<_, f64>(2) == f64::MIN_POSITIVE);
    ensure!(row.get::<_, Vec<i64>>(3) == [i64::MIN, 0, i64::MAX]);
    ensure!(row.get::<_, Option<String>>(4).is_none());
    Ok(())
}

/// Rows are fetched by portal in portions, within a transaction, while others
/// use the other servers.
#[tokio::test]
async fn a_portal_is_read_in_portions() -> Result<()> {
    let (_postgres, pooler) = tier(2)?;
    let mut client = connect(pooler.address()).await?;
    let other = connect(pooler.address()).await?;
    let transaction = client.transaction().await?;
    let portal = transaction
        .bind("SELECT generate_series(1, 1000)::int8", &[])
        .await?;
    let mut counts = BTreeMap::new();
    loop {
        let rows = transaction.query_portal(&portal, 300).await?;
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            *counts.entry(row.get::<_, i64>(0)).or_insert(0) += 1;
        }
        other.query_one("SELECT 1", &[]).await?;
    }
    transaction.commit().await?;
    ensure!(counts.len() == 1000 && counts.values().all(|count| *count == 1));
    Ok(())
}
