//! The numbered log of transitions: bounded, and no reader misses an entry
//! without being told.

use std::{collections::VecDeque, sync::Mutex};

use proxy_core::status::Transition;
use tokio::sync::watch;

/// Transitions kept; at three a minute they last more than five hours.
pub const TRANSITIONS_MAX: usize = 1024;

/// The last [`TRANSITIONS_MAX`] transitions, numbered from 1.
#[derive(Debug)]
pub struct Journal {
    kept: Mutex<VecDeque<Transition>>,
    newest: watch::Sender<u64>,
}

/// What a reader gets who has read up to some number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extract {
    /// Transitions after that number that are still kept, oldest first.
    pub transitions: Vec<Transition>,
    /// Number of the newest transition, 0 if there was none.
    pub newest: u64,
    /// Some transitions after that number are no longer kept, or there never
    /// was such a number.
    pub missed: bool,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            newest: watch::Sender::new(0),
        }
    }
}

impl Journal {
    /// Appends `transition` under the next number, and wakes who waits for it.
    pub fn append(&self, mut transition: Transition) {
        let mut kept = self.kept.lock().expect("no holder panics");
        let number = *self.newest.borrow() + 1;
        transition.number = number;
        if kept.len() == TRANSITIONS_MAX {
            kept.pop_front();
        }
        kept.push_back(transition);
        self.newest.send_replace(number);
    }

    /// What came after number `since`.
    #[must_use]
    pub fn after(&self, since: u64) -> Extract {
        let kept = self.kept.lock().expect("no holder panics");
        let newest = *self.newest.borrow();
        let oldest = kept.front().map_or(newest + 1, |first| first.number);
        Extract {
            transitions: kept
                .iter()
                .filter(|transition| transition.number > since)
                .cloned()
                .collect(),
            newest,
            missed: since + 1 < oldest || since > newest,
        }
    }

    /// The newest `count` transitions, newest first.
    #[must_use]
    pub fn latest(&self, count: usize) -> Vec<Transition> {
        let kept = self.kept.lock().expect("no holder panics");
        kept.iter().rev().take(count).cloned().collect()
    }

    /// Tells the number of the newest transition whenever there is one.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proxy_core::status::Health;

    use super::*;

    fn transition() -> Transition {
        Transition {
            number: 0,
            at: Timestamp::UNIX_EPOCH,
            target: "pooler-0".into(),
            from: Health::Up,
            to: Health::Down,
            restarted: false,
            reason: "connection refused".into(),
            boot_id: None,
            up: 0,
            total: 1,
        }
    }

    fn numbers(journal: &Journal, since: u64) -> (Vec<u64>, bool) {
        let extract = journal.after(since);
        let numbers = extract.transitions.iter().map(|one| one.number).collect();
        (numbers, extract.missed)
    }

    #[test]
    fn readers_get_what_came_after() {
        let journal = Journal::default();
        assert_eq!(numbers(&journal, 0), (vec![], false));
        assert_eq!(numbers(&journal, 1), (vec![], true), "no such number yet");
        for _ in 0..3 {
            journal.append(transition());
        }
        assert_eq!(numbers(&journal, 0), (vec![1, 2, 3], false));
        assert_eq!(numbers(&journal, 2), (vec![3], false));
        assert_eq!(numbers(&journal, 3), (vec![], false));
        assert_eq!(numbers(&journal, 4), (vec![], true));
        assert_eq!(journal.after(0).newest, 3);
    }

    #[test]
    fn a_full_journal_forgets_the_oldest_and_says_so() {
        let journal = Journal::default();
        for _ in 0..TRANSITIONS_MAX + 2 {
            journal.append(transition());
        }
        let (kept, missed) = numbers(&journal, 1);
        assert_eq!(kept.len(), TRANSITIONS_MAX);
        assert_eq!(kept[0], 3);
        assert!(missed, "number 2 is gone");
        assert!(!numbers(&journal, 2).1);
    }
}
