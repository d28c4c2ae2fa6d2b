//! Comparison with committed files, in tests.

use std::{fs, path::Path};

/// Compares with a file, named relative to this crate's folder; writes it
/// instead when `POOLKEEPER_UPDATE=1` is set.
///
/// # Panics
/// If they differ.
pub(crate) fn check(file: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("POOLKEEPER_UPDATE").is_some_and(|value| value == "1") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    let line = expected
        .lines()
        .zip(actual.lines())
        .position(|(expected, actual)| expected != actual)
        .unwrap_or_else(|| expected.lines().count().min(actual.lines().count()));
    assert!(
        expected == actual,
        "{file} is out of date at line {}:\n  committed: {}\n  generated: {}\nrun `cargo xtask generate` and commit what it writes",
        line + 1,
        expected.lines().nth(line).unwrap_or("(end)"),
        actual.lines().nth(line).unwrap_or("(end)"),
    );
}

/// The manifests of `examples/` that hold a PgPoolCluster: names without the
/// ending, and texts, in order.
///
/// # Panics
/// If they cannot be read.
pub(crate) fn examples() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let files = fs::read_dir(folder).unwrap();
    let mut examples: Vec<(String, String)> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "yaml"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .filter(|(_, text)| text.contains("kind: PgPoolCluster"))
        .collect();
    examples.sort();
    examples
}
