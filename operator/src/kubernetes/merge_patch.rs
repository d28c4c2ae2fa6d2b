//! JSON merge patches (RFC 7396) that leave nothing of before behind. Pure.

use serde_json::Value as Json;

/// The patch that makes `after` of `before`: what `after` does not name is
/// removed, which a patch of `after` alone would leave. Lists are replaced.
pub(super) fn replacing(before: &Json, after: Json) -> Json {
    match (before, after) {
        (Json::Object(before), Json::Object(mut after)) => {
            for (key, old) in before {
                let new = after
                    .remove(key)
                    .map_or(Json::Null, |new| replacing(old, new));
                after.insert(key.clone(), new);
            }
            Json::Object(after)
        }
        (_, after) => after,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_gone_is_removed() {
        let before = json!({"a": 1, "b": {"c": 2, "d": 3}, "l": [{"x": 1}], "o": {"p": 1}});
        let after = json!({"b": {"d": 4}, "l": [{"y": 1}], "n": 5, "o": 7});
        assert_eq!(
            replacing(&before, after),
            json!({"a": null, "b": {"c": null, "d": 4}, "l": [{"y": 1}], "n": 5, "o": 7})
        );
        assert_eq!(replacing(&Json::Null, json!({"a": 1})), json!({"a": 1}));
    }
}
