//! The router against one that looks at everything.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// A request of a test.
#[derive(Clone, Debug, Default)]
struct Asking {
    host: String,
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
}

impl Request for Asking {
    fn host(&self) -> &str {
        &self.host
    }

    fn method(&self) -> &str {
        &self.method
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn query(&self) -> &str {
        &self.query
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_bytes())
    }
}

fn get(host: &str, path: &str) -> Asking {
    Asking { host: host.to_owned(), method: "GET".to_owned(), path: path.to_owned(), ..Asking::default() }
}

fn forward(weights: &[u32]) -> Action {
    let backends = (1..).zip(weights).map(|(id, weight)| Backend { service: ServiceId(id), weight: *weight });
    Action::Forward { backends: backends.collect(), rewrite: Rewrite::default() }
}

fn rule(matches: Vec<Match>) -> Rule {
    Rule {
        index: 0,
        route: "".into(),
        matches,
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
        timeout: Timeouts::default(),
        retry: RetryPolicy::default(),
        rates: Arc::default(),
        priority: crate::priority::Priority::default(),
        faults: None,
        mirrors: Vec::new(),
        action: forward(&[1]),
    }
}

fn host(text: &str) -> HostPattern {
    match text.strip_prefix('*') {
        Some(suffix) => HostPattern::Suffix(suffix.into()),
        None => HostPattern::Exact(text.into()),
    }
}

fn route(name: &str, hosts: &[&str], rules: Vec<Vec<Match>>) -> Arc<Route> {
    let name: Arc<str> = name.into();
    let rules = rules.into_iter().enumerate();
    let rules =
        rules.map(|(index, matches)| Arc::new(Rule { index, route: Arc::clone(&name), ..rule(matches) }));
    Arc::new(Route { rules: rules.collect(), hosts: hosts.iter().map(|text| host(text)).collect(), name })
}

fn exact(path: &str) -> Match {
    Match { path: Some(PathPattern::Exact(path.into())), ..Match::default() }
}

fn prefix(path: &str) -> Match {
    Match { path: Some(PathPattern::Prefix(path.into())), ..Match::default() }
}

/// Where the found rule stands, for example `shop/2`.
fn place(found: Option<Found>) -> Option<String> {
    found.map(|found| format!("{}/{}", found.rule.route, found.rule.index))
}

#[track_caller]
fn leads(router: &Router, request: &Asking, expected: impl Into<Option<&'static str>>) {
    assert_eq!(place(router.find(request)).as_deref(), expected.into(), "{request:?}");
}

#[test]
fn hosts_go_before_paths_and_the_most_specific_first() {
    let router = Router::new(vec![
        route("all", &[], vec![vec![prefix("/")]]),
        route("wide", &["*.example"], vec![vec![exact("/a")]]),
        route("shop", &["*.shop.example", "a.shop.example"], vec![vec![prefix("/b")]]),
        route("one", &["a.shop.example"], vec![vec![prefix("/a")]]),
    ]);
    leads(&router, &get("a.shop.example", "/a"), "one/0");
    leads(&router, &get("a.shop.example", "/b/x"), "shop/0");
    leads(&router, &get("x.y.shop.example", "/b"), "shop/0");
    leads(&router, &get("shop.example", "/a"), "wide/0");
    leads(&router, &get("x.shop.example", "/a"), "wide/0");
    leads(&router, &get("example", "/a"), "all/0");
    leads(&router, &get(".example", "/a"), "all/0");
    leads(&router, &get("", "/a"), "all/0");
    leads(&router, &get("a.shop.example", "/c"), "all/0");
}

#[test]
fn paths_go_by_exactness_then_length() {
    let regex = Match { path: Some(PathPattern::Regex("/[a-z]+/1".into())), ..Match::default() };
    let router = Router::new(vec![route(
        "r",
        &[],
        vec![
            vec![regex],
            vec![prefix("/api")],
            vec![prefix("/api/v1")],
            vec![exact("/api/v1")],
            vec![exact("/x/")],
        ],
    )]);
    leads(&router, &get("h", "/api/v1"), "r/3");
    leads(&router, &get("h", "/api/v1/"), "r/2");
    leads(&router, &get("h", "/api/v12"), "r/1");
    leads(&router, &get("h", "/api"), "r/1");
    leads(&router, &get("h", "/api/1"), "r/1");
    leads(&router, &get("h", "/other/1"), "r/0");
    leads(&router, &get("h", "/x/"), "r/4");
    for path in ["/apis", "/x", "/", "/other/11", "*", ""] {
        leads(&router, &get("h", path), None);
    }
    assert_eq!(router.find(&get("h", "/api/v1/x")).unwrap().prefix_bytes, 7);
    assert_eq!(router.find(&get("h", "/api/v1")).unwrap().prefix_bytes, 7);
}

