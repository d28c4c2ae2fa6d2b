//! What a console client may type, read into [`Statement`]s. No effects here.

use proxy_core::{config::settings::SETTINGS, wire::SqlState};

use super::{PARAMETERS, show::Show};
use crate::pooler::control::Ending;

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::pooler) enum Statement {
    Show(Show),
    /// A parameter of PostgreSQL's that drivers ask for: its name and value.
    ShowParameter(&'static str, &'static str),
    /// A parameter of PostgreSQL's that drivers set. It changes nothing here.
    SetParameter,
    /// Of one database, or of all.
    Pause(Option<String>),
    Resume(Option<String>),
    Reconnect(Option<String>),
    Reload,
    Shutdown(Ending),
    /// The client with this id.
    KillClient(u64),
}

impl Statement {
    /// What CommandComplete says.
    pub(super) fn tag(&self) -> &'static str {
        match self {
            Self::Show(_) | Self::ShowParameter(..) => "SHOW",
            Self::SetParameter => "SET",
            Self::Pause(_) => "PAUSE",
            Self::Resume(_) => "RESUME",
            Self::Reconnect(_) => "RECONNECT",
            Self::Reload => "RELOAD",
            Self::Shutdown(_) => "SHUTDOWN",
            Self::KillClient(_) => "KILL_CLIENT",
        }
    }

    /// Whether only admin_users may give it.
    pub(super) fn needs_admin(&self) -> bool {
        !matches!(
            self,
            Self::Show(_) | Self::ShowParameter(..) | Self::SetParameter
        )
    }
}

/// Why a text is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::pooler) enum CommandError {
    #[error("invalid command '{0}', use SHOW HELP")]
    Unknown(String),
    #[error("invalid SHOW argument '{0}', use SHOW HELP")]
    UnknownTable(String),
    #[error("{0} is not supported yet")]
    NotSupported(String),
    #[error("{0} is a setting: change it in the configuration file, then RELOAD")]
    Setting(&'static str),
    #[error("{command}: {problem}")]
    Argument {
        command: &'static str,
        problem: &'static str,
    },
    #[error("unterminated quoted string")]
    Unterminated,
}

impl CommandError {
    /// The SQLSTATE that goes with it.
    pub(super) fn code(&self) -> SqlState {
        match self {
            Self::Unknown(_) | Self::UnknownTable(_) | Self::Unterminated => SqlState::SYNTAX_ERROR,
            Self::NotSupported(_) | Self::Setting(_) => SqlState::FEATURE_NOT_SUPPORTED,
            Self::Argument { .. } => SqlState::INVALID_PARAMETER_VALUE,
        }
    }
}

/// Commands of PgBouncer's that are known and missing.
const MISSING: &[&str] = &["DISABLE", "ENABLE", "KILL", "SUSPEND", "WAIT_CLOSE"];

/// Tables of PgBouncer's that are known and missing.
const MISSING_TABLES: &[&str] = &[
    "ACTIVE_SOCKETS",
    "DNS_HOSTS",
    "DNS_ZONES",
    "FDS",
    "PEER_POOLS",
    "SOCKETS",
];

/// Parameters of PostgreSQL's that drivers set as soon as they are connected.
const SETTABLE: &[&str] = &[
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "lock_timeout",
    "search_path",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
];

/// Longest part of a command that is repeated in an error.
const EXCERPT_CHARS: usize = 60;

/// Reads commands separated by semicolons. Blank ones and comments are none.
pub(super) fn parse(text: &str) -> Result<Vec<Statement>, CommandError> {
    let mut statements = Vec::new();
    let mut reader = Reader { rest: text };
    loop {
        let (words, more) = reader.words()?;
        if !words.is_empty() {
            statements.push(statement(&words)?);
        }
        if !more {
            return Ok(statements);
        }
    }
}

fn statement(words: &[String]) -> Result<Statement, CommandError> {
    let command = words[0].to_ascii_uppercase();
    let arguments = &words[1..];
    match command.as_str() {
        "SHOW" => return show(arguments, words),
        "SET" => return set(arguments, words),
        "SHUTDOWN" => return shutdown(arguments),
        "PAUSE" => return Ok(Statement::Pause(one_database("PAUSE", arguments)?)),
        "RESUME" => return Ok(Statement::Resume(one_database("RESUME", arguments)?)),
        "RECONNECT" => return Ok(Statement::Reconnect(one_database("RECONNECT", arguments)?)),
        "RELOAD" if arguments.is_empty() => return Ok(Statement::Reload),
        "KILL_CLIENT" => return kill_client(arguments),
        _ => {}
    }
    Err(if MISSING.contains(&command.as_str()) {
        CommandError::NotSupported(command)
    } else {
        CommandError::Unknown(excerpt(words))
    })
}

