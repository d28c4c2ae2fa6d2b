//! What was done to a tier, by whoever did it.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime},
};

/// All endpoints of the tier.
pub(crate) const ENDPOINTS: [&str; 5] = [
    "pooler-0",
    "pooler-1",
    "pooler-2",
    "balancer-0",
    "balancer-1",
];

/// What an endpoint went through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Suffered {
    /// Outages that must have been seen: its process was killed, or was frozen
    /// until the operator called it Down.
    pub(crate) surely: u32,
    /// Outages that may have been seen or not: it was frozen while no operator
    /// looked, and whoever saw it may have been killed since.
    pub(crate) perhaps: u32,
    /// From when until when it was not well.
    pub(crate) unwell: Vec<(SystemTime, Option<SystemTime>)>,
}

/// What every endpoint went through.
#[derive(Debug)]
pub(crate) struct Truth {
    endpoints: BTreeMap<&'static str, Suffered>,
    /// What was remembered before was made so much older, each time.
    shifts: Vec<Duration>,
}

impl Truth {
    pub(crate) fn new() -> Self {
        Self {
            endpoints: ENDPOINTS.map(|name| (name, Suffered::default())).into(),
            shifts: Vec::new(),
        }
    }

    pub(crate) fn of(&self, name: &str) -> &Suffered {
        &self.endpoints[name]
    }

    fn of_mut(&mut self, name: &str) -> &mut Suffered {
        self.endpoints.get_mut(name).expect("a name of ENDPOINTS")
    }

    pub(crate) fn killed(&mut self, name: &str) {
        let suffered = self.of_mut(name);
        suffered.surely += 1;
        suffered.unwell.push((SystemTime::now(), None));
    }

    pub(crate) fn frozen(&mut self, name: &str) {
        let suffered = self.of_mut(name);
        suffered.perhaps += 1;
        suffered.unwell.push((SystemTime::now(), None));
    }

    /// What may have been seen was, or is followed by what cannot be missed.
    pub(crate) fn is_sure(&mut self, name: &str) {
        let suffered = self.of_mut(name);
        suffered.perhaps -= 1;
        suffered.surely += 1;
    }

    pub(crate) fn well(&mut self, name: &str) {
        if let Some((_, until)) = self.of_mut(name).unwell.last_mut() {
            *until = Some(SystemTime::now());
        }
    }

    pub(crate) fn time_passed(&mut self, period: Duration) {
        self.shifts.push(period);
    }

    /// Whether all endpoints of a kind were unwell at once around a time that
    /// was told.
    pub(crate) fn was_all_unwell(&self, kind: &str, told: SystemTime) -> bool {
        // Told between two times at which what is remembered was made older, it was
        // made so by some of them, one after the other.
        let mut times = vec![told];
        for first in 0..self.shifts.len() {
            let mut at = told;
            for shift in &self.shifts[first..] {
                at += *shift;
                times.push(at);
            }
        }
        times.into_iter().any(|at| self.all_unwell(kind, at))
    }

    fn all_unwell(&self, kind: &str, at: SystemTime) -> bool {
        let slack = Duration::from_secs(1);
        let unwell = |suffered: &Suffered| {
            suffered.unwell.iter().any(|(since, until)| {
                *since <= at + slack && until.is_none_or(|until| at <= until + slack)
            })
        };
        let mut of_kind = self
            .endpoints
            .iter()
            .filter(|(name, _)| name.starts_with(kind));
        of_kind.all(|(_, suffered)| unwell(suffered))
    }
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("outages:")?;
        for (name, suffered) in &self.endpoints {
            write!(f, " {name} {}", suffered.surely)?;
            if suffered.perhaps > 0 {
                write!(f, " (and {} perhaps)", suffered.perhaps)?;
            }
        }
        Ok(())
    }
}
