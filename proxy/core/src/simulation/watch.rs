//! The rules that hold after each event, and at the end.

use std::{collections::BTreeSet, time::Duration};

use super::{
    pooler::{CHOKED, Place},
    trouble::Weather,
    violation::Rule,
    world::World,
};
use crate::{
    pool::{ClientKey, GIVE_UP_AFTER, Moment, Pool, ServerKey, Thread},
    session::DUE_MAX,
    wire,
};

/// A waiter and an idle server may miss each other for as long as letters
/// between loops and looking again take.
const FORGOTTEN_AFTER: Duration = Duration::from_millis(60);

/// A waiter waits while a server could be opened for as long as the pause after
/// failed attempts and the time to open a few take.
const NOT_OPENED_AFTER: Duration = Duration::from_millis(500);

/// How late a waiter may be refused, or a server given up: the janitor's round.
const LATE: Duration = Duration::from_millis(25);

/// What is remembered from event to event.
#[derive(Debug)]
pub(super) struct Watch {
    /// By pool: since when the same waiter has waited beside an idle server.
    idle_unused: Vec<Option<(Moment, ClientKey)>>,
    /// By pool: since when the same waiter has waited while there is room.
    room_unused: Vec<Option<(Moment, ClientKey)>>,
    applications_awake: BTreeSet<ClientKey>,
    servers_awake: BTreeSet<ServerKey>,
}

impl Watch {
    pub(super) fn new(pools: usize) -> Self {
        Self {
            idle_unused: vec![None; pools],
            room_unused: vec![None; pools],
            applications_awake: BTreeSet::new(),
            servers_awake: BTreeSet::new(),
        }
    }

    /// Whether the application has an event to come; from now on it has.
    pub(super) fn application_awake(&mut self, key: ClientKey) -> bool {
        !self.applications_awake.insert(key)
    }

    pub(super) fn application_woke(&mut self, key: ClientKey) {
        self.applications_awake.remove(&key);
    }

    pub(super) fn server_awake(&mut self, key: ServerKey) -> bool {
        !self.servers_awake.insert(key)
    }

    pub(super) fn server_woke(&mut self, key: ServerKey) {
        self.servers_awake.remove(&key);
    }

    /// Circumstances have changed: what was wrong before need not be now.
    pub(super) fn forget(&mut self) {
        self.idle_unused.fill(None);
        self.room_unused.fill(None);
    }
}

impl World {
    /// After each event.
    pub(super) fn check(&mut self) {
        for id in 0..self.pools.len() {
            self.check_counts(id);
            self.check_forgotten(id);
            self.check_given_up(id);
        }
        self.check_bounds();
        let used = self.budget.used();
        let open: u32 = self.pools.iter().map(|pool| pool.open()).sum();
        if used != open {
            self.fail(
                Rule::Counts,
                format!("budget {used}, while {open} servers are open"),
            );
        }
    }

    fn check_counts(&mut self, id: usize) {
        let servers = self.servers.iter().enumerate();
        let of_pool = servers.filter(|(_, server)| server.pool == id);
        let open = of_pool
            .clone()
            .filter(|(_, server)| server.place != Place::Closed)
            .count();
        if open != self.pools[id].open() as usize {
            let text = format!(
                "pool {id} counts {} of {open} servers",
                self.pools[id].open()
            );
            return self.fail(Rule::Counts, text);
        }
        for (thread, parts) in self.parts.iter().enumerate() {
            let idle: BTreeSet<ServerKey> = parts[id].idle().map(|(key, _)| key).collect();
            let should_be: BTreeSet<ServerKey> = of_pool
                .clone()
                .filter(|(_, server)| {
                    server.place == Place::Here
                        && server.thread == thread
                        && server.client.is_none()
                        && server.setup.is_none()
                        && !server.orphaned
                })
                .map(|(key, _)| key)
                .collect();
            if idle != should_be || idle.len() != parts[id].idle_len() {
                let text = format!("idle {idle:?} instead of {should_be:?} on loop {thread}");
                return self.fail(Rule::LentOnce, text);
            }
            let clients = self.clients.iter();
            let waiting = clients
                .filter(|client| client.waiting && client.thread == thread && client.pool == id)
                .count();
            if waiting != parts[id].waiting_len() {
                let text = format!(
                    "{waiting} clients wait, {} are queued on loop {thread}",
                    parts[id].waiting_len()
                );
                return self.fail(Rule::Forgotten, text);
            }
        }
    }