#[test]
fn methods_then_headers_then_parameters_then_the_order_decide_between_equal_paths() {
    let text = |name: &str, value: &str| (name.into(), TextPattern::Exact(value.into()));
    let with = |headers: &[(&str, &str)], query: &[(&str, &str)], methods: &[&str]| Match {
        path: Some(PathPattern::Prefix("/".into())),
        headers: headers.iter().map(|(n, v)| text(n, v)).collect(),
        query: query.iter().map(|(n, v)| text(n, v)).collect(),
        methods: methods.iter().map(|m| (*m).into()).collect(),
    };
    let router = Router::new(vec![
        route("a", &[], vec![vec![with(&[], &[], &[])], vec![with(&[], &[("q", "1"), ("r", "")], &[])]]),
        route(
            "b",
            &[],
            vec![
                vec![with(&[("x", "1")], &[], &[])],
                vec![with(&[("x", "1"), ("y", "1")], &[], &[])],
                vec![with(&[], &[], &["PUT", "POST"])],
                vec![with(&[], &[], &[])],
            ],
        ),
    ]);
    let mut request = get("h", "/");
    leads(&router, &request, "a/0");
    request.query = "r&q=1&q=2".to_owned();
    leads(&router, &request, "a/1");
    request.query = "q=2&q=1&r=".to_owned();
    leads(&router, &request, "a/0");
    request.headers = vec![("x".to_owned(), "1".to_owned())];
    leads(&router, &request, "b/0");
    request.headers.push(("y".to_owned(), "1".to_owned()));
    leads(&router, &request, "b/1");
    request.method = "POST".to_owned();
    leads(&router, &request, "b/2");
    request.path = "*".to_owned();
    leads(&router, &request, None);
}

#[test]
fn a_name_alone_finds_what_has_no_conditions() {
    let router = Router::new(vec![
        route("a", &["a.example"], vec![vec![prefix("/x")], vec![]]),
        route("b", &["b.example"], vec![vec![prefix("/")]]),
        route("rest", &[], vec![vec![Match::default()]]),
    ]);
    assert_eq!(place(router.find_host("a.example")).as_deref(), Some("a/1"));
    assert_eq!(place(router.find_host("b.example")).as_deref(), Some("rest/0"));
    assert_eq!(place(router.find_host("")).as_deref(), Some("rest/0"));
    assert_eq!(place(Router::default().find_host("a.example")), None);
}

