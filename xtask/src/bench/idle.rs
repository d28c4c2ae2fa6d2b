//! Memory of clients that do nothing.

use std::time::{Duration, Instant};

use anyhow::Result;
use tests::wait;

use super::{
    Bench,
    column::{self, Column},
    measure::Sample,
    row::{IDLE_CLIENTS, Row},
};

/// Starts a column, weighs it, adds four thousand clients that each run one
/// query, and weighs it again.
pub(crate) fn weigh(bench: &Bench, column: Column, row: Row) -> Result<Sample> {
    let running = column::start(bench, column, row, &[])?;
    // What is filled on first use is not a client's.
    row.pgbench(running.address)
        .clients(32, 1)
        .script("SELECT 1;\n")
        .time(Duration::from_secs(1))
        .run()?
        .check_clean()?;
    let before = tests::memory(running.pid)?.private_dirty;
    let mut clients = row.pgbench(running.address).start()?;
    // Every client holds a descriptor; none but them come or go by the hundred.
    let idle = tests::descriptors(running.pid)?;
    let wanted = if column.is_pooler() {
        IDLE_CLIENTS as usize
    } else {
        2 * IDLE_CLIENTS as usize
    };
    wait::until("all clients to be there", Duration::from_secs(120), || {
        if clients.ended() {
            return Err("pgbench ended".to_owned());
        }
        let open = tests::descriptors(running.pid).map_err(|error| error.to_string())?;
        // Some may have been there when we counted first.
        if open + 200 >= wanted + idle.min(200) && open >= wanted {
            Ok(())
        } else {
            Err(format!("{open} of {wanted} descriptors"))
        }
    })?;
    let after = settled(running.pid)?;
    Ok(Sample {
        bytes_per_client: after.saturating_sub(before) as f64 / f64::from(IDLE_CLIENTS),
        ..Sample::default()
    })
}

/// Private memory once it has not changed for three seconds, which is longer than
/// the clients take to ask one after the other.
fn settled(pid: u32) -> Result<u64> {
    let mut last = 0;
    let mut since = Instant::now();
    wait::until("memory to settle", Duration::from_secs(30), || {
        let now = tests::memory(pid)
            .map_err(|error| error.to_string())?
            .private_dirty;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > Duration::from_secs(3) {
            Ok(now)
        } else {
            Err(format!("{now} bytes"))
        }
    })
}
