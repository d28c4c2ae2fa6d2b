//! What each statement does.

use super::{
    Backend, Block, Doing, Executed, Then,
    sql::{Sql, owner},
};
use crate::wire::{Severity, SqlState, backend, notice_response, sample};

impl Backend {
    pub(super) fn note_owner(&mut self, text: &str) {
        self.ran.extend(owner(text));
    }

    /// A statement of either protocol.
    pub(super) fn carry_out(
        &mut self,
        sql: &Sql,
        text: &str,
        parameters: &[String],
        then: Then,
    ) -> Executed {
        self.note_owner(&portal_text(text, parameters));
        let tag = match sql {
            Sql::Select { tag, rows } => {
                for row in 0..*rows {
                    self.put(&sample::data_row(&row_of(tag, parameters, row)));
                }
                format!("SELECT {rows}")
            }
            Sql::Sleep { tag } => {
                let shows = row_of(tag, parameters, 0);
                return Executed::Suspended(Doing::Sleeping { shows, then });
            }
            Sql::Write => "INSERT 0 1".to_owned(),
            Sql::Fail { tag } => {
                self.raise("22012", tag);
                return Executed::Raised;
            }
            Sql::Missing { .. } => unreachable!("refused when analysed"),
            Sql::Notice { tag } => {
                self.put(&notice_response(
                    Severity::Notice,
                    SqlState("00000"),
                    tag,
                    "",
                ));
                self.flush();
                "DO".to_owned()
            }
            Sql::CopyIn => {
                self.put(&sample::copy_response(backend::COPY_IN_RESPONSE));
                self.flush();
                return Executed::Suspended(Doing::CopyingIn { rows: 0, then });
            }
            Sql::CopyView { tag } => {
                self.put(&sample::copy_response(backend::COPY_IN_RESPONSE));
                self.flush();
                self.raise("42809", tag);
                return Executed::Raised;
            }
            Sql::CopyOut { tag, rows } => {
                self.put(&sample::copy_response(backend::COPY_OUT_RESPONSE));
                for row in 0..*rows {
                    self.put(&sample::copy_data(&row_of(tag, parameters, row)));
                }
                self.put(&sample::copy_done());
                format!("COPY {rows}")
            }
            Sql::Begin => {
                self.block = Block::Open;
                self.implicit = false;
                "BEGIN".to_owned()
            }
            Sql::Commit => self.end_block(),
            Sql::Rollback => {
                self.settings.roll_back();
                self.end_block();
                "ROLLBACK".to_owned()
            }
            Sql::Set { name, value } => {
                if !self.settings.set(name, value) {
                    self.raise("22023", name);
                    return Executed::Raised;
                }
                "SET".to_owned()
            }
            Sql::Show { name } => {
                let value = self.settings.value(name).unwrap_or_default().to_owned();
                self.put(&sample::data_row(&value));
                "SHOW".to_owned()
            }
            Sql::Deallocate { name } => {
                if self.statements.remove(name).is_none() {
                    self.raise("26000", name);
                    return Executed::Raised;
                }
                "DEALLOCATE".to_owned()
            }
            Sql::DeallocateAll => {
                self.statements.retain(|name, _| name.is_empty());
                "DEALLOCATE ALL".to_owned()
            }
            Sql::DiscardAll => {
                if self.block == Block::Open {
                    self.raise("25001", "DISCARD ALL in a transaction");
                    return Executed::Raised;
                }
                self.statements.retain(|name, _| name.is_empty());
                self.portals.clear();
                self.settings.reset();
                "DISCARD ALL".to_owned()
            }
            Sql::Unlisten => "UNLISTEN".to_owned(),
        };
        self.put(&sample::complete(&tag));
        Executed::Done
    }

    fn end_block(&mut self) -> String {
        let failed = self.block == Block::Failed;
        self.block = Block::None;
        self.implicit = false;
        self.settings.commit();
        self.portals.clear();
        if failed { "ROLLBACK" } else { "COMMIT" }.to_owned()
    }
}

/// Where to look for whose statement it is: the parameters, or the text.
pub(super) fn portal_text(text: &str, parameters: &[String]) -> String {
    format!("{} {text}", parameters.join(" "))
}

pub(super) fn row_of(tag: &str, parameters: &[String], row: usize) -> String {
    format!("{tag}/{}/{row}", parameters.join(","))
}
