//! The account, for people and for programs.

use std::fmt::Write;

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    column::Column,
    measure::{Account, Sample},
    row::Row,
};

/// A table for each row: medians with their spread, and ratios to the relay
/// and to what is being replaced.
pub(crate) fn text(account: &Account, rows: &[Row], columns: &[Column]) -> String {
    let mut out = String::new();
    for (name, value) in &account.machine {
        let _ = writeln!(out, "{name:<11}{value}");
    }
    for &row in rows {
        let present: Vec<Column> = columns
            .iter()
            .copied()
            .filter(|&column| account.samples.contains_key(&(row, column)))
            .collect();
        if present.is_empty() {
            continue;
        }
        let label = match row {
            Row::PreparedSession => " (both in session mode: this PgBouncer is older than 1.21)",
            _ => "",
        };
        let _ = writeln!(out, "\n{row}{label}");
        let head = if row.is_idle() {
            "bytes per client"
        } else {
            "CPU us/transaction    user + system      to relay   to rival        tps      p50 us      p99 us"
        };
        let _ = writeln!(out, "  {:<10} {head}", "");
        for column in present {
            let _ = writeln!(out, "  {column:<10} {}", line(account, row, column));
        }
    }
    out
}

fn line(account: &Account, row: Row, column: Column) -> String {
    let of = |read: fn(&Sample) -> f64| {
        account
            .median(row, column, read)
            .expect("only columns with samples are printed")
    };
    if row.is_idle() {
        let bytes = of(|sample| sample.bytes_per_client);
        return format!(
            "{:>9.0} ± {:<6.0} {}",
            bytes.value,
            bytes.spread,
            ratio(account, row, column, rival(column), |sample| sample
                .bytes_per_client)
        );
    }
    let cpu = of(Sample::cpu_us);
    let mut text = format!(
        "{:>9.2} ± {:<6.2} {:>8.2} + {:<8.2} {:>9} {:>10} {:>10.0} {:>11.0} {:>11.0}",
        cpu.value,
        cpu.spread,
        of(|sample| sample.user_us).value,
        of(|sample| sample.system_us).value,
        ratio(account, row, column, Some(Column::Relay), Sample::cpu_us),
        ratio(account, row, column, rival(column), Sample::cpu_us),
        of(|sample| sample.tps).value,
        of(|sample| sample.p50_us).value,
        of(|sample| sample.p99_us).value,
    );
    if let Some(counted) = account.instructions.get(&(row, column)) {
        let _ = write!(text, "   {counted:.0} instructions");
    }
    text
}

/// What a column of ours replaces.
fn rival(column: Column) -> Option<Column> {
    match column {
        Column::Pooler => Some(Column::Pgbouncer),
        Column::Balancer => Some(Column::Haproxy),
        Column::Relay | Column::Pgbouncer | Column::Haproxy => None,
    }
}

fn ratio(
    account: &Account,
    row: Row,
    column: Column,
    to: Option<Column>,
    of: fn(&Sample) -> f64,
) -> String {
    let ours = account.median(row, column, of);
    let theirs = to.and_then(|to| account.median(row, to, of));
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs.value > 0.0 && to != Some(column) => {
            format!("×{:.3}", ours.value / theirs.value)
        }
        _ => String::new(),
    }
}

/// Everything, every round of it.
pub(crate) fn json(account: &Account) -> Result<String> {
    let rows: Vec<Value> = account
        .samples
        .iter()
        .map(|((row, column), samples)| {
            let rounds: Vec<Value> = samples
                .iter()
                .map(|sample| {
                    json!({
                        "userUs": sample.user_us,
                        "systemUs": sample.system_us,
                        "tps": sample.tps,
                        "p50Us": sample.p50_us,
                        "p99Us": sample.p99_us,
                        "bytesPerClient": sample.bytes_per_client,
                    })
                })
                .collect();
            let median = |of: fn(&Sample) -> f64| {
                account
                    .median(*row, *column, of)
                    .map(|median| json!({"median": median.value, "spread": median.spread}))
            };
            json!({
                "row": row.name(),
                "column": column.name(),
                "cpuUs": median(Sample::cpu_us),
                "tps": median(|sample| sample.tps),
                "bytesPerClient": median(|sample| sample.bytes_per_client),
                "instructions": account.instructions.get(&(*row, *column)),
                "rounds": rounds,
            })
        })
        .collect();
    let machine: serde_json::Map<String, Value> = account
        .machine
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str())))
        .collect();
    Ok(serde_json::to_string_pretty(
        &json!({"machine": machine, "rows": rows}),
    )?)
}
