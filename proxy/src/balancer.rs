//! The balancer: spreads client connections over poolers and relays their
//! bytes, which it never parses.
//!
//! Reading order: [`run`] below starts everything and sees to its end.
//! `event_loop` accepts, connects and relays, one thread each, with `session`
//! and `flow` for what a connection is; `refusal` ends a client clearly when
//! there is no target. `checker` has `probe` look at each target, and `shared`
//! takes what it saw to [`proxy_core::health`], which judges. `http` serves what
//! is known: `dashboard`, `csv`, `exposition` (metrics), `status`. `discovery`
//! finds targets by DNS.
//!
//! Threads: the event loops, and one tokio thread for everything that moves no
//! client's bytes: checks, HTTP, signals.

mod announce;
pub mod checker;
pub mod counters;
pub mod csv;
pub mod dashboard;
pub mod discovery;
mod event_loop;
pub mod exposition;
pub mod flow;
pub mod http;
pub mod journal;
pub mod probe;
pub mod refusal;
mod session;
pub mod shared;
pub mod status;
pub mod target;

use std::{
    collections::BTreeSet,
    io,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use proxy_core::config::{Problem, balancer::BalancerConfig};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time::{sleep, timeout},
};
use web::{listener, server};

use self::{
    event_loop::EventLoop,
    shared::{Phase, Shared},
};
use crate::{
    boot,
    net::{self, ListenError},
    on_disk::{LOOK_INTERVAL, Watch},
};

/// Connections that wait to be accepted; the kernel cuts it to somaxconn.
const BACKLOG: i32 = 4096;
/// How long the event loops may take to notice the end.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);

/// Why the balancer did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken, or not ours to take.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The host lacks something.
    #[error("cannot start: {0}")]
    Host(#[from] io::Error),
}

impl StartError {
    /// What to do about it: a sentence, empty where the cause speaks for itself.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Listen(error) => error.hint(),
            Self::Host(_) => "",
        }
    }
}

/// Runs a balancer by `config` until SIGTERM or SIGINT ended it in order.
/// `reload` reads the configuration of `file` anew, at SIGHUP and, where it says
/// so, when it changes on disk.
///
/// # Errors
/// See [`StartError`]; once started, it only ends by a signal.
pub async fn run(
    config: BalancerConfig,
    file: &Path,
    reload: impl Fn() -> Result<BalancerConfig, Vec<Problem>>,
) -> Result<(), StartError> {
    let mut signals = Signals::new()?;
    let frontend = &config.frontends[0];
    let options = listener::Options {
        reuse_port: frontend.reuse_port,
        backlog: BACKLOG,
        ..listener::Options::default()
    };
    let listeners = net::listen_at(frontend.bind, options)?;
    let web = config
        .http
        .as_ref()
        .map(|http| net::listen_http(http.bind))
        .transpose()?;
    let (shared, loops) = start_loops(config, listeners)?;
    if let Some(listener) = &web {
        let address = listener.local_addr()?;
        tracing::info!(%address, "serving HTTP");
    }
    let (end, ended) = oneshot::channel();
    let web = web.map(|listener| {
        let router = http::router(&shared);
        tokio::spawn(server::serve(listener, router, async {
            let _ = ended.await;
        }))
    });
    tokio::spawn(checker::run(shared.clone()));
    tokio::spawn(sample(shared.clone()));

    let mut files = Files {
        file,
        shared: &shared,
        watch: None,
    };
    loop {
        let order = tokio::select! {
            order = signals.next() => order,
            () = files.changed(&reload) => Order::Reload,
        };
        match order {
            Order::Reload => apply(&shared, reload()),
            Order::Drain => {
                drain(&shared, &mut signals).await;
                break;
            }
            Order::Stop => break,
        }
    }
    tracing::info!(connections = shared.frontend.connections.now(), "stopping");
    shared.enter(Phase::Stopping);
    let _ = end.send(());
    if let Some(web) = web {
        let _ = web.await;
    }
    join(loops).await;
    Ok(())
}

/// Starts the event loops, which accept nothing before [`Phase::Serving`].
fn start_loops(
    config: BalancerConfig,
    mut listeners: Vec<TcpListener>,
) -> Result<(Arc<Shared>, Vec<JoinHandle<()>>), StartError> {
    let address = listeners[0].local_addr()?;
    let now = Instant::now();
    let (prepared, handles): (Vec<_>, Vec<_>) = (0..config.threads.max(1))
        .map(|_| event_loop::prepare(now))
        .collect::<io::Result<Vec<_>>>()?
        .into_iter()
        .unzip();
    let boot_id = boot::id();
    let shared = Arc::new(Shared::new(config, boot_id, address, handles));
    let mut loops = Vec::new();
    for (index, prepared) in prepared.into_iter().enumerate() {
        let event_loop = EventLoop::new(
            prepared,
            index,
            shared.clone(),
            std::mem::take(&mut listeners),
        );
        let thread = std::thread::Builder::new().name(format!("loop-{index}"));
        loops.push(thread.spawn(move || {
            let _guard = crate::AbortOnPanic;
            event_loop.run();
        })?);
    }
    tracing::info!(
        %address,
        targets = shared.targets().len(),
        max_connections = shared.connections_max.load(Relaxed),
        boot_id = shared.boot_id,
        version = env!("CARGO_PKG_VERSION"),
        "listening, checking targets"
    );
    Ok((shared, loops))
}

