//! What applications send, chosen at random.

use super::Application;
use crate::{
    config::PoolMode,
    wire::{query, sample, sync},
};

/// Names of statements; few, so that they meet.
const NAMES: [&str; 4] = ["", "s1", "s2", "s3"];

impl Application {
    fn tag(&mut self) -> String {
        self.sequence += 1;
        format!("c{}q{}", self.id, self.sequence)
    }

    /// The next thing to send; whole messages.
    pub(super) fn next_request(&mut self) -> Vec<u8> {
        if self.oracle.is_copying_in() {
            return self.copy_more();
        }
        self.may_pipeline = true;
        if let Some(text) = self.described.take()
            && self.oracle.unnamed() == Some(&text)
        {
            let mut bytes = self.bind_and_execute("", text.matches('$').count());
            bytes.extend(sync());
            return bytes;
        }
        if !self.inbox.is_empty() && self.random.percent(50) {
            // What the pooler answers itself, while a message is cut in two.
            let name = self.random.pick(&NAMES[1..]);
            return [sample::close(b'S', name), sync().to_vec()].concat();
        }
        if self.oracle.in_block() && self.random.percent(30) {
            let ends = ["commit", "rollback", "commit", "rollback; "];
            return query(self.random.pick(&ends));
        }
        match self.random.below(25) {
            23..=24 => self.describe_unnamed(),
            20..=22 => {
                let name = self.random.pick(&NAMES[1..]);
                let mut bytes = sample::parse(name, &self.prepared());
                bytes.extend(sample::describe(b'S', name));
                bytes.extend(sample::flush());
                bytes
            }
            0..=4 => self.simple(),
            5 if self.mode != PoolMode::Statement => query("begin"),
            6 => self.copy(),
            7 => self.set_or_show(),
            8 => self.forget(),
            9 => sample::function_call(&self.tag()),
            10 => [sync().to_vec(), sample::flush(), sample::copy_done()][self.random.below(3)]
                .clone(),
            11 => {
                let tag = self.tag();
                query(&format!("sleep {tag}"))
            }
            // What the pooler's server has under no name is not this client's.
            12 if self.oracle.unnamed().is_none() => {
                let mut bytes = self.bind_and_execute("", 1);
                bytes.extend(sync());
                bytes
            }
            _ => self.batches(),
        }
    }

    /// As drivers do that look at a statement's parameters before they bind
    /// them, by way of whatever server there is then.
    fn describe_unnamed(&mut self) -> Vec<u8> {
        let tag = self.tag();
        let text = match self.random.below(6) {
            0 => format!("selct {tag}"),
            1 => format!("write {tag}"),
            2 => format!("fail {tag}"),
            _ => format!("select {tag} 2 $1"),
        };
        let mut bytes = sample::parse("", &text);
        bytes.extend(sample::describe(b'S', ""));
        bytes.extend(sync());
        self.described = Some(text);
        bytes
    }

    fn simple(&mut self) -> Vec<u8> {
        let count = self.random.pick(&[0, 1, 1, 1, 2, 3]);
        let statements: Vec<String> = (0..count).map(|_| self.statement()).collect();
        query(&statements.join("; "))
    }

    /// A statement without parameters.
    fn statement(&mut self) -> String {
        let tag = self.tag();
        match self.random.below(16) {
            0 => format!("fail {tag}"),
            1 => format!("missing {tag}"),
            2 => format!("selct {tag}"),
            3 => format!("notice {tag}"),
            4 => format!("copyout {tag} {}", self.random.below(5)),
            5 => format!("select {tag} {}", self.random.between(100, 400)),
            6..=8 => format!("write {tag}"),
            9 if self.mode != PoolMode::Statement => {
                format!("begin; write {tag}; commit")
            }
            _ => format!("select {tag} {}", self.random.below(4)),
        }
    }

    /// The text of a prepared statement, and its parameters.
    fn prepared(&mut self) -> String {
        let tag = self.tag();
        match self.random.below(20) {
            // The same text from any application: the pooler shares them.
            0..=8 => format!("select shared{} 3 $1", self.random.below(6)),
            9 => format!("missing shared{}", self.random.below(2)),
            10 => format!("selct shared{}", self.random.below(2)),
            11 => format!("fail {tag}"),
            12 => format!("write {tag}"),
            13 => "show timezone".to_owned(),
            14 => "rollback".to_owned(),
            15 => format!("sleep {tag}"),
            16 => String::new(),
            _ => format!("select {tag} 2 $1"),
        }
    }

    fn set_or_show(&mut self) -> Vec<u8> {
        let names = ["TimeZone", "DateStyle", "application_name"];
        let name = self.random.pick(&names);
        if self.random.percent(50) {
            return query(&format!("show {name}"));
        }
        let values = ["a", "b", "C", "it''s", "nowhere"];
        let value = self.random.pick(&values);
        let then = if self.random.percent(15) {
            let tag = self.tag();
            format!("; fail {tag}")
        } else {
            String::new()
        };
        query(&format!("set {name}='{value}'{then}"))
    }

