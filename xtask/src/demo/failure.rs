//! Steps that break things while requests go on.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::{Result, anyhow, bail, ensure};

use super::client::{Failure, Outcome, Storm};
use super::node::HEALTH_INTERVAL;
use super::{Demo, PINS, stage};

/// Time that requests go on before and after something is broken.
const CALM: Duration = Duration::from_millis(800);
/// Time for a server that came back to be used again.
const RETURN_LIMIT: Duration = Duration::from_secs(15);

/// Where the storms go: address and what it stands for.
const TARGETS: [(&str, &str); 2] = [("10.96.0.10:80", "proxy lane"), ("10.96.0.11:80", "direct lane")];
/// Links of the programs that sit on the root of all cgroups.
const HOOKS: usize = 6;

fn storms(demo: &Demo) -> Result<Vec<Storm>> {
    TARGETS.iter().map(|(address, _)| Storm::start(&demo.stage, address)).collect()
}

pub(super) fn backend_dies(demo: &mut Demo) -> Result<()> {
    demo.show.step("A server dies while requests go on in both lanes");
    let storms = storms(demo)?;
    sleep(CALM);
    let victim = &mut demo.backends.web[1];
    demo.show.command(&format!("kill -KILL {}    # {}", victim.pid(), victim.name));
    let died = SystemTime::now();
    victim.kill()?;
    sleep(HEALTH_INTERVAL + 2 * CALM);
    let (name, came_back) = (victim.name.clone(), SystemTime::now());
    for (storm, (_, lane)) in storms.iter().zip(TARGETS) {
        let outcomes = storm.outcomes();
        let (failed, asked) = failures(&outcomes, died);
        demo.show.say(&format!(
            "{lane}: {} of {asked} requests failed after that{}",
            failed.len(),
            last(&failed, died)
        ));
        let what = format!("{lane}: none fails after the first health interval ({HEALTH_INTERVAL:?})");
        demo.show.promise(&what, none_after(&outcomes, died + HEALTH_INTERVAL));
    }
    demo.backends.web[1].restart(&demo.stage)?;
    demo.show.say(&format!("{name} is started again, as process {}", demo.backends.web[1].pid()));
    for (storm, (_, lane)) in storms.into_iter().zip(TARGETS) {
        let is_back = |outcome: &Outcome| {
            outcome.at > came_back && outcome.result.as_ref().is_ok_and(|answer| *answer == name)
        };
        let found = stage::until(RETURN_LIMIT, || storm.outcomes().iter().any(is_back));
        let outcomes = storm.end()?;
        let result = ensure_found(found).and_then(|()| none_after(&outcomes, came_back));
        demo.show.promise(&format!("{lane}: {name} is used again, and nothing fails meanwhile"), result);
    }
    Ok(())
}

fn ensure_found(found: bool) -> Result<()> {
    if found { Ok(()) } else { Err(anyhow!("it is not, after {RETURN_LIMIT:?}")) }
}

/// Requests that began after a time: those that failed, and how many there were.
fn failures(outcomes: &[Outcome], since: SystemTime) -> (Vec<&Outcome>, usize) {
    let asked: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.at > since).collect();
    let failed = asked.iter().copied().filter(|outcome| outcome.result.is_err()).collect();
    (failed, asked.len())
}

fn last(failed: &[&Outcome], since: SystemTime) -> String {
    let times = failed.iter().filter_map(|outcome| outcome.at.duration_since(since).ok());
    times.max().map_or_else(String::new, |time| format!(", the last after {} ms", time.as_millis()))
}

/// Checks that requests went on after a time and that none of them failed.
fn none_after(outcomes: &[Outcome], since: SystemTime) -> Result<()> {
    let (failed, asked) = failures(outcomes, since);
    ensure!(asked > 0, "there were no requests");
    match failed.first() {
        Some(Outcome { result: Err(failure), .. }) => {
            bail!("{} of {asked} failed, the first: {failure:?}", failed.len())
        }
        _ => Ok(()),
    }
}

