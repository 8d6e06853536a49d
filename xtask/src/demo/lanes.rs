//! Steps that show who is intercepted, which lane a connection takes, and what the application sees of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};

use super::backend::spawn;
use super::client;
use super::stage::{self, Stage, Who};
use super::{Demo, client::Seen};
use crate::process;

/// Requests to the service in the proxy lane: three turns of three.
const TURNS: usize = 9;
/// Requests to the service in the direct lane, drawn at random while nothing is open: a server that serves is left out
/// of all of them once in sixty thousand runs, (2/3)^30 × 3.
const DRAWS: usize = 30;
/// Time for a network namespace to be found; a look at the cgroups comes every second.
const FOUND_LIMIT: Duration = Duration::from_secs(10);

/// Asks a URL with curl.
pub(super) fn curl(stage: &Stage, who: Who, url: &str) -> Result<String> {
    process::output(stage.command(who, "curl").args(["-sS", "-g", "-m", "3", url]))
}

pub(super) fn outsider(demo: &mut Demo) -> Result<()> {
    demo.show.step("An application outside the scope is untouched");
    demo.show.command("outside curl -m 1 http://10.96.0.10/");
    let result = process::output(demo.stage.command(Who::Outside, "curl").args([
        "-sS",
        "-m",
        "1",
        "http://10.96.0.10/",
    ]));
    demo.show.promise(
        "it cannot reach 10.96.0.10: nobody has that address",
        match result {
            Ok(answer) => Err(anyhow!("{answer} answered")),
            Err(_) => Ok(()),
        },
    );
    let result = curl(&demo.stage, Who::Outside, "http://10.77.0.11:8080/").map(|_| ());
    demo.show.promise("it reaches the servers by their own addresses, as ever", result);
    Ok(())
}

pub(super) fn proxy(demo: &mut Demo) -> Result<()> {
    demo.show.step("The proxy lane: a worker takes turns");
    demo.show.command(&format!("app curl http://10.96.0.10/    # {TURNS} times"));
    let answers = ask_often(demo, "http://10.96.0.10/", TURNS)?;
    demo.show.quote(&answers.join(" "));
    demo.show.promise("every three requests in a row reach all three servers", {
        let in_turn = answers.windows(3).all(|three| counts(three).len() == 3);
        if in_turn { Ok(()) } else { Err(anyhow!("they do not")) }
    });
    Ok(())
}

pub(super) fn direct(demo: &mut Demo) -> Result<()> {
    demo.show.step("The direct lane: connect() itself goes to a server, no byte passes through Weir");
    demo.show.command(&format!("app curl http://10.96.0.11/    # {DRAWS} times"));
    let answers = ask_often(demo, "http://10.96.0.11/", DRAWS)?;
    let counts = counts(&answers);
    let text: Vec<String> = counts.iter().map(|(name, count)| format!("{name}: {count}")).collect();
    demo.show.quote(&text.join(", "));
    demo.show.promise("all three servers answer", {
        if counts.len() == 3 { Ok(()) } else { Err(anyhow!("{} do", counts.len())) }
    });
    Ok(())
}

fn ask_often(demo: &Demo, url: &str, count: usize) -> Result<Vec<String>> {
    (0..count).map(|_| curl(&demo.stage, Who::App, url)).collect()
}

/// How often each server answered.
pub(super) fn counts(answers: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.as_str()).or_default() += 1;
    }
    counts
}

pub(super) fn families(demo: &mut Demo) -> Result<()> {
    demo.show.step("IPv6, and IPv4 through an IPv6 socket");
    for (what, url) in [
        ("an IPv6 client is served by IPv4 servers", "http://[fd96::10]/"),
        ("a v4-mapped address works in the proxy lane", "http://[::ffff:10.96.0.10]/"),
        ("a v4-mapped address works in the direct lane", "http://[::ffff:10.96.0.11]/"),
    ] {
        demo.show.command(&format!("app curl -g '{url}'"));
        let answer = curl(&demo.stage, Who::App, url);
        if let Ok(answer) = &answer {
            demo.show.quote(answer);
        }
        demo.show.promise(what, answer.and_then(|answer| is_server(&answer)));
    }
    Ok(())
}

fn is_server(answer: &str) -> Result<()> {
    if answer.starts_with("backend-") { Ok(()) } else { Err(anyhow!("the answer was {answer:?}")) }
}

pub(super) fn addresses(demo: &mut Demo) -> Result<()> {
    demo.show.step("What the application sees: the addresses that it expects");
    for (lane, asked, own) in [
        ("proxy", "10.96.0.10:80", "10.77.0.1"),
        ("direct", "10.96.0.11:80", "10.77.0.1"),
        ("proxy", "[fd96::10]:80", "fd77::1"),
        ("direct", "[::ffff:10.96.0.11]:80", "::ffff:10.77.0.1"),
    ] {
        let seen = client::see(&demo.stage, Who::App, asked.parse()?);
        let what = match &seen {
            Ok(seen) => {
                format!("{lane:<6} getpeername() {}, getsockname() {} ({})", seen.peer, seen.own, seen.answer)
            }
            Err(_) => format!("{lane:<6} {asked}"),
        };
        demo.show.promise(&what, seen.and_then(|seen| is_expected(&seen, asked, own)));
    }
    demo.show.say(
        "Really the first went to a worker on 127.87.0.x:61500 and the second to a server on 10.77.0.x.",
    );
    Ok(())
}