    /// The client that has waited longest for the pool, and since when.
    fn oldest_waiter(&self, id: usize) -> Option<(Moment, ClientKey)> {
        let clients = self.clients.iter().enumerate();
        clients
            .filter(|(_, client)| client.waiting && client.pool == id)
            .map(|(key, client)| (client.request_at, key))
            .min()
    }

    fn check_forgotten(&mut self, id: usize) {
        let now = self.now;
        let Some((since, client)) = self
            .oldest_waiter(id)
            .filter(|_| !self.pools[id].is_paused())
        else {
            self.watch.idle_unused[id] = None;
            self.watch.room_unused[id] = None;
            return;
        };
        if now.since(since) > self.query_wait + LATE {
            let text = format!("client {client} has waited for {:?}", now.since(since));
            self.fail(Rule::WaitedTooLong, text);
        }
        let idle = self.parts.iter().any(|parts| parts[id].idle_len() > 0);
        if lasts(&mut self.watch.idle_unused[id], idle, client, now) > FORGOTTEN_AFTER {
            let text = format!("client {client} waits beside an idle server");
            self.fail(Rule::Forgotten, text);
        }
        let opening = self.parts.iter().any(|parts| parts[id].opening() > 0);
        // A server that is idle in another pool makes room in the budget.
        let budget = self.budget.limit();
        let spare = self.parts.iter().flatten().any(|part| part.idle_len() > 0);
        let room = self.weather == Weather::Fair
            && !opening
            && self.pools[id].open() < self.limits[id].size
            && (budget == 0 || self.budget.used() < budget || spare);
        if lasts(&mut self.watch.room_unused[id], room, client, now) > NOT_OPENED_AFTER {
            let text = format!("client {client} waits, but no server is opened");
            self.fail(Rule::Forgotten, text);
        }
    }

    fn check_given_up(&mut self, id: usize) {
        if !self.draining {
            return;
        }
        let late_at = |since: Moment| self.now.since(since) > GIVE_UP_AFTER + LATE;
        let oldest = |parts: &Vec<Pool>| parts[id].idle().next();
        let mut oldest = self.parts.iter().filter_map(oldest);
        let late = oldest.find(|(_, since)| late_at(*since));
        if let Some((server, _)) = late {
            let text = format!("server {server} of pool {id} is kept in a drain");
            self.fail(Rule::NotGivenUp, text);
        }
    }

    fn check_bounds(&mut self) {
        for (key, client) in self.clients.iter().enumerate() {
            // What is read at a time comes on top of what is kept.
            let longest = client.kept.len().max(client.out.len());
            if longest > 16 * CHOKED {
                let text = format!("client {key} has {longest} bytes in a buffer");
                return self.fail(Rule::Bounded, text);
            }
        }
        for (key, server) in self.servers.iter().enumerate() {
            let bytes = server.kept.len().max(server.out.len());
            if bytes > 16 * CHOKED || server.session.due_len() > DUE_MAX + 8 {
                let due = server.session.due_len();
                let text = format!("server {key} has {bytes} bytes in a buffer, {due} due");
                return self.fail(Rule::Bounded, text);
            }
        }
    }

    /// Before a server is opened.
    pub(super) fn check_opening(&mut self, thread: Thread, id: usize) {
        let limits = self.limits[id];
        let waited = self.parts[thread][id]
            .oldest_since()
            .map_or(Duration::ZERO, |since| self.now.since(since));
        let reserve = if !limits.reserve_after.is_zero() && waited >= limits.reserve_after {
            limits.reserve
        } else {
            0
        };
        if self.draining && self.parts[thread][id].waiting_len() == 0 {
            let text = format!("pool {id} opens a server that nobody waits for");
            return self.fail(Rule::NotGivenUp, text);
        }
        // The place has been taken already.
        let open = self.pools[id].open();
        if open > limits.size + reserve {
            let text = format!("pool {id} opens server {open} of {}", limits.size + reserve);
            self.fail(Rule::Limit, text);
        }
        let budget = self.budget.limit();
        if budget > 0 && self.budget.used() > budget {
            let text = format!("server {} of a budget of {budget}", self.budget.used());
            self.fail(Rule::Limit, text);
        }
    }

