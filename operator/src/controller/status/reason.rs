//! Every reason that a condition may have, and what to do then.

macro_rules! reasons {
    ($($name:ident),+ $(,)?) => {
        /// Why a condition is as it is. The words are promises to scripts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "the names are the API's; docs/status.md tells of each")]
        pub enum Reason { $($name),+ }

        impl Reason {
            /// All of them, in the order of the reference page.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The word in the API.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }
        }
    };
}

reasons!(
    // Ready
    Serving,
    Starting,
    NoPoolerUp,
    NoBalancerUp,
    UpstreamUnreachable,
    // Ready and Stalled
    ConfigInvalid,
    // Stalled
    NotStalled,
    NameConflict,
    Refused,
    RolloutStuck,
    // Reconciling
    Done,
    RollingOut,
    Reloading,
    Retrying,
    // Reconciling, and Ready where nothing runs
    Stalled,
    Suspended,
    Deleting,
    // ConfigValid
    Invalid,
    ReferenceNotFound,
    Unreadable,
    // ConfigValid and CertificatesValid
    Valid,
    NotLookedAt,
    // CertificatesValid
    NoCertificates,
    Expiring,
    Expired,
    NotValidYet,
    // ConfigValid
    NotSupportedYet,
    // PoolersAvailable and BalancersAvailable
    AllUp,
    NotAllUp,
    NoneUp,
    // UpstreamReachable and CapacityAvailable
    NotReported,
    // UpstreamReachable
    Reachable,
    PartlyReachable,
    HostNotFound,
    ConnectionRefused,
    NoAnswer,
    ConnectionLost,
    NotPostgreSQL,
    TlsFailed,
    NotAccepting,
    TooManyConnections,
    CredentialsRefused,
    Unreachable,
    // CapacityAvailable
    HasCapacity,
    ClientsWait,
    ConnectionsUsedUp,
    ClientsRefused,
    // NotificationsDelivered
    NobodyToTell,
    Delivered,
    NotDelivered,
    // Paused
    Running,
    Pausing,
    Paused,
    Resuming,
    // UpdateAvailable
    UpToDate,
    NewImages,
);

const LOOK_AT_PODS: &str = "look at the Pods: kubectl -n NAMESPACE get pods -l app.kubernetes.io/instance=NAME, then describe and logs of one that is not Running and ready; the table of endpoints has the reason of each";

