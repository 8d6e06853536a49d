//! Just enough of a lexer to read paths out of Rust source: comments, strings and test code are no imports.

/// One token and the line it stands on, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Identifier or keyword, without `r#`.
    Word(String),
    /// `::`
    Join,
    /// Any other single character.
    Sign(char),
    /// String, character or number; what it says is of no interest.
    Literal,
}

impl Token {
    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(&self.kind, Kind::Word(text) if text == word)
    }

    pub(super) fn is_sign(&self, sign: char) -> bool {
        self.kind == Kind::Sign(sign)
    }

    pub(super) fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(text) => Some(text),
            _ => None,
        }
    }
}

/// Splits source into tokens; never fails, since unfinished source is the compiler's business.
pub(super) fn tokens(source: &str) -> Vec<Token> {
    let mut cursor = Cursor { chars: source.chars().collect(), at: 0, line: 1 };
    let mut tokens = Vec::new();
    while let Some(current) = cursor.peek(0) {
        let line = cursor.line;
        let kind = match current {
            '/' if cursor.peek(1) == Some('/') => {
                cursor.skip_while(|c| c != '\n');
                continue;
            }
            '/' if cursor.peek(1) == Some('*') => {
                cursor.skip_block_comment();
                continue;
            }
            c if c.is_whitespace() => {
                cursor.advance();
                continue;
            }
            ':' if cursor.peek(1) == Some(':') => {
                cursor.skip(2);
                Kind::Join
            }
            '"' => cursor.string(),
            '\'' => match cursor.quote() {
                Some(kind) => kind,
                None => continue,
            },
            c if c.is_ascii_digit() => {
                cursor.skip_while(|c| c.is_alphanumeric() || c == '_');
                Kind::Literal
            }
            c if c.is_alphabetic() || c == '_' => cursor.word(),
            sign => {
                cursor.advance();
                Kind::Sign(sign)
            }
        };
        tokens.push(Token { kind, line });
    }
    tokens
}

struct Cursor {
    chars: Vec<char>,
    at: usize,
    line: usize,
}

impl Cursor {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn advance(&mut self) {
        if self.peek(0) == Some('\n') {
            self.line += 1;
        }
        self.at += 1;
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            self.advance();
        }
    }

    fn skip_while(&mut self, keep: impl Fn(char) -> bool) {
        while self.peek(0).is_some_and(&keep) {
            self.advance();
        }
    }

    /// Block comments nest.
    fn skip_block_comment(&mut self) {
        let mut depth = 0;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => {
                    depth += 1;
                    self.skip(2);
                }
                (Some('*'), Some('/')) => {
                    depth -= 1;
                    self.skip(2);
                }
                (Some(_), _) => self.advance(),
                (None, _) => return,
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// A string with escapes, from its opening quote.
    fn string(&mut self) -> Kind {
        self.advance();
        while let Some(current) = self.peek(0) {
            match current {
                '\\' => self.skip(2),
                '"' => {
                    self.advance();
                    break;
                }
                _ => self.advance(),
            }
        }
        Kind::Literal
    }

    /// A raw string, from its first `#` or quote.
    fn raw_string(&mut self) -> Kind {
        let mut hashes = 0;
        while self.peek(0) == Some('#') {
            hashes += 1;
            self.advance();
        }
        self.advance();
        while self.peek(0).is_some() {
            let closes = self.peek(0) == Some('"') && (1..=hashes).all(|i| self.peek(i) == Some('#'));
            self.advance();
            if closes {
                self.skip(hashes);
                break;
            }
        }
        Kind::Literal
    }

    /// A character, or nothing for a lifetime or label, which is skipped.
    fn quote(&mut self) -> Option<Kind> {
        if self.peek(1) == Some('\\') {
            self.skip(3); // quote, backslash and the escaped character, which may be a quote
            self.skip_while(|c| c != '\'');
            self.advance();
            return Some(Kind::Literal);
        }
        if self.peek(2) == Some('\'') {
            self.skip(3);
            return Some(Kind::Literal);
        }
        self.advance();
        self.skip_while(|c| c.is_alphanumeric() || c == '_');
        None
    }

    /// A word, unless it turns out to be the prefix of a literal.
    fn word(&mut self) -> Kind {
        let start = self.at;
        self.skip_while(|c| c.is_alphanumeric() || c == '_');
        let word: String = self.chars[start..self.at].iter().collect();
        let raw = matches!(word.as_str(), "r" | "br" | "cr");
        match self.peek(0) {
            Some('"') if raw => self.raw_string(),
            Some('"') if matches!(word.as_str(), "b" | "c") => self.string(),
            Some('#') if raw && matches!(self.peek(1), Some('"' | '#')) => self.raw_string(),
            Some('#') if word == "r" => {
                self.advance();
                self.word()
            }
            _ => Kind::Word(word),
        }
    }
}

