//! What a loop counts. Plain integers of its own, added up when somebody asks.

use std::collections::BTreeMap;

use proxy_core::pool::OpenFailure;

/// Counters of one loop's part of a pool. Only ever grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PoolCounters {
    pub(super) logins: u64,
    pub(super) assignments: u64,
    pub(super) transactions: u64,
    pub(super) queries: u64,
    /// From clients.
    pub(super) received_bytes: u64,
    /// To clients.
    pub(super) sent_bytes: u64,
    pub(super) transaction_us: u64,
    pub(super) query_us: u64,
    pub(super) wait_us: u64,
    pub(super) client_parses: u64,
    pub(super) server_parses: u64,
    pub(super) binds: u64,
}

impl PoolCounters {
    pub(super) fn add(&mut self, other: &Self) {
        self.combine(other, u64::saturating_add);
    }

    /// What has been counted since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let mut difference = *self;
        difference.combine(earlier, u64::saturating_sub);
        difference
    }

    fn combine(&mut self, other: &Self, how: impl Fn(u64, u64) -> u64) {
        // Taken apart by name, so that a forgotten one does not compile.
        let Self {
            logins,
            assignments,
            transactions,
            queries,
            received_bytes,
            sent_bytes,
            transaction_us,
            query_us,
            wait_us,
            client_parses,
            server_parses,
            binds,
        } = self;
        for (counter, other) in [
            (logins, other.logins),
            (assignments, other.assignments),
            (transactions, other.transactions),
            (queries, other.queries),
            (received_bytes, other.received_bytes),
            (sent_bytes, other.sent_bytes),
            (transaction_us, other.transaction_us),
            (query_us, other.query_us),
            (wait_us, other.wait_us),
            (client_parses, other.client_parses),
            (server_parses, other.server_parses),
            (binds, other.binds),
        ] {
            *counter = how(*counter, other);
        }
    }
}

/// Why a server could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotOpened {
    /// Its host's name has no address.
    Name,
    /// No connection, or it ended before the login was over.
    Unreachable,
    /// PostgreSQL refused the login.
    Rejected,
}

impl NotOpened {
    /// All reasons, with their names in the metrics.
    pub(super) const ALL: [(Self, &'static str); 3] = [
        (Self::Name, "name"),
        (Self::Unreachable, "unreachable"),
        (Self::Rejected, "rejected"),
    ];
}

impl From<NotOpened> for OpenFailure {
    fn from(reason: NotOpened) -> Self {
        match reason {
            NotOpened::Name | NotOpened::Unreachable => Self::Unreachable,
            NotOpened::Rejected => Self::Rejected,
        }
    }
}

/// Counters of one loop that belong to no pool. Only ever grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LoopCounters {
    /// Connections accepted.
    pub(super) accepted: u64,
    /// Logins with a wrong name or proof.
    pub(super) auth_failures: u64,
    /// Clients sent away with an error, by its SQLSTATE. Codes are constants of
    /// ours, so there are few.
    pub(super) refused: BTreeMap<&'static str, u64>,
    /// PROXY headers believed.
    pub(super) proxy_headers: u64,
    /// PROXY headers that were not, or could not be read.
    pub(super) proxy_headers_refused: u64,
    not_opened: [u64; NotOpened::ALL.len()],
}

impl LoopCounters {
    pub(super) fn count_refused(&mut self, code: &'static str) {
        *self.refused.entry(code).or_default() += 1;
    }

    pub(super) fn count_not_opened(&mut self, reason: NotOpened) {
        self.not_opened[reason as usize] += 1;
    }

    /// Servers that could not be opened, for that reason.
    pub(super) fn not_opened(&self, reason: NotOpened) -> u64 {
        self.not_opened[reason as usize]
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.auth_failures += other.auth_failures;
        self.proxy_headers += other.proxy_headers;
        self.proxy_headers_refused += other.proxy_headers_refused;
        for (code, count) in &other.refused {
            *self.refused.entry(code).or_default() += count;
        }
        for (mine, other) in self.not_opened.iter_mut().zip(other.not_opened) {
            *mine += other;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_undo_sums() {
        let one = PoolCounters {
            logins: 1,
            assignments: 2,
            transactions: 3,
            queries: 4,
            received_bytes: 5,
            sent_bytes: 6,
            transaction_us: 7,
            query_us: 8,
            wait_us: 9,
            client_parses: 10,
            server_parses: 11,
            binds: 12,
        };
        let mut sum = one;
        sum.add(&one);
        assert_eq!(sum.binds, 24);
        assert_eq!(sum.since(&one), one);
        assert_eq!(one.since(&sum), PoolCounters::default());
    }

    #[test]
    fn loops_add_up() {
        let mut sum = LoopCounters::default();
        for reason in [NotOpened::Rejected, NotOpened::Name, NotOpened::Rejected] {
            let mut other = LoopCounters::default();
            other.count_not_opened(reason);
            other.count_refused("53300");
            sum.add(&other);
        }
        assert_eq!(sum.not_opened(NotOpened::Rejected), 2);
        assert_eq!(sum.not_opened(NotOpened::Unreachable), 0);
        assert_eq!(sum.refused["53300"], 3);
    }
}
