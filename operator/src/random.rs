//! What must not be guessed, and what must not be in step.

/// Length of a key, in bytes.
const KEY_LENGTH: usize = 32;

/// A key that nobody knows yet, in hexadecimal: who reads it takes it as text.
///
/// # Errors
/// If this system gives no random numbers.
pub(crate) fn key() -> Result<String, getrandom::Error> {
    let mut key = [0; KEY_LENGTH];
    getrandom::fill(&mut key)?;
    Ok(hex(&key))
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 0 to 1, for pauses; the middle if there is no randomness.
pub(crate) fn fraction() -> f64 {
    let mut byte = [0];
    match getrandom::fill(&mut byte) {
        Ok(()) => f64::from(byte[0]) / 255.0,
        Err(_) => 0.5,
    }
}