/// Leaves out every item under `#[cfg(test)]`: tests may look anywhere.
pub(super) fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if is_cfg_test(&tokens[at..]) {
            at = end_of_item(tokens, at + CFG_TEST_LEN);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// `#`, `[`, `cfg`, `(`, `test`, `)`, `]`
const CFG_TEST_LEN: usize = 7;

fn is_cfg_test(tokens: &[Token]) -> bool {
    tokens.len() >= CFG_TEST_LEN
        && tokens[0].is_sign('#')
        && tokens[1].is_sign('[')
        && tokens[2].is_word("cfg")
        && tokens[3].is_sign('(')
        && tokens[4].is_word("test")
        && tokens[5].is_sign(')')
        && tokens[6].is_sign(']')
}

/// Index after the item that starts at `at`, its other attributes included.
fn end_of_item(tokens: &[Token], mut at: usize) -> usize {
    const ITEMS: [&str; 14] = [
        "pub",
        "mod",
        "use",
        "fn",
        "struct",
        "enum",
        "impl",
        "trait",
        "const",
        "static",
        "type",
        "async",
        "macro_rules",
        "extern",
    ];
    while tokens.get(at).is_some_and(|token| token.is_sign('#')) {
        at = after_group(tokens, at + 1);
    }
    let word = tokens.get(at).and_then(Token::word).unwrap_or_default();
    // fields, arms and expressions end at a comma as well; items may have commas between their angle brackets
    let ends_at_comma = !ITEMS.contains(&word);
    while let Some(token) = tokens.get(at) {
        match token.kind {
            Kind::Sign(';') => return at + 1,
            Kind::Sign(',') if ends_at_comma => return at + 1,
            Kind::Sign('{') => {
                at = after_group(tokens, at);
                if word != "use" {
                    return at;
                }
            }
            Kind::Sign('(' | '[') => at = after_group(tokens, at),
            Kind::Sign('}' | ')' | ']') => return at, // the end of what encloses the item
            _ => at += 1,
        }
    }
    at
}

/// Index after the bracket that closes the one at `at`.
fn after_group(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.kind {
            Kind::Sign('(' | '[' | '{') => depth += 1,
            Kind::Sign(')' | ']' | '}') => depth -= 1,
            _ => {}
        }
        if depth <= 0 {
            return index + 1;
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<String> {
        let tokens = without_tests(&tokens(source));
        tokens.iter().filter_map(|token| token.word().map(ToOwned::to_owned)).collect()
    }

    #[test]
    fn comments_strings_and_characters_are_no_code() {
        let source = r####"
            a // crate::no
            /* no /* nested no */ no */ b
            "no \" no" c b"no" d r#"no " no"# e br##"no"# no"## f '"' g '\'' h '\u{41}' i
        "####;
        assert_eq!(words(source), ["a", "b", "c", "d", "e", "f", "g", "h", "i"]);
    }

    #[test]
    fn lifetimes_do_not_open_a_character() {
        assert_eq!(words("fn f<'a>(x: &'a str) where 'a: 'static {}"), ["fn", "f", "x", "str", "where"]);
    }

    #[test]
    fn raw_identifiers_lose_their_prefix() {
        assert_eq!(words("r#type + r"), ["type", "r"]);
    }

    #[test]
    fn lines_are_counted_through_comments_and_strings() {
        let source = "/*\n*/ \"\n\" // x\nhere";
        assert_eq!(tokens(source).last().unwrap().line, 4);
    }

    #[test]
    fn test_items_are_left_out_and_what_follows_is_kept() {
        let source = "
            #[cfg(test)] use no::{no, no};
            #[cfg(test)] #[derive(no)] struct no;
            #[cfg(test)] fn no<no, no>(no: no) { no }
            a
            #[cfg(test)] mod no { fn no() { { } } }
            b
            struct S { #[cfg(test)] no: no, c: d, #[cfg(test)] no: no } e";
        assert_eq!(words(source), ["a", "b", "struct", "S", "c", "d", "e"]);
    }

    #[test]
    fn unfinished_source_ends_quietly() {
        for source in ["\"", "r#\"", "/*", "'", "'\\", "#[cfg(test)] mod x {", "#[cfg(test)]"] {
            let _ = words(source);
        }
    }
}
