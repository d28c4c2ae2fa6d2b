//! Who gets which server, and when one is opened or closed.
//!
//! There is one pool for each database and user in the process. With several
//! event loops each loop has its own [`Pool`], the part of it whose servers and
//! waiters live on that loop, and all parts share one [`Shared`]: limits are
//! the pool's, not a loop's. A request that finds an idle server on its own
//! loop takes no lock.
//!
//! ```text
//!   request ──idle server here──> granted
//!      │
//!      └─> queued ──server returned here──────────────> granted
//!            │  └───server moved from another loop────> granted
//!            │  └───server opened───────────────────── > granted
//!            └─ query_wait_timeout, client gone ──────> dropped
//! ```
//!
//! No wake-up is lost: who queues publishes that first and looks for idle
//! servers on other loops second; who puts a server aside counts it first and
//! looks for waiters on other loops second. One of the two sees the other.

mod budget;
mod retry;

pub use budget::Budget;
pub use retry::{OpenFailure, RETRY_UNREACHABLE_MAX};

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::sabotage::{Sabotage, sabotaged};
use retry::Retry;

/// A clock reading: microseconds since some moment before the process began to
/// serve, the same for all threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// How long ago `earlier` was; zero if it is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.micros_since(earlier))
    }

    /// The same as a number, for counters.
    #[must_use]
    pub fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}

/// Names a client within its event loop.
pub type ClientKey = usize;
/// Names a server connection within its event loop.
pub type ServerKey = usize;
/// Number of an event loop, from 0.
pub type Thread = usize;

/// A waiter on another loop goes first if it has waited this much longer.
const FAIRNESS_MARGIN: Duration = Duration::from_millis(2);

/// Servers that one loop opens at a time for one pool: a burst that the
/// servers already open will have served in a moment must not fill the pool.
const OPENING_MAX: u32 = 4;

/// How long a server is kept in a drain while nobody needs it.
///
/// Its place is worth more to the pooler that comes after, but a server closed
/// after each transaction would be opened again for the next. So a place is
/// opened again at most once in this time, and under load those stay open that
/// were in use at once within it.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(1);

/// How soon a waiter that nothing can be done for looks again. A place may
/// become free without this loop's being told: a server closed on another
/// loop or in a pool that shares a budget, a limit raised.
pub const LOOK_AGAIN: Duration = Duration::from_millis(10);

const NOBODY: u64 = u64::MAX;

/// Limits of a pool; each can change while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most servers (`pool_size`).
    pub size: u32,
    /// Servers kept open (`min_pool_size`).
    pub size_min: u32,
    /// Servers beyond `size` (`reserve_pool_size`)...
    pub reserve: u32,
    /// ...when a client has waited this long (`reserve_pool_timeout`).
    pub reserve_after: Duration,
    /// Longest pause between attempts to open a server that is rejected
    /// (`server_login_retry`).
    pub login_retry: Duration,
}

/// What the parts of one pool share.
#[derive(Debug)]
pub struct Shared {
    size: AtomicU32,
    size_min: AtomicU32,
    reserve: AtomicU32,
    reserve_after_us: AtomicU64,
    login_retry_us: AtomicU64,
    /// Servers open or being opened, on all loops.
    open: AtomicU32,
    paused: AtomicBool,
    /// When it was resumed last.
    resumed_us: AtomicU64,
    draining: AtomicBool,
    retry: Retry,
    parts: Box<[Part]>,
    budgets: Vec<Arc<Budget>>,
    /// Budgets have changed since it was last seen that none is exceeded.
    budgets_changed: AtomicBool,
}

/// What the other loops may know of one loop's part. A cache line each.
#[derive(Debug)]
#[repr(align(64))]
struct Part {
    /// When its oldest waiter queued, or [`NOBODY`].
    waiting_since_us: AtomicU64,
    waiting: AtomicU32,
    idle: AtomicU32,
}

