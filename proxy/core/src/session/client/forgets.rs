//! What statements a Query forgets: DEALLOCATE and DISCARD.

use super::Reader;
use crate::wire::Header;

/// What statements a Query forgets.
pub(super) enum Forgets {
    Nothing,
    /// Cannot be told before this many bytes of the message are there.
    Unseen(usize),
    /// Any.
    Perhaps,
    /// One, if the client has named it through the protocol: on the server it
    /// goes by another name.
    Name(Box<[u8]>),
}

impl Reader<'_> {
    /// What statements a Query forgets, judged by its first word.
    pub(super) fn forgets(&self, head: Header) -> Forgets {
        const WORDS: [&[u8]; 2] = [b"deallocate", b"discard"];
        const LOOKED_AT: usize = 10;
        /// Longest `DEALLOCATE name` looked at as a whole.
        const LENGTH_MAX: usize = 256;
        if !self.rules.follow_statements || head.total == 5 {
            return Forgets::Nothing;
        }
        let text = self.body(head);
        let Some(first) = text.first() else {
            return Forgets::Unseen(6);
        };
        if !first.eq_ignore_ascii_case(&b'd') {
            return Forgets::Nothing;
        }
        let is_whole = text.len() + 5 == head.total;
        if !is_whole && (head.total <= LENGTH_MAX || text.len() < LOOKED_AT) {
            return Forgets::Unseen(if head.total <= LENGTH_MAX {
                head.total
            } else {
                5 + LOOKED_AT
            });
        }
        let begins = |word: &[u8]| {
            text.get(..word.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(word))
        };
        if !WORDS.into_iter().any(begins) {
            return Forgets::Nothing;
        }
        let name = std::str::from_utf8(text)
            .ok()
            .filter(|_| head.total <= LENGTH_MAX)
            .and_then(|sql| deallocate_target(sql.trim_end_matches('\0')));
        name.map_or(Forgets::Perhaps, |name| {
            Forgets::Name(name.into_bytes().into_boxed_slice())
        })
    }
}

/// The name in `DEALLOCATE [PREPARE] name [;]`, unquoted and case-folded as
/// PostgreSQL would; `None` for ALL and for anything else.
fn deallocate_target(sql: &str) -> Option<String> {
    let rest = strip_word(sql.trim(), "deallocate")?;
    let rest = strip_word(rest, "prepare").unwrap_or(rest);
    let name = rest.trim_end_matches(|c: char| c == ';' || c.is_ascii_whitespace());
    if let Some(quoted) = name.strip_prefix('"') {
        let quoted = quoted.strip_suffix('"')?;
        let unquoted = quoted.replace("\"\"", "\u{0}");
        return (!unquoted.contains('"')).then(|| unquoted.replace('\u{0}', "\""));
    }
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80);
    (plain && !name.is_empty() && !name.eq_ignore_ascii_case("all"))
        .then(|| name.to_ascii_lowercase())
}

fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let head = text.get(..word.len())?;
    let rest = &text[word.len()..];
    (head.eq_ignore_ascii_case(word)
        && rest.starts_with(|c: char| c.is_ascii_whitespace() || c == '"'))
    .then(|| rest.trim_start())
}

#[cfg(test)]
mod tests {
    use super::deallocate_target;

    #[test]
    fn deallocate_names_are_read_as_postgresql_reads_them() {
        for (sql, name) in [
            ("DEALLOCATE s1", Some("s1")),
            ("deallocate prepare S1;", Some("s1")),
            ("DEALLOCATE \"S 1\" ;", Some("S 1")),
            ("DEALLOCATE \"a\"\"b\"", Some("a\"b")),
            ("DEALLOCATE ALL", None),
            ("DEALLOCATE", None),
            ("DEALLOCATE a; SELECT 1", None),
            ("SELECT 1", None),
        ] {
            assert_eq!(deallocate_target(sql).as_deref(), name, "{sql}");
        }
    }
}