fn is_expected(seen: &Seen, asked: &str, own: &str) -> Result<()> {
    ensure!(seen.peer == asked.parse::<SocketAddr>()?, "the peer should be {asked}");
    ensure!(seen.own.ip() == own.parse::<std::net::IpAddr>()?, "the own address should be {own}");
    is_server(&seen.answer)
}

pub(super) fn pod(demo: &mut Demo) -> Result<()> {
    demo.show.step("An application in a network namespace of its own, as a pod");
    let mut sleep = demo.stage.command(Who::Pod, "sleep");
    let mut sandbox = spawn(sleep.arg("600"), &stage::file("pod.log"))?;
    let pid = sandbox.id().to_string();
    let why = |demo: &Demo| demo.node.ask(&demo.stage, &["why", "10.96.0.10:80", "--process", &pid]);
    let is_found =
        stage::until(FOUND_LIMIT, || why(demo).is_ok_and(|said| said.contains("a worker connects")));
    demo.show.command(&format!("weir why 10.96.0.10:80 --process {pid}"));
    let said = why(demo)?;
    demo.show.quote(&said);
    demo.show.promise("Weir has found its namespace and listens there", {
        if is_found { Ok(()) } else { Err(anyhow!("it has not, after {FOUND_LIMIT:?}")) }
    });
    for (lane, asked) in [("proxy", "10.96.0.10:80"), ("direct", "10.96.0.11:80")] {
        let seen = client::see(&demo.stage, Who::Pod, asked.parse()?);
        let what = format!("{lane:<6} it asks {asked} and keeps its own address, 10.78.0.2");
        demo.show.promise(&what, seen.and_then(|seen| is_expected(&seen, asked, "10.78.0.2")));
    }
    sandbox.kill()?;
    sandbox.wait()?;
    Ok(())
}

pub(super) fn requests(demo: &mut Demo) -> Result<()> {
    demo.show.step("HTTP: requests instead of connections");
    let get = |demo: &Demo, more: &[&str]| {
        process::output(demo.stage.command(Who::App, "curl").args(["-sS", "-m", "3"]).args(more))
    };
    let cases: [(&[&str], &str, &str); 3] = [
        (&["http://10.96.0.13/"], "backend-", "it goes to the shop"),
        (&["-H", "x-beta: 1", "http://10.96.0.13/"], "backend-3", "a header sends it to the beta"),
        (&["http://10.96.0.13/teapot"], "short and stout", "Weir answers by itself"),
    ];
    for (arguments, expected, what) in cases {
        demo.show.command(&format!("app curl {}", arguments.join(" ")));
        let result = get(demo, arguments).and_then(|answer| {
            ensure!(answer.starts_with(expected), "it says {answer:?}");
            Ok(())
        });
        demo.show.promise(what, result);
    }
    if !stage::file("shop.pem").exists() {
        demo.show.say("(the edge is left out: openssl is not installed here)");
        return Ok(());
    }
    let arguments = ["--resolve", "shop.demo:8443:10.77.0.1", "--cacert"];
    let certificate = stage::file("shop.pem").display().to_string();
    demo.show.command(&format!("outside curl {} {certificate} https://shop.demo:8443/", arguments.join(" ")));
    let mut curl = demo.stage.command(Who::Outside, "curl");
    curl.args(["-sS", "-m", "3"]).args(arguments).args([&certificate, "https://shop.demo:8443/"]);
    let result = process::output(&mut curl).and_then(|answer| is_server(&answer));
    demo.show.promise("the same routes at the edge, behind TLS that ends at Weir", result);
    Ok(())
}

pub(super) fn redis(demo: &mut Demo) -> Result<()> {
    demo.show.step("A real redis");
    if demo.backends.redis.is_none() {
        demo.show.say("(left out: redis is not installed here)");
        return Ok(());
    }
    let ask = |words: &[&str]| {
        process::output(demo.stage.command(Who::App, "redis-cli").args(["-h", "10.96.0.12"]).args(words))
    };
    demo.show.command("app redis-cli -h 10.96.0.12 set river weir");
    let answers = ask(&["set", "river", "weir"]).and_then(|set| Ok((set, ask(&["get", "river"])?)));
    let result = answers.and_then(|(set, get)| {
        if set == "OK" && get == "weir" { Ok(()) } else { bail!("it says {set:?} and {get:?}") }
    });
    demo.show.promise("redis-cli writes and reads back through a worker", result);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_must_be_the_asked_one_and_the_routes() {
        let seen = |peer: &str, own: &str, answer: &str| Seen {
            peer: peer.parse().unwrap(),
            own: own.parse().unwrap(),
            answer: answer.to_owned(),
        };
        let good = seen("10.96.0.10:80", "10.77.0.1:40000", "backend-1");
        assert!(is_expected(&good, "10.96.0.10:80", "10.77.0.1").is_ok());
        for bad in [
            seen("127.87.0.1:61500", "10.77.0.1:40000", "backend-1"),
            seen("10.96.0.10:80", "127.0.0.1:40000", "backend-1"),
            seen("10.96.0.10:80", "10.77.0.1:40000", ""),
        ] {
            assert!(is_expected(&bad, "10.96.0.10:80", "10.77.0.1").is_err(), "{bad:?}");
        }
    }
}
