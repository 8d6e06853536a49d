//! Regular expressions of the config: linear time, bounded memory, and always about the whole text.

use regex::bytes::{Regex, RegexBuilder};

/// Longest regular expression.
pub const MAX_REGEX_BYTES: usize = 1024;

/// Memory of one compiled expression, and of its cache for each thread: `[a-z0-9-]{1,63}` needs 8 KiB, a million of nested
/// repetitions none, because they are refused.
const MAX_COMPILED_BYTES: usize = 256 << 10;

/// Why a text is no regular expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegexError {
    /// It has too many bytes.
    #[error("it has more than {MAX_REGEX_BYTES} bytes")]
    TooLong,
    /// Compiled, it would be too large.
    #[error("it would need more than {} KiB of memory; repeat less", MAX_COMPILED_BYTES >> 10)]
    TooLarge,
    /// It is none.
    #[error("{0}")]
    Syntax(String),
}

/// Compiles a regular expression that fits a whole text, of bytes: `.`, `\w` and so on know ASCII only.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn regex(text: &str) -> Result<Regex, RegexError> {
    if text.len() > MAX_REGEX_BYTES {
        return Err(RegexError::TooLong);
    }
    // By itself first: `a)(b` must not become right by what is put around it.
    build(text)?;
    build(&format!(r"\A(?:{text})\z"))
}

fn build(text: &str) -> Result<Regex, RegexError> {
    let builder = &mut RegexBuilder::new(text);
    builder.unicode(false).size_limit(MAX_COMPILED_BYTES).dfa_size_limit(MAX_COMPILED_BYTES);
    builder.build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => RegexError::TooLarge,
        // The last line says what is wrong, those before it draw where.
        other => {
            let text = other.to_string();
            let last = text.lines().next_back().unwrap_or_default();
            RegexError::Syntax(last.trim_start_matches("error: ").to_owned())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_about_the_whole_text() {
        for (pattern, yes, no) in [
            ("a|ab", "ab", "abc"),
            ("/v[0-9]+", "/v12", "/v12/"),
            ("", "", "x"),
            (".*", "anything", "two\nlines"),
            ("(?i)get", "GET", "GETS"),
            ("(?m)^a$", "a", "b\na\nb"),
            (r"\w+", "word", "w\u{f6}rd"),
        ] {
            let regex = regex(pattern).unwrap();
            assert!(regex.is_match(yes.as_bytes()), "{pattern} fits {yes}");
            assert!(!regex.is_match(no.as_bytes()), "{pattern} does not fit {no}");
        }
    }

    #[test]
    fn what_is_none_or_too_much_is_refused_in_one_line() {
        for pattern in ["a)(b", "(", "[", "a{2,1}", "*", r"\p{Greek}", "(?x) a # b"] {
            let Err(RegexError::Syntax(problem)) = regex(pattern) else { panic!("{pattern}") };
            assert!(!problem.is_empty() && !problem.contains('\n'), "{problem}");
        }
        assert_eq!(regex("((a{100}){100}){100}").err(), Some(RegexError::TooLarge));
        assert_eq!(regex(&"a".repeat(MAX_REGEX_BYTES + 1)).err(), Some(RegexError::TooLong));
    }
}
