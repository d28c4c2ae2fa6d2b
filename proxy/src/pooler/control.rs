//! What concerns the whole process and may wait: console commands, signals,
//! reload, drain. Runs on tokio, beside the loops, and talks to them by mail.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use proxy_core::{
    config::{self, Global, Problem},
    status::ReloadStatus,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    console::{Formats, Statement, execute},
    peers,
    pools::PauseError,
    shared::{ClientRef, Live, Mail, Shared, lock},
    snapshot::LoopSnapshot,
    stats::Stats,
    tls::{self, Connector, TlsConfigError},
    view::View,
};
use crate::{
    on_disk::{LOOK_INTERVAL, Watch},
    telemetry::Telemetry,
};

/// Commands that may wait to be taken up. Those that were, such as PAUSE, are as
/// many as the console has clients.
pub(super) const COMMANDS_MAX: usize = 1_024;

/// A loop that does not answer within this time is left out.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two looks at a condition that a command waits for.
const WATCH_PAUSE: Duration = Duration::from_millis(20);

/// What a console client wants.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) client: ClientRef,
    pub(super) user: Arc<str>,
    /// May change something; others may only look.
    pub(super) admin: bool,
    pub(super) request: Request,
    /// Gets a value when the client cancels, an error when it is gone.
    pub(super) interrupt: oneshot::Receiver<()>,
}

/// In which protocol it wants it.
#[derive(Debug)]
pub(super) enum Request {
    /// A Query message's text.
    Simple(String),
    /// A portal of the extended protocol.
    Portal(Statement, Formats),
}

/// How often pools that nobody uses are looked for.
const FORGET_PAUSE: Duration = Duration::from_secs(1);

/// How a wait for servers to be released ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Released {
    /// None is in use any more.
    All,
    /// What was waited for is not paused any more.
    Resumed,
}

/// How the process ends; the later, the harder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// Sessions are closed at their boundaries, spread over drain_timeout.
    Drain,
    /// Sessions are closed at their boundaries, as soon as they reach them.
    Soon,
    /// At once.
    Now,
}

/// The end that the process has been told to make.
#[derive(Debug, Default)]
struct Ordered(Mutex<Option<Ending>>);

impl Ordered {
    /// Says whether that is harder than what was ordered before: otherwise there
    /// is nothing to do.
    fn order(&self, ending: Ending) -> bool {
        let mut ordered = lock(&self.0);
        let harder = *ordered < Some(ending);
        if harder {
            *ordered = Some(ending);
        }
        harder
    }

    /// Does what `ending` asks for, unless a harder one was ordered meanwhile: no
    /// later order may be softened.
    fn carry_out(&self, ending: Ending, act: impl FnOnce()) {
        let ordered = lock(&self.0);
        if *ordered == Some(ending) {
            act();
        }
    }
}

