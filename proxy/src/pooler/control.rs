//! What concerns the whole process and may wait: console commands, signals,
//! reload, drain. Runs on tokio, beside the loops, and talks to them by mail.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use proxy_core::{
    config::{self, Problem},
    pool::Moment,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    print,
    shared::{ClientRef, Mail, Shared},
    snapshot::LoopSnapshot,
    tls,
};

/// Commands that may wait.
pub(super) const COMMANDS_MAX: usize = 1_024;

/// A loop that does not answer within this time is left out.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two looks at a condition that a command waits for.
const WATCH_PAUSE: Duration = Duration::from_millis(20);

/// What a console client typed.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) client: ClientRef,
    /// May change something; others may only look.
    pub(super) admin: bool,
    pub(super) sql: String,
}

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Sessions are closed at their boundaries, spread over drain_timeout.
    Drain,
    /// Sessions are closed at their boundaries, as soon as they reach them.
    Soon,
    /// At once.
    Now,
}

/// The process's steering: one per process, shared by HTTP, console and signals.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) shared: Arc<Shared>,
    /// The ini file, for RELOAD.
    pub(super) file: PathBuf,
    /// One reload at a time.
    reloading: Mutex<()>,
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>, file: PathBuf) -> Self {
        Self {
            shared,
            file,
            reloading: Mutex::new(()),
        }
    }

    /// Asks every loop to describe itself.
    pub(super) async fn snapshots(&self, detail: bool) -> Vec<LoopSnapshot> {
        let mut replies = Vec::new();
        for mailbox in &self.shared.mailboxes {
            let (reply, answer) = oneshot::channel();
            mailbox.send(Mail::Snapshot { detail, reply });
            replies.push(answer);
        }
        let mut snapshots = Vec::new();
        for answer in replies {
            if let Ok(Ok(snapshot)) = tokio::time::timeout(SNAPSHOT_TIMEOUT, answer).await {
                snapshots.push(snapshot);
            }
        }
        snapshots
    }

    /// Carries out console commands until the loops are gone.
    pub(super) async fn serve_console(self: Arc<Self>, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            let control = self.clone();
            // PAUSE waits for transactions; the next command must not.
            tokio::spawn(async move {
                let client = command.client;
                let bytes = print::answer(&control, command).await;
                control
                    .shared
                    .tell(client.thread, Mail::Console { client, bytes });
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
        let newer = load(&self.file)?;
        let live = self.shared.live();
        let tls = tls::server_config(&newer.global).map_err(|error| {
            vec![Problem {
                file: self.file.display().to_string(),
                line: 1,
                message: error.to_string(),
            }]
        })?;
        let restart = live.config.changes_needing_restart(&newer);
        self.shared.pools.reconfigure(&newer);
        self.shared.set_live(newer, tls);
        self.shared.tell_all(|| Mail::Reconfigured);
        Ok(restart)
    }

    /// [`Control::reload`], told to the log.
    pub(super) fn reload_and_log(&self) {
        match self.reload() {
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
    }

    /// Pauses one database or all; returns when no server is lent any more.
    pub(super) async fn pause(&self, database: Option<&str>) {
        self.shared.pools.set_paused(database, true);
        self.shared.tell_all(|| Mail::PoolsChanged);
        loop {
            let open = self.shared.pools.all();
            let open = open
                .iter()
                .filter(|info| database.is_none_or(|name| name == info.database));
            if open.map(|info| info.shared.open()).sum::<u32>() == 0 {
                return;
            }
            tokio::time::sleep(WATCH_PAUSE).await;
        }
    }

    pub(super) fn resume(&self, database: Option<&str>) {
        self.shared.pools.set_paused(database, false);
        self.shared.tell_all(|| Mail::PoolsChanged);
    }

    /// Begins the end of the process; the loops return when it is done.
    pub(super) async fn end(&self, ending: Ending) {
        let shared = &self.shared;
        if ending == Ending::Now {
            tracing::info!("stopping at once");
            shared.tell_all(|| Mail::Stop);
            return;
        }
        if shared.draining.swap(true, Ordering::SeqCst) && ending == Ending::Drain {
            return;
        }
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
        let from = match ending {
            Ending::Drain => from,
            // Everybody's moment has come.
            Ending::Soon | Ending::Now => Moment(0),
        };
        shared.listening.store(false, Ordering::SeqCst);
        shared.tell_all(|| Mail::Drain { from, end });
    }

    /// Two check intervals and a second; without checks, 2 s.
    fn time_to_be_heard(&self) -> Duration {
        match self.shared.check_interval_ms.load(Ordering::Relaxed) {
            0 => Duration::from_secs(2),
            interval_ms => Duration::from_millis(2 * interval_ms + 1_000),
        }
    }
}

/// Reads the pooler's configuration from disk.
///
/// # Errors
/// Every problem found.
pub(super) fn load(file: &std::path::Path) -> Result<config::PoolerConfig, Vec<Problem>> {
    config::load(file, &mut |path| std::fs::read_to_string(path))
}
