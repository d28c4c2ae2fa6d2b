//! Names to addresses by DNS, with how long an answer holds and with failures
//! told apart: a name that does not exist is an answer, a look-up that failed
//! is none, and who watches a name keeps what it knew.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RecordType},
    system_conf::parse_resolv_conf,
};

/// What the system itself is configured with.
const SYSTEM_FILE: &str = "/etc/resolv.conf";
/// Longest wait for one try at one name server; the file's may be shorter.
const TRY_TIME_MAX: Duration = Duration::from_secs(2);
/// Repetitions after the first try; the file's may be fewer.
const RETRIES_MAX: usize = 1;
/// Longest look-up of a name, search domains included.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(10);
/// How long addresses hold that need no look-up.
const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);

/// Which name servers are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameServers {
    /// Those of /etc/resolv.conf, with its search domains and options, and
    /// /etc/hosts before them.
    System,
    /// Those of another file of that form.
    File(PathBuf),
    /// This one alone; without search domains and /etc/hosts.
    At(SocketAddr),
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Every address, in ascending order, each once; never empty.
    pub addresses: Vec<SocketAddr>,
    /// How long the answer holds, from now on: the shortest among its records,
    /// 0 possible. Who asks bounds it.
    pub ttl: Duration,
}

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// It cannot be a name.
    #[error("\"{name}\" is no DNS name: {reason}")]
    Malformed {
        /// What was looked up.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The name servers say that it does not exist, or has no address.
    #[error("{name} does not exist, or has no address")]
    NotFound {
        /// What was looked up.
        name: String,
    },
    /// No answer, or none that says anything: what was known may hold still.
    #[error("cannot look up {name}: {reason}")]
    Failed {
        /// What was looked up.
        name: String,
        /// What went wrong.
        reason: String,
    },
}

/// Why there can be no look-ups.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file names no server, or nothing can be made of it.
    #[error("{path}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Looks names up. It keeps no answers: who asks decides how often.
#[derive(Clone, Debug)]
pub struct Resolver {
    inner: TokioResolver,
    search: Vec<Name>,
}

impl Resolver {
    /// A resolver of `servers`, whose file is read now. Its look-ups run on the
    /// tokio runtime that they are awaited on.
    ///
    /// # Errors
    /// [`ResolverError`], naming the file.
    pub fn new(servers: &NameServers) -> Result<Self, ResolverError> {
        let (config, mut options) = match servers {
            NameServers::System => read(Path::new(SYSTEM_FILE))?,
            NameServers::File(path) => read(path)?,
            NameServers::At(address) => (only(*address), alone()),
        };
        // Who asks knows how old an answer may be, and asks again after that.
        options.cache_size = 0;
        options.timeout = options
            .timeout
            .clamp(Duration::from_millis(1), TRY_TIME_MAX);
        options.attempts = options.attempts.min(RETRIES_MAX);
        let search = match (config.search(), config.domain()) {
            ([], Some(domain)) => vec![domain.clone()],
            (search, _) => search.to_vec(),
        };
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let inner = builder.build().map_err(|error| ResolverError::Content {
            path: servers.path(),
            reason: error.to_string(),
        })?;
        Ok(Self { inner, search })
    }

