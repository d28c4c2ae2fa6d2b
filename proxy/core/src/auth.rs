//! Proofs of identity: PostgreSQL's md5 and SCRAM-SHA-256, both sides, as
//! exchanges of messages with no I/O.
//!
//! What derives keys from a password is slow on purpose and says so; everything
//! else is quick enough for an event loop.

pub mod md5;
pub mod scram;

/// Whether two secrets are the same, in a time that does not depend on where
/// they differ.
///
/// Their lengths are not hidden.
#[must_use]
pub fn same(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let difference = left
        .iter()
        .zip(right)
        .fold(0, |difference, (a, b)| difference | (a ^ b));
    // Keeps the optimiser from leaving the loop early.
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn same_compares_every_byte() {
        assert!(same(b"", b""));
        assert!(same(b"secret", b"secret"));
        for place in 0..6 {
            let mut other = *b"secret";
            other[place] ^= 0x80;
            assert!(!same(b"secret", &other));
        }
        assert!(!same(b"secret", b"secre"));
    }
}