/// Puts a configuration read anew in force, as far as that goes while running.
fn apply(shared: &Arc<Shared>, read: Result<BalancerConfig, Vec<Problem>>) {
    let reloads = &shared.reloads;
    reloads.lock().expect("no holder panics").note(&read);
    let mut config = match read {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                tracing::error!(%problem, "configuration not reloaded");
            }
            return;
        }
    };
    let old = shared.config();
    let fixed = [
        ("frontends", config.frontends != old.frontends),
        ("http", config.http != old.http),
        ("threads", config.threads != old.threads),
    ];
    for (key, changed) in fixed {
        if changed {
            tracing::warn!(key, "not changed: takes a restart");
        }
    }
    config.frontends.clone_from(&old.frontends);
    config.http.clone_from(&old.http);
    config.threads = old.threads;
    let added = shared.take_over(&Arc::new(config));
    tracing::info!(
        targets = shared.targets().len(),
        added = added.len(),
        max_connections = shared.connections_max.load(Relaxed),
        "configuration reloaded"
    );
    for target in added {
        checker::add(shared, target, None);
    }
}

/// The files of the configuration, while it says that they are watched.
struct Files<'a> {
    file: &'a Path,
    shared: &'a Shared,
    watch: Option<Watch>,
}

impl Files<'_> {
    /// Waits until they have changed. Cancel safe.
    async fn changed(&mut self, read: impl Fn() -> Result<BalancerConfig, Vec<Problem>>) {
        loop {
            let config = self.shared.config();
            let key = config.shared_key_file.as_ref().map(PathBuf::from);
            let files: BTreeSet<PathBuf> = [self.file.to_owned()].into_iter().chain(key).collect();
            if !config.reload_on_change {
                self.watch = None;
            } else if let Some(watch) = &mut self.watch {
                if watch.look(&files) {
                    tracing::info!("file changed on disk");
                    return;
                }
            } else {
                let mut begun = Watch::new(&files);
                // It may have changed since it was put in force.
                if read().as_ref() != Ok(&*config) {
                    begun.distrust();
                }
                self.watch = Some(begun);
            }
            sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Closes the port and waits for the sessions to end, up to drain_timeout or
/// another signal.
///
/// Poolers are asked, over the checks, to end the sessions at their transaction
/// boundaries, which only they can see: see [`Shared::drain_order`]. Without a
/// shared key and PROXY headers sessions end when clients or servers close them.
/// A session still open at the end is cut.
async fn drain(shared: &Shared, signals: &mut Signals) {
    let connections = shared.frontend.connections.now();
    let limit = shared.config().drain_timeout;
    let limit_s = limit.as_secs();
    tracing::info!(
        connections,
        limit_s,
        "draining: port closed, sessions go on"
    );
    shared.enter(Phase::Draining);
    if shared.drain_order().is_some() {
        tracing::info!("asking poolers to end sessions at their boundaries");
        for target in shared.targets().iter() {
            target.check_wanted.notify_one();
        }
    }
    let mut port_closed = shared.port_closed.subscribe();
    let empty = async {
        // Until then connections may come, and no zero counts.
        let _ = port_closed.wait_for(|closed| *closed).await;
        while shared.frontend.connections.now() > 0 {
            shared.idle.notified().await;
        }
    };
    tokio::select! {
        () = empty => {}
        () = sleep(limit) => {
            let connections = shared.frontend.connections.now();
            tracing::warn!(connections, "sessions left after draining");
        }
        () = signals.next_end() => {}
    }
}

/// Takes the rates, once a second.
async fn sample(shared: Arc<Shared>) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        second.tick().await;
        let targets = shared.targets();
        let all = targets.iter().map(|target| &target.traffic);
        for traffic in all.chain([&shared.frontend, &shared.backend]) {
            traffic.rate.sample(traffic.total.load(Relaxed));
        }
    }
}

/// Waits for the loops; one that is stuck does not keep the process.
async fn join(loops: Vec<JoinHandle<()>>) {
    let joined = tokio::task::spawn_blocking(|| {
        for thread in loops {
            let _ = thread.join();
        }
    });
    if timeout(STOP_TIME_MAX, joined).await.is_err() {
        tracing::error!("an event loop did not stop");
    }
}

/// What a signal asks for.
enum Order {
    Reload,
    Drain,
    Stop,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next signal. Cancel safe.
    async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.hangup.recv() => Order::Reload,
            _ = self.terminate.recv() => Order::Drain,
            _ = self.interrupt.recv() => Order::Stop,
        }
    }

    /// The next signal that asks for an end, gentle or not. Cancel safe.
    async fn next_end(&mut self) {
        while let Order::Reload = self.next().await {
            tracing::warn!("configuration not reloaded: draining");
        }
    }
}