    /// When a server is free for anybody.
    pub(super) fn check_given_back(&mut self, key: ServerKey) {
        let server = &self.servers[key];
        if server.lost {
            return;
        }
        let unread = [server.kept.as_slice(), &server.backend.sent].concat();
        let under_way = [server.backend.unread(), &server.out].concat();
        // Late data of a copy that failed is ignored whoever's turn it is.
        let harmless = only(&unread, b"N") && only(&under_way, b"dcfH");
        if !harmless || !server.backend.is_quiet() {
            let text = format!(
                "server {key}: under way {:?}, unread {:?}, {:?}",
                String::from_utf8_lossy(&under_way),
                String::from_utf8_lossy(&unread),
                server.backend
            );
            return self.fail(Rule::GivenBackUnclean, text);
        }
        let mut believed: Vec<_> = server.session.taught().collect();
        believed.sort();
        let taught = server.backend.taught();
        if believed != taught {
            let text = format!("server {key} has {taught:?}, believed {believed:?}");
            self.fail(Rule::Taught, text);
        }
    }

    /// After a server has dealt with a message.
    pub(super) fn check_server(&mut self, key: ServerKey) {
        let server = &mut self.servers[key];
        let lent_to = server.client;
        let ran = std::mem::take(&mut server.backend.ran);
        let complaint = server.backend.complaints.pop();
        if let Some(other) = ran.into_iter().find(|owner| Some(*owner) != lent_to) {
            let text = format!("server {key}, lent to {lent_to:?}, ran a statement of {other}");
            self.fail(Rule::ExecutedForOther, text);
        }
        if let Some(complaint) = complaint {
            self.fail(Rule::Taught, format!("server {key}: {complaint}"));
        }
    }

    /// A cancel request is about to reach a server.
    pub(super) fn check_cancel(&mut self, key: ServerKey, asked_by: ClientKey) {
        if let Some(client) = self.servers[key].client
            && client != asked_by
        {
            let text = format!("server {key} is lent to {client}, {asked_by} asked");
            self.fail(Rule::CancelHitOther, text);
        }
    }

    /// When everything has ended: close what is open, and nothing is left.
    pub(super) fn check_end(&mut self) {
        for key in 0..self.servers.len() {
            if self.servers[key].place != Place::Closed {
                let due = self.servers[key].session.due_len();
                if due > 0 {
                    self.fail(Rule::Counts, format!("server {key} ends with {due} due"));
                }
                self.close_server(key);
                // Without what follows: the minimum would be opened again.
                let server = &mut self.servers[key];
                server.place = Place::Closed;
                self.parts[server.thread][server.pool].closed(key);
            }
        }
        self.check();
        for pool in &self.pools {
            if pool.open() != 0 || pool.waiting() != 0 {
                let text = format!(
                    "{} open, {} waiting at the end",
                    pool.open(),
                    pool.waiting()
                );
                return self.fail(Rule::Counts, text);
            }
        }
    }
}

/// Whether `bytes` are whole messages of these types.
fn only(bytes: &[u8], kinds: &[u8]) -> bool {
    let mut whole = 0;
    let all = wire::messages(bytes).all(|frame| {
        whole += frame.body.len() + 5;
        kinds.contains(&frame.kind)
    });
    all && whole == bytes.len()
}

/// For how long `holds` has held for the same client.
fn lasts(
    since: &mut Option<(Moment, ClientKey)>,
    holds: bool,
    client: ClientKey,
    now: Moment,
) -> Duration {
    if !holds {
        *since = None;
        return Duration::ZERO;
    }
    match since {
        Some((moment, same)) if *same == client => now.since(*moment),
        _ => {
            *since = Some((now, client));
            Duration::ZERO
        }
    }
}
