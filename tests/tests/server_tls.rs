//! TLS to PostgreSQL: in every mode, verified or not, renewed without a restart,
//! and whatever goes over it.

#[path = "server_tls/bytes.rs"]
mod bytes;
#[path = "server_tls/relay.rs"]
mod relay;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{Authority, Certificate, Pooler, PoolerBuilder, Postgres, Validity, wait};

const LIMIT: Duration = Duration::from_secs(30);

const NAMES: &str = "DNS:postgres.test,IP:127.0.0.1";

/// What `SHOW SERVERS` says of TLS, for its only server.
fn shown(pooler: &Pooler) -> Result<String> {
    let servers = pooler.console()?.query("SHOW SERVERS")?;
    let columns = servers.columns();
    let tls = columns.iter().position(|name| name == "tls");
    let tls = tls.context("no column tls")?;
    let rows = servers.rows();
    ensure!(rows.len() == 1, "not one server: {rows:?}");
    Ok(rows[0][tls].clone().unwrap_or_default())
}

/// The TLS version of the connection to PostgreSQL, as PostgreSQL sees it; it
/// must be what the console shows. Empty without TLS.
fn version(pooler: &Pooler) -> Result<String> {
    let seen = pooler.psql(
        "",
        "SELECT coalesce(version, '') FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
    )?;
    let shown = shown(pooler)?;
    ensure!(
        seen == shown,
        "PostgreSQL sees {seen:?}, shown is {shown:?}"
    );
    Ok(seen)
}

/// What a client is told that gets no server.
fn refusal(builder: PoolerBuilder) -> Result<String> {
    let pooler = builder.start()?;
    let error = pooler.psql("", "SELECT 1");
    let error = error.err().context("there is a server")?.to_string();
    ensure!(
        error.contains("cannot log in to PostgreSQL"),
        "another error: {error}"
    );
    Ok(error)
}

fn path(file: &Path) -> String {
    file.display().to_string()
}

#[test]
fn every_mode_where_postgresql_insists_on_tls() -> Result<()> {
    let authority = Authority::new()?;
    let certificate = authority.issue("postgres", NAMES, Validity::Today)?;
    let postgres = Postgres::builder()
        .tls(&certificate)
        .hba("hostssl all all 127.0.0.1/32 scram-sha-256")
        .start()?;
    let with = || Pooler::in_front_of(&postgres);
    assert_eq!(version(&with().start()?)?, "TLSv1.3", "by default");
    for mode in ["allow", "prefer", "require"] {
        let pooler = with().set("server_tls_sslmode", mode).start()?;
        assert_eq!(version(&pooler)?, "TLSv1.3", "{mode}");
    }
    for mode in ["verify-ca", "verify-full"] {
        let pooler = with().server_tls(mode, &authority.cert).start()?;
        assert_eq!(version(&pooler)?, "TLSv1.3", "{mode}");
    }
    let pooler = with().set("server_tls_protocols", "tlsv1.2").start()?;
    assert_eq!(version(&pooler)?, "TLSv1.2");
    let error = refusal(with().set("server_tls_sslmode", "disable"))?;
    assert!(error.contains("no encryption"), "{error}");
    Ok(())
}

#[test]
fn a_wrong_certificate_is_refused_and_said_why() -> Result<()> {
    let authority = Authority::new()?;
    let other = Authority::new()?;
    let certificate = authority.issue("postgres", NAMES, Validity::Today)?;
    let postgres = Postgres::builder().tls(&certificate).start()?;
    let with = || Pooler::in_front_of(&postgres);
    let by_name = format!("host=localhost port={} dbname=shop", postgres.port());

    for mode in ["verify-ca", "verify-full"] {
        let error = refusal(with().server_tls(mode, &other.cert))?;
        assert!(
            error.contains("comes from no authority in server_tls_ca_file"),
            "{error}"
        );
    }
    // As PgBouncer, unlike libpq: the file alone makes nothing checked.
    let pooler = with().server_tls("require", &other.cert).start()?;
    assert_eq!(version(&pooler)?, "TLSv1.3");

    let named = || with().database_line("shop", &by_name);
    let error = refusal(named().server_tls("verify-full", &authority.cert))?;
    assert!(error.contains("not for localhost"), "{error}");
    assert!(error.contains("postgres.test"), "{error}");
    let pooler = named().server_tls("verify-ca", &authority.cert).start()?;
    assert_eq!(version(&pooler)?, "TLSv1.3");

    let expired = authority.issue("postgres", NAMES, Validity::Expired)?;
    postgres.change_certificate(&expired)?;
    let error = refusal(with().server_tls("verify-full", &authority.cert))?;
    assert!(error.contains("expired at 2020-02-01T00:00:00Z"), "{error}");

    // Not issued by anybody, but trusted by name.
    let own = Certificate::new()?;
    postgres.change_certificate(&own)?;
    let pooler = with().server_tls("verify-full", &own.cert).start()?;
    assert_eq!(version(&pooler)?, "TLSv1.3");
    Ok(())
}

