//! Numbered endpoints are kept as a list, each at its number.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Writes them in the order of their numbers.
pub(super) fn serialize<T: Serialize, S: Serializer>(
    slots: &BTreeMap<usize, T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(slots.values())
}

/// Numbers them from 0.
pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<usize, T>, D::Error> {
    let list = Vec::deserialize(deserializer)?;
    Ok(list.into_iter().enumerate().collect())
}
