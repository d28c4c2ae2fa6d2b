//! Carries out commands and prints what they give. Runs on the control task.

use std::borrow::Cow;

use proxy_core::{
    config::pooler::CONSOLE,
    wire::{self, Severity, SqlState, backend, error_response, notice_response},
};
use tokio::sync::oneshot;

use super::{
    Reply,
    command::{self, CommandError, Statement},
    show::Show,
    table::{self, Column, Formats, Kind, Row, row},
};
use crate::pooler::{
    control::{Command, Control, Ending, Released, Request},
    pools::PauseError,
};

const HELP: &str = "Console usage
\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION
\tSHOW LISTS|MEM|STATE
\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tRELOAD
\tPAUSE [<db>]
\tRESUME [<db>]
\tRECONNECT [<db>]
\tKILL_CLIENT <client_id>
\tSHUTDOWN
\tSHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS";

impl Statement {
    /// The columns of its result; none if it has none.
    pub(super) fn columns(&self) -> Cow<'static, [Column]> {
        match self {
            Self::Show(show) => Cow::Borrowed(show.columns()),
            Self::ShowParameter(name, _) => Cow::Owned(vec![Column {
                name,
                kind: Kind::Text,
            }]),
            _ => Cow::Borrowed(&[]),
        }
    }
}

/// Why a command is not carried out.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Pause(#[from] PauseError),
    #[error("admin access needed")]
    NotAdmin,
    #[error("PAUSE canceled, everything it paused is resumed")]
    PauseCanceled,
    #[error("PAUSE was ended by RESUME")]
    Resumed,
    #[error("RELOAD failed, nothing has changed:\n{0}")]
    Reload(String),
    #[error("no such database: {0}")]
    NoSuchDatabase(String),
    #[error("client {0} not found")]
    NoSuchClient(u64),
}

impl Failure {
    fn code(&self) -> SqlState {
        match self {
            Self::Command(error) => error.code(),
            Self::Pause(PauseError::NoSuchDatabase(_)) | Self::NoSuchDatabase(_) => {
                SqlState::INVALID_CATALOG_NAME
            }
            Self::Pause(
                PauseError::Console
                | PauseError::AlreadyPaused
                | PauseError::NotPaused
                | PauseError::DatabaseNotPaused(_),
            ) => SqlState("55000"),
            Self::NotAdmin => SqlState::INSUFFICIENT_PRIVILEGE,
            Self::PauseCanceled | Self::Resumed => SqlState::QUERY_CANCELED,
            Self::Reload(_) => SqlState("F0000"),
            Self::NoSuchClient(_) => SqlState::INVALID_PARAMETER_VALUE,
        }
    }
}

/// What a command gave.
#[derive(Debug, Default)]
struct Done {
    rows: Vec<Row>,
    /// Something to tell besides.
    notice: Option<(Severity, String)>,
    then: Option<Ending>,
}

/// Carries out what a client asked for.
pub(in crate::pooler) async fn answer(control: &Control, mut command: Command) -> Reply {
    let request = std::mem::replace(&mut command.request, Request::Simple(String::new()));
    match request {
        Request::Simple(sql) => simple(control, &mut command, &sql).await,
        Request::Portal(statement, formats) => {
            let mut reply = Reply {
                bytes: Vec::new(),
                failed: false,
                then: None,
            };
            match carry_out(control, &mut command, &statement).await {
                Ok(done) => print(&mut reply, &statement, done, &formats),
                Err(failure) => fail(&mut reply, &failure),
            }
            reply
        }
    }
}

/// A Query message: perhaps several commands, or none. The first that fails is
/// the last.
async fn simple(control: &Control, command: &mut Command, sql: &str) -> Reply {
    let mut reply = Reply {
        bytes: Vec::new(),
        failed: false,
        then: None,
    };
    match command::parse(sql) {
        Err(error) => fail(&mut reply, &error.into()),
        Ok(statements) if statements.is_empty() => {
            let empty = wire::message(backend::EMPTY_QUERY_RESPONSE, |_| {});
            reply.bytes.extend(empty);
        }
        Ok(statements) => {
            for statement in &statements {
                match carry_out(control, command, statement).await {
                    Ok(done) => {
                        let columns = statement.columns();
                        if !columns.is_empty() {
                            let description = table::describe(&columns, &Formats::default());
                            reply.bytes.extend(description);
                        }
                        print(&mut reply, statement, done, &Formats::default());
                    }
                    Err(failure) => {
                        fail(&mut reply, &failure);
                        break;
                    }
                }
            }
        }
    }
    // Sync has no part in the simple protocol.
    reply.failed = false;
    reply.bytes.extend(wire::ready_for_query(b'I'));
    reply
}

