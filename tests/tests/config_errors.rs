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
