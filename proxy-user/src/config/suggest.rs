//! What somebody meant who wrote something else.

use super::error::quoted;

/// Longest word that is compared: nobody means a key by more, and the comparison costs length times length.
const MAX_WORD_BYTES: usize = 253;

/// Makes the sentence `did you mean 'lane'?`.
pub(super) fn did_you_mean(word: &str) -> String {
    format!("did you mean {}?", quoted(word))
}

/// Finds the word with the fewest letters changed, added, left out or swapped (Damerau-Levenshtein).
///
/// At most a third of the letters may differ, but always one. Case, `-` and `_` make no difference.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_WORD_BYTES {
        return None;
    }
    let plain = plain(word);
    let most = (plain.chars().count() / 3).max(1);
    let candidates = known.into_iter().filter(|k| k.len().abs_diff(word.len()) <= most + 2);
    let distance = |k: &'a str| (strsim::damerau_levenshtein(&plain, &self::plain(k)), k);
    let (distance, best) = candidates.map(distance).min_by_key(|(distance, _)| *distance)?;
    (distance <= most).then_some(best)
}

fn plain(word: &str) -> String {
    word.to_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_word_and_another_word_finds_nothing() {
        let known = ["lane", "limits", "on_endpoint_loss", "unhealthy", "healthy"];
        assert_eq!(nearest("lanne", known), Some("lane"));
        assert_eq!(nearest("alne", known), Some("lane"));
        assert_eq!(nearest("Limits", known), Some("limits"));
        assert_eq!(nearest("on-endpoint-lost", known), Some("on_endpoint_loss"));
        assert_eq!(nearest("unhealty", known), Some("unhealthy"));
        assert_eq!(nearest("tls", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest(&"x".repeat(100_000), known), None);
    }
}