fn show(arguments: &[String], words: &[String]) -> Result<Statement, CommandError> {
    let [name] = arguments else {
        return Err(CommandError::UnknownTable(excerpt(&words[1..])));
    };
    if let Some(show) = Show::named(name) {
        return Ok(Statement::Show(show));
    }
    let parameter = PARAMETERS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name));
    if let Some(&(name, value)) = parameter {
        return Ok(Statement::ShowParameter(name, value));
    }
    let upper = name.to_ascii_uppercase();
    Err(if MISSING_TABLES.contains(&upper.as_str()) {
        CommandError::NotSupported(format!("SHOW {upper}"))
    } else {
        CommandError::UnknownTable(excerpt(arguments))
    })
}

fn set(arguments: &[String], words: &[String]) -> Result<Statement, CommandError> {
    let is_session = |word: &String| word.eq_ignore_ascii_case("SESSION");
    let arguments = match arguments {
        [first, rest @ ..] if is_session(first) => rest,
        all => all,
    };
    let name = match arguments {
        [time, zone, _, ..]
            if time.eq_ignore_ascii_case("TIME") && zone.eq_ignore_ascii_case("ZONE") =>
        {
            "timezone"
        }
        [name, is, _, ..] if is == "=" || is.eq_ignore_ascii_case("TO") => name,
        _ => return Err(CommandError::Unknown(excerpt(words))),
    };
    if let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) {
        return Err(CommandError::Setting(setting.name));
    }
    if SETTABLE
        .iter()
        .any(|known| known.eq_ignore_ascii_case(name))
    {
        return Ok(Statement::SetParameter);
    }
    Err(CommandError::Unknown(excerpt(words)))
}

fn shutdown(arguments: &[String]) -> Result<Statement, CommandError> {
    let how: Vec<String> = arguments
        .iter()
        .map(|word| word.to_ascii_uppercase())
        .collect();
    let ending = match how
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        [] => Ending::Now,
        ["WAIT_FOR_SERVERS"] => Ending::Soon,
        ["WAIT_FOR_CLIENTS"] => Ending::Drain,
        _ => {
            return Err(CommandError::Argument {
                command: "SHUTDOWN",
                problem: "expected nothing, WAIT_FOR_SERVERS or WAIT_FOR_CLIENTS",
            });
        }
    };
    Ok(Statement::Shutdown(ending))
}

fn kill_client(arguments: &[String]) -> Result<Statement, CommandError> {
    let id = match arguments {
        [id] => id.parse().ok(),
        _ => None,
    };
    id.map(Statement::KillClient).ok_or(CommandError::Argument {
        command: "KILL_CLIENT",
        problem: "expected a client's id, as SHOW CLIENTS gives it",
    })
}

fn one_database(
    command: &'static str,
    arguments: &[String],
) -> Result<Option<String>, CommandError> {
    match arguments {
        [] => Ok(None),
        [name] => Ok(Some(name.clone())),
        _ => Err(CommandError::Argument {
            command,
            problem: "expected one database, or none for all",
        }),
    }
}

fn excerpt(words: &[String]) -> String {
    let line = words.join(" ");
    let mut short: String = line.chars().take(EXCERPT_CHARS).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}