impl Reason {
    /// The reason of a word, if this version knows it.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|one| one.word() == word)
    }

    /// What to do, a sentence without its end; `None` if nothing. `NAME` and
    /// `NAMESPACE` stand for the cluster's own.
    #[must_use]
    pub const fn advice(self) -> Option<&'static str> {
        Some(match self {
            Self::Serving
            | Self::NotStalled
            | Self::Done
            | Self::Valid
            | Self::NoCertificates
            | Self::AllUp
            | Self::NobodyToTell
            | Self::Delivered
            | Self::Running
            | Self::UpToDate
            | Self::Reachable
            | Self::HasCapacity
            // The condition that says more has the advice.
            | Self::Stalled
            | Self::ConfigInvalid
            | Self::UpstreamUnreachable => return None,
            Self::Starting => {
                "wait; if it takes longer than a minute, ask why the Pods do not start: kubectl -n NAMESPACE describe pods -l app.kubernetes.io/instance=NAME"
            }
            Self::NoPoolerUp | Self::NoBalancerUp | Self::NotAllUp | Self::NoneUp => {
                LOOK_AT_PODS
            }
            Self::Invalid => {
                "mend what ConfigValid names and apply it again; what runs goes on as before"
            }
            Self::NameConflict => {
                "delete or rename the object that Stalled names, or give the PgPoolCluster another name"
            }
            Self::Refused => {
                "compare the operator's roles with what the message asks for, or mend the field that the API server does not take"
            }
            Self::RolloutStuck => {
                "see why the newest Pods do not become ready (kubectl -n NAMESPACE describe pods -l app.kubernetes.io/instance=NAME), then mend the spec; the old Pods go on"
            }
            Self::RollingOut => {
                "wait: Pods are replaced one by one, and each drains before it ends"
            }
            Self::Reloading => {
                "wait: a running Pod takes up new configuration within seconds; if one does not, its log says why"
            }
            Self::Retrying => {
                "wait: it is tried again by itself; if it lasts, see the operator's log and whether the API server answers"
            }
            Self::Suspended => {
                "set spec.suspend to false when the operator is to act again"
            }
            Self::Deleting => {
                "wait; if it does not go, see metadata.finalizers for who holds it"
            }
            Self::ReferenceNotFound => {
                "create the Secret, key or Service that ConfigValid names; it is noticed by itself"
            }
            Self::Unreadable => {
                "apply the CRD of this operator's version (operator crd), then mend the field that ConfigValid names"
            }
            Self::NotLookedAt => {
                "see Reconciling and Stalled for what keeps the operator from looking at the spec"
            }
            Self::Expiring => {
                "renew the certificate in the Secret that CertificatesValid names; it is taken up without a restart"
            }
            Self::Expired => {
                "renew the certificate in the Secret that CertificatesValid names, now: who checks it refuses the connection; it is taken up without a restart"
            }
            Self::NotValidYet => {
                "put a certificate into the Secret that CertificatesValid names that is valid already, or see whether the clocks of the nodes are right"
            }
            Self::NotSupportedYet => {
                "leave out what the message names, or wait for a version of Poolkeeper that can do it"
            }
            Self::NotReported => {
                "wait: a pooler that is up tells within seconds; if none does, the poolers are of a version that does not tell, or the setting that has them look is 0: upstream_check_interval, with nobody logged in, or saturation_wait"
            }
            Self::PartlyReachable => {
                "see which poolers cannot: status.endpoints has upstream of each, and a pooler's /status (port 9127) and log name the PostgreSQL; often it is a node, its network, or one of several databases' hosts"
            }
            Self::HostNotFound => {
                "mend the host in spec.upstream or spec.databases, or the Service or DNS record that it names"
            }
            Self::ConnectionRefused => {
                "see whether PostgreSQL runs, and whether spec.upstream has its port; poolers keep trying, and clients wait meanwhile"
            }
            Self::NoAnswer => {
                "see whether PostgreSQL's host is up and whether a NetworkPolicy or firewall lets the poolers reach it"
            }
            Self::ConnectionLost | Self::Unreachable => {
                "see PostgreSQL's log and a pooler's: kubectl -n NAMESPACE logs deployment/NAME-pooler"
            }
            Self::NotPostgreSQL => {
                "mend host and port in spec.upstream: something else listens there"
            }
            Self::TlsFailed => {
                "compare spec.tls.server with PostgreSQL's ssl and certificate; a pooler's log says what is wrong: kubectl -n NAMESPACE logs deployment/NAME-pooler"
            }
            Self::NotAccepting => {
                "wait: PostgreSQL starts, stops or recovers; if it lasts, see its log"
            }
            Self::TooManyConnections => {
                "raise PostgreSQL's max_connections, or lower what others take of it; pool.maxServerConnections keeps this tier within its share"
            }
            Self::CredentialsRefused => {
                "compare the users and passwords in the Secrets that the spec names with PostgreSQL's roles and pg_hba.conf; a pooler's log names the user"
            }
            Self::ClientsWait => {
                "see whose pool it is with SHOW POOLS on a pooler's console, or poolkeeper_pooler_pool_wait_max_seconds; then make its transactions shorter, or its pool larger (pool.defaultPoolSize, poolSize of a database or user) as far as PostgreSQL can take it"
            }
            Self::ConnectionsUsedUp => {
                "raise the limit that CapacityAvailable names, as far as PostgreSQL can take it (status.budget), or find who holds servers: SHOW POOLS on a pooler's console"
            }
            Self::ClientsRefused => {
                "raise pool.maxClientConnections or spec.poolers.replicas, or have applications hold fewer connections"
            }
            Self::NotDelivered => {
                "check the channel's Secret and that the operator may reach its host; nothing is lost meanwhile"
            }
            Self::Pausing => {
                "wait: a pooler is paused when its transactions under way have ended"
            }
            Self::Paused => {
                "set spec.pool.state to Running when clients are to be served again"
            }
            Self::Resuming => "wait: the poolers take up the change within seconds",
            Self::NewImages => {
                "when it suits: kubectl -n NAMESPACE annotate pgpc NAME --overwrite poolkeeper.dev/update=$(date +%s)"
            }
        })
    }

    /// Whether the advice is worth being given by itself; of others it is in
    /// the reference page alone.
    #[must_use]
    pub const fn is_news(self) -> bool {
        self.advice().is_some() && !matches!(self, Self::NotReported)
    }
}