    fn forget(&mut self) -> Vec<u8> {
        let name = self.random.pick(&NAMES[1..]);
        let sql = match self.random.below(8) {
            0 => "discard all".to_owned(),
            1 => "DEALLOCATE ALL".to_owned(),
            _ => format!("deallocate {name}"),
        };
        query(&sql)
    }

    fn copy(&mut self) -> Vec<u8> {
        let tag = self.tag();
        let verb = self.random.pick(&["copyin", "copyin", "copyview"]);
        let mut bytes = if self.random.percent(50) {
            let second = if self.random.percent(20) {
                format!("; copyin {tag}")
            } else {
                String::new()
            };
            query(&format!("{verb} {tag}{second}"))
        } else {
            let mut batch = [
                sample::parse("", &format!("{verb} {tag}")),
                sample::bind("", "", &[]),
                sample::execute("", 0),
            ]
            .concat();
            // As libpq does, or as others do.
            batch.extend(if self.random.percent(60) {
                sync().to_vec()
            } else {
                sample::flush()
            });
            batch
        };
        self.may_pipeline = self.random.percent(30);
        if self.may_pipeline {
            // Without waiting for the server to ask for it.
            let row = self.random.pick(&["row", "bad"]);
            bytes.extend(sample::copy_data(row));
            bytes.extend(sample::copy_done());
            bytes.extend(sync());
        }
        bytes
    }

    /// The server copies in: data, and at some time the end.
    fn copy_more(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..self.random.below(4) {
            let row = self.random.pick(&["row", "row", "row", "row", "bad"]);
            bytes.extend(sample::copy_data(&row.repeat(self.random.between(1, 20))));
        }
        let end = self.random.below(8);
        self.may_pipeline = (2..=6).contains(&end);
        match end {
            0 => bytes.extend(sync()),
            1 => bytes.extend(sample::flush()),
            2 => bytes.extend(sample::copy_fail("enough")),
            3..=6 => bytes.extend(sample::copy_done()),
            _ => {}
        }
        if self.random.percent(60) {
            bytes.extend(sync());
        }
        if bytes.is_empty() {
            bytes = sample::copy_done();
        }
        bytes
    }

    /// Some batches of the extended protocol, in a pipeline.
    fn batches(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..self.random.pick(&[1, 1, 1, 2, 3, 6]) {
            for _ in 0..self.random.pick(&[1, 1, 2, 3]) {
                bytes.extend(self.extended());
            }
            bytes.extend(match self.random.below(12) {
                0 => sample::flush(),
                1 => {
                    let tag = self.tag();
                    query(&format!("select {tag} 1"))
                }
                2 => sample::function_call(&self.tag()),
                3 => [sample::flush(), sync().to_vec()].concat(),
                _ => sync().to_vec(),
            });
        }
        bytes
    }

    fn extended(&mut self) -> Vec<u8> {
        let name = self.random.pick(&NAMES);
        match self.random.below(12) {
            0..=3 => {
                let sql = self.prepared();
                let mut bytes = sample::parse("", &sql);
                bytes.extend(self.bind_and_execute("", sql.matches('$').count()));
                bytes
            }
            4..=5 if !name.is_empty() => sample::parse(name, &self.prepared()),
            6 if !name.is_empty() => {
                let sql = self.prepared();
                let mut bytes = sample::parse(name, &sql);
                bytes.extend(self.bind_and_execute(name, sql.matches('$').count()));
                bytes
            }
            // In a failed transaction PostgreSQL describes a statement without
            // rows that it knows, but cannot be taught one.
            7 if !name.is_empty() && !self.oracle.in_block() => {
                let mut bytes = sample::describe(b'S', name);
                if self.random.percent(40) {
                    bytes.extend(sample::flush());
                }
                bytes
            }
            8 => sample::close(b'S', name),
            9 if self.random.percent(30) => sample::execute("nobody", 0),
            _ if !name.is_empty() => {
                // Whatever the name stands for, if anything.
                let parameters = usize::from(self.random.percent(70));
                self.bind_and_execute(name, parameters)
            }
            _ => sample::close(b'P', ""),
        }
    }

    fn bind_and_execute(&mut self, name: &str, parameters: usize) -> Vec<u8> {
        let tag = self.tag();
        let portal = self.random.pick(&["", "", "", "p1", "p2"]);
        let parameters = vec![tag.as_str(); parameters];
        let mut bytes = sample::bind(portal, name, &parameters);
        if self.random.percent(30) {
            bytes.extend(sample::describe(b'P', portal));
        }
        if self.random.percent(30) {
            bytes.extend(sample::execute(portal, 1));
        }
        bytes.extend(sample::execute(portal, 0));
        if self.random.percent(20) {
            bytes.extend(sample::close(b'P', portal));
        }
        bytes
    }
}
