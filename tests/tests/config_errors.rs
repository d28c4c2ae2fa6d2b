//! Bad input: every problem named by line and value, exit 1, nothing started.

use anyhow::Result;
use tests::{balancer, pooler, ports};

/// Fails unless `output` has exactly the lines `FILE:LINE: …` that are expected,
/// each holding all of its words.
#[track_caller]
fn check_problems(output: &str, file: &str, expected: &[(u32, &[&str])]) {
    let problems: Vec<(u32, &str)> = output
        .lines()
        .filter_map(|line| {
            let (_, rest) = line.split_once(&format!("{file}:"))?;
            let (number, message) = rest.split_once(": ")?;
            Some((number.parse().ok()?, message))
        })
        .collect();
    assert_eq!(problems.len(), expected.len(), "in:\n{output}");
    for (line, words) in expected {
        let message = problems.iter().find(|(number, message)| {
            number == line && words.iter().all(|word| message.contains(word))
        });
        assert!(
            message.is_some(),
            "nothing about {words:?} on line {line} in:\n{output}"
        );
    }
}

#[test]
fn an_ini_names_every_problem() -> Result<()> {
    let (code, output) = pooler::check(
        "[databases]\n\
         shop = host=127.0.0.1 port=99999\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = often\n\
         pool_mode = sometimes\n\
         no_such_key = 1\n\
         max_client_conn = -5\n\
         auth_type = trust\n\
         auth_file = /dev/null\n",
    )?;
    assert_eq!(code, 1, "{output}");
    check_problems(
        &output,
        "pooler.ini",
        &[
            (2, &["port", "99999"]),
            (5, &["listen_port", "often"]),
            (6, &["pool_mode", "sometimes"]),
            (7, &["no_such_key"]),
            (8, &["max_client_conn", "-5"]),
        ],
    );
    Ok(())
}

#[test]
fn a_good_ini_passes() -> Result<()> {
    let (code, output) = pooler::check(
        "[databases]\nshop = host=127.0.0.1 port=5432\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = 6432\nauth_type = trust\nauth_file = /dev/null\n",
    )?;
    assert_eq!(code, 0, "{output}");
    Ok(())
}

#[test]
fn a_balancers_yaml_names_its_problems() -> Result<()> {
    let (code, output) = balancer::check(
        "frontends: [{name: postgres, bind: \"127.0.0.1:5432\"}]\n\
         targets:\n\
         \x20 - {name: a, address: \"127.0.0.1:6432\"}\n\
         \x20 - {name: a, address: \"127.0.0.1:6433\"}\n\
         check: {type: postgres, interval: 2s, rise: 0, fall: 3, timeout: 5s}\n\
         threads: 0\n",
    )?;
    assert_eq!(code, 1, "{output}");
    for words in ["a", "rise", "timeout", "threads"] {
        assert!(
            output
                .lines()
                .any(|line| line.contains("balancer.yaml:") && line.contains(words)),
            "nothing about {words} in:\n{output}"
        );
    }
    let (code, output) = balancer::check("frontends: 7\n")?;
    assert_eq!(code, 1);
    assert!(output.contains("balancer.yaml:1: "), "{output}");
    let (code, output) = balancer::check(
        "frontends: [{name: postgres, bind: \"127.0.0.1:5432\"}]\n\
         targets: [{name: a, address: \"127.0.0.1:6432\"}]\nsurprise: 1\n",
    )?;
    assert_eq!(code, 1);
    assert!(output.contains("surprise"), "{output}");
    Ok(())
}

/// `--check` and start-up say the same, and nothing is started.
#[test]
fn a_bad_file_starts_nothing() -> Result<()> {
    let port = ports::free()?;
    let dir = tests::Scratch::new()?;
    let ini = dir.write(
        "pooler.ini",
        &format!("[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\npool_mode = never\n"),
    )?;
    let output = std::process::Command::new(tests::binaries::ours("pooler")?)
        .arg(&ini)
        .output()?;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(text.contains(&format!("{}:4: ", ini.display())), "{text}");
    assert!(ports::is_free(port));
    Ok(())
}