/// The process's steering: one per process, shared by HTTP, console and signals.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) shared: Arc<Shared>,
    /// The ini file, for RELOAD.
    pub(super) file: PathBuf,
    pub(super) stats: Stats,
    /// Console commands dealt with.
    commands: AtomicU64,
    /// The log, to be opened anew at a reload, while `main` keeps it.
    telemetry: Weak<Telemetry>,
    /// One reload at a time.
    reloading: Mutex<()>,
    ordered: Ordered,
    /// What became of reloads.
    reloads: Mutex<ReloadStatus>,
    /// The files that the newest attempt to reload read, or was told to.
    files: Mutex<BTreeSet<PathBuf>>,
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>, file: PathBuf, telemetry: Weak<Telemetry>) -> Self {
        Self {
            stats: Stats::new(shared.now()),
            shared,
            file,
            commands: AtomicU64::new(0),
            telemetry,
            reloading: Mutex::new(()),
            ordered: Ordered::default(),
            reloads: Mutex::default(),
            files: Mutex::default(),
        }
    }

    /// Asks every loop to describe itself, every client and server with `detail`.
    pub(super) async fn view(&self, detail: bool) -> View {
        let mut replies = Vec::new();
        for mailbox in &self.shared.mailboxes {
            let (reply, answer) = oneshot::channel();
            mailbox.send(Mail::Snapshot { detail, reply });
            replies.push(answer);
        }
        let mut snapshots = Vec::new();
        for answer in replies {
            if let Ok(Ok(snapshot)) = tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
                snapshots.push(snapshot);
            }
        }
        let pools = &self.shared.pools;
        View {
            live: self.shared.live(),
            loops: LoopSnapshot::sum(snapshots),
            // After the loops were asked: it has every pool that they know.
            infos: pools.all(),
            databases: pools.databases(),
            users: pools.users(),
            changes: self.stats.changes(),
            is_paused: pools.is_paused(),
            commands: self.commands.load(Ordering::Relaxed),
            dns_names: self.shared.names.len(),
            peers: self.shared.peers.seen(),
        }
    }

    /// Carries out console commands until the loops are gone.
    pub(super) async fn serve_console(self: Arc<Self>, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            let control = self.clone();
            // PAUSE waits for transactions; the next command must not.
            tokio::spawn(async move {
                let client = command.client;
                let reply = execute::answer(&control, command).await;
                control.commands.fetch_add(1, Ordering::Relaxed);
                let then = reply.then;
                control
                    .shared
                    .tell(client.thread, Mail::Console { client, reply });
                if let Some(ending) = then {
                    control.end(ending).await;
                }
            });
        }
    }

    /// Reads the configuration again and puts it in force, as far as that can
    /// be done without a restart. Returns the settings that need one.
    ///
    /// # Errors
    /// Everything wrong in the files; what was in force stays.
    pub(super) fn reload(&self) -> Result<Vec<&'static str>, Vec<Problem>> {
        let _one = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let newer = self.load()?;
        let live = self.shared.live();
        let problem = |error: TlsConfigError| vec![newer.problem(error.key(), error.to_string())];
        let tls = tls::server_config(&newer.global).map_err(problem)?;
        let connector = Connector::new(&newer.global).map_err(problem)?;
        let own_address = peers::own_address(&newer.global);
        let own_address =
            own_address.map_err(|(key, message)| vec![newer.problem(key, message)])?;
        let restart = live.config.changes_needing_restart(&newer);
        let paused = newer.global.paused;
        let turned = paused != live.config.global.paused;
        self.shared.pools.reconfigure(&newer, &Arc::new(connector));
        let upstreams = newer.clone();
        self.shared.set_live(Live::new(newer, tls, own_address));
        self.shared.upstreams.reconfigure(&upstreams);
        self.shared.tell_all(|| Mail::Reconfigured);
        self.shared.peers.reconfigured();
        // It is no error where the console was earlier.
        if turned && self.set_paused(None, paused).is_ok() {
            tracing::info!(paused, "as the configuration says");
        }
        Ok(restart)
    }

    /// [`Control::reload`], told to the log, which is opened anew.
    ///
    /// # Errors
    /// As [`Control::reload`].
    pub(super) fn reload_and_log(&self) -> Result<Vec<&'static str>, Vec<Problem>> {
        if let Some(telemetry) = self.telemetry.upgrade()
            && let Err(error) = telemetry.reopen()
        {
            tracing::error!(%error, "log file not opened anew");
        }
        let result = self.reload();
        lock(&self.reloads).note(&result);
        match &result {
            Ok(restart) if restart.is_empty() => tracing::info!("configuration reloaded"),
            Ok(restart) => {
                tracing::warn!(
                    settings = restart.join(","),
                    "configuration reloaded, some settings need a restart"
                );
            }
            Err(problems) => {
                for problem in problems {
                    tracing::error!(%problem, "configuration not reloaded");
                }
            }
        }
        result
    }

    /// Reads the configuration, and notes all the files that belong to it: also
    /// where it has problems, since a file may be what they wait for.
    fn load(&self) -> Result<config::PoolerConfig, Vec<Problem>> {
        let mut files = BTreeSet::new();
        let result = config::load(&self.file, &mut |path| {
            files.insert(path.to_owned());
            std::fs::read_to_string(path)
        });
        let live = self.shared.live();
        let global = &result.as_ref().unwrap_or(&live.config).global;
        files.extend(named(global));
        *lock(&self.files) = files;
        result
    }

    /// What became of reloads.
    pub(super) fn reloads(&self) -> ReloadStatus {
        lock(&self.reloads).clone()
    }

    /// Reloads when files change on disk, while `reload_on_change` says so.
    pub(super) async fn watch_files(self: Arc<Self>) {
        let mut watch: Option<Watch> = None;
        loop {
            let live = self.shared.live();
            if !live.config.global.reload_on_change {
                watch = None;
            } else if let Some(watch) = &mut watch {
                let files = lock(&self.files).clone();
                if watch.look(&files) {
                    tracing::info!("files changed on disk");
                    // It has told the log.
                    drop(self.reload_and_log());
                }
            } else {
                // Once to learn which files, and once more after they were looked
                // at: they may have changed since they were put in force.
                drop(self.load());
                let mut begun = Watch::new(&lock(&self.files));
                if self.load().as_ref() != Ok(&live.config) {
                    begun.distrust();
                }
                watch = Some(begun);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Pauses one database or all: no more servers are lent.
    ///
    /// # Errors
    /// There is no such database, or everything is paused already.
    pub(super) fn begin_pause(&self, database: Option<&str>) -> Result<(), PauseError> {
        self.set_paused(database, true)
    }

    /// Waits until no server of one database, or of all, is open: paused pools
    /// close those that come back.
    pub(super) async fn released(&self, database: Option<&str>) -> Released {
        let pools = &self.shared.pools;
        loop {
            let paused = match database {
                None => pools.is_paused(),
                Some(name) => pools
                    .databases()
                    .get(name)
                    .is_some_and(|usage| usage.paused),
            };
            if !paused {
                return Released::Resumed;
            }
            let open = pools
                .all()
                .iter()
                .filter(|info| database.is_none_or(|name| name == info.database))
                .map(|info| info.shared.open())
                .sum::<u32>();
            if open == 0 {
                return Released::All;
            }
            tokio::time::sleep(WATCH_PAUSE).await;
        }
    }

    /// Lets one database or all go on.
    ///
    /// # Errors
    /// There is no such database, or it is not paused.
    pub(super) fn resume(&self, database: Option<&str>) -> Result<(), PauseError> {
        self.set_paused(database, false)
    }

    fn set_paused(&self, database: Option<&str>, paused: bool) -> Result<(), PauseError> {
        let pools = &self.shared.pools;
        match database {
            None => pools.set_all_paused(paused, self.shared.now())?,
            Some(name) => {
                let now = self.shared.now();
                pools.set_database_paused(&self.shared.live().config, name, paused, now)?;
            }
        }
        self.shared.tell_all(|| Mail::PoolsChanged);
        Ok(())
    }

    /// Replaces the servers of one database or all, each when it is free.
    pub(super) fn reconnect(&self, database: Option<&str>) {
        self.shared.pools.reconnect(database);
        self.shared.tell_all(|| Mail::Reconfigured);
    }

    /// Forgets pools of databases without an entry of their own that nobody has
    /// used for autodb_idle_timeout.
    pub(super) async fn forget_unused_pools(self: Arc<Self>) {
        loop {
            tokio::time::sleep(FORGET_PAUSE).await;
            let longest = self.shared.live().config.global.autodb_idle_timeout;
            self.shared.pools.forget_unused(longest, self.shared.now());
        }
    }

    /// Ends the client with this id; says whether there is one.
    pub(super) async fn kill_client(&self, id: u64) -> bool {
        for mailbox in &self.shared.mailboxes {
            let (reply, answer) = oneshot::channel();
            mailbox.send(Mail::Kill { id, reply });
            if let Ok(Ok(true)) = tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
                return true;
            }
        }
        false
    }

    /// Begins the end of the process, unless one as hard has begun; the loops
    /// return when it is done.
    pub(super) async fn end(&self, ending: Ending) {
        if !self.ordered.order(ending) {
            return;
        }
        let shared = &self.shared;
        if ending == Ending::Now {
            tracing::info!("stopping at once");
            shared.tell_all(|| Mail::Stop);
            return;
        }
        shared.pools.begin_drain();
        let timeout = shared.live().config.global.drain_timeout;
        tracing::info!(
            timeout_s = timeout.as_secs(),
            clients = shared.clients.load(Ordering::SeqCst),
            "draining"
        );
        if ending == Ending::Drain {
            // Balancers learn of it by their checks: until then they send
            // clients here, and those must not be refused.
            tokio::time::sleep(self.time_to_be_heard()).await;
        }
        let from = shared.now();
        let end = from + timeout;
        let spread = match ending {
            // The second half is for those who were busy when their moment came:
            // a transaction up to half as long as the drain is not cut.
            Ending::Drain => timeout / 2,
            // Everybody's moment has come.
            Ending::Soon | Ending::Now => Duration::ZERO,
        };
        self.ordered.carry_out(ending, || {
            shared.tell_all(|| Mail::Drain { from, spread, end });
        });
    }

    /// Two check intervals and a second; without checks, 2 s.
    fn time_to_be_heard(&self) -> Duration {
        match self.shared.check_interval_ms.load(Ordering::Relaxed) {
            0 => Duration::from_secs(2),
            interval_ms => Duration::from_millis(2 * interval_ms + 1_000),
        }
    }
}

/// The files that settings name, but for `auth_file`, which is read with them.
fn named(global: &Global) -> impl Iterator<Item = PathBuf> {
    [
        &global.auth_hba_file,
        &global.auth_ident_file,
        &global.client_tls_ca_file,
        &global.client_tls_cert_file,
        &global.client_tls_key_file,
        &global.server_tls_ca_file,
        &global.server_tls_cert_file,
        &global.server_tls_key_file,
    ]
    .into_iter()
    .flatten()
    .filter(|name| !name.is_empty())
    .map(PathBuf::from)
}

/// Reads the pooler's configuration from disk.
///
/// # Errors
/// Every problem found.
pub(super) fn load(file: &std::path::Path) -> Result<config::PoolerConfig, Vec<Problem>> {
    config::load(file, &mut |path| std::fs::read_to_string(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_harder_end_wins_whichever_was_ordered_first() {
        let ordered = Ordered::default();
        assert!(ordered.order(Ending::Drain));
        assert!(!ordered.order(Ending::Drain));
        assert!(ordered.order(Ending::Soon), "before the drain is told");
        ordered.carry_out(Ending::Drain, || panic!("softer than what was ordered"));
        let mut told = false;
        ordered.carry_out(Ending::Soon, || told = true);
        assert!(told);
        assert!(ordered.order(Ending::Now));
        assert!(!ordered.order(Ending::Soon));
    }
}
