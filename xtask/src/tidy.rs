//! Style that no lint knows, held by ordinary tests over the files git tracks.

use std::{fs, path::PathBuf};

use clap::CommandFactory;

use crate::{calls::root, links::tracked};

/// (file, its text) of every tracked file that is text.
fn texts(pattern: &str) -> Vec<(PathBuf, String)> {
    tracked(&root(), pattern)
        .unwrap()
        .into_iter()
        .filter_map(|file| {
            let text = fs::read_to_string(root().join(&file)).ok()?;
            Some((file, text))
        })
        .collect()
}

/// Fails with every line of files of `pattern` that `wrong` names a fault in.
#[track_caller]
fn check(pattern: &str, mut wrong: impl FnMut(&str) -> Option<&'static str>) {
    let texts = texts(pattern);
    assert!(!texts.is_empty(), "no file matches {pattern}");
    let faults: Vec<String> = texts
        .iter()
        .flat_map(|(file, text)| {
            text.lines()
                .enumerate()
                .map(move |(number, line)| (file, number + 1, line))
        })
        .filter_map(|(file, number, line)| {
            wrong(line).map(|fault| format!("{}:{number}: {fault}", file.display()))
        })
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Paths of the machine a change was made on mean nothing on another.
#[test]
fn no_file_names_the_machine_it_was_written_on() {
    // Spelt in halves, or this file would be the first to be told.
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    check("*", |line| {
        paths
            .iter()
            .any(|path| line.contains(path))
            .then_some("a path of one machine")
    });
}

/// rustfmt sees to code, and nobody can break an address or a test vector.
#[test]
fn comments_fit_a_screen() {
    check("*.rs", |line| {
        // A table's row cannot be broken either.
        let comment = line.trim_start().starts_with("//")
            && !line.contains("://")
            && !line.trim_end().ends_with('|');
        (comment && line.chars().count() > 120).then_some("longer than 120")
    });
}

#[test]
fn no_line_ends_in_blanks() {
    for pattern in ["*.rs", "*.toml", "*.md", "*.yaml"] {
        if texts(pattern).is_empty() {
            continue;
        }
        check(pattern, |line| {
            (line.ends_with([' ', '\t', '\r'])).then_some("blanks at the end of the line")
        });
    }
}

/// `TODO(when kube 6 is out): …`: a condition, or it is never done.
#[test]
fn every_todo_names_what_removes_it() {
    let todo = concat!("TO", "DO");
    check("*.rs", |line| {
        let (_, after) = line.split_once(todo)?;
        (!after.starts_with("(when ") && !after.starts_with("s "))
            .then_some("no condition; write it as (when …) after the word")
    });
}

/// A pause long enough on one machine is too short on another; scenarios wait
/// for conditions, with a deadline, through the one place that may pause.
#[test]
fn scenarios_wait_for_conditions() {
    let pause = concat!("sl", "eep(");
    for pattern in ["tests/src/*", "tests/tests/*"] {
        for (file, text) in texts(pattern) {
            if file.ends_with("wait.rs") {
                continue;
            }
            for (number, line) in text.lines().enumerate() {
                let in_sql = line.contains("pg_sl");
                assert!(
                    in_sql || !line.contains(pause),
                    "{}:{}: wait for a condition with tests::wait",
                    file.display(),
                    number + 1
                );
            }
        }
    }
}

/// What the README and its like tell people to type exists.
#[test]
fn commands_in_the_documentation_exist() {
    let known = crate::Flags::command();
    for page in ["README.md", "CONTRIBUTING.md", "SPECIFICATION.md"] {
        for (_, text) in texts(page) {
            for (_, after) in text
                .match_indices("cargo xtask ")
                .map(|(at, found)| text.split_at(at + found.len()))
            {
                let name: String = after
                    .chars()
                    .take_while(|letter| letter.is_ascii_lowercase() || *letter == '-')
                    .collect();
                assert!(
                    name.is_empty() || known.find_subcommand(&name).is_some(),
                    "{page} says `cargo xtask {name}`, which does not exist"
                );
            }
        }
    }
}

/// A promise whose test was renamed would be held by nobody.
#[test]
fn tests_named_in_the_specification_exist() {
    let (_, page) = texts("SPECIFICATION.md").remove(0);
    let mut missing = Vec::new();
    let mut named = 0;
    for (number, line) in page.lines().enumerate() {
        let mut file = None;
        for name in code_spans(line) {
            if name.ends_with(".rs") {
                file = fs::read_to_string(root().join(name)).ok();
                if file.is_none() {
                    missing.push(format!("SPECIFICATION.md:{}: {name}", number + 1));
                }
            } else if let Some(text) = file.as_ref().filter(|_| is_test_name(name)) {
                named += 1;
                if !text.contains(&format!("fn {name}(")) {
                    missing.push(format!("SPECIFICATION.md:{}: {name}", number + 1));
                }
            }
        }
    }
    assert!(missing.is_empty(), "not there:\n{}", missing.join("\n"));
    assert!(
        named > 100,
        "only {named} tests found: has the page changed?"
    );
}

/// Those of the node are named by their sentences.
#[test]
fn checks_named_in_the_specification_exist() {
    let (_, page) = texts("SPECIFICATION.md").remove(0);
    let checks = root().join("tests/tests/kubernetes_end_to_end.rs");
    let checks = fs::read_to_string(checks).unwrap();
    let rows: Vec<&str> = page
        .lines()
        .skip_while(|line| !line.ends_with("| Check of it |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert!(
        rows.len() > 15,
        "only {} rows: has the page changed?",
        rows.len()
    );
    for row in rows {
        let (_, check) = row.trim_end_matches(" |").rsplit_once(" | ").unwrap();
        let mut names = code_spans(check).peekable();
        assert!(names.peek().is_some(), "names no check: {row}");
        for name in names {
            assert!(checks.contains(&format!("\"{name}\"")), "not there: {name}");
        }
    }
}

/// What stands between backquotes.
fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Of what follows a file in its line, only tests look like this.
fn is_test_name(name: &str) -> bool {
    name.contains('_')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// The README's two commands, which the product is judged by.
#[test]
fn demo_and_test_exist() {
    let known = crate::Flags::command();
    for name in ["demo", "test"] {
        assert!(known.find_subcommand(name).is_some(), "{name}");
    }
}