/// Cuts a text into words.
struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    /// The words up to the next semicolon, and whether there was one.
    fn words(&mut self) -> Result<(Vec<String>, bool), CommandError> {
        let mut words = Vec::new();
        loop {
            self.skip_blanks();
            let Some(first) = self.rest.chars().next() else {
                return Ok((words, false));
            };
            match first {
                ';' => {
                    self.rest = &self.rest[1..];
                    return Ok((words, true));
                }
                '=' => {
                    self.rest = &self.rest[1..];
                    words.push("=".to_owned());
                }
                '\'' | '"' => words.push(self.quoted(first)?),
                _ => {
                    let ends = |c: char| c.is_whitespace() || matches!(c, ';' | '=' | '\'' | '"');
                    let end = self.rest.find(ends).unwrap_or(self.rest.len());
                    let (word, rest) = self.rest.split_at(end);
                    words.push(word.to_owned());
                    self.rest = rest;
                }
            }
        }
    }

    /// Blanks, and both kinds of SQL comments.
    fn skip_blanks(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            if self.rest.starts_with("--") {
                self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
            } else if self.rest.starts_with("/*") {
                self.rest = self.rest.split_once("*/").map_or("", |(_, rest)| rest);
            } else {
                return;
            }
        }
    }

    /// A quoted word; the quote is doubled inside.
    fn quoted(&mut self, quote: char) -> Result<String, CommandError> {
        let mut word = String::new();
        let mut rest = &self.rest[1..];
        loop {
            let (part, after) = rest.split_once(quote).ok_or(CommandError::Unterminated)?;
            word.push_str(part);
            match after.strip_prefix(quote) {
                Some(more) => {
                    word.push(quote);
                    rest = more;
                }
                None => {
                    self.rest = after;
                    return Ok(word);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Statement, CommandError> {
        let mut statements = parse(text)?;
        assert_eq!(statements.len(), 1, "{text}");
        Ok(statements.remove(0))
    }

    #[test]
    fn commands_are_read_whatever_their_case_and_blanks() {
        let pools = Ok(Statement::Show(Show::Pools));
        for text in [
            "SHOW POOLS",
            "show pools;",
            "\n Show\tPools ; ",
            "/* tool */ SHOW POOLS -- now",
            "SHOW \"pools\"",
        ] {
            assert_eq!(one(text), pools, "{text}");
        }
        assert_eq!(one("PAUSE"), Ok(Statement::Pause(None)));
        let shop = Some("Shop \"1\"".to_owned());
        assert_eq!(one("pause \"Shop \"\"1\"\"\""), Ok(Statement::Pause(shop)));
        let shop = Some("it's".to_owned());
        assert_eq!(one("RESUME 'it''s'"), Ok(Statement::Resume(shop)));
        assert_eq!(one("SHUTDOWN"), Ok(Statement::Shutdown(Ending::Now)));
        assert_eq!(
            one("shutdown wait_for_servers"),
            Ok(Statement::Shutdown(Ending::Soon))
        );
        assert_eq!(one("KILL_CLIENT 12"), Ok(Statement::KillClient(12)));
    }

    #[test]
    fn what_says_nothing_is_no_command() {
        for text in ["", ";", "-- ping", " ;; ", "/* open"] {
            assert_eq!(parse(text), Ok(vec![]), "{text}");
        }
    }

    #[test]
    fn several_commands_may_come_at_once() {
        assert_eq!(
            parse("RELOAD; SHOW VERSION;"),
            Ok(vec![Statement::Reload, Statement::Show(Show::Version)])
        );
    }

    #[test]
    fn what_drivers_set_and_ask_for_is_known() {
        for text in [
            "SET extra_float_digits = 3",
            "SET SESSION client_encoding TO 'UTF8'",
            "set application_name='x y'",
            "SET TIME ZONE 'UTC'",
            "SET DateStyle=ISO",
        ] {
            assert_eq!(one(text), Ok(Statement::SetParameter), "{text}");
        }
        assert_eq!(
            one("SHOW datestyle"),
            Ok(Statement::ShowParameter("DateStyle", "ISO"))
        );
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (text, message) in [
            ("SELECT 1", "invalid command 'SELECT 1', use SHOW HELP"),
            ("SHOW", "invalid SHOW argument '', use SHOW HELP"),
            ("SHOW x y", "invalid SHOW argument 'x y', use SHOW HELP"),
            ("show fds", "SHOW FDS is not supported yet"),
            ("SUSPEND", "SUSPEND is not supported yet"),
            (
                "SET pool_mode = session",
                "pool_mode is a setting: change it in the configuration file, then RELOAD",
            ),
            ("SET x = 1", "invalid command 'SET x = 1', use SHOW HELP"),
            ("SET", "invalid command 'SET', use SHOW HELP"),
            ("PAUSE a b", "PAUSE: expected one database, or none for all"),
            (
                "KILL_CLIENT x",
                "KILL_CLIENT: expected a client's id, as SHOW CLIENTS gives it",
            ),
            ("SHOW 'pools", "unterminated quoted string"),
            ("RELOAD now", "invalid command 'RELOAD now', use SHOW HELP"),
        ] {
            assert_eq!(one(text).unwrap_err().to_string(), message, "{text}");
        }
        let long = one(&"ä".repeat(1_000)).unwrap_err().to_string();
        assert!(long.chars().count() < 120, "{long}");
    }
}
