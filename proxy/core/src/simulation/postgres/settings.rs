//! The run-time parameters of the model: reported, transactional.

use std::collections::BTreeMap;

use crate::{parameters::Tracked, wire::parameter_status};

type Values = BTreeMap<&'static str, String>;

#[derive(Debug)]
pub(super) struct Settings {
    defaults: Values,
    current: Values,
    /// As the client was last told.
    reported: Values,
    /// As they were when the transaction began.
    before: Option<Values>,
}

impl Settings {
    pub(super) fn new() -> Self {
        let defaults: Values = Tracked::ALWAYS
            .into_iter()
            .map(|name| (name, format!("{}0", name.to_ascii_uppercase())))
            .collect();
        Self {
            current: defaults.clone(),
            reported: defaults.clone(),
            before: None,
            defaults,
        }
    }

    /// The name as PostgreSQL spells it.
    fn canonical(name: &str) -> Option<&'static str> {
        let mut names = Tracked::ALWAYS.into_iter();
        names.find(|known| known.eq_ignore_ascii_case(name))
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        Some(&self.current[Self::canonical(name)?])
    }

    /// Sets a value, spelt PostgreSQL's way; `false` if it refuses.
    pub(super) fn set(&mut self, name: &str, value: &str) -> bool {
        let Some(name) = Self::canonical(name).filter(|_| value != "nowhere") else {
            return false;
        };
        let spelt = if name == "application_name" {
            value.to_owned()
        } else {
            value.to_ascii_uppercase()
        };
        self.current.insert(name, spelt);
        true
    }

    pub(super) fn reset(&mut self) {
        self.current = self.defaults.clone();
    }

    pub(super) fn begin(&mut self) {
        if self.before.is_none() {
            self.before = Some(self.current.clone());
        }
    }

    pub(super) fn commit(&mut self) {
        self.before = None;
    }

    pub(super) fn roll_back(&mut self) {
        if let Some(before) = self.before.take() {
            self.current = before;
        }
    }

    /// The ParameterStatus messages for what has changed since the last time.
    pub(super) fn report(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in &self.current {
            if self.reported[name] != *value {
                out.extend(parameter_status(name, value));
            }
        }
        self.reported = self.current.clone();
        out
    }

    /// All values, as a login reports them.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.current
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
    }
}
