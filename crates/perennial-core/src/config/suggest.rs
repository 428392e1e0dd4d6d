//! "Did you mean": the nearest of the names that would have been right.

/// How a name looks when spelling habits are taken out: case, `_`, `-` and other separators.
///
/// This is also how a part of an environment variable's name is compared with a key.
pub(super) fn normal_form(name: &str) -> String {
    name.to_lowercase()
        .chars()
        .map(|c| if c.is_alphanumeric() { c } else { '-' })
        .collect()
}

/// The candidate that was probably meant, if any is near enough.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let name = normal_form(name);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let normal = normal_form(candidate);
            let distance = strsim::damerau_levenshtein(&name, &normal);
            let longer = name.chars().count().max(normal.chars().count());
            // A third of the letters may be wrong; a name that is a part of the other one is meant
            // as well, such as `timeout` for `ask-timeout`.
            let allowed = (longer / 3).max(1);
            let part = name.len() >= 4 && normal.contains(&name);
            (distance <= allowed || part).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The end of a message about a name that is unknown.
pub(super) fn hint<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str> + Clone,
    known: &str,
    write: impl Fn(&str) -> String,
) -> String {
    if let Some(nearest) = nearest(name, candidates.clone()) {
        return format!("did you mean {}?", write(nearest));
    }
    let mut all: Vec<_> = candidates.into_iter().collect();
    all.sort_unstable();
    all.dedup();
    if all.is_empty() {
        format!("there are no {known}")
    } else {
        format!("the {known} are {}", all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_or_none() {
        let keys = ["ask-timeout", "name", "passivate-after", "url", "workers"];
        for (name, expected) in [
            ("pasivate-after", Some("passivate-after")),
            ("passivate_after", Some("passivate-after")),
            ("PassivateAfter", Some("passivate-after")),
            ("ulr", Some("url")),
            ("timeout", Some("ask-timeout")),
            ("worker", Some("workers")),
            ("threads", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, keys), expected, "{name}");
        }
    }

    #[test]
    fn without_a_near_name_all_are_listed() {
        let write = |name: &str| format!("`{name}`");
        assert_eq!(
            hint("colour", ["url", "name", "url"], "known keys", write),
            "the known keys are name, url"
        );
        assert_eq!(
            hint("x", [], "known keys", write),
            "there are no known keys"
        );
    }
}
