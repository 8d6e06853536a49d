//! New paths and places, as pure functions of what was asked.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::{PathRewrite, Redirect, Rewrite};

/// What a client asked for, as far as a redirect keeps it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host without its port; an IPv6 address in brackets.
    pub host: &'a str,
    /// Port, if the client named one.
    pub port: Option<u16>,
    /// Path without the query.
    pub path: &'a str,
    /// What stands behind the `?`; empty if there is none.
    pub query: &'a str,
    /// As in [`Found`](super::Found).
    pub prefix_bytes: usize,
}

impl PathRewrite {
    /// Makes the new path; `prefix_bytes` as in [`Found`](super::Found).
    ///
    /// As HTTPRoute replaces prefixes: one slash between what replaces the prefix and what follows it, and a path is never
    /// empty. What is no path (`*`, or the authority of CONNECT) stays.
    #[must_use]
    pub fn apply<'a>(&'a self, path: &'a str, prefix_bytes: usize) -> Cow<'a, str> {
        if !path.starts_with('/') {
            return Cow::Borrowed(path);
        }
        match self {
            Self::Full(full) => Cow::Borrowed(full),
            Self::Prefix(new) => match path.get(prefix_bytes..).unwrap_or_default() {
                "" if new.is_empty() => Cow::Borrowed("/"),
                "" => Cow::Borrowed(new),
                rest => match new.trim_end_matches('/') {
                    "" => Cow::Borrowed(rest),
                    new => Cow::Owned(format!("{new}{rest}")),
                },
            },
        }
    }
}

impl Rewrite {
    /// Makes the new target of a request, path and query; none if both stay.
    #[must_use]
    pub fn target(&self, path: &str, query: &str, prefix_bytes: usize) -> Option<String> {
        let path = self.path.as_ref()?.apply(path, prefix_bytes);
        Some(with_query(path.into_owned(), query))
    }
}

impl Redirect {
    /// Makes the value of the Location header.
    ///
    /// The port stays as it was asked unless another one or another scheme is given, whose own port then counts; a scheme's
    /// own port is not written.
    #[must_use]
    pub fn location(&self, asked: &Asked<'_>) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(asked.scheme);
        let port = match (self.port, &self.scheme) {
            (Some(port), _) => Some(port),
            (None, Some(_)) => None,
            (None, None) => asked.port,
        };
        let own_port = if scheme == "https" { 443 } else { 80 };
        let mut location = format!("{scheme}://{}", self.host.as_deref().unwrap_or(asked.host));
        if let Some(port) = port.filter(|port| *port != own_port) {
            // Writing to a String does not fail.
            let _ = write!(location, ":{port}");
        }
        match &self.path {
            Some(path) => location.push_str(&path.apply(asked.path, asked.prefix_bytes)),
            None if asked.path.starts_with('/') => location.push_str(asked.path),
            None => location.push('/'),
        }
        with_query(location, asked.query)
    }
}

fn with_query(mut target: String, query: &str) -> String {
    if !query.is_empty() {
        target.push('?');
        target.push_str(query);
    }
    target
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table in the description of HTTPPathModifier.replacePrefixMatch, Gateway API v1; prefixes without their last slash,
    /// as [`super::super::PathPattern::Prefix`] has them.
    #[test]
    fn prefixes_are_replaced_as_httproute_says() {
        for (path, prefix, new, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar", "", "/xyz", "/xyz/foo/bar"),
            ("/", "", "/xyz", "/xyz/"),
        ] {
            let rewrite = PathRewrite::Prefix(new.into());
            assert_eq!(rewrite.apply(path, prefix.len()), expected, "{path}: {prefix} to {new}");
        }
    }

    #[test]
    fn the_query_stays_and_what_is_no_path_too() {
        let full = Rewrite { host: None, path: Some(PathRewrite::Full("/new".into())) };
        assert_eq!(full.target("/old/x", "a=1&b", 6).as_deref(), Some("/new?a=1&b"));
        assert_eq!(full.target("/old", "", 4).as_deref(), Some("/new"));
        assert_eq!(full.target("*", "", 1).as_deref(), Some("*"));
        assert_eq!(Rewrite::default().target("/old", "a", 4), None);
    }

    #[test]
    fn a_location_is_what_was_asked_but_for_what_is_given() {
        let asked = Asked {
            scheme: "http",
            host: "shop.example",
            port: Some(8080),
            path: "/api/x",
            query: "q=1",
            prefix_bytes: 4,
        };
        let redirect = |scheme: Option<&str>, host: Option<&str>, port, path| Redirect {
            scheme: scheme.map(Into::into),
            host: host.map(Into::into),
            port,
            path,
            status: 302,
        };
        let prefix = || Some(PathRewrite::Prefix("/v2".into()));
        for (redirect, expected) in [
            (redirect(Some("https"), None, None, None), "https://shop.example/api/x?q=1"),
            (redirect(Some("https"), None, Some(443), None), "https://shop.example/api/x?q=1"),
            (redirect(Some("https"), None, Some(8443), None), "https://shop.example:8443/api/x?q=1"),
            (redirect(None, Some("new.example"), None, None), "http://new.example:8080/api/x?q=1"),
            (redirect(None, Some("new.example"), Some(80), prefix()), "http://new.example/v2/x?q=1"),
            (
                redirect(None, None, None, Some(PathRewrite::Full("/".into()))),
                "http://shop.example:8080/?q=1",
            ),
        ] {
            assert_eq!(redirect.location(&asked), expected);
        }
        let options = Asked { path: "*", query: "", port: None, ..asked };
        assert_eq!(redirect(Some("https"), None, None, None).location(&options), "https://shop.example/");
    }
}
