//! What a process is called.

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
