//! The connections that a server has. A new one always gets in: where no place
//! is left, it takes the one of whoever has been without a request for longest.
//! So whoever comes and asks at once, as probes do, is answered, however many
//! others hold connections and say nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// The connections now, at most `max`.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    /// Numbers what happens.
    events: u64,
    held: HashMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    /// A request of it is being answered.
    asking: bool,
    /// Number of the event since which it is, or is not.
    since: u64,
    /// Dropped with the place, it ends the connection.
    _taken: oneshot::Sender<()>,
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    connections: Arc<Connections>,
}

/// A request that is being answered, until dropped.
#[derive(Debug)]
pub(super) struct Asking {
    place: Arc<Place>,
}

/// Resolves when the place is taken away.
pub(super) type Taken = oneshot::Receiver<()>;

impl Connections {
    /// None yet.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            now: Mutex::default(),
        })
    }

    /// A place for a new connection; the other half says when it is lost to a
    /// newer one.
    pub(super) fn enter(self: &Arc<Self>) -> (Arc<Place>, Taken) {
        let (sender, taken) = oneshot::channel();
        let mut now = self.lock();
        while now.held.len() >= self.max {
            now.shed();
        }
        now.events += 1;
        let id = now.events;
        let held = Held {
            asking: false,
            since: id,
            _taken: sender,
        };
        now.held.insert(id, held);
        drop(now);
        let connections = self.clone();
        (Arc::new(Place { id, connections }), taken)
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Now {
    /// Takes a place away: of a connection without a request as long as there
    /// is one, and only then, of the request that has taken longest.
    fn shed(&mut self) {
        let last = self
            .held
            .iter()
            .min_by_key(|(_, held)| (held.asking, held.since));
        if let Some((&id, _)) = last {
            self.held.remove(&id);
        }
    }
}

impl Place {
    /// A request came.
    pub(super) fn ask(self: &Arc<Self>) -> Asking {
        self.turn(true);
        let place = self.clone();
        Asking { place }
    }

    fn turn(&self, asking: bool) {
        let mut now = self.connections.lock();
        now.events += 1;
        let since = now.events;
        if let Some(held) = now.held.get_mut(&self.id) {
            held.asking = asking;
            held.since = since;
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.place.turn(false);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().held.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(taken: &mut Taken) -> bool {
        taken.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn the_one_without_a_request_for_longest_makes_place() {
        let connections = Connections::new(3);
        let mut places: Vec<_> = (0..3).map(|_| connections.enter()).collect();
        let poll = places[0].0.ask();
        drop(places[1].0.ask());
        // The first is being answered, the second was answered just now.
        places.push(connections.enter());
        let lost_now = |places: &mut Vec<(_, Taken)>| -> Vec<bool> {
            places.iter_mut().map(|(_, taken)| lost(taken)).collect()
        };
        assert_eq!(lost_now(&mut places), [false, false, true, false]);
        places.push(connections.enter());
        assert_eq!(lost_now(&mut places), [false, true, true, false, false]);
        drop(poll);
        places.push(connections.enter());
        assert!(lost(&mut places[3].1) && !lost(&mut places[0].1));
    }

    #[test]
    fn where_all_are_being_answered_the_oldest_request_makes_place() {
        let connections = Connections::new(2);
        let mut places: Vec<_> = (0..2).map(|_| connections.enter()).collect();
        let _requests = [places[1].0.ask(), places[0].0.ask()];
        let _new = connections.enter();
        assert!(lost(&mut places[1].1) && !lost(&mut places[0].1));
    }

    #[test]
    fn a_place_given_back_is_free() {
        let connections = Connections::new(2);
        let (first, _taken) = connections.enter();
        let (_second, mut taken) = connections.enter();
        drop(first);
        let _third = connections.enter();
        assert!(!lost(&mut taken));
    }
}