impl Shared {
    /// A pool over `threads` loops, within `limits` and within each of
    /// `budgets` (`max_db_connections`, `max_user_connections`,
    /// `max_server_connections`).
    #[must_use]
    pub fn new(threads: usize, limits: Limits, budgets: Vec<Arc<Budget>>) -> Arc<Self> {
        let shared = Self {
            size: AtomicU32::new(0),
            size_min: AtomicU32::new(0),
            reserve: AtomicU32::new(0),
            reserve_after_us: AtomicU64::new(0),
            login_retry_us: AtomicU64::new(0),
            open: AtomicU32::new(0),
            paused: AtomicBool::new(false),
            resumed_us: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            retry: Retry::default(),
            parts: (0..threads)
                .map(|_| Part {
                    waiting_since_us: AtomicU64::new(NOBODY),
                    waiting: AtomicU32::new(0),
                    idle: AtomicU32::new(0),
                })
                .collect(),
            budgets,
            budgets_changed: AtomicBool::new(true),
        };
        shared.set_limits(limits);
        Arc::new(shared)
    }

    /// Puts new limits in force. Servers beyond them are closed as they return.
    pub fn set_limits(&self, limits: Limits) {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.size.store(limits.size, Ordering::Relaxed);
        self.size_min.store(limits.size_min, Ordering::Relaxed);
        self.reserve.store(limits.reserve, Ordering::Relaxed);
        self.reserve_after_us
            .store(micros(limits.reserve_after), Ordering::Relaxed);
        self.login_retry_us
            .store(micros(limits.login_retry), Ordering::Relaxed);
    }

    /// Changes how many servers are kept open.
    pub fn set_size_min(&self, size_min: u32) {
        self.size_min.store(size_min, Ordering::Relaxed);
    }

    /// Stops (PAUSE) or resumes granting servers. To resume, tell every loop
    /// to call [`Pool::resume`] until it has nothing more, then [`Pool::next_step`].
    pub fn set_paused(&self, paused: bool, now: Moment) {
        if !paused && self.is_paused() {
            self.resumed_us.store(now.0, Ordering::SeqCst);
        }
        self.paused.store(paused, Ordering::SeqCst);
    }

    /// From now on servers that nobody needs are given up
    /// ([`Pool::idle_too_long`]), and none is opened for the minimum. Who needs
    /// one is served as before, within the same limits.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether servers that nobody needs are given up.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Servers kept open though nobody needs them.
    fn minimum(&self) -> u32 {
        if self.is_draining() && !sabotaged(Sabotage::MinimumInDrain) {
            return 0;
        }
        self.size_min.load(Ordering::Relaxed)
    }

    /// Forgets past failures to open a server: the next attempt may come at once.
    pub fn retry_now(&self) {
        self.retry.succeeded();
    }