#[test]
fn where_postgresql_has_no_tls() -> Result<()> {
    let postgres = Postgres::start()?;
    let with = || Pooler::in_front_of(&postgres);
    assert_eq!(version(&with().start()?)?, "", "by default");
    for mode in ["disable", "allow", "prefer"] {
        let pooler = with().set("server_tls_sslmode", mode).start()?;
        assert_eq!(version(&pooler)?, "", "{mode}");
    }
    let authority = Authority::new()?;
    for mode in ["require", "verify-ca", "verify-full"] {
        let error = refusal(with().server_tls(mode, &authority.cert))?;
        assert!(error.contains("it has no TLS"), "{mode}: {error}");
    }
    Ok(())
}

#[test]
fn postgresql_asks_for_a_client_certificate() -> Result<()> {
    let authority = Authority::new()?;
    let certificate = authority.issue("postgres", NAMES, Validity::Today)?;
    let postgres = Postgres::builder()
        .tls(&certificate)
        .set("ssl_ca_file", &path(&authority.cert))
        .hba("hostssl all all 127.0.0.1/32 cert")
        .start()?;
    let with = || Pooler::in_front_of(&postgres);
    let showing = |certificate: &Certificate| {
        with()
            .set("server_tls_cert_file", &path(&certificate.cert))
            .set("server_tls_key_file", &path(&certificate.key))
    };
    let good = authority.issue("app", "DNS:pooler.test", Validity::Today)?;
    for protocol in ["tlsv1.2", "tlsv1.3"] {
        let pooler = showing(&good).set("server_tls_protocols", protocol);
        assert!(version(&pooler.start()?)?.eq_ignore_ascii_case(protocol));
    }
    let error = refusal(with())?;
    assert!(error.contains("valid client certificate"), "{error}");
    let stranger = Authority::new()?.issue("app", "DNS:pooler.test", Validity::Today)?;
    let error = refusal(showing(&stranger))?;
    assert!(error.contains("server_tls_cert_file"), "{error}");
    Ok(())
}

/// The authority is renewed: servers opened under the old one are replaced.
#[test]
fn a_renewed_authority_is_reloaded() -> Result<()> {
    let authority = Authority::new()?;
    let certificate = authority.issue("postgres", NAMES, Validity::Today)?;
    let postgres = Postgres::builder().tls(&certificate).start()?;
    let trusted = tests::Scratch::new()?;
    let file = trusted.path().join("ca.pem");
    fs::copy(&authority.cert, &file)?;
    let mut pooler = Pooler::in_front_of(&postgres)
        .server_tls("verify-full", &file)
        .start()?;
    let mut client = pooler.client()?;
    let mut busy = pooler.client()?;
    busy.query("BEGIN")?;
    let held = busy.value("SELECT pg_backend_pid()")?;
    let idle = client.value("SELECT pg_backend_pid()")?;
    assert_ne!(held, idle);

    let renewed = Authority::new()?;
    postgres.change_certificate(&renewed.issue("postgres", NAMES, Validity::Today)?)?;
    fs::copy(&renewed.cert, &file)?;
    // The same settings: what a file holds has changed.
    pooler.reload(|builder| builder)?;
    wait::until_true("the idle server to be replaced", LIMIT, || {
        let seen = client.value("SELECT pg_backend_pid()");
        seen.is_ok_and(|pid| pid != idle && pid != held)
    })?;
    assert_eq!(
        busy.value("SELECT pg_backend_pid()")?,
        held,
        "not in a transaction"
    );
    busy.query("COMMIT")?;
    assert_ne!(busy.value("SELECT pg_backend_pid()")?, held);

    // A file that cannot be used changes nothing.
    fs::write(&file, "nothing")?;
    pooler.reload(|builder| builder)?;
    wait::until_true("the reload to fail", LIMIT, || {
        pooler.log().contains("holds no certificate in PEM form")
    })?;
    assert_eq!(client.value("SELECT 1")?, "1");
    Ok(())
}