fn fail(reply: &mut Reply, failure: &Failure) {
    reply.failed = true;
    let text = failure.to_string();
    let bytes = error_response(Severity::Error, failure.code(), &text, "");
    reply.bytes.extend(bytes);
}

fn print(reply: &mut Reply, statement: &Statement, done: Done, formats: &Formats) {
    if let Some((severity, text)) = done.notice {
        let code = match severity {
            Severity::Warning => SqlState("01000"),
            _ => SqlState("00000"),
        };
        reply
            .bytes
            .extend(notice_response(severity, code, &text, ""));
    }
    let columns = statement.columns();
    let rows = table::data_rows(&columns, &done.rows, formats);
    reply.bytes.extend(rows);
    reply.bytes.extend(wire::command_complete(statement.tag()));
    reply.then = reply.then.or(done.then);
}

async fn carry_out(
    control: &Control,
    command: &mut Command,
    statement: &Statement,
) -> Result<Done, Failure> {
    if statement.needs_admin() {
        if !command.admin {
            return Err(Failure::NotAdmin);
        }
        tracing::info!(user = &*command.user, ?statement, "console command");
    }
    let notice = |text: &str| Some((Severity::Notice, text.to_owned()));
    let mut done = Done::default();
    match statement {
        Statement::Show(Show::Help) => done.notice = notice(HELP),
        Statement::Show(show) => {
            let view = control.view(show.needs_detail()).await;
            done.rows = show.rows(&view);
        }
        Statement::ShowParameter(_, value) => done.rows = vec![row![*value]],
        Statement::SetParameter => done.notice = notice("SET ignored"),
        Statement::Pause(database) => {
            control.begin_pause(database.as_deref())?;
            wait_for_release(control, database.as_deref(), &mut command.interrupt).await?;
        }
        Statement::Resume(database) => control.resume(database.as_deref())?,
        Statement::Reconnect(database) => {
            if let Some(name) = database
                && (name == CONSOLE || control.shared.live().config.database(name).is_none())
            {
                return Err(Failure::NoSuchDatabase(name.clone()));
            }
            control.reconnect(database.as_deref());
        }
        Statement::Reload => done.notice = reload(control)?,
        Statement::Shutdown(ending) => done.then = Some(*ending),
        Statement::KillClient(id) => {
            if !control.kill_client(*id).await {
                return Err(Failure::NoSuchClient(*id));
            }
        }
    }
    Ok(done)
}

/// PAUSE answers when no server is in use any more. Ctrl-C takes it back; a
/// client that goes away leaves it in force.
async fn wait_for_release(
    control: &Control,
    database: Option<&str>,
    interrupt: &mut oneshot::Receiver<()>,
) -> Result<(), Failure> {
    tokio::select! {
        released = control.released(database) => match released {
            Released::All => Ok(()),
            Released::Resumed => Err(Failure::Resumed),
        },
        interrupted = interrupt => {
            if interrupted.is_ok() {
                // Somebody else may have resumed it at this very moment.
                let _ = control.resume(database);
            }
            Err(Failure::PauseCanceled)
        }
    }
}

fn reload(control: &Control) -> Result<Option<(Severity, String)>, Failure> {
    match control.reload_and_log() {
        Ok(restart) if restart.is_empty() => Ok(None),
        Ok(restart) => Ok(Some((
            Severity::Warning,
            format!(
                "new values that only a restart puts in force: {}",
                restart.join(", ")
            ),
        ))),
        Err(problems) => {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Err(Failure::Reload(lines.join("\n")))
        }
    }
}
