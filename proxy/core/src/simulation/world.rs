//! The clock, the wires between applications, pooler and servers, and what goes
//! wrong there.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc, time::Duration};

use super::{
    application::Application,
    pooler::{Client, Place, Server},
    random::Random,
    trouble::{Weather, random_limits},
    violation::{Rule, Violation},
    watch::Watch,
};
use crate::{
    config::PoolMode,
    parameters::{Interner, Tracked},
    pool::{Budget, ClientKey, Limits, Moment, Pool, ServerKey, Shared, Thread},
    simulation::postgres::Backend,
    statement::Registry,
};

/// A run that takes longer than this is stuck.
const LONGEST: Moment = Moment(60_000_000);

/// After this nothing goes wrong any more, so that everything can end.
pub(super) const TROUBLE_ENDS: Moment = Moment(300_000);

/// Most events of a run.
const EVENTS_MAX: usize = 200_000;

#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// An application reads and writes.
    Application(ClientKey),
    /// Bytes of an application reach the pooler.
    FromClient(ClientKey),
    /// Bytes of the pooler reach a server.
    ToServer(ServerKey),
    /// A server works.
    Server(ServerKey),
    /// A server's slow statement ends.
    Wake(ServerKey),
    /// Bytes of a server reach the pooler.
    FromServer(ServerKey),
    Letter(Thread, Letter),
    Step(Thread, usize),
    Opened(ServerKey),
    Closed(ServerKey),
    CancelArrives(ServerKey, ClientKey),
    CancelEnded(ServerKey),
    Janitor(Thread),
    Trouble,
}

/// What loops tell each other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Letter {
    Server(ServerKey),
    Ask { pool: usize, from: Thread },
    Evict { pool: usize },
    PoolsChanged,
    Cancel { client: ClientKey },
}

#[derive(Debug)]
struct Scheduled {
    at: Moment,
    sequence: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Moment,
    queue: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    pub(super) random: Random,
    traced: bool,
    pub(super) mode: PoolMode,
    /// max_prepared_statements.
    pub(super) capacity: usize,
    pub(super) query_wait: Duration,
    pub(super) idle_longest: Duration,
    pub(super) registry: Registry,
    pub(super) interner: Interner,
    /// Of all pools, as `max_server_connections` is.
    pub(super) budget: Arc<Budget>,
    pub(super) limits: Vec<Limits>,
    pub(super) pools: Vec<Arc<Shared>>,
    /// By loop, then by pool.
    pub(super) parts: Vec<Vec<Pool>>,
    /// When each part is to be asked again for its next step.
    step_at: Vec<Vec<Option<Moment>>>,
    pub(super) clients: Vec<Client>,
    pub(super) servers: Vec<Server>,
    pub(super) weather: Weather,
    pub(super) draining: bool,
    pub(super) watch: Watch,
    pub(super) violation: Option<Violation>,
}

impl World {
    pub(super) fn new(seed: u64, traced: bool) -> Self {
        let mut random = Random::new(seed);
        let threads = random.between(1, 3);
        let pools = random.pick(&[1, 1, 1, 2, 3]);
        let mode = match random.below(10) {
            0 => PoolMode::Session,
            1 => PoolMode::Statement,
            _ => PoolMode::Transaction,
        };
        let budget_limit = if random.percent(60) {
            0
        } else {
            random.between(1, 4)
        };
        let budget = Arc::new(Budget::new(budget_limit as u32));
        let limits: Vec<Limits> = (0..pools).map(|_| random_limits(&mut random)).collect();
        let shared: Vec<_> = limits
            .iter()
            .map(|limits| Shared::new(threads, *limits, vec![budget.clone()]))
            .collect();
        let round_robin = random.percent(20);
        let part = |thread| {
            let parts = shared.iter();
            parts
                .map(|shared| Pool::new(thread, shared.clone(), round_robin))
                .collect()
        };
        let mut world = Self {
            now: Moment(1_000),
            queue: BinaryHeap::new(),
            sequence: 0,
            traced,
            mode,
            capacity: random.between(1, 5),
            query_wait: Duration::from_millis(random.pick(&[200, 5_000, 20_000])),
            idle_longest: Duration::from_millis(random.pick(&[20, 60_000])),
            registry: Registry::default(),
            interner: Interner::new(Tracked::new([])),
            budget,
            limits,
            parts: (0..threads).map(part).collect(),
            step_at: vec![vec![None; pools]; threads],
            pools: shared,
            clients: Vec::new(),
            servers: Vec::new(),
            weather: Weather::Fair,
            draining: false,
            watch: Watch::new(pools),
            violation: None,
            random,
        };
        let clients = world.random.between(1, 8);
        for key in 0..clients {
            world.add_client(key);
        }
        for thread in 0..threads {
            world.at(Duration::ZERO, Event::Janitor(thread));
        }
        for _ in 0..world.random.pick(&[0, 0, 1, 3, 6]) {
            let at = Duration::from_micros(world.random.between(1_000, 250_000) as u64);
            world.at(at, Event::Trouble);
        }
        world.at(TROUBLE_ENDS.since(world.now), Event::Trouble);
        world
    }

