//! Work too slow for a loop: deriving keys (PBKDF2) and looking up names.

use std::{
    collections::HashMap,
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, Weak, mpsc},
    thread,
    time::{Duration, Instant},
};

use proxy_core::{
    auth::scram::{Keys, SALT_LENGTH, Verifier},
    pool::Thread,
};
use tokio::sync::oneshot;

use super::{
    server::Opening,
    shared::{ClientRef, Mail, ServerRef, Shared, lock, random},
};

/// Jobs that may wait. More are refused, and their login fails with a clear error.
const QUEUE_LENGTH: usize = 16_384;
/// Threads of each kind.
const WORKERS: usize = 2;

/// Something slow.
#[derive(Debug)]
pub(super) enum Job {
    /// Derive the verifier of a client's plain password.
    Verifier {
        client: ClientRef,
        user: String,
        password: Password,
        /// The salt to use; without one a fresh salt, and the verifier is kept.
        salt: Option<Vec<u8>>,
        iterations: u32,
    },
    /// Derive the keys for a login to PostgreSQL.
    Keys {
        server: ServerRef,
        user: String,
        password: Password,
        salt: Vec<u8>,
        iterations: u32,
    },
    /// Look up a host.
    Resolve {
        asker: Asker,
        host: String,
        port: u16,
        /// How long an earlier answer may be used...
        ttl: Duration,
        /// ...and an earlier failure.
        failure_ttl: Duration,
    },
}

/// Who needs an address.
#[derive(Debug)]
pub(super) enum Asker {
    /// A server that is being opened, and its loop.
    Server { thread: Thread, opening: Opening },
    /// A cancel request that belongs to a peer.
    Cancel {
        requester: ClientRef,
        request: Vec<u8>,
    },
    /// A question whether PostgreSQL answers.
    Probe(oneshot::Sender<Answer>),
}