/// Runs `operator check` on a manifest: exit code and what it printed.
fn check_manifest(yaml: &str) -> Result<(Option<i32>, String)> {
    let dir = tests::Scratch::new()?;
    let file = dir.write("shop.yaml", yaml)?;
    let output = std::process::Command::new(tests::binaries::ours("operator")?)
        .args(["check", "-f"])
        .arg(&file)
        .output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

/// A manifest with what each test adds to `spec`.
fn manifest(spec: &str) -> String {
    format!(
        "apiVersion: poolkeeper.dev/v1alpha1\nkind: PgPoolCluster\nmetadata: {{name: shop}}\nspec:\n{spec}"
    )
}

#[test]
fn a_manifest_names_every_value_that_does_not_fit() -> Result<()> {
    let (code, output) = check_manifest(&manifest(
        "  upstream: {address: {host: db, port: 70000}}\n\
         \x20 auth:\n\
         \x20   type: sometimes\n\
         \x20   userlistSecretRef: {name: users}\n\
         \x20 pool: {mode: transaction, defaultPoolSize: 0}\n\
         \x20 poolers: {replicas: -1}\n\
         \x20 surprise: true\n",
    ))?;
    assert_eq!(code, Some(1), "{output}");
    check_problems(
        &output,
        "shop.yaml",
        &[
            (5, &["port", "70000"]),
            (7, &["auth.type", "sometimes"]),
            (9, &["defaultPoolSize", "0"]),
            (10, &["replicas", "-1"]),
            (11, &["surprise"]),
        ],
    );
    Ok(())
}

const USERS: &str = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: users}\n\
                     stringData: {userlist.txt: '\"app\" \"secret\"'}\n";

/// What no schema knows: keys and values of pgbouncer.ini.
#[test]
fn a_manifest_is_checked_by_the_poolers_own_rules() -> Result<()> {
    let (code, output) = check_manifest(
        &(manifest(
            "  upstream: {address: {host: db, port: 5432}}\n\
         \x20 auth: {type: scram-sha-256, userlistSecretRef: {name: users}}\n\
         \x20 pool:\n\
         \x20   parameters:\n\
         \x20     no_such_key: \"1\"\n\
         \x20     idle_transaction_timeout: \"soon\"\n",
        ) + USERS),
    )?;
    assert_eq!(code, Some(1), "{output}");
    check_problems(
        &output,
        "shop.yaml",
        &[
            (9, &["no_such_key"]),
            (10, &["idle_transaction_timeout", "soon"]),
        ],
    );
    Ok(())
}

#[test]
fn a_manifest_names_the_documents_that_are_missing() -> Result<()> {
    let (code, output) = check_manifest(&manifest(
        "  upstream: {address: {host: db, port: 5432}}\n\
         \x20 auth: {type: scram-sha-256, userlistSecretRef: {name: nowhere}}\n\
         \x20 notifications: [{name: ops, slack: {webhookUrlSecretRef: {name: lost, key: url}}}]\n",
    ))?;
    assert_eq!(code, Some(1), "{output}");
    check_problems(
        &output,
        "shop.yaml",
        &[(6, &["Secret", "nowhere"]), (7, &["Secret", "lost"])],
    );
    Ok(())
}

#[test]
fn what_is_not_yaml_is_named_by_its_line() -> Result<()> {
    let (code, output) = check_manifest("kind: PgPoolCluster\nspec: [1, 2\n")?;
    assert_eq!(code, Some(1), "{output}");
    assert!(
        output.lines().any(|line| line.contains("shop.yaml:")),
        "{output}"
    );
    Ok(())
}

#[test]
fn a_manifest_of_more_than_four_mib_is_refused() -> Result<()> {
    let comment = format!("# {}\n", "x".repeat(4 * 1024 * 1024));
    let (code, output) = check_manifest(&(comment + &manifest("  {}\n")))?;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("longer than 4194304 bytes"), "{output}");
    Ok(())
}

/// `operator local` refuses what `operator check` refuses, and starts nothing.
#[test]
fn a_bad_manifest_starts_no_tier() -> Result<()> {
    let postgres = tests::Postgres::start()?;
    let inbox = tests::Inbox::start()?;
    let mut operator = tests::Operator::builder(&manifest(
        "  upstream: {address: {host: postgres.default.svc, port: 5432}}\n\
         \x20 auth: {type: scram-sha-256, userlistSecretRef: {name: shop-users}}\n\
         \x20 pool: {mode: never}\n",
    ))
    .secrets(&inbox)
    .upstream(&postgres)
    .start()?;
    let status = operator.child().wait(std::time::Duration::from_secs(10))?;
    assert_eq!(status.code(), Some(1), "{}", operator.log());
    assert!(
        operator.log().contains("manifest.yaml:7: "),
        "{}",
        operator.log()
    );
    assert!(operator.parts("pooler").is_empty());
    assert!(ports::is_free(operator.service().port()));
    Ok(())
}

#[test]
fn the_crd_is_printed_as_it_is_committed() -> Result<()> {
    let output = std::process::Command::new(tests::binaries::ours("operator")?)
        .arg("crd")
        .output()?;
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout)?;
    assert!(text.contains("kind: CustomResourceDefinition") && text.contains("pgpoolclusters"));
    Ok(())
}