    /// Whether granting is stopped.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// Servers open or being opened, on all loops.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::SeqCst)
    }

    /// Servers beyond a budget that was lowered, of this pool and those that
    /// share it: as many idle ones are to be closed.
    #[must_use]
    pub fn excess(&self) -> u32 {
        let excess = self.budgets.iter().map(|budget| budget.excess());
        excess.max().unwrap_or_default()
    }

    /// To be told after [`Budget::set_limit`], each pool that shares the budget:
    /// servers beyond it are closed as they return.
    pub fn budgets_changed(&self) {
        self.budgets_changed.store(true, Ordering::SeqCst);
    }

    /// Whether there is an excess. Asked in every transaction, so that budgets
    /// are looked at only after one has changed: servers come within them.
    fn is_over_budget(&self) -> bool {
        if !self.budgets_changed.load(Ordering::Relaxed) {
            return false;
        }
        // Before the look: what changes during it is looked at again.
        self.budgets_changed.store(false, Ordering::SeqCst);
        let is_over = self.excess() > 0;
        if is_over {
            self.budgets_changed();
        }
        is_over
    }

    /// Clients waiting, on all loops.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        let counts = self
            .parts
            .iter()
            .map(|part| part.waiting.load(Ordering::Relaxed));
        counts.sum()
    }

    /// What the oldest waiter of all loops waits for, if it has waited for
    /// `longest` at `now`, without the time for which it was meant to.
    #[must_use]
    pub fn obstacle(&self, longest: Duration, now: Moment) -> Option<Obstacle> {
        let parts = self.parts.iter();
        let waiting = parts.map(|part| part.waiting_since_us.load(Ordering::Relaxed));
        let oldest = waiting.filter(|since| *since != NOBODY).min()?;
        let resumed = self.resumed_us.load(Ordering::SeqCst);
        if self.is_paused() || now.since(Moment(oldest.max(resumed))) < longest {
            return None;
        }
        let waited = now.since(Moment(oldest));
        // As a place is taken: the pool's own limit comes first.
        let full = match self.open() < self.size_limit(waited) {
            true => self.budgets.iter().position(|budget| budget.is_full()),
            false => None,
        };
        Some(full.map_or(Obstacle::Server, Obstacle::Budget))
    }

    /// A loop that has idle servers: where to close one for [`Step::Evict`].
    #[must_use]
    pub fn loop_with_idle(&self) -> Option<Thread> {
        let mut parts = self.parts.iter();
        parts.position(|part| part.idle.load(Ordering::SeqCst) > 0)
    }

    /// The limits that are full, if opening one more server would pass one.
    fn size_limit(&self, oldest_wait: Duration) -> u32 {
        let size = self.size.load(Ordering::Relaxed);
        let reserve = self.reserve.load(Ordering::Relaxed);
        let after = Duration::from_micros(self.reserve_after_us.load(Ordering::Relaxed));
        if reserve > 0 && !after.is_zero() && oldest_wait >= after {
            size.saturating_add(reserve)
        } else {
            size
        }
    }

    /// Takes a place for one more server, in the pool and in every budget.
    fn reserve(&self, limit: u32) -> Result<(), Full> {
        self.open
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |open| {
                (open < limit).then_some(open + 1)
            })
            .map_err(|_| Full::Pool)?;
        for (index, budget) in self.budgets.iter().enumerate() {
            if !budget.take() {
                self.budgets[..index].iter().for_each(|taken| taken.give());
                self.open.fetch_sub(1, Ordering::SeqCst);
                return Err(Full::Budget);
            }
        }
        Ok(())
    }

    fn unreserve(&self) {
        let before = self.open.fetch_sub(1, Ordering::SeqCst);
        assert!(before > 0, "a server closed that was never counted");
        self.budgets.iter().for_each(|budget| budget.give());
    }

    /// The loop, other than `thread`, whose oldest waiter has waited longest.
    fn oldest_elsewhere(&self, thread: Thread) -> Option<(Thread, Moment)> {
        let others = self
            .parts
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != thread);
        others
            .map(|(at, part)| (at, part.waiting_since_us.load(Ordering::SeqCst)))
            .filter(|&(_, since)| since != NOBODY)
            .min_by_key(|&(_, since)| since)
            .map(|(at, since)| (at, Moment(since)))
    }

    fn idle_elsewhere(&self, thread: Thread) -> Option<Thread> {
        let mut others = self.parts.iter().enumerate();
        others
            .find(|(at, part)| *at != thread && part.idle.load(Ordering::SeqCst) > 0)
            .map(|(at, _)| at)
    }
}

enum Full {
    Pool,
    Budget,
}

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// A server of its pool.
    Server,
    /// A place in this one of the pool's budgets.
    Budget(usize),
}

/// Answer to a request for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Use this idle server.
    Granted(ServerKey),
    /// The client waits; see [`Pool::next_step`].
    Queued,
}

/// What a loop must do so that its waiters are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Open a server. Its place is taken: report [`Pool::opened`],
    /// [`Pool::open_failed`] or [`Pool::open_abandoned`].
    Open,
    /// Ask that loop for an idle server ([`Pool::asked`] there).
    Ask(Thread),
    /// The limit that stands in the way is a budget shared with other pools:
    /// close an idle server of one of those, on this loop or, as
    /// [`Shared::loop_with_idle`] tells, on another; ask again when it is
    /// closed, or after [`LOOK_AGAIN`].
    Evict,
    /// PostgreSQL has rejected the last attempt, the next is not due, and there
    /// is no server to wait for: tell all who wait here ([`Pool::expired`]).
    Refuse,
    /// Nothing before that moment.
    WaitUntil(Moment),
    /// Nothing until something changes here.
    Wait,
}

