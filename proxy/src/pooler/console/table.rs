//! Tables as they go to a client: typed columns, text or binary values.
//!
//! Types matter: drivers decode by them, and some ask for numbers in binary
//! (pgx does unless told otherwise).

use std::borrow::Cow;

use proxy_core::wire;

/// Type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Int4,
    Int8,
    Numeric,
}

impl Kind {
    /// Its OID and size in pg_type.
    const fn oid_and_len(self) -> (u32, i16) {
        match self {
            Self::Text => (25, -1),
            Self::Int4 => (23, 4),
            Self::Int8 => (20, 8),
            Self::Numeric => (1700, -1),
        }
    }
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

/// `columns![Text: "name", Int4: "port"]`, in the order of the result.
macro_rules! columns {
    ($($kind:ident: $($name:literal),+);+ $(;)?) => {
        &[$($($crate::pooler::console::table::Column {
            name: $name,
            kind: $crate::pooler::console::table::Kind::$kind,
        }),+),+]
    };
}
pub(super) use columns;

/// A value; which of its representations is sent the column's type says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Text(Cow<'static, str>),
    Number(u64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(u64::from(number))
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(u64::from(number))
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(number as u64)
    }
}

/// 1 or 0: the console has no boolean columns.
impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Number(u64::from(flag))
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A row: as many values as its table has columns.
pub(super) type Row = Vec<Value>;

/// `row![a, b, c]` of anything that is a [`Value`].
macro_rules! row {
    ($($value:expr),* $(,)?) => {
        vec![$($crate::pooler::console::table::Value::from($value)),*]
    };
}
pub(super) use row;

/// Which columns a client wants in binary, as its Bind message says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::pooler) struct Formats(Vec<u16>);

impl Formats {
    /// `codes` as in Bind: none for text throughout, one for all columns, or one
    /// each; 0 is text, 1 binary. `None` if they do not fit `count` columns.
    pub(super) fn new(codes: Vec<u16>, count: usize) -> Option<Self> {
        let fits = codes.len() <= 1 || codes.len() == count;
        (fits && codes.iter().all(|&code| code <= 1)).then_some(Self(codes))
    }

    fn code(&self, column: usize) -> u16 {
        match self.0.as_slice() {
            [] => 0,
            [all] => *all,
            each => each[column],
        }
    }
}

/// RowDescription.
pub(super) fn describe(columns: &[Column], formats: &Formats) -> Vec<u8> {
    let columns: Vec<wire::Column<'_>> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let (type_oid, type_len) = column.kind.oid_and_len();
            wire::Column {
                name: column.name,
                type_oid,
                type_len,
                format: formats.code(index),
            }
        })
        .collect();
    wire::row_description(&columns)
}

/// A DataRow for each row.
pub(super) fn data_rows(columns: &[Column], rows: &[Row], formats: &Formats) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in rows {
        debug_assert_eq!(row.len(), columns.len(), "a value for each column");
        let values: Vec<Option<Vec<u8>>> = row
            .iter()
            .zip(columns)
            .enumerate()
            .map(|(index, (value, column))| encode(value, column.kind, formats.code(index)))
            .collect();
        let values: Vec<Option<&[u8]>> = values.iter().map(Option::as_deref).collect();
        bytes.extend(wire::data_row(&values));
    }
    bytes
}

fn encode(value: &Value, kind: Kind, format: u16) -> Option<Vec<u8>> {
    let number = match value {
        Value::Null => return None,
        Value::Text(text) => return Some(text.as_bytes().to_vec()),
        Value::Number(number) => *number,
    };
    // What does not fit is the largest that does, in both formats.
    let int4 = i32::try_from(number).unwrap_or(i32::MAX);
    let int8 = i64::try_from(number).unwrap_or(i64::MAX);
    Some(match (kind, format) {
        (Kind::Int4, 0) => int4.to_string().into_bytes(),
        (Kind::Int4, _) => int4.to_be_bytes().to_vec(),
        (Kind::Int8, 0) => int8.to_string().into_bytes(),
        (Kind::Int8, _) => int8.to_be_bytes().to_vec(),
        (Kind::Text, _) | (Kind::Numeric, 0) => number.to_string().into_bytes(),
        (Kind::Numeric, _) => numeric(number),
    })
}

/// A whole number as numeric_send writes it: count of base-10000 digits, weight
/// of the first, sign, digits after the point, the digits.
fn numeric(mut number: u64) -> Vec<u8> {
    let mut digits = Vec::new();
    while number > 0 {
        digits.push((number % 10_000) as u16);
        number /= 10_000;
    }
    let count = digits.len() as u16;
    let mut bytes = Vec::new();
    for field in [count, count.saturating_sub(1), 0, 0] {
        bytes.extend(field.to_be_bytes());
    }
    for digit in digits.iter().rev() {
        bytes.extend(digit.to_be_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = columns![Text: "name"; Int4: "port"; Int8: "id"; Numeric: "total"];

    #[test]
    fn values_are_encoded_as_their_columns_say() {
        let number = Value::Number(123_456_789);
        let cases: [(Kind, &[u8], &[u8]); 4] = [
            (Kind::Text, b"123456789", b"123456789"),
            (Kind::Int4, b"123456789", &[7, 91, 205, 21]),
            (Kind::Int8, b"123456789", &[0, 0, 0, 0, 7, 91, 205, 21]),
            (
                Kind::Numeric,
                b"123456789",
                // 1 2345 6789
                &[0, 3, 0, 2, 0, 0, 0, 0, 0, 1, 9, 41, 26, 133],
            ),
        ];
        for (kind, text, binary) in cases {
            assert_eq!(encode(&number, kind, 0).as_deref(), Some(text), "{kind:?}");
            assert_eq!(
                encode(&number, kind, 1).as_deref(),
                Some(binary),
                "{kind:?}"
            );
            assert_eq!(encode(&Value::Null, kind, 1), None);
        }
        assert_eq!(numeric(0), [0; 8]);
        let huge = Value::Number(u64::MAX);
        assert_eq!(
            encode(&huge, Kind::Int4, 0).as_deref(),
            Some(b"2147483647".as_slice())
        );
    }

    #[test]
    fn formats_fit_the_columns() {
        assert!(Formats::new(vec![], 4).is_some());
        assert!(Formats::new(vec![1], 4).is_some());
        assert!(Formats::new(vec![0, 1, 0, 1], 4).is_some());
        assert!(Formats::new(vec![0, 1], 4).is_none());
        assert!(Formats::new(vec![2], 4).is_none());
    }

    #[test]
    fn descriptions_tell_the_formats() {
        let formats = Formats::new(vec![0, 1, 1, 1], 4).unwrap();
        let bytes = describe(COLUMNS, &formats);
        let expected = wire::row_description(&[
            column("name", 25, -1, 0),
            column("port", 23, 4, 1),
            column("id", 20, 8, 1),
            column("total", 1700, -1, 1),
        ]);
        assert_eq!(bytes, expected);
    }

    fn column(name: &str, type_oid: u32, type_len: i16, format: u16) -> wire::Column<'_> {
        wire::Column {
            name,
            type_oid,
            type_len,
            format,
        }
    }
}
