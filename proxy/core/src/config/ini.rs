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

use std::{io, path::Path, sync::Arc};

use super::{Problem, excerpt};

/// Includes inside includes, as in PgBouncer (`MAX_INCLUDE`).
const INCLUDE_DEPTH_MAX: usize = 10;

/// Files read in all: a file that includes itself twice must end, too.
const FILES_MAX: usize = 200;

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as it was named.
    pub file: Arc<str>,
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
/// Every line that says something, in order, or what is wrong with it.
pub fn read(
    path: &Path,
    read: &mut dyn FnMut(&Path) -> io::Result<String>,
) -> Vec<Result<Item, Problem>> {
    let mut reader = Reader {
        read,
        files: 0,
        lines: Vec::new(),
    };
    let start = Place {
        file: path.display().to_string().into(),
        line: 1,
    };
    reader.file(path, &start, 0);
    reader.lines
}

struct Reader<'a> {
    read: &'a mut dyn FnMut(&Path) -> io::Result<String>,
    files: usize,
    lines: Vec<Result<Item, Problem>>,
}

impl Reader<'_> {
    /// Reads one file; `from` is the line that asks for it.
    fn file(&mut self, path: &Path, from: &Place, depth: usize) {
        self.files += 1;
        let text = match (self.read)(path) {
            Ok(text) => text,
            Err(error) => {
                let message = format!("cannot read {}: {error}", path.display());
                self.lines.push(Err(from.problem(message)));
                return;
            }
        };
        let file: Arc<str> = path.display().to_string().into();
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        for (index, line) in text.lines().enumerate() {
            let place = Place {
                file: file.clone(),
                line: u32::try_from(index + 1).unwrap_or(u32::MAX),
            };
            if let Err(message) = self.line(line.trim(), &place, depth) {
                self.lines.push(Err(place.problem(message)));
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
            self.lines.push(Ok(Item::Section {
                name: name.to_owned(),
                place: place.clone(),
            }));
            // PgBouncer reads on behind the bracket.
            return self.line(rest.trim_start(), place, depth);
        }
        let (key, rest) = key(line)?;
        let value = rest
            .trim_start()
            .strip_prefix('=')
            .ok_or_else(|| format!("expected = after {}", excerpt(&key)))?;
        self.lines.push(Ok(Item::Entry {
            key,
            value: value.trim().to_owned(),
            place: place.clone(),
        }));
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Reads `main.ini` of some files in memory; shows each line as `FILE:LINE …`.
    fn lines(files: &[(&str, &str)]) -> Vec<String> {
        let files: HashMap<&str, &str> = files.iter().copied().collect();
        let mut open = |path: &Path| {
            files
                .get(path.to_str().unwrap())
                .map(|text| (*text).to_owned())
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        };
        read(Path::new("main.ini"), &mut open)
            .into_iter()
            .map(|line| match line {
                Ok(Item::Section { name, place }) => {
                    format!("{}:{} [{name}]", place.file, place.line)
                }
                Ok(Item::Entry { key, value, place }) => {
                    format!("{}:{} {key}={value}", place.file, place.line)
                }
                Err(problem) => format!("{problem}"),
            })
            .collect()
    }

    #[test]
    fn sections_entries_and_comments_are_told_apart() {
        let text = "\
; comment
# comment
\t[databases]\r
  shop =  host=a ; not a comment \r

*=host=b
\"two words\"=host=c
'it is' = host=d
\"a\"\"b\" = host=e
[pgbouncer] pool_mode = session
empty =
a=b=c
";
        assert_eq!(
            lines(&[("main.ini", text)]),
            [
                "main.ini:3 [databases]",
                "main.ini:4 shop=host=a ; not a comment",
                "main.ini:6 *=host=b",
                "main.ini:7 two words=host=c",
                "main.ini:8 it is=host=d",
                "main.ini:9 a\"b=host=e",
                "main.ini:10 [pgbouncer]",
                "main.ini:10 pool_mode=session",
                "main.ini:11 empty=",
                "main.ini:12 a=b=c",
            ]
        );
    }

    #[test]
    fn every_line_that_is_none_of_these_is_a_problem() {
        let text = "[open\nword\nkey value\n= x\n\"open = x\n'' = x\nké = 1\n%includes x\n";
        assert_eq!(
            lines(&[("main.ini", text)]),
            [
                "main.ini:1: expected ] after the section's name",
                "main.ini:2: expected = after word",
                "main.ini:3: expected = after key",
                "main.ini:4: expected key = value, [section], %include FILE, or a comment after ; or #",
                "main.ini:5: expected a closing \"",
                "main.ini:6: expected key = value, [section], %include FILE, or a comment after ; or #",
                "main.ini:7: expected = after k",
                "main.ini:8: expected key = value, [section], %include FILE, or a comment after ; or #",
            ]
        );
    }

    #[test]
    fn an_included_file_stands_where_the_line_stood() {
        assert_eq!(
            lines(&[
                ("main.ini", "[databases]\n%include a.ini\nlast = 1\n"),
                ("a.ini", "\u{feff}x = 1\n%include\tb.ini \n"),
                ("b.ini", "[users]\ny = 2"),
            ]),
            [
                "main.ini:1 [databases]",
                "a.ini:1 x=1",
                "b.ini:1 [users]",
                "b.ini:2 y=2",
                "main.ini:3 last=1",
            ]
        );
    }

    #[test]
    fn files_that_cannot_be_read_are_problems_of_the_line_that_asks() {
        assert_eq!(
            lines(&[]),
            ["main.ini:1: cannot read main.ini: entity not found"]
        );
        assert_eq!(
            lines(&[("main.ini", "[databases]\n%include gone.ini\nx = 1")]),
            [
                "main.ini:1 [databases]",
                "main.ini:2: cannot read gone.ini: entity not found",
                "main.ini:3 x=1",
            ]
        );
    }

    #[test]
    fn includes_end() {
        // Once deep, and once wide as well: 2 to the power of 10 files otherwise.
        let deep = lines(&[("main.ini", "%include main.ini\n")]);
        assert_eq!(deep, ["main.ini:1: includes are nested more than 10 deep"]);
        let wide = lines(&[("main.ini", "%include main.ini\n%include main.ini\n")]);
        assert!(wide.len() < 500, "{}", wide.len());
        assert!(
            wide.contains(&"main.ini:2: more than 200 files are included".to_owned()),
            "{wide:?}"
        );
    }

    #[test]
    fn pairs_are_read_as_pgbouncer_does() {
        let read = |text: &str| pairs(text).unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(read(""), []);
        assert_eq!(
            read("host=a  port = 5432 password='it''s = x'"),
            [
                pair("host", "a"),
                pair("port", "5432"),
                pair("password", "it's = x"),
            ]
        );
        assert_eq!(read("password=a'b"), [pair("password", "a'b")]);
        assert_eq!(read("password=a=b"), [pair("password", "a=b")]);
        // The value is the next word, wherever it is.
        assert_eq!(read("password= user=x"), [pair("password", "user=x")]);
    }

    #[test]
    fn what_is_no_pair_is_told_without_a_value() {
        for (text, message) in [
            ("host", "the word at the start has no ="),
            ("host=a s3cret", "the word after the value of host has no ="),
            ("=s3cret", "expected key=value pairs"),
            (
                "password='s3cret",
                "the quoted value of password has no end",
            ),
            ("password=", "password has no value"),
            ("password=''", "password has no value"),
            (
                "password='s3'cret",
                "expected a space after the quoted value of password",
            ),
        ] {
            let error = pairs(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
            assert!(!error.contains("s3"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn quoting_a_value_keeps_it(value in "[^\0]{1,40}") {
            let text = format!("password='{}' user=x", value.replace('\'', "''"));
            let read = pairs(&text).unwrap();
            prop_assert_eq!(&read[0].1, &value);
            prop_assert_eq!(&read[1].1, "x");
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
            let _ = pairs(&text);
            let _ = lines(&[("main.ini", &text)]);
        }
    }
}
