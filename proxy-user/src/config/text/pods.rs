//! What Kubernetes calls pods by, as text.

use std::fmt;

use super::TextType;

/// Longest name of a namespace, value of a label, and name of one behind its prefix (RFC 1123, 2.1, and Kubernetes).
const MAX_LABEL_BYTES: usize = 63;
/// Longest prefix of a label's name (RFC 1123, 2.1).
const MAX_PREFIX_BYTES: usize = 253;

text_type! {
    /// Name of a Kubernetes namespace.
    NamespaceName(String), "weir-kubernetes-namespace",
    "the name of a Kubernetes namespace: at most 63 lower-case letters, digits and '-'", "shop",
    |text| if is_part(text, |b| b == b'-', true) { Ok(text.to_owned()) } else { Err(None) }, Clone::clone
}

text_type! {
    /// Name of a label.
    LabelName(String), "weir-label-name",
    "the name of a label such as app or app.kubernetes.io/name", "app.kubernetes.io/name",
    |text| {
        let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
        let is_domain = |prefix: &str| {
            prefix.len() <= MAX_PREFIX_BYTES && prefix.split('.').all(|part| is_part(part, |b| b == b'-', true))
        };
        if is_word(name) && prefix.is_none_or(is_domain) { Ok(text.to_owned()) } else { Err(None) }
    },
    Clone::clone
}

text_type! {
    /// Value of a label.
    LabelValue(String), "weir-label-value",
    "the value of a label: at most 63 letters, digits and '-', '_', '.', or an empty text in quotes", "web",
    |text| if text.is_empty() || is_word(text) { Ok(text.to_owned()) } else { Err(None) }, Clone::clone
}

fn is_word(text: &str) -> bool {
    is_part(text, |b| b"-_.".contains(&b), false)
}

/// Letters and digits, and others in between.
fn is_part(text: &str, is_between: fn(u8) -> bool, is_lower: bool) -> bool {
    let is_end =
        |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase() || (!is_lower && b.is_ascii_uppercase());
    let bytes = text.as_bytes();
    let has_ends = bytes.first().is_some_and(|b| is_end(*b)) && bytes.last().is_some_and(|b| is_end(*b));
    bytes.len() <= MAX_LABEL_BYTES && has_ends && bytes.iter().all(|b| is_end(*b) || is_between(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_kubernetes_takes() {
        for text in ["app", "app.kubernetes.io/name", "a/B_c.d-e", "pod-template-hash", "x.y/1"] {
            assert!(LabelName::parse(text).is_ok(), "{text}");
        }
        for text in ["", "/a", "a/", "a/b/c", "-a", "a b", "A.io/x", "a..b/x", &"a".repeat(64), "é"] {
            assert!(LabelName::parse(text).is_err(), "{text}");
        }
        for text in ["", "web", "V1.2_x", "7d9f"] {
            assert!(LabelValue::parse(text).is_ok(), "{text}");
        }
        for text in ["-", "a=b", "a,b", " web", &"a".repeat(64)] {
            assert!(LabelValue::parse(text).is_err(), "{text}");
        }
        assert!(NamespaceName::parse("kube-system").is_ok());
        for text in ["", "Shop", "a.b", "a_b", "shop-", "*"] {
            assert!(NamespaceName::parse(text).is_err(), "{text}");
        }
    }
}