    /// The addresses of `host`, each with `port`: A and AAAA records, of the
    /// first of its candidates (the name as it is, and in the search domains)
    /// that has any. An IP address stands for itself. Takes at most 10 s.
    ///
    /// # Errors
    /// [`LookupError`].
    pub async fn look_up(&self, host: &str, port: u16) -> Result<Found, LookupError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Found {
                addresses: vec![SocketAddr::new(ip, port)],
                ttl: FOREVER,
            });
        }
        let failed = |reason: String| LookupError::Failed {
            name: host.to_owned(),
            reason,
        };
        let all = self.look_up_all(host, port, &failed);
        match tokio::time::timeout(LOOKUP_TIME_MAX, all).await {
            Ok(result) => result,
            Err(_) => Err(failed(format!(
                "no answer within {} s",
                LOOKUP_TIME_MAX.as_secs()
            ))),
        }
    }

    async fn look_up_all(
        &self,
        host: &str,
        port: u16,
        failed: &impl Fn(String) -> LookupError,
    ) -> Result<Found, LookupError> {
        // As the C library does: a candidate that fails is passed over, but
        // then nobody may say that the name does not exist.
        let mut failure = None;
        for name in self.candidates(host)? {
            match self.addresses(&name).await {
                Ok(Some((ips, ttl))) => {
                    let addresses = ips.into_iter().map(|ip| SocketAddr::new(ip, port));
                    return Ok(Found {
                        addresses: addresses.collect(),
                        ttl,
                    });
                }
                Ok(None) => {}
                Err(reason) => failure = failure.or(Some(reason)),
            }
        }
        Err(match failure {
            Some(reason) => failed(reason),
            None => LookupError::NotFound {
                name: host.to_owned(),
            },
        })
    }

    /// The names that `host` may mean, in the order of resolv.conf(5).
    fn candidates(&self, host: &str) -> Result<Vec<Name>, LookupError> {
        let malformed = |reason: String| LookupError::Malformed {
            name: host.to_owned(),
            reason,
        };
        let name = Name::from_utf8(host).map_err(|error| malformed(error.to_string()))?;
        let labels = name.iter().len();
        if labels == 0 {
            return Err(malformed("it is empty".to_owned()));
        }
        if name.is_fqdn() {
            return Ok(vec![name]);
        }
        let mut candidates: Vec<Name> = self
            .search
            .iter()
            // One that grows too long for DNS cannot exist.
            .filter_map(|domain| name.clone().append_domain(domain).ok())
            .collect();
        let mut absolute = name;
        absolute.set_fqdn(true);
        let dots = labels - 1;
        let place = match dots >= self.inner.options().ndots {
            true => 0,
            false => candidates.len(),
        };
        candidates.insert(place, absolute);
        Ok(candidates)
    }

    /// The addresses of exactly this name; `None` if it has none.
    async fn addresses(&self, name: &Name) -> Result<Option<(BTreeSet<IpAddr>, Duration)>, String> {
        let (v4, v6) = tokio::join!(
            self.inner.lookup(name.clone(), RecordType::A),
            self.inner.lookup(name.clone(), RecordType::AAAA),
        );
        let mut ips = BTreeSet::new();
        let mut ttl = FOREVER;
        let mut failure = None;
        for result in [v4, v6] {
            match result {
                Ok(lookup) => {
                    for record in lookup.answers() {
                        ips.extend(record.data.ip_addr());
                        ttl = ttl.min(Duration::from_secs(record.ttl.into()));
                    }
                }
                Err(NetError::Dns(DnsError::NoRecordsFound(_))) => {}
                Err(error) => failure = Some(error.to_string()),
            }
        }
        match failure {
            Some(reason) if ips.is_empty() => Err(reason),
            _ => Ok((!ips.is_empty()).then_some((ips, ttl))),
        }
    }
}

impl NameServers {
    fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::System | Self::At(_) => PathBuf::from(SYSTEM_FILE),
        }
    }
}

