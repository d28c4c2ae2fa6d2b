//! The grammar of pgbouncer.ini: sections, `key = value`, comments, `%include`,
//! and the connection strings inside values.
//!
//! ```text
//! ; a comment, as is a line that begins with #
//! [databases]
//! shop = host=10.0.0.1 password='it''s'
//! "name with spaces" = host=10.0.0.2
//! %include /etc/more.ini
//! ```
//! Line for line what PgBouncer accepts: a value goes to the end of its line, `;`
//! and `#` inside it are its own; an included file begins in the section of the
//! line that includes it, and leaves behind the section it ends in.

use std::{io, path::Path, rc::Rc};

use super::{Problem, excerpt};

/// Includes inside includes, as in PgBouncer (`MAX_INCLUDE`).
const INCLUDE_DEPTH_MAX: usize = 10;

/// Files read in all: a file that includes itself twice must end, too.
const FILES_MAX: usize = 200;

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as it was named.
    pub file: Rc<str>,
    /// Line, counted from 1.
    pub line: u32,
}

impl Place {
    /// The problem at this place.
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem {
            file: self.file.to_string(),
            line: self.line,
            message: message.into(),
        }
    }
}

/// A line that says something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// `[name]`
    Section {
        /// The name between the brackets.
        name: String,
        /// Where it stands.
        place: Place,
    },
    /// `key = value`
    Entry {
        /// The key without its quotes.
        key: String,
        /// The value without the spaces around it; may be empty.
        value: String,
        /// Where it stands.
        place: Place,
    },
}

/// Reads the file at `path` and what it includes; `read` gives a file's text.
///
/// Lines that cannot be understood become problems, the others are returned.
pub fn read(
    path: &Path,
    read: &mut dyn FnMut(&Path) -> io::Result<String>,
) -> (Vec<Item>, Vec<Problem>) {
    let mut reader = Reader {
        read,
        files: 0,
        items: Vec::new(),
        problems: Vec::new(),
    };
    let start = Place {
        file: path.display().to_string().into(),
        line: 1,
    };
    reader.file(path, &start, 0);
    (reader.items, reader.problems)
}

struct Reader<'a> {
    read: &'a mut dyn FnMut(&Path) -> io::Result<String>,
    files: usize,
    items: Vec<Item>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    /// Reads one file; `from` is the line that asks for it.
    fn file(&mut self, path: &Path, from: &Place, depth: usize) {
        self.files += 1;
        let text = match (self.read)(path) {
            Ok(text) => text,
            Err(error) => {
                let message = format!("cannot read {}: {error}", path.display());
                self.problems.push(from.problem(message));
                return;
            }
        };
        let file: Rc<str> = path.display().to_string().into();
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        for (index, line) in text.lines().enumerate() {
            let place = Place {
                file: file.clone(),
                line: u32::try_from(index + 1).unwrap_or(u32::MAX),
            };
            if let Err(message) = self.line(line.trim(), &place, depth) {
                self.problems.push(place.problem(message));
            }
        }
    }

    fn line(&mut self, line: &str, place: &Place, depth: usize) -> Result<(), String> {
        if line.is_empty() || line.starts_with([';', '#']) {
            return Ok(());
        }
        if let Some(name) = line
            .strip_prefix("%include")
            .filter(|rest| rest.starts_with([' ', '\t']))
        {
            let name = name.trim();
            if depth >= INCLUDE_DEPTH_MAX {
                return Err(format!(
                    "includes are nested more than {INCLUDE_DEPTH_MAX} deep"
                ));
            }
            if self.files >= FILES_MAX {
                return Err(format!("more than {FILES_MAX} files are included"));
            }
            self.file(Path::new(name), place, depth + 1);
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix('[') {
            let (name, rest) = rest
                .split_once(']')
                .ok_or("expected ] after the section's name")?;
            self.items.push(Item::Section {
                name: name.to_owned(),
                place: place.clone(),
            });
            // PgBouncer reads on behind the bracket.
            return self.line(rest.trim_start(), place, depth);
        }
        let (key, rest) = key(line)?;
        let value = rest
            .trim_start()
            .strip_prefix('=')
            .ok_or_else(|| format!("expected = after {}", excerpt(&key)))?;
        self.items.push(Item::Entry {
            key,
            value: value.trim().to_owned(),
            place: place.clone(),
        });
        Ok(())
    }
}

/// Takes the key from the start of a line; returns it and the rest.
fn key(line: &str) -> Result<(String, &str), String> {
    const EXPECTED: &str =
        "expected key = value, [section], %include FILE, or a comment after ; or #";
    let (key, rest) = if let Some(quoted) = line.strip_prefix('\'') {
        let (key, rest) = quoted.split_once('\'').ok_or("expected a closing '")?;
        (key.to_owned(), rest)
    } else if let Some(quoted) = line.strip_prefix('"') {
        unquote(quoted, '"').ok_or("expected a closing \"")?
    } else {
        let end = line
            .find(|c: char| !c.is_ascii_alphanumeric() && !"_.-*".contains(c))
            .unwrap_or(line.len());
        (line[..end].to_owned(), &line[end..])
    };
    if key.is_empty() {
        return Err(EXPECTED.to_owned());
    }
    Ok((key, rest))
}

/// Reads up to the closing quote, a doubled one standing for itself; returns what
/// was quoted and the rest.
pub(super) fn unquote(mut text: &str, quote: char) -> Option<(String, &str)> {
    let mut field = String::new();
    loop {
        let (before, after) = text.split_once(quote)?;
        field.push_str(before);
        match after.strip_prefix(quote) {
            Some(after) => {
                field.push(quote);
                text = after;
            }
            None => return Some((field, after)),
        }
    }
}

/// The pairs of a connection string such as `host=10.0.0.1 password='it''s'`.
///
/// # Errors
/// What is wrong, without any value: one of them may be a password.
pub fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| c == '=' || c.is_whitespace())
            .unwrap_or(rest.len());
        let key = &rest[..end];
        if key.is_empty() {
            return Err("expected key=value pairs separated by spaces".to_owned());
        }
        let value = rest[end..]
            .trim_start()
            .strip_prefix('=')
            .ok_or_else(|| {
                let after = pairs.last().map_or("at the start".to_owned(), |(key, _)| {
                    format!("after the value of {key}")
                });
                format!("expected key=value pairs separated by spaces; the word {after} has no =, quote values with spaces as 'a b'")
            })?
            .trim_start();
        let (value, after) = match value.strip_prefix('\'') {
            Some(quoted) => {
                let (value, after) = unquote(quoted, '\'')
                    .ok_or_else(|| format!("the quoted value of {} has no end", excerpt(key)))?;
                if !after.is_empty() && !after.starts_with(char::is_whitespace) {
                    return Err(format!(
                        "expected a space after the quoted value of {}",
                        excerpt(key)
                    ));
                }
                (value, after)
            }
            None => {
                let end = value.find(char::is_whitespace).unwrap_or(value.len());
                (value[..end].to_owned(), &value[end..])
            }
        };
        if value.is_empty() {
            return Err(format!("{} has no value", excerpt(key)));
        }
        pairs.push((excerpt(key).into_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}
