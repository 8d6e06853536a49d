//! The rooms of proxy-user and who may import whom: down the list only.

use anyhow::Result;

use super::Offence;
use super::graph::{Graph, MAIN};
use crate::repo::Repo;

const RULE: &str = "import order";

/// From the top down. Rooms in one row may import each other, but not in a circle; `graph` sees to that.
///
/// Whatever a lower room needs from a higher one is passed in by the higher one, or its type moves to proxy-core.
const ORDER: [&[&str]; 14] = [
    &[MAIN],
    &["cli"],
    &["app"],
    &["admin", "explain", "control", "pods", "health", "takeover"],
    &["worker"],
    &["listener"],
    &["connection"],
    &["forward"],
    &["upstream"],
    &["http2"],
    &["tls"],
    &["pace"],
    &["record", "stats"],
    &["bug", "config", "drain", "signal"],
];

pub(super) fn check(repo: &Repo) -> Result<Vec<Offence>> {
    let graph = Graph::read(repo, "proxy-user", "proxy_user")?;
    let mut offences = Vec::new();
    for (room, file) in &graph.modules {
        if level(room).is_none() {
            let what = format!(
                "room `{room}` has no place in the order; add it to ORDER in xtask/src/tidy/rooms.rs"
            );
            offences.push(Offence { file: file.clone(), line: 1, rule: RULE, what });
        }
    }
    for edge in &graph.edges {
        if let (Some(from), Some(to)) = (level(&edge.from), level(&edge.to))
            && from > to
        {
            let what = format!("`{}` lies below `{}` and may not import it", edge.from, edge.to);
            offences.push(Offence { file: edge.file.clone(), line: edge.line, rule: RULE, what });
        }
    }
    Ok(offences)
}

/// Row of a room, 0 at the top.
fn level(room: &str) -> Option<usize> {
    ORDER.iter().position(|row| row.contains(&room))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{Tree, places};

    const LIB: (&str, &str) = (
        "proxy-user/src/lib.rs",
        "pub mod app; mod worker; mod stats; mod config; mod record; pub use app::App;",
    );

    fn check_tree(files: &[(&str, &str)]) -> Vec<String> {
        let tree = Tree::with(files);
        places(check(&tree.repo()).unwrap())
    }

    #[test]
    fn imports_down_and_along_a_row_pass() {
        let found = check_tree(&[
            LIB,
            ("proxy-user/src/main.rs", "mod cli; use proxy_user::app;"),
            ("proxy-user/src/cli.rs", "use proxy_user::config::Config;"),
            ("proxy-user/src/app.rs", "use crate::{worker, stats, config};"),
            ("proxy-user/src/worker/timer.rs", "use crate::stats::conn; use super::Mailbox;"),
            ("proxy-user/src/stats.rs", "use crate::record::Line;"),
        ]);
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn imports_up_are_reported_where_they_stand() {
        let found = check_tree(&[
            LIB,
            ("proxy-user/src/main.rs", "mod cli;"),
            ("proxy-user/src/config/file.rs", "use std::fs;\nuse crate::stats::{self, family};"),
            ("proxy-user/src/stats.rs", "fn f(w: &super::worker::Worker) {}"),
            ("proxy-user/src/worker.rs", "use crate::App;"),
            ("proxy-user/src/app.rs", "fn f() { proxy_user::main::x() }"),
        ]);
        assert_eq!(
            found,
            [
                "proxy-user/src/app.rs:1 import order",
                "proxy-user/src/config/file.rs:2 import order",
                "proxy-user/src/config/file.rs:2 import order",
                "proxy-user/src/stats.rs:1 import order",
                "proxy-user/src/worker.rs:1 import order",
            ]
        );
    }

    #[test]
    fn a_room_without_a_place_is_reported_once() {
        let found = check_tree(&[
            ("proxy-user/src/lib.rs", "mod util; #[cfg(test)] mod fixture;"),
            ("proxy-user/src/util.rs", ""),
            ("proxy-user/src/util/more.rs", ""),
            ("proxy-user/src/fixture.rs", ""),
        ]);
        assert_eq!(found, ["proxy-user/src/util.rs:1 import order"]);
    }
}
