//! Until when the certificates of a tier are good. Pure.
//!
//! Nobody renews a certificate of ours but its owner, and a pooler goes on with
//! one that has expired: whoever connects then refuses it. So it is told before.

use std::{fmt, time::Duration};

use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

use crate::api::{CertificateState, CertificateStatus};

/// How long before its end a certificate is told of.
pub const WARN_BEFORE: Duration = Duration::from_secs(14 * 86_400);
/// The same of an authority that CloudNativePG keeps: it renews its own when 7
/// days are left, unless told otherwise.
pub const WARN_BEFORE_KEPT: Duration = Duration::from_secs(3 * 86_400);
/// One that lives less long is told of in the last of so many parts of its life:
/// what renews certificates by itself does so after two thirds.
const LAST_PART: i32 = 4;
/// Clocks may differ by so much.
const CLOCKS: SignedDuration = SignedDuration::from_mins(1);

/// What a file of certificates is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A certificate and those that it was signed by: good while all are.
    Chain,
    /// Authorities to believe: good while one is.
    Authorities,
}

/// From when until when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Validity {
    not_before: Timestamp,
    not_after: Timestamp,
}

/// A file of certificates that a tier uses. None of it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    secret: String,
    key: String,
    holds: Holds,
    /// At least one.
    validities: Vec<Validity>,
    warn_before: Duration,
}

impl Certificate {
    /// What a Secret's key holds, in DER; `None` if nothing of it can be read:
    /// those who use it say so.
    #[must_use]
    pub fn new(
        (secret, key): (&str, &str),
        holds: Holds,
        certificates: &[CertificateDer<'_>],
        warn_before: Duration,
    ) -> Option<Self> {
        let validities: Vec<Validity> = certificates.iter().filter_map(validity).collect();
        (!validities.is_empty()).then(|| Self {
            secret: secret.to_owned(),
            key: key.to_owned(),
            holds,
            validities,
            warn_before,
        })
    }

    /// A chain of one.
    #[cfg(test)]
    pub(crate) fn between(
        (secret, key): (&str, &str),
        (not_before, not_after): (Timestamp, Timestamp),
    ) -> Self {
        Self {
            secret: secret.to_owned(),
            key: key.to_owned(),
            holds: Holds::Chain,
            validities: vec![Validity {
                not_before,
                not_after,
            }],
            warn_before: WARN_BEFORE,
        }
    }

    /// Whether it is from the same place.
    #[must_use]
    pub fn is_of(&self, secret: &str, key: &str) -> bool {
        self.secret == secret && self.key == key
    }

    /// How it is now. `before` gives a state that did not change the time since
    /// which it is so.
    #[must_use]
    pub fn status(&self, before: &[CertificateStatus], now: Timestamp) -> CertificateStatus {
        let Validity {
            not_before,
            not_after,
        } = self.validity(now);
        let state = self.judge(now);
        let since = before
            .iter()
            .find(|one| self.is_of(&one.secret, &one.key) && one.state == state)
            .map_or(now, |one| one.since);
        CertificateStatus {
            secret: self.secret.clone(),
            key: self.key.clone(),
            state,
            since,
            not_before,
            not_after,
        }
    }

    fn judge(&self, now: Timestamp) -> CertificateState {
        let Validity {
            not_before,
            not_after,
        } = self.validity(now);
        let life = not_after.duration_since(not_before);
        let warn_before = SignedDuration::try_from(self.warn_before).unwrap_or(life);
        if not_before.duration_since(now) > CLOCKS {
            CertificateState::NotValidYet
        } else if now >= not_after {
            CertificateState::Expired
        } else if not_after.duration_since(now) <= warn_before.min(life / LAST_PART) {
            CertificateState::Expiring
        } else {
            CertificateState::Valid
        }
    }

    /// That of all of it: of a chain the shortest, of authorities the longest
    /// among those that are good already.
    fn validity(&self, now: Timestamp) -> Validity {
        let all = || self.validities.iter().copied();
        let begun = |one: &Validity| one.not_before.duration_since(now) <= CLOCKS;
        let found = match self.holds {
            Holds::Chain => all()
                .find(|one| !begun(one))
                .or_else(|| all().min_by_key(|one| one.not_after)),
            Holds::Authorities => all()
                .filter(begun)
                .max_by_key(|one| one.not_after)
                .or_else(|| all().min_by_key(|one| one.not_before)),
        };
        found.expect("there is at least one certificate")
    }
}

fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    let validity = certificate.validity();
    Some(Validity {
        not_before: timestamp(validity.not_before.timestamp()),
        not_after: timestamp(validity.not_after.timestamp()),
    })
}

/// 9999-12-31 means that there is no end; it is a little later than what can be
/// said.
fn timestamp(second: i64) -> Timestamp {
    let end = match second > 0 {
        true => Timestamp::MAX,
        false => Timestamp::MIN,
    };
    Timestamp::from_second(second).unwrap_or(end)
}