/// What to do with a server that is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    /// Give it to this waiter.
    Serve(ClientKey),
    /// Move it to that loop; it counts as open all along.
    Move(Thread),
    /// It is idle here.
    Kept,
    /// Close it (pool paused or shrunk), then report [`Pool::closed`].
    Close,
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    client: ClientKey,
    since: Moment,
}

#[derive(Clone, Copy, Debug)]
struct Idle {
    server: ServerKey,
    since: Moment,
}

/// One loop's part of a pool.
#[derive(Debug)]
pub struct Pool {
    thread: Thread,
    shared: Arc<Shared>,
    /// Least recently used first.
    idle: VecDeque<Idle>,
    /// Longest waiting first.
    waiting: VecDeque<Waiter>,
    opening: u32,
    round_robin: bool,
}

impl Pool {
    /// The part of loop `thread`. With `round_robin` the least recently used
    /// server is taken instead of the most recently used.
    #[must_use]
    pub fn new(thread: Thread, shared: Arc<Shared>, round_robin: bool) -> Self {
        Self {
            thread,
            shared,
            idle: VecDeque::new(),
            waiting: VecDeque::new(),
            opening: 0,
            round_robin,
        }
    }

    /// What all parts share.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Changes which idle server is taken (`server_round_robin`).
    pub fn set_round_robin(&mut self, round_robin: bool) {
        self.round_robin = round_robin;
    }

    /// Clients waiting here.
    #[must_use]
    pub fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    /// Idle servers here.
    #[must_use]
    pub fn idle_len(&self) -> usize {
        self.idle.len()
    }

    /// Servers being opened here.
    #[must_use]
    pub fn opening(&self) -> u32 {
        self.opening
    }

    /// When the oldest waiter here queued.
    #[must_use]
    pub fn oldest_since(&self) -> Option<Moment> {
        Some(self.waiting.front()?.since)
    }

    /// The idle servers here, least recently used first, each with the moment
    /// it became idle.
    pub fn idle(&self) -> impl Iterator<Item = (ServerKey, Moment)> {
        self.idle.iter().map(|idle| (idle.server, idle.since))
    }

    fn part(&self) -> &Part {
        &self.shared.parts[self.thread]
    }

    fn publish_waiting(&self) {
        let since = self.waiting.front().map_or(NOBODY, |oldest| oldest.since.0);
        let part = self.part();
        part.waiting_since_us.store(since, Ordering::SeqCst);
        let count = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        part.waiting.store(count, Ordering::Relaxed);
    }

    fn publish_idle(&self) {
        let count = u32::try_from(self.idle.len()).unwrap_or(u32::MAX);
        self.part().idle.store(count, Ordering::SeqCst);
    }

    fn take_idle(&mut self) -> Option<ServerKey> {
        // In turns none of them would ever be one that nobody needs.
        let idle = if self.round_robin && !self.shared.is_draining() {
            self.idle.pop_front()
        } else {
            self.idle.pop_back()
        }?;
        self.publish_idle();
        Some(idle.server)
    }

    /// A client needs a server.
    pub fn request(&mut self, client: ClientKey, now: Moment) -> Request {
        if let Some(server) = self.take_for_newcomer() {
            return Request::Granted(server);
        }
        self.waiting.push_back(Waiter { client, since: now });
        self.publish_waiting();
        Request::Queued
    }

    /// A client whose server turned out to be broken needs another one, as if
    /// it had never stopped waiting since `since`.
    #[must_use]
    pub fn requeue(&mut self, client: ClientKey, since: Moment) -> Request {
        if let Some(server) = self.take_for_newcomer() {
            return Request::Granted(server);
        }
        let at = self.waiting.partition_point(|waiter| waiter.since <= since);
        self.waiting.insert(at, Waiter { client, since });
        self.publish_waiting();
        Request::Queued
    }