/// A password whose Debug shows nothing.
pub(super) struct Password(pub(super) String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

pub(super) type Answer = Result<Vec<SocketAddr>, String>;

/// Answers of name servers, by host and port. There are as many as configurations
/// have had hosts since the start.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<HashMap<(String, u16), (Instant, Answer)>>);

impl Names {
    /// How many names are remembered.
    pub(super) fn len(&self) -> usize {
        lock(&self.0).len()
    }
}

/// Where jobs are handed in. Look-ups have threads of their own: they may hang,
/// and derivations must not wait for them.
#[derive(Debug)]
pub(super) struct Desk {
    derivations: Mutex<mpsc::SyncSender<Job>>,
    lookups: Mutex<mpsc::SyncSender<Job>>,
}

/// What the workers take jobs from.
#[derive(Debug)]
pub(super) struct Queues([(&'static str, mpsc::Receiver<Job>); 2]);

/// The desk, and the queues behind it.
pub(super) fn desk() -> (Desk, Queues) {
    let (derivations, derivations_queue) = mpsc::sync_channel(QUEUE_LENGTH);
    let (lookups, lookups_queue) = mpsc::sync_channel(QUEUE_LENGTH);
    let desk = Desk {
        derivations: Mutex::new(derivations),
        lookups: Mutex::new(lookups),
    };
    let queues = [("derive", derivations_queue), ("resolve", lookups_queue)];
    (desk, Queues(queues))
}

impl Desk {
    /// Hands in a job; false if too many wait already.
    pub(super) fn hand_in(&self, job: Job) -> bool {
        let queue = match &job {
            Job::Verifier { .. } | Job::Keys { .. } => &self.derivations,
            Job::Resolve { .. } => &self.lookups,
        };
        lock(queue).try_send(job).is_ok()
    }
}

/// Starts the workers. They end when the desk is gone.
pub(super) fn start(queues: Queues, shared: &Arc<Shared>) -> std::io::Result<()> {
    for (name, jobs) in queues.0 {
        let jobs = Arc::new(Mutex::new(jobs));
        for index in 0..WORKERS {
            let jobs = jobs.clone();
            let shared = Arc::downgrade(shared);
            thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(move || work(&jobs, &shared))?;
        }
    }
    Ok(())
}

fn work(jobs: &Mutex<mpsc::Receiver<Job>>, shared: &Weak<Shared>) {
    loop {
        let Ok(job) = lock(jobs).recv() else {
            return;
        };
        let Some(shared) = shared.upgrade() else {
            return;
        };
        run(job, &shared);
    }
}

fn run(job: Job, shared: &Shared) {
    match job {
        Job::Verifier {
            client,
            user,
            password: Password(password),
            salt,
            iterations,
        } => {
            let verifier = match salt {
                Some(salt) => Arc::new(Verifier::derive(&password, &salt, iterations)),
                None => kept_verifier(shared, &user, &password, iterations),
            };
            shared.tell(client.thread, Mail::Verifier { client, verifier });
        }
        Job::Keys {
            server,
            user,
            password: Password(password),
            salt,
            iterations,
        } => {
            let keys = Keys::derive(&password, &salt, iterations);
            let secrets = &shared.secrets;
            secrets.add_derived(&user, &password, &salt, iterations, keys.clone());
            shared.tell(server.thread, Mail::Keys { server, keys });
        }
        Job::Resolve {
            asker,
            host,
            port,
            ttl,
            failure_ttl,
        } => {
            let addresses = resolve(&shared.names, host, port, ttl, failure_ttl);
            match asker {
                Asker::Server { thread, opening } => {
                    shared.tell(thread, Mail::Resolved { opening, addresses });
                }
                Asker::Probe(reply) => {
                    // It may have given up.
                    let _ = reply.send(addresses);
                }
                Asker::Cancel { requester, request } => {
                    let mut addresses = addresses.unwrap_or_default();
                    // They are one pooler's.
                    addresses.truncate(1);
                    let mail = Mail::PeersFound {
                        requester,
                        addresses,
                        request,
                    };
                    shared.tell(requester.thread, mail);
                }
            }
        }
    }
}

/// The user's verifier; hundreds of clients of one user may log in at once.
fn kept_verifier(shared: &Shared, user: &str, password: &str, iterations: u32) -> Arc<Verifier> {
    if let Some(known) = shared.secrets.verifier(user, password) {
        return known;
    }
    let salt: [u8; SALT_LENGTH] = random();
    let verifier = Arc::new(Verifier::derive(password, &salt, iterations));
    shared
        .secrets
        .add_verifier(user, password, verifier.clone());
    verifier
}

fn resolve(names: &Names, host: String, port: u16, ttl: Duration, failure_ttl: Duration) -> Answer {
    let name = (host, port);
    if let Some((asked_at, answer)) = lock(&names.0).get(&name) {
        let ttl = if answer.is_ok() { ttl } else { failure_ttl };
        if asked_at.elapsed() < ttl {
            return answer.clone();
        }
    }
    let answer = (name.0.as_str(), name.1)
        .to_socket_addrs()
        .map(Iterator::collect::<Vec<_>>)
        .map_err(|error| format!("cannot look up {}: {error}", name.0));
    lock(&names.0).insert(name, (Instant::now(), answer.clone()));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_ups_that_hang_leave_room_for_derivations() {
        let (desk, _queues) = desk();
        let requester = ClientRef {
            thread: 0,
            key: 0,
            id: 0,
        };
        let look_up = || Job::Resolve {
            asker: Asker::Cancel {
                requester,
                request: Vec::new(),
            },
            host: String::new(),
            port: 1,
            ttl: Duration::ZERO,
            failure_ttl: Duration::ZERO,
        };
        assert!((0..QUEUE_LENGTH).all(|_| desk.hand_in(look_up())));
        assert!(!desk.hand_in(look_up()));
        assert!(desk.hand_in(Job::Verifier {
            client: requester,
            user: String::new(),
            password: Password(String::new()),
            salt: None,
            iterations: 1,
        }));
    }
}
