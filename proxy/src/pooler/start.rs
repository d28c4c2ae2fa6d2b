//! Start and end of the process.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Weak, atomic::Ordering, mpsc},
    thread,
    time::Instant,
};

use proxy_core::config::{Bind, Global, PoolerConfig, Problem};
use web::{listener, probes::Heartbeat, server};

use super::{
    control::{COMMANDS_MAX, Control, load},
    event_loop::{EventLoop, Listener, Parts, poll_and_waker},
    http, peers,
    pidfile::{PidFile, PidFileError},
    privileges::{self, UnknownGroup, UserError},
    saturation,
    shared::{Live, Mailbox, Shared},
    signals::Signals,
    tls::{self, Connector, TlsConfigError},
    unix, upstream, worker,
};
use crate::{
    net::{self, ListenError, Tuning},
    telemetry::Telemetry,
};

/// Connections that the kernel queues before they are accepted.
const BACKLOG: i32 = 4_096;

/// Descriptors that are neither clients nor servers.
const DESCRIPTORS_SPARE: u64 = 64;

/// Why the pooler did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration has problems; each names its file and line.
    #[error("{}", lines(.0))]
    Config(Vec<Problem>),
    /// The user named on the command line.
    #[error(transparent)]
    User(#[from] UserError),
    /// TLS cannot be spoken any more.
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
    /// A socket cannot be listened on.
    #[error("{source}. {}", source.hint())]
    Listen {
        /// Which, and why.
        #[from]
        source: ListenError,
    },
    /// A Unix socket cannot be listened on.
    #[error("cannot listen on the Unix socket in {directory}: {source}")]
    ListenUnix {
        /// The socket's directory.
        directory: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The group that the Unix socket is to belong to is gone.
    #[error(transparent)]
    Group(#[from] UnknownGroup),
    /// The pidfile cannot be written.
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    /// The system refuses something else.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> StartError {
    move |source| StartError::System { what, source }
}

/// Reads the configuration and looks up what it names: TLS files, the user and
/// the group of the Unix socket. What the system permits is left to [`run`] and
/// [`super::become_user`]. `user` of the command line comes before the setting.
///
/// # Errors
/// Every problem, each with its line; or that the system does not know `user`.
pub fn check(file: &Path, user: Option<&str>) -> Result<PoolerConfig, StartError> {
    let config = load(file).map_err(StartError::Config)?;
    let problems = look_up(&config, user);
    if !problems.is_empty() {
        return Err(StartError::Config(problems));
    }
    user.map_or(Ok(()), privileges::check_user)?;
    Ok(config)
}

fn look_up(config: &PoolerConfig, user: Option<&str>) -> Vec<Problem> {
    let global = &config.global;
    let of_tls = |error: TlsConfigError| (error.key(), error.to_string());
    let client_tls = tls::server_config(global).err().map(of_tls);
    let server_tls = Connector::new(global).err().map(of_tls);
    let group = privileges::socket_group(global).err();
    let group = group.map(|error| ("unix_socket_group", error.to_string()));
    let setting = global.user.as_deref().filter(|_| user.is_none());
    let user = setting.and_then(|name| privileges::check_user(name).err());
    let user = user.map(|error| ("user", format!("user: {error}")));
    let own_address = peers::own_address(global).err();
    [client_tls, server_tls, group, user, own_address]
        .into_iter()
        .flatten()
        .map(|(key, message)| config.problem(key, message))
        .collect()
}

/// Runs the pooler with the configuration that [`check`] gave until it is told
/// to end. A reload opens the log file of `telemetry` anew.
///
/// # Errors
/// See [`StartError`]: nothing has been served then.
pub fn run(
    file: &Path,
    config: PoolerConfig,
    telemetry: Weak<Telemetry>,
) -> Result<(), StartError> {
    let tls = tls::server_config(&config.global)?;
    let connector = Arc::new(Connector::new(&config.global)?);
    let own_address = peers::own_address(&config.global)
        .map_err(|(key, message)| StartError::Config(vec![config.problem(key, message)]))?;
    let pidfile = config.global.pidfile.as_deref();
    let _pidfile = pidfile
        .filter(|path| !path.is_empty())
        .map(|path| PidFile::create(Path::new(path)))
        .transpose()?;
    let limit = net::raise_nofile_limit();
    warn_of_descriptors(&config, limit);
    let (listeners, addresses, sockets) = listen(&config.global)?;
    let listen = addresses
        .first()
        .map_or_else(|| "unix".to_owned(), ToString::to_string);
    let http = match config.global.http_port {
        0 => None,
        port => Some(net::listen_http(Bind {
            address: config.global.http_addr,
            port,
        })?),
    };

    let mut parts = Vec::new();
    let mut mailboxes = Vec::new();
    let mut listeners = Some(listeners);
    for _ in 0..config.global.threads {
        let (poll, waker) = poll_and_waker().map_err(system("cannot make an event loop"))?;
        let (sender, mail) = mpsc::channel();
        let heart = Arc::new(Heartbeat::new(Instant::now()));
        mailboxes.push(Mailbox::new(sender, waker, heart));
        parts.push(Parts {
            poll,
            mail,
            // The first loop accepts and hands connections round: loops that
            // each had their own listener would not get equal shares.
            listeners: listeners.take().unwrap_or_default(),
        });
    }
    let (desk, queues) = worker::desk();
    let (commands, command_queue) = tokio::sync::mpsc::channel(COMMANDS_MAX);
    let shared = Arc::new(Shared::new(
        Live::new(config, tls, own_address),
        connector,
        mailboxes,
        desk,
        commands,
        listen,
    ));
    worker::start(queues, &shared).map_err(system("cannot start a worker"))?;
    let control = Arc::new(Control::new(shared.clone(), file.to_owned(), telemetry));

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(system("cannot start the runtime"))?;
    let _guard = runtime.enter();
    // Before anybody is told that the pooler is ready: a signal that nobody
    // watches ends the process.
    let signals = Signals::watch().map_err(system("cannot watch signals"))?;

    let mut loops = Vec::new();
    for (index, parts) in parts.into_iter().enumerate() {
        let event_loop = EventLoop::new(index, shared.clone(), parts)
            .map_err(system("cannot make an event loop"))?;
        let handle = thread::Builder::new()
            .name(format!("loop-{index}"))
            .spawn(move || {
                let _guard = crate::AbortOnPanic;
                event_loop.run()
            })
            .map_err(system("cannot start an event loop"))?;
        loops.push(handle);
    }
    shared.listening.store(true, Ordering::SeqCst);
    tracing::info!(
        boot_id = shared.boot_id,
        listen = shared.listen,
        threads = loops.len(),
        "pooler ready"
    );

    runtime.spawn(control.clone().serve_console(command_queue));
    runtime.spawn(control.clone().keep_stats());
    runtime.spawn(control.clone().forget_unused_pools());
    runtime.spawn(upstream::keep_asking(shared.clone()));
    runtime.spawn(saturation::keep_judging(shared.clone()));
    runtime.spawn(control.clone().watch_files());
    runtime.spawn(peers::follow(shared.clone()));
    runtime.spawn(signals.obey(control.clone()));
    if let Some(listener) = http {
        let router = http::router(control.clone());
        runtime.spawn(async move {
            if let Err(error) = server::serve(listener, router, std::future::pending()).await {
                tracing::error!(%error, "HTTP server ended");
            }
        });
    }
    for handle in loops {
        match handle.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "event loop ended"),
            Err(_) => tracing::error!("event loop panicked"),
        }
    }
    for socket in sockets {
        // It may have been removed by hand.
        let _ = std::fs::remove_file(socket);
    }
    tracing::info!("pooler stopped");
    runtime.shutdown_background();
    Ok(())
}

