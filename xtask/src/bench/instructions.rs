//! User-space instructions per transaction, counted by valgrind's callgrind:
//! what decides where two clocks' difference lies within their spread.

use std::{fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::Scratch;

use super::{
    Bench,
    column::{self, Column},
    row::Row,
};

/// Few enough to take seconds at a fiftieth of the speed, enough that logins
/// do not show.
const CLIENTS: u32 = 8;
const TRANSACTIONS_EACH: u32 = 2000;

/// Counts the instructions of `row` through `column`.
pub(crate) fn count(bench: &Bench, column: Column, row: Row) -> Result<f64> {
    let dir = Scratch::new()?;
    // PgBouncer runs as another user and writes here too.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(dir.path(), open)?;
    let wrapper = [
        "/usr/bin/valgrind".to_owned(),
        "--tool=callgrind".to_owned(),
        "--quiet".to_owned(),
        format!("--callgrind-out-file={}/out", dir.path().display()),
    ];
    let running = column::start(bench, column, row, &wrapper)?;
    let run = |each: u32| {
        row.pgbench(running.address)
            .clients(CLIENTS, 1)
            .transactions(each)
            .run()
    };
    // Server connections, caches, and the start itself belong to no transaction.
    run(20)?.check_clean()?;
    dump(column, running.pid)?;
    let report = run(TRANSACTIONS_EACH)?;
    report.check_clean().with_context(|| running.log())?;
    dump(column, running.pid)?;
    let counted = total(&dir.path().join("out.2"))?;
    Ok(counted as f64 / report.transactions as f64)
}

/// Writes the counts so far to the next file and starts again from zero.
fn dump(column: Column, pid: u32) -> Result<()> {
    // valgrind's pipes carry the user's name: as whom it runs, we ask.
    let output = tests::command(Path::new("/usr/bin/callgrind_control"), column.runs_as())
        .args(["--dump", &pid.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("callgrind_control does not start")?;
    ensure!(
        output.status.success(),
        "callgrind_control: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The `totals:` or `summary:` line of a dump.
fn total(file: &Path) -> Result<u64> {
    tests::wait::until("the dump", Duration::from_secs(20), || {
        let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
        text.lines()
            .rev()
            .find_map(|line| {
                line.strip_prefix("totals: ")
                    .or_else(|| line.strip_prefix("summary: "))
            })
            .and_then(|number| number.trim().parse().ok())
            .ok_or_else(|| "it has no totals yet".to_owned())
    })
}
