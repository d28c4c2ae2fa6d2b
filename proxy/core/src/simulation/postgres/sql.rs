//! The few statements that the model of PostgreSQL knows. Each carries the tag
//! of who sent it, `c3q17`: client 3, its request 17.

/// A statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sql {
    /// `select TAG ROWS`: that many rows, which show the tag and the parameters.
    Select { tag: String, rows: usize },
    /// `sleep TAG`: one row, after a while.
    Sleep { tag: String },
    /// `write TAG`: no rows.
    Write,
    /// `fail TAG`: an error when executed.
    Fail { tag: String },
    /// `missing TAG`: an error when analysed.
    Missing { tag: String },
    /// `notice TAG`: a NoticeResponse.
    Notice { tag: String },
    /// `copyin TAG`: COPY FROM STDIN.
    CopyIn,
    /// `copyview TAG`: COPY FROM STDIN into something that cannot take it,
    /// which PostgreSQL finds out after it has asked for the data.
    CopyView { tag: String },
    /// `copyout TAG ROWS`: COPY TO STDOUT.
    CopyOut { tag: String, rows: usize },
    /// `begin`.
    Begin,
    /// `commit`.
    Commit,
    /// `rollback`.
    Rollback,
    /// `set NAME='VALUE'`.
    Set { name: String, value: String },
    /// `show NAME`.
    Show { name: String },
    /// `deallocate NAME`.
    Deallocate { name: String },
    /// `deallocate all`.
    DeallocateAll,
    /// `discard all`.
    DiscardAll,
    /// `unlisten CHANNEL`.
    Unlisten,
}

impl Sql {
    /// Reads one statement; `None` is a syntax error.
    pub(super) fn read(text: &str) -> Option<Self> {
        let lower = text.trim().to_ascii_lowercase();
        let words: Vec<&str> = lower.split_whitespace().collect();
        let word = |at: usize| words.get(at).map(|&word| word.to_owned());
        let rows = |at: usize| words.get(at)?.parse().ok();
        Some(match *words.first()? {
            "select" => Self::Select {
                tag: word(1)?,
                rows: rows(2)?,
            },
            "sleep" => Self::Sleep { tag: word(1)? },
            "write" => Self::Write,
            "fail" => Self::Fail { tag: word(1)? },
            "missing" => Self::Missing { tag: word(1)? },
            "notice" => Self::Notice { tag: word(1)? },
            "copyin" => Self::CopyIn,
            "copyview" => Self::CopyView { tag: word(1)? },
            "copyout" => Self::CopyOut {
                tag: word(1)?,
                rows: rows(2)?,
            },
            "begin" => Self::Begin,
            "commit" => Self::Commit,
            "rollback" => Self::Rollback,
            "set" => {
                // The value keeps its case.
                let (name, value) = text.trim()[4..].split_once('=')?;
                let value = value.trim().strip_prefix('\'')?.strip_suffix('\'')?;
                Self::Set {
                    name: name.trim().to_owned(),
                    value: value.replace("''", "'"),
                }
            }
            "show" => Self::Show { name: word(1)? },
            "deallocate" if words.get(1) == Some(&"all") => Self::DeallocateAll,
            "deallocate" => Self::Deallocate { name: word(1)? },
            "discard" => Self::DiscardAll,
            "unlisten" => Self::Unlisten,
            _ => return None,
        })
    }

    /// Whether it is allowed in a failed transaction.
    pub(super) fn ends_transaction(&self) -> bool {
        matches!(self, Self::Commit | Self::Rollback)
    }

    pub(super) fn returns_rows(&self) -> bool {
        matches!(
            self,
            Self::Select { .. } | Self::Sleep { .. } | Self::Show { .. }
        )
    }
}

/// The statements of a Query.
pub(super) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(';').map(str::trim).filter(|sql| !sql.is_empty())
}

/// The client whose tag is in `text`.
pub(super) fn owner(text: &str) -> Option<usize> {
    text.split_whitespace()
        .find_map(|word| word.strip_prefix('c')?.split_once('q')?.0.parse().ok())
}
