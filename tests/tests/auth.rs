//! Who gets in: every kind of client authentication, with every kind of secret
//! kept in userlist.txt, in front of every kind of PostgreSQL.

use anyhow::{Result, ensure};
use proxy_core::wire;
use tests::{Pooler, Postgres, Raw, pooler, raw};

const PASSWORD: &str = "secret";

/// The secret that PostgreSQL itself keeps for `app`.
fn kept_by(postgres: &Postgres) -> Result<String> {
    postgres.sql(
        "postgres",
        "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'",
    )
}

/// Whether `app` gets in with `password`, and what it is told if not.
fn log_in(pooler: &Pooler, password: &str) -> Result<String> {
    pooler.psql(&format!("password={password}"), "SELECT current_user")
}

#[test]
fn clients_by_every_method_with_every_secret_that_fits() -> Result<()> {
    for server_auth in ["md5", "scram-sha-256"] {
        let postgres = Postgres::builder().auth(server_auth).start()?;
        let kept = kept_by(&postgres)?;
        let fits = if server_auth == "md5" { "md5" } else { "SCRAM" };
        ensure!(kept.starts_with(fits), "PostgreSQL keeps another kind");
        for (client_auth, secret) in [
            ("trust", PASSWORD),
            ("md5", PASSWORD),
            ("scram-sha-256", PASSWORD),
            // The hash alone is enough for md5 on both sides, and the verifier
            // for SCRAM, because the client's own proof gives the key.
            (
                if server_auth == "md5" {
                    "md5"
                } else {
                    "scram-sha-256"
                },
                kept.as_str(),
            ),
        ] {
            let pooler = Pooler::builder()
                .database("shop", &postgres)
                .user("app", secret)
                .set("auth_type", client_auth)
                .start()?;
            let what = format!(
                "client {client_auth}, secret {}, server {server_auth}",
                &secret[..5]
            );
            let user = log_in(&pooler, PASSWORD);
            assert_eq!(
                user.map_err(|error| format!("{what}: {error}")),
                Ok("app".to_owned())
            );
            if client_auth != "trust" {
                let refused = log_in(&pooler, "wrong").expect_err(&what).to_string();
                assert!(
                    refused.contains("password authentication failed")
                        || refused.contains("SASL authentication failed"),
                    "{what}: {refused}"
                );
            }
        }
    }
    Ok(())
}

/// Whoever asks for md5 takes SCRAM from a client whose secret is a verifier,
/// as PostgreSQL does.
#[test]
fn md5_means_scram_where_only_a_verifier_is_known() -> Result<()> {
    let postgres = Postgres::start()?;
    let pooler = Pooler::builder()
        .database("shop", &postgres)
        .user("app", &kept_by(&postgres)?)
        .set("auth_type", "md5")
        .start()?;
    assert_eq!(log_in(&pooler, PASSWORD)?, "app");
    assert!(log_in(&pooler, "wrong").is_err());
    Ok(())
}

/// Or the question would tell who is listed.
#[test]
fn who_is_not_listed_is_asked_as_who_is() -> Result<()> {
    if pooler::is_original() {
        return Ok(());
    }
    let postgres = Postgres::start()?;
    let pooler = Pooler::builder()
        .database("shop", &postgres)
        .user("app", &kept_by(&postgres)?)
        .set("auth_type", "md5")
        .start()?;
    let mut questions = Vec::new();
    for user in ["app", "nobody"] {
        let mut client = Raw::open(pooler.address())?;
        client.send(&wire::startup(&[("user", user), ("database", "shop")]))?;
        questions.push(client.receive()?.body);
    }
    ensure!(questions[0] == questions[1], "{questions:?}");
    Ok(())
}

/// The SCRAM keys that one login gave open further servers by themselves.
#[test]
fn a_verifier_alone_opens_many_servers() -> Result<()> {
    let postgres = Postgres::start()?;
    let pooler = Pooler::builder()
        .database("shop", &postgres)
        .user("app", &kept_by(&postgres)?)
        .set("auth_type", "scram-sha-256")
        .set("default_pool_size", "5")
        .start()?;
    let report = tests::Pgbench::against(pooler.address())
        .clients(10, 1)
        .script("SELECT pg_sleep(0.02);\n")
        .time(std::time::Duration::from_secs(1))
        .run()?;
    report.check_clean()?;
    assert_eq!(postgres.connections_of(&["app"])?, 5);
    Ok(())
}

/// Several clients that log in at the same moment, each with its own proof.
#[test]
fn many_logins_at_once() -> Result<()> {
    let postgres = Postgres::start()?;
    let pooler = Pooler::in_front_of(&postgres)
        .set("auth_type", "scram-sha-256")
        .start()?;
    let report = tests::Pgbench::against(pooler.address())
        .clients(8, 2)
        .script("SELECT 1;\n")
        .argument("--connect")
        .time(std::time::Duration::from_secs(2))
        .run();
    report?.check_clean()
}

