//! A file that changes: read again, it says what it would to somebody who reads it for the first time.

use proptest::collection::vec;
use proptest::sample::Index;

use super::*;
use crate::config::source::Source;

/// Listened services come first: they need no addresses.
const LISTENED: usize = 2;

#[test]
fn one_changed_line_is_read_alone() {
    let text = plain(0);
    let mut source = source(&text);
    assert_eq!(reload(&mut source, &text.replace("10.1.7.1:80", "10.1.7.9:80")), Ok(Way::Changed));
    assert_eq!(source.config().services[7].endpoints[0].address.to_string(), "10.1.7.9:80");
    assert_eq!(reload(&mut source, &text.replace("10.1.7.1:80", "10.1.7.9:80")), Ok(Way::Unchanged));
    assert_eq!(reload(&mut source, &text), Ok(Way::Changed), "and back");
}

#[test]
fn a_file_that_cannot_be_read_again_says_what_the_first_reading_would() {
    let dir = std::env::temp_dir().join(format!("weir-source-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("weir.yaml");
    std::fs::write(&path, plain(0)).unwrap();
    let mut source = Source::open(&path).unwrap();
    for bytes in [&b"services: []\n# caf\xe9\n"[..], b"services: [", &vec![b' '; MAX_FILE_BYTES + 1]] {
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(source.reload().unwrap_err(), load(&path).unwrap_err());
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(source.reload().unwrap_err(), load(&path).unwrap_err());
    std::fs::write(&path, format!("\u{feff}{}", plain(0).replace("10.1.7.1:80", "10.1.7.9:80"))).unwrap();
    assert_eq!(source.reload(), Ok(Way::Changed));
    assert_eq!(Ok(source.config()), load(&path).as_ref());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn services_that_come_go_or_move_are_read_alone() {
    let old = items();
    let (mut more, mut less, mut moved) = (old.clone(), old.clone(), old.clone());
    more.insert(9, item(0, 40, 2));
    less.remove(9);
    moved.swap(9, 10);
    let (mut at_end, mut without_last, mut first) = (old.clone(), old.clone(), old.clone());
    at_end.push(item(0, 40, 2));
    without_last.pop();
    first[0] = first[0].replace("10.0.0.1", "10.0.99.1");
    for new in [more, less, moved, at_end, without_last, first] {
        for tail in ["", "workers: 2\n"] {
            let mut source = source(&file(&old, tail));
            assert_eq!(reload(&mut source, &file(&new, tail)), Ok(Way::Changed), "{}", file(&new, tail));
            assert_eq!(reload(&mut source, &file(&old, tail)), Ok(Way::Changed), "and back");
        }
    }
}

#[test]
fn line_ends_and_marks_of_other_systems_are_no_obstacle() {
    let (text, changed) = (plain(0), plain(0).replace("10.1.23.1:80", "10.1.23.9:80"));
    let forms: [fn(String) -> String; 4] = [
        |text| text.replace('\n', "\r\n"),
        |text| text.trim_end().to_owned(),
        |text| format!("\u{feff}{text}"),
        |text| format!("---\n{text}...\n"),
    ];
    for form in forms {
        assert_eq!(reload(&mut source(&form(text.clone())), &form(changed.clone())), Ok(Way::Changed));
    }
}

/// Whatever could let one place of the text mean what another says, and whatever is no list of whole lines.
#[test]
fn what_is_doubtful_is_read_as_a_whole() {
    let old = plain(0);
    let in_flow = serde_json::to_string(&good(&old).to_json()).unwrap();
    for text in [
        old.replacen("lane: auto", "lane: &l auto", 1).replacen("lane: auto", "lane: *l", 1),
        old.replacen("lane: auto", "lane: &l auto", 1),
        old.replace("- name: s20\n", "-\n  name: s20\n"),
        old.replace("- name: s20\n", "- # twenty\n  name: s20\n"),
        old.lines().map(|line| format!(" {line}\n")).collect(),
        old.replace("# behind", "# be\r# hind"),
        in_flow,
    ] {
        let changed = text.replace("10.1.7.1:80", "10.1.7.9:80");
        assert_ne!(text, changed);
        assert_eq!(reload(&mut source(&text), &changed), Ok(Way::Whole), "{text}");
    }
    for new in [
        old.replacen("lane: auto", "lane: &l auto", 1),
        old.replace("- name: s9\n", "-\n  name: s9\n"),
        old.replace("workers: 2", "workers: 3"),
        old.replace("workers: 2", "io: epoll\nworkers: 2"),
        old.replace("ports: [53]", "ports: [54]"),
        old.replace("# first", "# before all others"),
        old.replace("lane: auto", "lane: proxy"),
        plain(2),
    ] {
        assert_ne!(new, old);
        assert_eq!(reload(&mut source(&old), &new), Ok(Way::Whole), "{new}");
    }
}

#[test]
fn a_mistake_changes_nothing_and_what_repairs_it_is_read_alone() {
    let old = plain(0);
    let mut source = source(&old);
    let before = source.config().clone();
    for (name, new) in [
        ("a wrong word", old.replacen("lane: auto", "lane: atuo", 1)),
        ("a quote that does not end", old.replacen("lane: auto", "lane: \"auto", 1)),
        ("a tag", old.replacen("lane: auto", "lane: !x auto", 1)),
        ("a second document", old.replacen("- name: s9", "---\n- name: s9", 1)),
        ("an end of the document", old.replacen("- name: s9", "...\n- name: s9", 1)),
        ("a tab", old.replacen("  lane: auto", "\tlane: auto", 1)),
        ("a name that another has", old.replacen("name: s7\n", "name: s20\n", 1)),
        ("an address that another has", old.replacen("10.0.7.1:80", "10.0.20.1:80", 1)),
        ("an endpoint that is an address", old.replacen("10.1.7.1:80", "10.0.20.1:80", 1)),
        ("an address that is an endpoint", old.replacen("10.0.7.1:80", "10.1.20.1:80", 1)),
        ("an excluded address", old.replacen("10.0.7.1:80", "10.0.7.1:53", 1)),
        ("an endpoint that is a listener", old.replacen("10.1.7.1:80", "10.9.0.1:80", 1)),
        ("a listener's service that is gone", old.replacen("name: s1\n", "name: s99\n", 1)),
        ("a route's service that is gone", old.replacen("name: s3\n", "name: s99\n", 1)),
        ("a route that is not there", old.replacen("lane: auto", "routes: [shpo]", 1)),
        ("TLS that fails open", old.replacen("lane: auto", "tls: {}\n    fail: open", 1)),
        ("no listener and no address", old.replacen("addresses: [\"10.0.7.1:80\"]", "addresses: []", 1)),
        ("too large", format!("{old}#{}\n", " ".repeat(MAX_FILE_BYTES))),
    ] {
        assert_ne!(new, old, "{name}");
        let answer = reload(&mut source, &new);
        assert!(answer.is_err(), "{name}");
        assert_eq!(source.config(), &before, "{name}");
        assert_eq!(reload(&mut source, &old), Ok(Way::Unchanged), "{name}");
    }
    assert!(reload(&mut source, &old.replacen("lane: auto", "lane: atuo", 1)).is_err());
    assert_eq!(reload(&mut source, &old.replacen("lane: auto", "lane: proxy", 1)), Ok(Way::Changed));
}

/// Values that are gone are not counted out: when the limit seems to be reached, all are counted anew.
#[test]
fn changes_do_not_pile_up_to_too_many_values() {
    let text = plain(0);
    let mut source = source(&text);
    source.layout.as_mut().unwrap().values_count = yaml::MAX_VALUES - 10;
    let changed = text.replace("10.1.7.1:80", "10.1.7.9:80");
    assert_eq!(reload(&mut source, &changed), Ok(Way::Whole));
    assert_eq!(reload(&mut source, &text), Ok(Way::Changed));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_change_is_read_as_a_new_file_is(
        kinds in vec(0_usize..KINDS, 24), indent in 0_usize..3, tail in 0..TAILS.len(), is_crlf in any::<bool>(),
        edits in vec((0..10_u8, any::<Index>(), any::<Index>(), 1_usize..6), 1..5),
    ) {
        let items: Vec<_> = kinds.iter().enumerate().map(|(i, kind)| item(*kind, i, indent * 2)).collect();
        let text = file(&items, TAILS[tail]);
        let mut text = if is_crlf { text.replace('\n', "\r\n") } else { text };
        let mut source = source(&text);
        for (edit, at, what, count) in edits {
            let new = edited(&text, edit, at, what, count, indent * 2);
            // A mistake is seldom repaired by another: what follows it is tried on the text before it.
            if reload(&mut source, &new).is_ok() {
                text = new;
            }
        }
    }
}

/// Reads a new text, and compares everything with what somebody says who reads it for the first time.
#[track_caller]
fn reload(source: &mut Source, new: &str) -> Result<Way, ConfigErrors> {
    let way = source.take_up(new.to_owned());
    match (&way, parse_laid_out("weir.yaml", &folder(Path::new("weir.yaml")), new)) {
        (Ok(_), Ok((config, layout))) => {
            assert_eq!(source.config(), &config, "{new}");
            let places = |layout: &Option<Layout>| layout.as_ref().map(|l| (l.starts.clone(), l.end));
            assert_eq!(places(&source.layout), places(&layout), "{new}");
        }
        (Err(errors), Err(expected)) => assert_eq!(*errors, expected, "{new}"),
        (Ok(way), Err(errors)) => panic!("{way:?}, but {errors}\n{new}"),
        (Err(errors), Ok(_)) => panic!("nothing is wrong, but {errors}\n{new}"),
    }
    way
}

fn source(text: &str) -> Source {
    Source::new(Path::new("weir.yaml"), text.to_owned()).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

const TAILS: [&str; 3] =
    ["", "workers: 2\nlog: {level: info}\n", "# the end of the services\nworkers: 2 # two\n...\n"];

fn file(items: &[String], tail: &str) -> String {
    format!(
        "# head\nlisteners:\n- {{address: \"10.9.0.1:80\", service: s0}}\n- {{address: \"10.9.0.1:81\", service: s1}}\n\
         - {{address: \"10.9.0.1:82\", protocol: http, routes: [shop]}}\n\
         routes:\n- {{name: shop, rules: [{{backends: [{{service: s2}}, {{service: s3, weight: 0}}], mirror: {{service: s3}}}}]}}\n\
         intercept: {{exclude: {{ports: [53]}}}}\nservices: # of the shop\n# first\n{}{tail}",
        items.concat()
    )
}

fn items() -> Vec<String> {
    (0..24).map(|index| item(0, index, 2)).collect()
}

fn plain(indent: usize) -> String {
    let items: Vec<_> = (0..24).map(|index| item(0, index, indent)).collect();
    file(&items, "workers: 2\n")
}

const KINDS: usize = 10;

/// A right service, written in one of several ways.
fn item(kind: usize, index: usize, indent: usize) -> String {
    let kind = if index >= LISTENED && kind == 7 { 0 } else { kind };
    let name = format!("- name: s{index}\n");
    let addresses = format!("  addresses: [\"10.0.{index}.1:80\"]\n");
    let endpoints = format!("  endpoints: [{{address: \"10.1.{index}.1:80\"}}]\n");
    let health = |body: &str| {
        format!("{name}{addresses}{endpoints}  health:\n    http:\n      path: /\n      body: {body}\n")
    };
    let text = match kind {
        0 => format!("{name}{addresses}  lane: auto\n{endpoints}# behind\n"),
        1 => format!("- {{name: s{index}, addresses: [\"10.0.{index}.1:80\"], endpoints: []}}\n\n"),
        2 => health("|\n        one\n          # two\n        - three"),
        3 => health("\"one\n        - two\n        # three\""),
        4 => health(">+\n        one\n\n        two\n\n"),
        5 => health("one\n        two"),
        6 => format!(
            "{name}  # inside\n  endpoints:\n  - address: 10.1.{index}.1:80\n    weight: 2\n  -\n    address: 10.1.{index}.2:80\n{addresses}"
        ),
        8 => format!("{name}{addresses}  protocol: http\n  routes: [shop]\n  limits: {{max_requests: 8}}\n"),
        9 => format!("{name}{addresses}{endpoints}  tls: {{ca: \"ca{index}.pem\"}}\n"),
        _ => format!("- \"name\": s{index}\n  endpoints: []\n"),
    };
    let blanks = " ".repeat(indent);
    text.lines()
        .map(|line| if line.is_empty() { "\n".to_owned() } else { format!("{blanks}{line}\n") })
        .collect()
}

/// What editors leave behind, right and wrong.
const SCRAPS: [&str; 37] = [
    "\n",
    "# comment\n",
    "        # deep comment\n",
    "  lane: proxy\n",
    "    lane: proxy\n",
    "  fail: closed\n",
    "  fail: open\n",
    "  protocol: http\n",
    "  routes: [shop]\n",
    "  tls: {sni: a.example}\n",
    "routes: []\n",
    "workers: 3\n",
    "log: {level: debug}\n",
    "---\n",
    "...\n",
    "- name: s3\n",
    "  - name: x\n    endpoints: []\n",
    "|\n",
    "\"",
    "'",
    "{",
    "]",
    " ",
    "  ",
    "\t",
    "-",
    ":",
    " #",
    "&a ",
    "*a",
    "!x ",
    "\u{feff}",
    "é",
    "\r",
    "\0",
    "services:\n",
    "    - two\n",
];

/// Edits a text at a place.
fn edited(text: &str, edit: u8, at: Index, what: Index, count: usize, indent: usize) -> String {
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    let scrap = SCRAPS[what.index(SCRAPS.len())];
    let line = at.index(lines.len());
    let from = what.index(lines.len());
    let end = |start: usize| (start + count).min(lines.len());
    let starts: Vec<_> = (0..lines.len()).filter(|i| lines[*i].trim_start().starts_with("- ")).collect();
    let start = starts.get(at.index(starts.len().max(1))).copied().unwrap_or(line);
    let next = starts.iter().find(|s| **s > start).copied().unwrap_or(lines.len());
    let new = item(what.index(KINDS), 40 + count, indent);
    match edit {
        0 => lines.insert(line, scrap),
        1 => drop(lines.drain(line..end(line))),
        2 => lines[line] = scrap,
        3 => {
            let copied = lines[from..end(from)].to_vec();
            lines.splice(line..line, copied).for_each(drop);
        }
        4 | 5 => {
            let mut text = text.to_owned();
            let at =
                (0..=at.index(text.len().max(1))).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            let until = (at + count).min(text.len());
            if edit == 4 {
                text.insert_str(at, scrap);
            } else if text.is_char_boundary(until) {
                text.replace_range(at..until, "");
            }
            return text;
        }
        6 => lines.insert(start, &new),
        7 => drop(lines.drain(start..next)),
        8 => lines.insert(start, scrap),
        _ => {
            let at = what.index(10).to_string();
            let changed = lines[line].replacen(['1', '2', '8'], &at, 1);
            return [lines[..line].concat(), changed, lines[line + 1..].concat()].concat();
        }
    }
    lines.concat()
}
