//! Generated files, compared with what is committed.
//!
//! `cargo xtask generate` sets POOLKEEPER_UPDATE=1, with which these tests write
//! the files instead; the reviewer reads the difference.

use std::{env, fs, path::Path};

use proxy_core::config::{Global, settings};

/// Compares `actual` with the committed file, or writes it.
fn compare(path: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if env::var_os("POOLKEEPER_UPDATE").is_some_and(|value| value == "1") {
        fs::write(&path, actual).expect("the golden file can be written");
        return;
    }
    let committed = fs::read(&path).unwrap_or_default();
    let committed = String::from_utf8_lossy(&committed);
    if committed == actual {
        return;
    }
    let same = committed
        .lines()
        .zip(actual.lines())
        .take_while(|(committed, actual)| committed == actual)
        .count();
    panic!(
        "{} is out of date from line {}:\n  committed: {:?}\n  generated: {:?}\nrun `cargo xtask generate` and commit the difference",
        path.display(),
        same + 1,
        committed.lines().nth(same).unwrap_or("(end)"),
        actual.lines().nth(same).unwrap_or("(end)"),
    );
}

#[test]
fn the_settings_page_is_what_the_table_says() {
    compare("../../docs/settings.md", &settings::markdown());
}

#[test]
fn show_config_lists_every_key_with_its_default() {
    let mut text = String::from("key|value|default|changeable\n");
    for row in Global::default().rows() {
        text.push_str(&format!(
            "{}|{}|{}|{}\n",
            row.key,
            row.value,
            row.default.unwrap_or("NULL"),
            if row.changeable { "yes" } else { "no" }
        ));
    }
    compare("tests/golden/show_config.txt", &text);
}
