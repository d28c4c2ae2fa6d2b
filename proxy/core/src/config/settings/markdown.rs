//! The reference page.

use std::fmt::Write;

use super::{DATABASE_KEYS, PEER_KEYS, SETTINGS, Setting, Support, USER_KEYS};

/// docs/settings.md.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::new();
    section(&mut page, "[pgbouncer]", SETTINGS);
    section(&mut page, "[databases]", DATABASE_KEYS);
    section(&mut page, "[users]", USER_KEYS);
    section(&mut page, "[peers]", PEER_KEYS);
    page
}

fn section(page: &mut String, title: &str, table: &[Setting]) {
    let _ = writeln!(page, "## {title}\n");
    for setting in table {
        let _ = writeln!(page, "### {}\n\n{}", setting.name, setting.doc);
        let _ = match setting.support {
            Support::Honoured => Ok(()),
            Support::NoEffect(reason) => writeln!(page, "{reason}"),
            Support::Only(_, reason) => writeln!(page, "{reason}"),
            Support::NotSupported(reason) => writeln!(page, "{reason}"),
        };
    }
}