    /// An idle server, unless somebody waits already.
    fn take_for_newcomer(&mut self) -> Option<ServerKey> {
        if !self.waiting.is_empty() || self.shared.is_paused() {
            return None;
        }
        self.take_idle()
    }

    /// What to do now so that waiters here are served. Ask again after every
    /// change, and at the moment it names.
    pub fn next_step(&mut self, now: Moment) -> Step {
        if self.shared.is_paused() {
            return Step::Wait;
        }
        if !self.waiting.is_empty()
            && let Some(thread) = self.shared.idle_elsewhere(self.thread)
        {
            return Step::Ask(thread);
        }
        let missing = self.waiting.len().saturating_sub(self.opening as usize);
        let below_min = self.shared.open() < self.shared.minimum();
        if (missing == 0 && !below_min) || self.opening >= OPENING_MAX {
            return Step::Wait;
        }
        if missing == 0 && self.shared.budgets.iter().any(|it| it.is_wanted(now)) {
            return Step::Wait;
        }
        if let Some(moment) = self.shared.retry.not_before(now, self.opening > 0) {
            if missing > 0 && self.shared.open() == 0 && self.shared.retry.is_rejected() {
                return Step::Refuse;
            }
            return moment.map_or(Step::Wait, Step::WaitUntil);
        }
        let oldest_wait = self
            .oldest_since()
            .map_or(Duration::ZERO, |since| now.since(since));
        match self.shared.reserve(self.shared.size_limit(oldest_wait)) {
            Ok(()) => {
                self.opening += 1;
                Step::Open
            }
            // The minimum is not worth another pool's server.
            Err(_) if missing == 0 => Step::Wait,
            Err(Full::Budget) => {
                self.shared.budgets.iter().for_each(|it| it.want(now));
                Step::Evict
            }
            Err(Full::Pool) => self.look_again(now),
        }
    }

    /// The reserve opens only to those who have waited long enough.
    fn look_again(&self, now: Moment) -> Step {
        if sabotaged(Sabotage::NoLookingAgain) {
            return Step::Wait;
        }
        let after_us = self.shared.reserve_after_us.load(Ordering::Relaxed);
        let again = now + LOOK_AGAIN;
        let opens = self
            .oldest_since()
            .map(|since| since + Duration::from_micros(after_us))
            .filter(|opens| after_us > 0 && *opens > now);
        Step::WaitUntil(opens.map_or(again, |opens| opens.min(again)))
    }

    /// A server that was being opened is ready, and is lent to nobody yet: it is
    /// [`Pool::returned`] or [`Pool::closed`] next.
    pub fn opened(&mut self) {
        assert!(self.opening > 0, "a server opened that nobody asked for");
        self.opening -= 1;
        self.shared.retry.succeeded();
    }

    /// A server that was being opened is not wanted any more; its place is free
    /// again.
    pub fn open_abandoned(&mut self) {
        assert!(self.opening > 0, "a server is gone that nobody asked for");
        self.opening -= 1;
        self.shared.unreserve();
    }

    /// A server could not be opened; its place is free again. Returns how many
    /// attempts have failed in a row.
    pub fn open_failed(&mut self, failure: OpenFailure, now: Moment) -> u32 {
        assert!(self.opening > 0, "a server failed that nobody asked for");
        self.opening -= 1;
        self.shared.unreserve();
        let longest = Duration::from_micros(self.shared.login_retry_us.load(Ordering::Relaxed));
        self.shared.retry.failed(failure, longest, now)
    }