/// Each client may need a descriptor for a server as well.
fn warn_of_descriptors(config: &PoolerConfig, limit: u64) {
    let wanted = u64::from(config.global.max_client_conn)
        + u64::from(config.global.default_pool_size) * config.databases.len().max(1) as u64
        + DESCRIPTORS_SPARE;
    if wanted > limit {
        tracing::warn!(
            wanted,
            limit,
            "max_client_conn and pools may need more descriptors than the limit allows"
        );
    }
}

type Listening = (Vec<Listener>, Vec<SocketAddr>, Vec<PathBuf>);

fn listen(global: &Global) -> Result<Listening, StartError> {
    let mut listeners = Vec::new();
    let mut addresses = Vec::new();
    let mut sockets = Vec::new();
    let tuning = Tuning::of_pooler(global);
    let mut port = global.listen_port;
    let options = listener::Options {
        reuse_port: global.so_reuseport,
        backlog: BACKLOG,
        ..listener::Options::default()
    };
    for &address in &global.listen_addr {
        for listener in net::listen_at(Bind { address, port }, options)? {
            net::tune(&listener, &tuning).map_err(system("cannot tune the listening socket"))?;
            let address = listener
                .local_addr()
                .map_err(system("cannot read the listening address"))?;
            // Where 0 took a free one, the others take the same.
            port = address.port();
            addresses.push(address);
            listeners.push(Listener::Tcp(mio::net::TcpListener::from_std(listener)));
        }
    }
    if !global.unix_socket_dir.is_empty() {
        let (listener, path) = listen_unix(global, port)?;
        listeners.push(Listener::Unix(listener));
        sockets.extend(path);
    }
    Ok((listeners, addresses, sockets))
}

fn listen_unix(
    global: &Global,
    port: u16,
) -> Result<(mio::net::UnixListener, Option<PathBuf>), StartError> {
    let group = privileges::socket_group(global)?;
    let directory = global.unix_socket_dir.as_str();
    unix::listen(directory, port, global.unix_socket_mode.0, group).map_err(|source| {
        StartError::ListenUnix {
            directory: directory.to_owned(),
            source,
        }
    })
}