pub(super) fn weir_dies(demo: &mut Demo) -> Result<()> {
    demo.show.step("Weir dies while requests go on: services fail open");
    let storms = storms(demo)?;
    sleep(CALM);
    demo.show.command(&format!("kill -KILL {}    # weir", demo.node.pid()));
    let died = SystemTime::now();
    demo.node.kill()?;
    sleep(2 * CALM);
    let back = SystemTime::now();
    demo.node.restart(&demo.stage)?;
    let pid = demo.node.pid();
    sleep(CALM);
    for (storm, (_, lane)) in storms.into_iter().zip(TARGETS) {
        let outcomes = storm.end()?;
        let alone =
            outcomes.iter().filter(|one| one.at > died && one.at < back && one.result.is_ok()).count();
        let lost = outcomes.iter().filter(|one| one.result.is_err()).count();
        demo.show.say(&format!(
            "{lane}: {} requests, {alone} of them answered while there was no Weir, {lost} lost at its death",
            outcomes.len()
        ));
        let what = format!("{lane}: nothing fails but what was under way");
        demo.show.promise(&what, only_under_way(&outcomes, alone));
    }
    let links = std::fs::read_dir(Path::new(PINS).join("links")).map_or(0, Iterator::count);
    demo.show.promise(&format!("process {pid} took over: six hooks are attached, each once"), {
        let took_over = demo.node.log_tail().contains("took over");
        if took_over && links == HOOKS { Ok(()) } else { Err(anyhow!("{links} links are pinned")) }
    });
    Ok(())
}

/// A client has one request under way at a time: the death may cost that one.
fn only_under_way(outcomes: &[Outcome], alone: usize) -> Result<()> {
    ensure!(alone > 0, "nothing was answered while there was no Weir");
    let failures: Vec<&Failure> = outcomes.iter().filter_map(|one| one.result.as_ref().err()).collect();
    match failures[..] {
        [] | [_] => Ok(()),
        [first, ..] => bail!("{} failed, the first: {first:?}", failures.len()),
    }
}

pub(super) fn weir_ends(demo: &mut Demo) -> Result<()> {
    demo.show.step("Weir ends in order");
    demo.show.command(&format!("kill -TERM {}    # weir", demo.node.pid()));
    let result = demo.node.stop();
    demo.show.promise("it drains and ends with success", result);
    demo.show.promise("nothing stays attached or pinned", {
        if Path::new(PINS).exists() { Err(anyhow!("{PINS} is still there")) } else { Ok(()) }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(second: u64, result: Result<&str, Failure>) -> Outcome {
        Outcome { at: UNIX_EPOCH + Duration::from_secs(second), result: result.map(ToOwned::to_owned) }
    }

    #[test]
    fn only_failures_after_the_interval_break_the_promise() {
        let refused = || Err(Failure::Connect("refused".to_owned()));
        let outcomes = [at(1, Ok("a")), at(2, refused()), at(4, Ok("b"))];
        assert!(none_after(&outcomes, UNIX_EPOCH + Duration::from_secs(3)).is_ok());
        assert!(none_after(&outcomes, UNIX_EPOCH + Duration::from_secs(1)).is_err());
        assert!(
            none_after(&outcomes, UNIX_EPOCH + Duration::from_secs(9)).is_err(),
            "no requests, no promise"
        );
        let (failed, asked) = failures(&outcomes, UNIX_EPOCH);
        assert_eq!((failed.len(), asked), (1, 3));
        assert_eq!(last(&failed, UNIX_EPOCH), ", the last after 2000 ms");
    }

    #[test]
    fn one_request_may_be_lost_and_no_more() {
        let cut = || Err(Failure::Cut("reset".to_owned()));
        let refused = || Err(Failure::Connect("refused".to_owned()));
        assert!(only_under_way(&[at(1, cut()), at(2, Ok("a"))], 1).is_ok());
        assert!(only_under_way(&[at(1, refused()), at(2, Ok("a"))], 1).is_ok());
        assert!(only_under_way(&[at(1, cut()), at(2, refused())], 1).is_err());
        assert!(only_under_way(&[at(1, Ok("a"))], 0).is_err());
    }
}