    fn add_client(&mut self, key: ClientKey) {
        let steps = self.random.between(1, 12);
        let random = self.random.fork();
        let mut application = Application::new(key, self.mode, steps, random);
        let fresh = Backend::new();
        let mut parameters = self.interner.empty();
        for (name, value) in fresh.parameters() {
            let index = self.interner.tracked().index(name.as_bytes());
            let index = index.expect("the model has the tracked ones");
            parameters = self.interner.with(&parameters, index, value);
        }
        let mut excuse = None;
        if self.random.percent(40) {
            let value = self.random.pick(&["utc", "cet", "UTC", "nowhere"]);
            let index = self.interner.tracked().index(b"TimeZone").expect("tracked");
            parameters = self.interner.with(&parameters, index, value);
            if !application.start_with("TimeZone", value) {
                excuse = Some("its start-up packet");
            }
        }
        let thread = self.random.below(self.parts.len());
        let pool = self.random.below(self.pools.len());
        let mut client = Client::new(application, thread, pool, parameters);
        client.excuse = excuse;
        self.clients.push(client);
        let begins = Duration::from_micros(self.random.between(0, 20_000) as u64);
        self.at(begins, Event::Application(key));
    }

    pub(super) fn at(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse(Scheduled {
            at: self.now + after,
            sequence: self.sequence,
            event,
        }));
    }

    pub(super) fn soon(&mut self, event: Event) {
        let delay = self.random.delay();
        self.at(delay, event);
    }

    pub(super) fn tell(&mut self, thread: Thread, letter: Letter) {
        self.soon(Event::Letter(thread, letter));
    }

    pub(super) fn step_later(&mut self, thread: Thread, id: usize, moment: Moment) {
        let known = &mut self.step_at[thread][id];
        if known.is_none_or(|known| moment < known) {
            *known = Some(moment);
            self.at(moment.since(self.now), Event::Step(thread, id));
        }
    }

    pub(super) fn wake_server(&mut self, key: ServerKey) {
        self.soon(Event::FromServer(key));
    }

    /// Notes the first violation; what follows from it does not matter.
    pub(super) fn fail(&mut self, rule: Rule, text: String) {
        self.violation.get_or_insert(Violation::new(rule, text));
    }

    /// A line of the trace.
    pub(super) fn note(&self, line: impl FnOnce() -> String) {
        if self.traced {
            println!("{:>10} {}", self.now.0, line());
        }
    }

    /// Runs until every application is done and every server idle, in a drain
    /// closed.
    pub(super) fn run(mut self) -> Result<(), Violation> {
        let mut events = 0;
        while !self.is_over() {
            let Some(Reverse(next)) = self.queue.pop() else {
                self.stuck("nothing is going to happen");
                break;
            };
            self.now = self.now.max(next.at);
            events += 1;
            if self.now > LONGEST || events > EVENTS_MAX {
                self.stuck("it takes too long");
                break;
            }
            self.event(next.event);
            if self.violation.is_none() {
                self.check();
            }
            if self.violation.is_some() {
                break;
            }
        }
        if self.violation.is_none() {
            self.check_end();
        }
        self.violation.map_or(Ok(()), Err)
    }

    fn is_over(&self) -> bool {
        let clients = self.clients.iter();
        let all_gone = clients
            .clone()
            .all(|client| client.gone && client.application.is_over());
        let servers = self.servers.iter();
        let at_rest = |server: &Server| match server.place {
            Place::Opening | Place::Moving | Place::Closing => false,
            Place::Here => {
                let idle = server.setup.is_none() && server.client.is_none() && !server.orphaned;
                idle && !self.draining
            }
            Place::Closed => true,
        };
        all_gone && servers.clone().all(at_rest) && self.now > TROUBLE_ENDS
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Application(key) => self.application(key),
            Event::FromClient(key) => self.read_client(key),
            Event::ToServer(key) => self.feed_server(key),
            Event::Server(key) => self.server(key),
            Event::Wake(key) => {
                if self.is_alive(key) && !self.servers[key].lost {
                    self.servers[key].backend.wake();
                    self.soon(Event::Server(key));
                }
            }
            Event::FromServer(key) => self.read_server(key),
            Event::Letter(thread, letter) => {
                self.note(|| format!("loop {thread}: {letter:?}"));
                self.letter(thread, letter);
            }
            Event::Step(thread, id) => {
                if self.step_at[thread][id].is_some_and(|at| at <= self.now) {
                    self.step_at[thread][id] = None;
                    self.step_pool(thread, id);
                }
            }
            Event::Opened(key) => {
                let failure = match self.weather {
                    Weather::Failing(failure) => Some(failure),
                    Weather::Fair => None,
                };
                self.opened(key, failure);
            }
            Event::Closed(key) => self.server_closed(key),
            Event::CancelArrives(server, client) => self.cancel_arrives(server, client),
            Event::CancelEnded(server) => self.cancel_ended(server),
            Event::Janitor(thread) => {
                self.janitor(thread);
                let later = Duration::from_millis(self.random.between(5, 20) as u64);
                self.at(later, Event::Janitor(thread));
            }
            Event::Trouble => self.trouble(),
        }
        self.wake_all();
    }

    /// Whoever has bytes to move gets an event; those who have one already get
    /// another, which does no harm but is kept rare.
    fn wake_all(&mut self) {
        for key in 0..self.clients.len() {
            if !self.clients[key].out.is_empty() && !self.watch.application_awake(key) {
                self.soon(Event::Application(key));
            }
        }
        for key in 0..self.servers.len() {
            if self.is_alive(key)
                && !self.servers[key].out.is_empty()
                && !self.watch.server_awake(key)
            {
                self.soon(Event::ToServer(key));
            }
        }
    }

    pub(super) fn is_alive(&self, key: ServerKey) -> bool {
        !matches!(self.servers[key].place, Place::Closing | Place::Closed)
    }

    fn stuck(&mut self, why: &str) {
        let clients = self.clients.iter().enumerate();
        let waiting: Vec<String> = clients
            .filter(|(_, client)| !client.application.is_over() || !client.gone)
            .map(|(key, client)| {
                format!(
                    "\n  client {key}: server {:?} waiting {} paused {} gone {} kept {} out {} outbox {}; {}",
                    client.server,
                    client.waiting,
                    client.paused,
                    client.gone,
                    client.kept.len(),
                    client.out.len(),
                    client.application.outbox.len(),
                    client.application.waits_for()
                )
            })
            .collect();
        let servers = self.servers.iter().enumerate();
        let open: Vec<String> = servers
            .filter(|(_, server)| server.place != Place::Closed)
            .map(|(key, server)| format!("\n  server {key}: {server:?}"))
            .collect();
        self.fail(
            Rule::Stuck,
            format!("{why}{}{}", waiting.concat(), open.concat()),
        );
    }
}
