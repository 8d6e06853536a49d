//! Whatever routes and requests hold, the router finds the rule that looking at everything finds, and what is made of the
//! path for an endpoint is a path.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use proxy_core::id::ServiceId;
use proxy_core::priority::Priority;
use proxy_core::retry::RetryPolicy;
use proxy_core::route::{
    Action, Backend, HeaderChanges, HostPattern, Match, PathPattern, PathRewrite, Request, Rewrite, Route, Router,
    Rule, TextPattern, Timeouts, regex,
};

/// A request, as words of one line: method, host, path, query, and the value of the header `x`.
struct Asking<'a>([&'a str; 5]);

impl Request for Asking<'_> {
    fn method(&self) -> &str {
        self.0[0]
    }

    fn host(&self) -> &str {
        self.0[1]
    }

    fn path(&self) -> &str {
        self.0[2]
    }

    fn query(&self) -> &str {
        self.0[3]
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        (name == "x").then(|| self.0[4].as_bytes())
    }
}

// Lines of blank-separated words: `r host`, for a route with one rule, or what a request is.
fuzz_target!(|text: &str| {
    let mut routes = Vec::new();
    let mut requests = Vec::new();
    for line in text.lines().take(32) {
        let mut words = line.split(' ');
        let words: [&str; 5] = std::array::from_fn(|_| words.next().unwrap_or_default());
        match line.strip_prefix('r') {
            Some(_) => routes.extend(route(routes.len(), words)),
            None => requests.push(Asking(words)),
        }
    }
    let router = Router::new(routes.clone());
    for request in &requests {
        let found = router.find(request);
        let place = found.as_ref().map(|found| &*found.rule.route);
        assert_eq!(place, naive(&routes, request).as_deref());
        if let Some(found) = found {
            assert!(request.path().is_char_boundary(found.prefix_bytes));
            for new in ["/", "/new", "/new/", ""] {
                let path = PathRewrite::Prefix(new.into());
                let path = path.apply(request.path(), found.prefix_bytes);
                assert!(path.starts_with('/') || !request.path().starts_with('/'));
            }
        }
        assert!(router.find_host(request.host()).is_none_or(|found| found.rule.matches.is_empty()));
    }
});

/// Makes a route of one rule: hosts, path with its kind in front, method, header.
fn route(index: usize, [_, host, path, method, header]: [&str; 5]) -> Option<Arc<Route>> {
    let name: Arc<str> = index.to_string().into();
    let hosts = match (host, host.strip_prefix('*')) {
        ("", _) => Vec::new(),
        (_, Some(suffix)) => vec![HostPattern::Suffix(format!(".{}", suffix.trim_start_matches('.')).into())],
        (host, None) => vec![HostPattern::Exact(host.into())],
    };
    let path = match (path.get(..1)?, path.get(1..)?) {
        ("=", path) => Some(PathPattern::Exact(path.into())),
        ("~", path) if regex(path).is_ok() => Some(PathPattern::Regex(path.into())),
        ("/", _) => Some(PathPattern::Prefix(path.into())),
        _ => None,
    };
    let headers = (!header.is_empty()).then(|| ("x".into(), TextPattern::Exact(header.into())));
    let condition = Match {
        path,
        headers: headers.into_iter().collect(),
        query: Vec::new(),
        methods: if method.is_empty() { Vec::new() } else { vec![method.into()] },
    };
    let rule = Rule {
        index: 0,
        route: Arc::clone(&name),
        matches: if condition == Match::default() { Vec::new() } else { vec![condition] },
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
        timeout: Timeouts::default(),
        retry: RetryPolicy::default(),
        rates: Arc::default(),
        priority: Priority::default(),
        faults: None,
        mirrors: Vec::new(),
        action: Action::Forward {
            backends: vec![Backend { service: ServiceId(1), weight: 1 }],
            rewrite: Rewrite::default(),
        },
    };
    Some(Arc::new(Route { name, hosts, rules: vec![Arc::new(rule)] }))
}

/// Looks at every route and takes the one of the highest rank.
fn naive(routes: &[Arc<Route>], request: &Asking<'_>) -> Option<String> {
    let ranked = routes.iter().filter_map(|route| {
        let host = match route.hosts.first() {
            None => 0,
            Some(HostPattern::Exact(host)) => (**host == *request.host()).then_some(usize::MAX)?,
            Some(HostPattern::Suffix(suffix)) => {
                let rest = request.host().strip_suffix(&**suffix)?;
                (!rest.is_empty()).then_some(suffix.len())?
            }
        };
        let all = Match::default();
        let condition = route.rules[0].matches.first().unwrap_or(&all);
        let path = match &condition.path {
            None => (0, 0),
            Some(PathPattern::Exact(path)) => (**path == *request.path()).then_some((3, 0))?,
            Some(PathPattern::Prefix(prefix)) => {
                let prefix = prefix.trim_end_matches('/');
                let rest = request.path().strip_prefix(prefix)?;
                let is_there = rest.starts_with('/') || (rest.is_empty() && !prefix.is_empty());
                is_there.then_some((if prefix.is_empty() { 0 } else { 2 }, prefix.len()))?
            }
            Some(PathPattern::Regex(text)) => {
                regex(text).ok()?.is_match(request.path().as_bytes()).then_some((1, 0))?
            }
        };
        let has_method = condition.methods.iter().any(|method| **method == *request.method());
        let is_header = |(_, pattern): &(_, TextPattern)| *pattern == TextPattern::Exact(request.0[4].into());
        let fits = (condition.methods.is_empty() || has_method) && condition.headers.iter().all(is_header);
        fits.then_some((host, path, has_method, condition.headers.len(), &route.name))
    });
    // Of equals the first one.
    let best = ranked.reduce(|best, next| {
        let rank = |(host, path, method, headers, _): &(usize, (u8, usize), bool, usize, _)| {
            (*host, *path, *method, *headers)
        };
        if rank(&next) > rank(&best) { next } else { best }
    });
    best.map(|(.., name)| name.to_string())
}
