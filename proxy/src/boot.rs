//! What a process is called, and what time it says it is.

use std::{
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

/// A boot id: a random name for this process, 16 hexadecimal digits, by which
/// others know it from the one before.
///
/// # Panics
/// The system gives no random bytes.
#[must_use]
pub fn id() -> String {
    let mut random = [0; 8];
    getrandom::fill(&mut random).expect("the system gives random bytes");
    format!("{:016x}", u64::from_be_bytes(random))
}

/// The name of this host, which in a Pod is the Pod's; `None` if the system does
/// not say. Read once: it is asked for at each check.
#[must_use]
pub fn host_name() -> Option<String> {
    static NAME: OnceLock<Option<String>> = OnceLock::new();
    NAME.get_or_init(|| {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
        let name = name.trim();
        (!name.is_empty()).then(|| name.to_owned())
    })
    .clone()
}

/// Unix time in milliseconds; 0 if the clock is set before 1970, which makes
/// proofs that nobody accepts.
#[must_use]
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_is_short_and_never_the_same() {
        let (one, other) = (id(), id());
        assert_ne!(one, other);
        for id in [one, other] {
            assert_eq!(id.len(), 16);
            assert!(id.chars().all(|c| c.is_ascii_hexdigit()), "{id}");
        }
    }
}