    /// A server is free: after a checkout, after it was opened, or because
    /// another loop moved it here.
    pub fn returned(&mut self, server: ServerKey, now: Moment) -> Returned {
        if self.shared.is_paused() || self.beyond_limit() {
            return Returned::Close;
        }
        let here = self.waiting.front().copied();
        if let Some((thread, since)) = self.shared.oldest_elsewhere(self.thread)
            && here.is_none_or(|here| since + FAIRNESS_MARGIN < here.since)
            && !sabotaged(Sabotage::LostWakeUp)
        {
            return Returned::Move(thread);
        }
        if let Some(oldest) = here {
            self.waiting.pop_front();
            self.publish_waiting();
            return Returned::Serve(oldest.client);
        }
        self.idle.push_back(Idle { server, since: now });
        self.publish_idle();
        // Somebody may have queued elsewhere before it could see this server.
        if let Some((thread, _)) = self.shared.oldest_elsewhere(self.thread)
            && !sabotaged(Sabotage::LostWakeUp)
        {
            self.idle.pop_back();
            self.publish_idle();
            return Returned::Move(thread);
        }
        Returned::Kept
    }

    fn beyond_limit(&self) -> bool {
        if self.shared.is_over_budget() {
            return true;
        }
        let size = self.shared.size.load(Ordering::Relaxed);
        let reserve = self.shared.reserve.load(Ordering::Relaxed);
        self.shared.open() > size.saturating_add(reserve)
    }

    /// Another loop asks for an idle server: the one to move there, if there is
    /// one that nobody here waits for.
    pub fn asked(&mut self) -> Option<ServerKey> {
        if !self.waiting.is_empty() || sabotaged(Sabotage::LostWakeUp) {
            return None;
        }
        self.take_idle()
    }

    /// A server is about to be closed: nobody gets it any more, but it counts
    /// until it is [`Pool::closed`].
    pub fn retire(&mut self, server: ServerKey) {
        if let Some(at) = self.idle.iter().position(|idle| idle.server == server) {
            self.idle.remove(at);
            self.publish_idle();
        }
    }

    /// A server that was open here has been closed, whatever it was doing.
    pub fn closed(&mut self, server: ServerKey) {
        self.retire(server);
        self.shared.unreserve();
    }

    /// A waiting client has gone. Says whether it was waiting here.
    pub fn forget(&mut self, client: ClientKey) -> bool {
        let Some(at) = self
            .waiting
            .iter()
            .position(|waiter| waiter.client == client)
        else {
            return false;
        };
        self.waiting.remove(at);
        self.publish_waiting();
        true
    }

    /// Takes the oldest waiter if it has waited for `longest`, or in any case
    /// if `longest` is `None`.
    pub fn expired(&mut self, longest: Option<Duration>, now: Moment) -> Option<ClientKey> {
        let oldest = self.waiting.front()?;
        if longest.is_some_and(|longest| now.since(oldest.since) < longest) {
            return None;
        }
        let client = oldest.client;
        self.waiting.pop_front();
        self.publish_waiting();
        Some(client)
    }

    /// A waiter to serve after a pause: an idle server and the oldest waiter.
    pub fn resume(&mut self) -> Option<(ServerKey, ClientKey)> {
        if self.shared.is_paused() || self.waiting.is_empty() {
            return None;
        }
        let server = self.take_idle()?;
        let waiter = self.waiting.pop_front().expect("somebody waits");
        self.publish_waiting();
        Some((server, waiter.client))
    }

    /// The server that has been idle longest, if for `longest`, in a drain for
    /// [`GIVE_UP_AFTER`], and if the pool has more than its minimum: to be closed.
    /// Zero means never, but in a drain.
    #[must_use]
    pub fn idle_too_long(&self, longest: Duration, now: Moment) -> Option<ServerKey> {
        let oldest = self.idle.front()?;
        let mut longest = (!longest.is_zero()).then_some(longest);
        if self.shared.is_draining() && !sabotaged(Sabotage::NothingGivenUp) {
            longest = Some(longest.map_or(GIVE_UP_AFTER, |it| it.min(GIVE_UP_AFTER)));
        }
        let spare = self.shared.open() > self.shared.minimum();
        let is_late = longest.is_some_and(|longest| now.since(oldest.since) >= longest);
        (spare && is_late).then_some(oldest.server)
    }
}

#[cfg(test)]
mod tests;
