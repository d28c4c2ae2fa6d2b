//! Whether a program needs a loader and libraries beside it.

use anyhow::{Context, Result, ensure};

/// Type of the entry that names the program's interpreter.
const INTERPRETER: u32 = 3;
/// Length of an entry of the table of 64-bit programs.
const ENTRY_LENGTH: usize = 56;

/// Whether a 64-bit little-endian ELF program names no interpreter.
///
/// # Errors
/// If it is no such program.
/// Source: System V ABI, chapters 4 and 5; ELF-64 object file format 1.5.
pub(super) fn is_static(program: &[u8]) -> Result<bool> {
    ensure!(
        program.starts_with(b"\x7fELF\x02\x01"),
        "no 64-bit little-endian ELF program"
    );
    let number = |at: usize, length: usize| -> Result<u64> {
        let bytes = program.get(at..at.saturating_add(length));
        let bytes = bytes.context("it ends in its header")?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let table = usize::try_from(number(32, 8)?)?;
    let entries = usize::try_from(number(56, 2)?)?;
    for entry in 0..entries {
        let at = table.saturating_add(entry * ENTRY_LENGTH);
        if number(at, 4)? == u64::from(INTERPRETER) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_this_machine_are_told_apart() {
        let dynamic = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!is_static(&dynamic).unwrap());
        // The same with its table forgotten.
        let mut alone = dynamic;
        alone[56..58].fill(0);
        assert!(is_static(&alone).unwrap());
    }

    #[test]
    fn what_is_no_program_is_an_error() {
        for bytes in [&b"#!/bin/sh\n"[..], b"", b"\x7fELF\x02\x01"] {
            assert!(is_static(bytes).is_err());
        }
    }
}