fn read(path: &Path) -> Result<(ResolverConfig, ResolverOpts), ResolverError> {
    let bytes = fs::read(path).map_err(|source| ResolverError::File {
        path: path.to_owned(),
        source,
    })?;
    parse_resolv_conf(bytes).map_err(|error| ResolverError::Content {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// A configuration of one name server, by UDP, and TCP for long answers.
fn only(address: SocketAddr) -> ResolverConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()]
        .map(|mut connection| {
            connection.port = address.port();
            connection
        })
        .to_vec();
    let server = NameServerConfig::new(address.ip(), true, connections);
    ResolverConfig::from_parts(None, Vec::new(), vec![server])
}

fn alone() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
    options
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::{
        op::{Message, ResponseCode},
        rr::{RData, Record},
    };
    use tokio::net::UdpSocket;

    use super::*;

    /// A name server that knows names below `test`, by their first label.
    async fn serve(socket: UdpSocket) {
        let mut buffer = [0; 1500];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let mut answer = Message::from_vec(&buffer[..length])
                .unwrap()
                .into_response();
            let query = answer.queries[0].clone();
            let record = |ttl, data: &str| {
                let data = match data.parse().unwrap() {
                    IpAddr::V4(ip) => RData::A(ip.into()),
                    IpAddr::V6(ip) => RData::AAAA(ip.into()),
                };
                Record::from_rdata(query.name().clone(), ttl, data)
            };
            let is_v4 = query.query_type() == RecordType::A;
            match (query.name().to_string().as_str(), is_v4) {
                ("both.test.", true) => {
                    answer.add_answer(record(20, "10.0.0.2"));
                    answer.add_answer(record(7, "10.0.0.1"));
                    answer.add_answer(record(20, "10.0.0.2"));
                }
                ("both.test.", false) => {
                    answer.add_answer(record(30, "fd00::1"));
                }
                ("half.test.", true) => {
                    answer.add_answer(record(5, "10.0.0.3"));
                }
                ("half.test.", false) | ("broken.test.", _) | ("v6-broken.test.", false) => {
                    answer.metadata.response_code = ResponseCode::ServFail;
                }
                ("empty.test." | "v6-broken.test.", _) => {}
                _ => answer.metadata.response_code = ResponseCode::NXDomain,
            }
            let bytes = answer.to_vec().unwrap();
            socket.send_to(&bytes, from).await.unwrap();
        }
    }

    async fn look_up(host: &str) -> Result<Found, LookupError> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let server = tokio::spawn(serve(socket));
        let resolver = Resolver::new(&NameServers::At(address)).unwrap();
        let result = resolver.look_up(host, 6432).await;
        server.abort();
        result
    }

    #[tokio::test]
    async fn both_families_once_each_and_the_shortest_ttl() {
        let found = look_up("both.test").await.unwrap();
        let addresses = ["10.0.0.1:6432", "10.0.0.2:6432", "[fd00::1]:6432"];
        assert_eq!(found.addresses, addresses.map(|it| it.parse().unwrap()));
        assert_eq!(found.ttl, Duration::from_secs(7));
    }

    #[tokio::test]
    async fn one_family_is_enough() {
        let found = look_up("half.test").await.unwrap();
        assert_eq!(found.addresses, ["10.0.0.3:6432".parse().unwrap()]);
    }

    #[tokio::test]
    async fn a_name_without_addresses_is_told_from_a_failure() {
        for name in ["missing.test", "empty.test"] {
            let error = look_up(name).await.unwrap_err();
            assert!(matches!(error, LookupError::NotFound { .. }), "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
        // The half that was answered says nothing of the other.
        for name in ["broken.test", "v6-broken.test"] {
            let error = look_up(name).await.unwrap_err();
            assert!(matches!(error, LookupError::Failed { .. }), "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_a_name_is_said() {
        let long = "x".repeat(64);
        for name in ["", ".", "a..b", &long] {
            let error = look_up(name).await.unwrap_err();
            assert!(
                matches!(error, LookupError::Malformed { .. }),
                "{name}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn an_address_stands_for_itself() {
        let found = look_up("::1").await.unwrap();
        assert_eq!(found.addresses, ["[::1]:6432".parse().unwrap()]);
    }

    fn with_file(content: &str) -> Result<Resolver, ResolverError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        fs::write(&path, content).unwrap();
        Resolver::new(&NameServers::File(path))
    }

    #[test]
    fn search_domains_come_first_for_names_with_few_dots() {
        let content = "nameserver 127.0.0.1\nsearch ns.svc.local svc.local\noptions ndots:3\n";
        let resolver = with_file(content).unwrap();
        let candidates = |host| {
            let names = resolver.candidates(host).unwrap();
            names.iter().map(Name::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            candidates("shop.prod"),
            [
                "shop.prod.ns.svc.local.",
                "shop.prod.svc.local.",
                "shop.prod."
            ]
        );
        assert_eq!(candidates("a.b.c.d")[0], "a.b.c.d.");
        assert_eq!(candidates("shop.prod."), ["shop.prod."]);
    }

    #[test]
    fn a_file_of_no_use_is_named() {
        let error = with_file("search a.b\n").unwrap_err();
        assert!(error.to_string().contains("resolv.conf"), "{error}");
        let missing = NameServers::File("/nonexistent/resolv.conf".into());
        let error = Resolver::new(&missing).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }
}
