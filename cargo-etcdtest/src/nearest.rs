//! The name that somebody probably meant.

/// The known name that is most like what was written, if one is like it at all.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const ALIKE: f64 = 0.75;
    let lower = written.to_lowercase();
    let one_letter_off =
        |name: &str| name.len() > 1 && strsim::osa_distance(&lower, &name.to_lowercase()) <= 1;
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&lower, &name.to_lowercase()), name))
        .filter(|(likeness, name)| *likeness > ALIKE || one_letter_off(name))
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, name)| name)
}

/// The help line of an error about an unknown name: the nearest one if there is one, and
/// all that exist if they are few enough to read.
pub fn suggestion<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    const READABLE: usize = 20;
    let known: Vec<_> = known.into_iter().collect();
    let nearest = nearest(written, known.iter().copied()).map(|name| format!("did you mean `{name}`?"));
    let all =
        (!known.is_empty() && known.len() <= READABLE).then(|| format!("there is: {}", known.join(", ")));
    match (nearest, all) {
        (Some(nearest), Some(all)) if known.len() > 1 => Some(format!("{nearest} {all}")),
        (nearest, all) => nearest.or(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_found_and_a_foreign_one_is_not() {
        let known = ["staging-a", "staging-b", "local"];
        assert_eq!(nearest("Lokal", known), Some("local"));
        assert_eq!(nearest("stagingb", known), Some("staging-b"));
        assert_eq!(nearest("production", known), None);
        assert_eq!(nearest("cl", ["default", "ci"]), Some("ci"));
        assert_eq!(suggestion("production", known).unwrap(), "there is: staging-a, staging-b, local");
        assert_eq!(suggestion("loca", ["local"]).unwrap(), "did you mean `local`?");
        assert_eq!(suggestion("x", []), None);
    }
}