#[test]
fn refusals_carry_the_sqlstate_and_say_nothing_of_who_exists() -> Result<()> {
    let postgres = Postgres::start()?;
    let pooler = Pooler::in_front_of(&postgres)
        .user("app", "onlyPostgresqlMayKnow")
        .set("auth_type", "md5")
        .start()?;
    let ask = |user: &str, database: &str| {
        tests::psql::run(
            pooler.address(),
            user,
            database,
            "password=wrong",
            "SELECT 1",
        )
        .unwrap_err()
        .to_string()
    };
    let wrong = ask("app", "shop");
    let nobody = ask("nobody", "shop");
    assert!(wrong.contains("password authentication failed"), "{wrong}");
    assert_eq!(
        wrong.replace("app", "X"),
        nobody.replace("nobody", "X"),
        "an unknown user is told apart from a wrong password"
    );
    assert!(
        !pooler.log().contains("onlyPostgresqlMayKnow"),
        "a secret is in the log: {}",
        pooler.log()
    );
    Ok(())
}

#[test]
fn an_unknown_database_is_named() -> Result<()> {
    let postgres = Postgres::start()?;
    let pooler = Pooler::in_front_of(&postgres).start()?;
    let error = Raw::connect(pooler.address(), "app", "nowhere").unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error:#}");
    if !pooler::is_original() {
        assert_eq!(raw::code_of(&error), "3D000");
    }
    Ok(())
}

/// What PostgreSQL says of the pooler's own login reaches the client.
#[test]
fn a_refused_server_login_reaches_the_client() -> Result<()> {
    let postgres = Postgres::start()?;
    let pooler = Pooler::builder()
        .database("shop", &postgres)
        .user("app", "outdatedAndStillSecret")
        .start()?;
    let told = match Raw::connect(pooler.address(), "app", "shop") {
        Err(error) => error.to_string(),
        Ok(mut client) => match client.query("SELECT 1") {
            Err(error) => error.to_string(),
            Ok(outcome) => outcome
                .error()
                .map(|error| error.to_string())
                .unwrap_or_default(),
        },
    };
    assert!(told.contains("password authentication failed"), "{told}");
    assert!(
        !pooler.log().contains("outdatedAndStillSecret"),
        "a secret is in the log: {}",
        pooler.log()
    );
    Ok(())
}

#[test]
fn tls_from_clients_in_every_mode() -> Result<()> {
    let postgres = Postgres::start()?;
    let certificate = tests::Certificate::new()?;
    let verify = format!(
        "sslmode=verify-full sslrootcert={}",
        certificate.cert.display()
    );
    for (mode, plain, encrypted) in [
        ("disable", true, false),
        ("allow", true, true),
        ("prefer", true, true),
        ("require", false, true),
    ] {
        let pooler = Pooler::in_front_of(&postgres)
            .set("auth_type", "scram-sha-256")
            .tls(mode, &certificate)
            .start()?;
        let by = |options: &str| {
            pooler
                .psql(&format!("password={PASSWORD} {options}"), "SELECT 1")
                .is_ok()
        };
        assert_eq!(by("sslmode=disable"), plain, "plain to {mode}");
        assert_eq!(by("sslmode=require"), encrypted, "TLS to {mode}");
        // The name in the certificate is checked; psql needs it as host.
        let verified = tests::psql::run(
            pooler.address(),
            "app",
            "shop",
            &format!("password={PASSWORD} {verify}"),
            "SELECT 1",
        );
        assert_eq!(
            verified.is_ok(),
            encrypted,
            "verified TLS to {mode}: {verified:?}"
        );
        for version in ["TLSv1.2", "TLSv1.3"] {
            let options = format!(
                "sslmode=require ssl_min_protocol_version={version} ssl_max_protocol_version={version}"
            );
            assert_eq!(by(&options), encrypted, "{version} to {mode}");
        }
    }
    Ok(())
}

/// A client in a hurry sends its first query behind its password.
#[test]
fn what_follows_the_password_is_answered() -> Result<()> {
    let postgres = Postgres::start()?;
    let pooler = Pooler::in_front_of(&postgres)
        .set("auth_type", "plain")
        .start()?;
    let mut client = Raw::open(pooler.address())?;
    client.send(&wire::startup(&[("user", "app"), ("database", "shop")]))?;
    let mut both = wire::password(b"secret");
    both.extend(wire::query("SELECT 42"));
    client.send(&both)?;
    client.until_ready()?;
    let outcome = client.until_ready()?;
    anyhow::ensure!(outcome.value().as_deref() == Some("42"), "{outcome:?}");
    Ok(())
}