impl CertificateStatus {
    /// Where it is: `shop-tls/tls.crt`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}/{}", self.secret, self.key)
    }

    /// Its end, or its beginning where it is not valid yet. The same as long as
    /// the state is.
    #[must_use]
    pub fn period(&self) -> String {
        let Self {
            not_before,
            not_after,
            ..
        } = self;
        match self.state {
            CertificateState::Valid | CertificateState::Expiring => {
                format!("expires at {not_after}")
            }
            CertificateState::Expired => format!("expired at {not_after}"),
            CertificateState::NotValidYet => format!("is not valid before {not_before}"),
        }
    }
}

impl fmt::Display for CertificateStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.place(), self.period())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn day(day: i64) -> Timestamp {
        Timestamp::from_second(day * DAY).unwrap()
    }

    fn certificate(holds: Holds, days: &[(i64, i64)]) -> Certificate {
        let validities = days.iter().map(|(first, last)| Validity {
            not_before: day(*first),
            not_after: day(*last),
        });
        let place = ("shop-tls", "tls.crt");
        Certificate {
            holds,
            validities: validities.collect(),
            ..Certificate::between(place, (day(0), day(0)))
        }
    }

    fn states(certificate: &Certificate, days: &[i64]) -> Vec<CertificateState> {
        days.iter()
            .map(|at| certificate.status(&[], day(*at)).state)
            .collect()
    }

    use CertificateState::{Expired, Expiring, NotValidYet, Valid};

    #[test]
    fn a_certificate_is_told_of_14_days_before_its_end() {
        let year = certificate(Holds::Chain, &[(10, 375)]);
        assert_eq!(
            states(&year, &[9, 10, 360, 361, 374, 375]),
            [NotValidYet, Valid, Valid, Expiring, Expiring, Expired]
        );
        assert_eq!(year.status(&[], day(361)).not_after, day(375));
    }

    #[test]
    fn one_of_few_days_is_told_of_in_the_last_quarter_of_its_life() {
        let week = certificate(Holds::Chain, &[(0, 8)]);
        assert_eq!(
            states(&week, &[0, 5, 6, 7, 8]),
            [Valid, Valid, Expiring, Expiring, Expired]
        );
    }

    #[test]
    fn a_chain_is_as_good_as_its_worst_certificate() {
        let chain = certificate(Holds::Chain, &[(0, 1000), (0, 300), (0, 2000)]);
        assert_eq!(states(&chain, &[100, 290, 300]), [Valid, Expiring, Expired]);
        let early = certificate(Holds::Chain, &[(0, 1000), (50, 2000)]);
        assert_eq!(states(&early, &[49, 50]), [NotValidYet, Valid]);
    }

    #[test]
    fn authorities_are_as_good_as_their_best_certificate() {
        let old_and_new = certificate(Holds::Authorities, &[(0, 300), (290, 600)]);
        assert_eq!(
            states(&old_and_new, &[100, 285, 289, 290, 300, 590, 600]),
            [Valid, Valid, Expiring, Valid, Valid, Expiring, Expired],
            "the new one is not good on day 289 yet"
        );
        let next_week = certificate(Holds::Authorities, &[(7, 300)]);
        assert_eq!(states(&next_week, &[0, 7]), [NotValidYet, Valid]);
    }

    #[test]
    fn a_clock_that_is_a_little_late_does_not_make_a_new_certificate_wrong() {
        let new = certificate(Holds::Chain, &[(10, 375)]);
        let late = |seconds| day(10) - SignedDuration::from_secs(seconds);
        assert_eq!(new.status(&[], late(60)).state, Valid);
        assert_eq!(new.status(&[], late(61)).state, NotValidYet);
    }

    #[test]
    fn a_state_keeps_its_time_and_its_words_until_it_changes() {
        let year = certificate(Holds::Chain, &[(0, 365)]);
        let first = year.status(&[], day(352));
        let second = year.status(std::slice::from_ref(&first), day(353));
        assert_eq!(second, first);
        assert_eq!(second.period(), "expires at 1971-01-01T00:00:00Z");
        let third = year.status(&[second], day(366));
        assert_eq!(third.since, day(366));
        assert_eq!(third.place(), "shop-tls/tls.crt");
        assert_eq!(third.period(), "expired at 1971-01-01T00:00:00Z");
    }

    #[test]
    fn a_real_certificate_is_read_and_what_is_none_is_passed_over() {
        let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        let certificates = [
            CertificateDer::from(b"hunter2".as_slice()),
            made.cert.der().clone(),
        ];
        let place = ("shop-tls", "tls.crt");
        let holds = Holds::Authorities;
        let read = Certificate::new(place, holds, &certificates, WARN_BEFORE).unwrap();
        let status = read.status(&[], day(20_000));
        assert_eq!(status.state, Valid);
        assert_eq!(status.not_after.to_string(), "4096-01-01T00:00:00Z");
        let none = Certificate::new(place, holds, &certificates[..1], WARN_BEFORE);
        assert_eq!(none, None);
        assert_eq!(timestamp(253_402_300_799), Timestamp::MAX);
    }
}
