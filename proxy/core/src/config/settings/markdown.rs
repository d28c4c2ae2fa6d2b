//! The reference page, docs/settings.md.

use std::fmt::{self, Write};

use super::{DATABASE_KEYS, PEER_KEYS, Release, SETTINGS, Setting, Support, USER_KEYS};

const HEAD: &str = "\
<!-- Generated from proxy/core/src/config/settings by `cargo xtask generate`. Change it there. -->

# Settings of the pooler

The pooler reads PgBouncer's files: pgbouncer.ini and userlist.txt. Keys, units, defaults and meanings are
PgBouncer's (1.25); keys marked *Ours* are additions, by default without effect on what clients see. `pooler --check FILE.ini` reads a
file as start-up does, and names every problem by file and line.

Times are seconds, fractions allowed. Whole numbers may be written in hexadecimal (`0x10`) or octal (`010`).
A key that is written twice counts the last time. A second `[pgbouncer]` section sets what the first one set
back to the defaults. `%include FILE` reads another file in place of the line; relative names start at the
working directory.
";

const DATABASES: &str = "\
Each line is `name = key=value key=value …`. The name is the one that clients use; `*` serves every database
that has no line of its own, under the name the client gave. Names with characters other than letters,
digits, `_`, `.` and `-` need double quotes. Values with spaces need single quotes, with `''` for a single
quote. Sizes and times that are not set here are the user's or those of `[pgbouncer]`; -1 means not set.
";

const USERS: &str = "\
Each line is `name = key=value …`. What is set here comes before what the database or `[pgbouncer]` says.
";

const PEERS: &str = "\
Each line is `peer_id = key=value …`: the poolers that cancel requests are passed on to, when `peer_id` is set.
The line of the pooler itself may stay in.
";

const USERLIST: &str = "\
A line per user: `\"name\" \"secret\"`, both in double quotes, `\"\"` for a quote inside. Lines that begin with `;` are
comments, and what follows the secret is ignored. A secret is one of

- the password itself,
- `md5` and the 32 hexadecimal digits of PostgreSQL's md5 hash,
- a SCRAM verifier, `SCRAM-SHA-256$4096:salt$stored_key:server_key`, as in `pg_authid`.

A user with an empty secret exists, which is all that `auth_type = trust` asks for, and has no password
that could be right.

Secrets let clients log in here, and log the pooler in to PostgreSQL for them: a password always, an md5 hash
where PostgreSQL asks for md5, a verifier where PostgreSQL stores the same one and the client logged in by SCRAM.
";

/// The whole page.
#[must_use]
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    page.push('\n');
    section(&mut page, "[pgbouncer]", None, SETTINGS)
        .and_then(|()| section(&mut page, "[databases]", Some(DATABASES), DATABASE_KEYS))
        .and_then(|()| section(&mut page, "[users]", Some(USERS), USER_KEYS))
        .and_then(|()| section(&mut page, "[peers]", Some(PEERS), PEER_KEYS))
        .expect("writing to a String never fails");
    page.push_str("## userlist.txt\n\n");
    page.push_str(USERLIST);
    page
}

fn section(page: &mut String, title: &str, text: Option<&str>, table: &[Setting]) -> fmt::Result {
    writeln!(page, "## {title}\n")?;
    if let Some(text) = text {
        writeln!(page, "{text}")?;
    }
    for setting in table {
        writeln!(page, "### {}\n", setting.name)?;
        // Facts first: a list in the doc would run into theirs otherwise.
        facts(page, setting)?;
        for line in setting.doc.lines() {
            // Doc comments keep the space after their slashes.
            writeln!(page, "{}", line.strip_prefix(' ').unwrap_or(line))?;
        }
        writeln!(page)?;
    }
    Ok(())
}

fn facts(page: &mut String, setting: &Setting) -> fmt::Result {
    writeln!(page, "- Value: {}", setting.expected())?;
    match setting.default {
        None | Some("") => writeln!(page, "- Default: not set")?,
        Some(default) => writeln!(page, "- Default: `{default}`")?,
    }
    if setting.since > Release::FIRST {
        writeln!(page, "- Since {}.", setting.since)?;
    }
    if !setting.changeable {
        writeln!(page, "- A new value needs a restart.")?;
    }
    match setting.support {
        Support::Honoured => {}
        Support::NoEffect(reason) => writeln!(page, "- Accepted without effect: {reason}.")?,
        Support::Only(values, reason) => writeln!(
            page,
            "- Accepted today: `{}`; {reason}.",
            values.join("`, `")
        )?,
        Support::NotSupported(reason) => {
            writeln!(
                page,
                "- **Not supported yet**, only the default is accepted: {reason}."
            )?;
        }
    }
    writeln!(page)
}