#[test]
fn many_hosts_of_the_same_routes_share_what_is_compiled() {
    let hosts: Vec<String> = (0..10_000).map(|n| format!("h{n}.example")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let router = Router::new(vec![
        route("many", &hosts, vec![vec![prefix("/")]; 20]),
        route("rest", &[], vec![vec![]]),
    ]);
    leads(&router, &get("h9999.example", "/x"), "many/0");
    leads(&router, &get("h10000.example", "/x"), "rest/0");
    assert_eq!(router.table_count(), 2);
}

#[test]
fn backends_are_drawn_by_weight() {
    let rule = |weights: &[u32]| Rule { action: forward(weights), ..rule(Vec::new()) };
    let draws = 0..10_000_u32;
    let rule_of = rule(&[95, 0, 5]);
    let mut counts: HashMap<u32, u32> = HashMap::new();
    for draw in draws.map(|n| n * (u32::MAX / 10_000)) {
        *counts.entry(rule_of.pick_backend(draw).unwrap().service.0).or_default() += 1;
    }
    assert!(
        counts[&1].abs_diff(9500) <= 1 && counts[&3].abs_diff(500) <= 1 && !counts.contains_key(&2),
        "{counts:?}"
    );
    for draw in [0, u32::MAX] {
        assert_eq!(rule(&[0, 0]).pick_backend(draw), None);
        assert_eq!(rule(&[0]).pick_backend(draw), None);
        assert_eq!(rule(&[]).pick_backend(draw), None);
        assert!(rule(&[u32::MAX, u32::MAX]).pick_backend(draw).is_some());
    }
}

#[test]
fn a_mirror_gets_its_share() {
    let count = |share| {
        let mirror = Mirror { service: ServiceId(1), share };
        (0..10_000).filter(|n| mirror.is_drawn(n * (u32::MAX / 10_000))).count()
    };
    assert_eq!((count(0), count(Mirror::WHOLE)), (0, 10_000));
    assert!(count(500).abs_diff(500) <= 1);
}

const HOSTS: [&str; 6] = ["a.b.c", "b.c", "x.b.c", "*.b.c", "*.c", "*.a.b.c"];
const PATHS: [&str; 6] = ["/", "/a", "/a/b", "/a/b/c", "/b", "/ab"];

fn condition() -> impl Strategy<Value = Match> {
    let path = (select(PATHS.to_vec()), 0..3_u8).prop_map(|(path, kind)| match kind {
        0 => PathPattern::Exact(path.into()),
        1 => PathPattern::Prefix(path.into()),
        _ => PathPattern::Regex(format!("{path}.?").into()),
    });
    let pattern = (select(vec!["1", "2"]), any::<bool>()).prop_map(|(text, is_regex)| {
        if is_regex { TextPattern::Regex("1|3".into()) } else { TextPattern::Exact(text.into()) }
    });
    let texts = || prop::collection::btree_map(select(vec!["p", "q"]), pattern.clone(), 0..3);
    let boxed = |texts: std::collections::BTreeMap<&str, TextPattern>| {
        texts.into_iter().map(|(name, pattern)| (name.into(), pattern)).collect()
    };
    let methods = vec(select(vec!["GET", "PUT"]), 0..3);
    (of(path), texts(), texts(), methods).prop_map(move |(path, headers, query, methods)| Match {
        path,
        headers: boxed(headers),
        query: boxed(query),
        methods: methods.into_iter().map(Into::into).collect(),
    })
}

fn routes() -> impl Strategy<Value = Vec<Arc<Route>>> {
    let route = (vec(select(HOSTS.to_vec()), 0..3), vec(vec(condition(), 0..3), 1..4));
    vec(route, 0..4).prop_map(|routes| {
        let routes = routes.into_iter().enumerate();
        routes.map(|(index, (hosts, rules))| self::route(&index.to_string(), &hosts, rules)).collect()
    })
}

fn request() -> impl Strategy<Value = Asking> {
    let headers = vec((select(vec!["p", "q"]), select(vec!["1", "2", "3"])), 0..3);
    (
        select(vec!["a.b.c", "b.c", "c", "x.b.c", "y.a.b.c", "z", "", ".b.c"]),
        select(vec!["GET", "PUT", "POST"]),
        select(vec!["/", "/a", "/a/", "/a/b", "/a/b/c/d", "/ab", "/abc", "/b/", "*"]),
        select(vec!["", "p=1", "p=2&q=1", "q", "p=1&p=2", "pp=1&q=3"]),
        headers,
    )
        .prop_map(|(host, method, path, query, headers)| Asking {
            host: host.to_owned(),
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: headers.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
        })
}

/// Looks at every host, rule and match, and takes the one of the highest rank.
fn naive(routes: &[Arc<Route>], request: &Asking) -> Option<(String, usize)> {
    let fits = |pattern: &TextPattern, value: &str| match pattern {
        TextPattern::Exact(text) => **text == *value,
        TextPattern::Regex(text) => regex(text).unwrap().is_match(value.as_bytes()),
    };
    let host_rank = |host: &HostPattern| match host {
        HostPattern::Exact(host) => (**host == request.host).then_some(usize::MAX),
        HostPattern::Suffix(suffix) => {
            request.host.strip_suffix(&**suffix).is_some_and(|rest| !rest.is_empty()).then_some(suffix.len())
        }
    };
    let path_rank = |path: &Option<PathPattern>| match path {
        None => Some((0, 0)),
        Some(PathPattern::Exact(path)) => (**path == request.path).then_some((3, 0)),
        Some(PathPattern::Prefix(prefix)) => {
            let prefix = prefix.trim_end_matches('/');
            let rest = request.path.strip_prefix(prefix)?;
            let is_there = rest.starts_with('/') || (rest.is_empty() && !prefix.is_empty());
            is_there.then_some((if prefix.is_empty() { 0 } else { 2 }, prefix.len()))
        }
        Some(PathPattern::Regex(text)) => {
            regex(text).unwrap().is_match(request.path.as_bytes()).then_some((1, 0))
        }
    };
    let mut best = None;
    for route in routes {
        let hosts = route.hosts.iter().filter_map(host_rank).max();
        let Some(host) = (if route.hosts.is_empty() { Some(0) } else { hosts }) else { continue };
        for rule in &route.rules {
            let all = [Match::default()];
            for condition in if rule.matches.is_empty() { &all[..] } else { &rule.matches } {
                let Some(path) = path_rank(&condition.path) else { continue };
                let parameters: Vec<(&str, &str)> =
                    request.query.split('&').map(|part| part.split_once('=').unwrap_or((part, ""))).collect();
                let is_fitting = condition.headers.iter().all(|(name, pattern)| {
                    let header = request.headers.iter().find(|(other, _)| **other == **name);
                    header.is_some_and(|(_, value)| fits(pattern, value))
                }) && condition.query.iter().all(|(name, pattern)| {
                    let parameter = parameters.iter().find(|(other, _)| **other == **name);
                    parameter.is_some_and(|(_, value)| fits(pattern, value))
                }) && (condition.methods.is_empty()
                    || condition.methods.iter().any(|method| **method == *request.method));
                let rank = (
                    host,
                    path,
                    !condition.methods.is_empty(),
                    condition.headers.len(),
                    condition.query.len(),
                );
                if is_fitting && best.as_ref().is_none_or(|(best, ..): &(_, String, usize)| rank > *best) {
                    let bytes = if matches!(path.0, 0 | 2) { path.1 } else { request.path.len() };
                    best = Some((rank, format!("{}/{}", rule.route, rule.index), bytes));
                }
            }
        }
    }
    best.map(|(_, place, bytes)| (place, bytes))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_router_finds_what_looking_at_everything_finds(routes in routes(), requests in vec(request(), 1..20)) {
        let router = Router::new(routes.clone());
        for request in requests {
            let found = router.find(&request).map(|found| {
                let bytes = found.prefix_bytes;
                (place(Some(found)).unwrap(), bytes)
            });
            prop_assert_eq!(found, naive(&routes, &request), "{:?}", request);
        }
    }

    #[test]
    fn a_rewritten_path_is_one_path_and_keeps_what_followed_the_prefix(
        prefix in "(/[ab]{1,3}){0,3}", rest in "(/[ab]{0,3}){0,3}", new in "(/[xy]{1,3}){0,3}/?",
    ) {
        let path = format!("{prefix}{rest}");
        prop_assume!(path.starts_with('/'));
        let rewrite = PathRewrite::Prefix(new.as_str().into());
        let path = rewrite.apply(&path, prefix.len());
        prop_assert!(path.starts_with('/') && path.ends_with(&rest));
        prop_assert!(path.starts_with(new.trim_end_matches('/')));
        prop_assert!(path.len() <= new.len() + rest.len() + 1);
    }
}

#[test]
#[ignore = "prints times; run it with --release --ignored --nocapture"]
#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn time_to_find_a_rule() {
    let measure = |name: &str, router: &Router, request: &Asking| {
        const COUNT: u32 = 2_000_000;
        let start = std::time::Instant::now();
        for _ in 0..COUNT {
            std::hint::black_box(router.find(std::hint::black_box(request)));
        }
        println!("{name}: {} ns", start.elapsed().as_nanos() / u128::from(COUNT));
    };
    let paths = |count: usize| {
        (0..count).map(|n| vec![prefix(&format!("/api/v{}/service-{n}", n % 3))]).collect::<Vec<_>>()
    };
    let typical = Router::new(vec![route(
        "r",
        &["shop.example", "*.shop.example"],
        [paths(19), vec![vec![]]].concat(),
    )]);
    measure("20 rules, exact host, a prefix", &typical, &get("shop.example", "/api/v1/service-7/items/4711"));
    measure(
        "20 rules, a suffix, a prefix",
        &typical,
        &get("eu.shop.example", "/api/v1/service-7/items/4711"),
    );
    measure("20 rules, the last one", &typical, &get("shop.example", "/static/css/site.css"));
    let mut canary = prefix("/api/v1/service-7");
    canary.headers = vec![("x-canary".into(), TextPattern::Exact("1".into()))];
    let headers = Router::new(vec![route("r", &["shop.example"], [paths(19), vec![vec![canary]]].concat())]);
    let mut request = get("shop.example", "/api/v1/service-7/items/4711");
    request.headers = (0..10).map(|n| (format!("x-header-{n}"), "1".to_owned())).collect();
    measure("20 rules, one by header, which is not there", &headers, &request);
    request.headers.push(("x-canary".to_owned(), "1".to_owned()));
    measure("20 rules, one by header", &headers, &request);
    let regex = Match { path: Some(PathPattern::Regex("/v[0-9]+/items/[0-9]+".into())), ..Match::default() };
    let regexes = Router::new(vec![route("r", &[], vec![vec![regex]])]);
    measure("a regular expression", &regexes, &get("shop.example", "/v1/items/4711"));
    let hosts: Vec<String> = (0..10_000).map(|n| format!("shop-{n}.example")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let many = Router::new(vec![route("r", &hosts, paths(20))]);
    measure("10,000 hosts, 20 rules", &many, &get("shop-4711.example", "/api/v1/service-7/items/4711"));
    let wide = Router::new(vec![route("r", &["shop.example"], paths(1000))]);
    measure("1,000 rules", &wide, &get("shop.example", "/api/v1/service-700/items/4711"));
}
