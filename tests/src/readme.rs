//! What the README tells people to type.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

/// The lines in the shell blocks of a section, in their order, as they stand.
///
/// # Errors
/// When there is no section of that heading, or no line in it.
pub fn commands(heading: &str) -> Result<Vec<String>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(file).context("there is no README.md")?;
    let found = of_section(&readme, heading)
        .with_context(|| format!("the README has no section {heading}"))?;
    ensure!(!found.is_empty(), "the section {heading} has no commands");
    Ok(found)
}

fn of_section(readme: &str, heading: &str) -> Option<Vec<String>> {
    let (_, section) = readme.split_once(&format!("\n## {heading}\n"))?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut found = Vec::new();
    let mut in_shell = false;
    for line in section.lines() {
        match (in_shell, line) {
            (false, "```sh") => in_shell = true,
            (true, "```") => in_shell = false,
            (true, line) => found.push(line.to_owned()),
            (false, _) => {}
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_those_of_the_section() {
        let readme = "# One\n\n## Before\n\n```sh\nno\n```\n\n## Here\n\nText.\n\n```sh\n\
                      first   # why\nsecond\n```\n\n```yaml\nno: no\n```\n\n```sh\nthird\n```\n\n\
                      ## After\n\n```sh\nno\n```\n";
        let found = of_section(readme, "Here");
        let wanted = ["first   # why", "second", "third"].map(str::to_owned);
        assert_eq!(found, Some(wanted.to_vec()));
        assert_eq!(of_section(readme, "Nowhere"), None);
    }
}
