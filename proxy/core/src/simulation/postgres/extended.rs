//! The extended protocol: Parse, Bind, Describe, Execute, Close.

use super::{
    Backend, Block, Executed, Portal, Prepared, Then,
    carrying_out::{portal_text, row_of},
    sql::Sql,
    text_of,
};
use crate::wire::{backend, sample};

impl Backend {
    pub(super) fn parse(&mut self, body: &[u8]) {
        let (name, rest) = text_of(body);
        let (text, _) = text_of(rest);
        self.start();
        if name.is_empty() {
            self.statements.remove("");
        }
        let sql = match Sql::read(&text) {
            Some(sql) => Some(sql),
            None if text.trim().is_empty() => None,
            None => return self.raise("42601", &format!("syntax error at {text}")),
        };
        if self.block == Block::Failed && !sql.as_ref().is_some_and(Sql::ends_transaction) {
            return self.raise_aborted();
        }
        if let Some(Sql::Missing { tag }) = &sql {
            return self.raise("42P01", &format!("{tag} does not exist"));
        }
        if self.statements.contains_key(&name) {
            self.complain_of(&name, "parsed again");
            return self.raise("42P05", &name);
        }
        self.statements.insert(name, Prepared { text, sql });
        self.put(&sample::bare(backend::PARSE_COMPLETE));
    }

    /// A statement that the pooler named must be there when it says so.
    fn complain_of(&mut self, name: &str, what: &str) {
        if name.starts_with("pk") {
            self.complaints.push(format!("statement {name} {what}"));
        }
    }

    pub(super) fn bind(&mut self, body: &[u8]) {
        let (portal, rest) = text_of(body);
        let (statement, rest) = text_of(rest);
        self.start();
        let Some(prepared) = self.statements.get(&statement).cloned() else {
            self.complain_of(&statement, "bound but missing");
            return self.raise("26000", &statement);
        };
        let ends = prepared.sql.as_ref().is_some_and(Sql::ends_transaction);
        if self.block == Block::Failed && !ends {
            return self.raise_aborted();
        }
        let parameters = bound_parameters(rest);
        if parameters.len() != prepared.text.matches('$').count() {
            return self.raise("08P01", "wrong number of parameters");
        }
        if !portal.is_empty() && self.portals.contains_key(&portal) {
            return self.raise("42P03", &format!("portal {portal} exists"));
        }
        let bound = Portal {
            statement,
            prepared,
            parameters,
            position: 0,
            done: false,
        };
        self.portals.insert(portal, bound);
        self.put(&sample::bare(backend::BIND_COMPLETE));
    }

    pub(super) fn describe(&mut self, body: &[u8]) {
        let name = text_of(&body[1..]).0;
        self.start();
        let sql = if body[0] == b'S' {
            let Some(prepared) = self.statements.get(&name) else {
                self.complain_of(&name, "described but missing");
                return self.raise("26000", &name);
            };
            prepared.sql.clone()
        } else {
            let Some(portal) = self.portals.get(&name) else {
                return self.raise("34000", &name);
            };
            portal.prepared.sql.clone()
        };
        let returns_rows = sql.as_ref().is_some_and(Sql::returns_rows);
        if self.block == Block::Failed && returns_rows {
            return self.raise_aborted();
        }
        if body[0] == b'S' {
            self.put(&sample::parameter_description());
        }
        if returns_rows {
            self.put(&sample::row_description());
        } else {
            self.put(&sample::bare(backend::NO_DATA));
        }
    }

    pub(super) fn execute(&mut self, body: &[u8]) {
        let (name, rest) = text_of(body);
        let limit = u32::from_be_bytes(rest[..4].try_into().expect("a row limit")) as usize;
        self.start();
        let Some(portal) = self.portals.get(&name).cloned() else {
            return self.raise("34000", &name);
        };
        let Some(sql) = portal.prepared.sql else {
            return self.put(&sample::bare(backend::EMPTY_QUERY_RESPONSE));
        };
        if self.block == Block::Failed && !sql.ends_transaction() {
            return self.raise_aborted();
        }
        if let Sql::Select { tag, rows } = &sql {
            return self.fetch(&name, tag, *rows, limit);
        }
        if portal.done {
            return self.raise("55000", &format!("portal {name} cannot be run"));
        }
        if let Some(portal) = self.portals.get_mut(&name) {
            portal.done = true;
        }
        let text = &portal.prepared.text;
        if let Executed::Suspended(doing) =
            self.carry_out(&sql, text, &portal.parameters, Then::Execute)
        {
            self.doing = doing;
        }
    }

    /// Rows of a portal, as many as are asked for.
    fn fetch(&mut self, name: &str, tag: &str, rows: usize, limit: usize) {
        let portal = self.portals.get_mut(name).expect("it was there");
        let left = rows - portal.position;
        let given = if limit == 0 { left } else { left.min(limit) };
        let from = portal.position;
        portal.position += given;
        let suspended = limit > 0 && given == limit;
        let parameters = portal.parameters.clone();
        self.note_owner(&portal_text(tag, &parameters));
        for row in from..from + given {
            self.put(&sample::data_row(&row_of(tag, &parameters, row)));
        }
        if suspended {
            self.put(&sample::bare(backend::PORTAL_SUSPENDED));
        } else {
            self.put(&sample::complete(&format!("SELECT {given}")));
        }
    }

    pub(super) fn close(&mut self, body: &[u8]) {
        let name = text_of(&body[1..]).0;
        if body[0] == b'S' {
            let in_use = self.portals.values().any(|portal| portal.statement == name);
            if in_use {
                self.complain_of(&name, "closed while a portal uses it");
            }
            self.statements.remove(&name);
        } else {
            self.portals.remove(&name);
        }
        self.put(&sample::bare(backend::CLOSE_COMPLETE));
    }
}

fn bound_parameters(bytes: &[u8]) -> Vec<String> {
    let mut rest = &bytes[2..];
    let count = u16::from_be_bytes([rest[0], rest[1]]);
    rest = &rest[2..];
    let one = |_| {
        let length = u32::from_be_bytes(rest[..4].try_into().expect("a length")) as usize;
        let value = String::from_utf8_lossy(&rest[4..4 + length]).into_owned();
        rest = &rest[4 + length..];
        value
    };
    (0..count).map(one).collect()
}
