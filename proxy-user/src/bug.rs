//! Bugs of Weir: panics are counted and said in the log, and end no more than what they happened in.
//!
//! What that is: a task of a connection (its peers are reset), a listener's (it begins again), a whole worker (likewise),
//! or a step of the control task. A debug build fails on purpose where a test says so, and takes other
//! bounds than those that no test could reach; a release has no such thing.

use std::any::Any;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};

/// Panics of this process, on any thread.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// From now on panics are counted, and go to the log like everything else.
pub fn watch() {
    std::panic::set_hook(Box::new(handle_panic));
}

fn handle_panic(info: &PanicHookInfo<'_>) {
    PANICS.fetch_add(1, Ordering::Relaxed);
    let thread = std::thread::current();
    tracing::error!(
        thread = thread.name(),
        location = info.location().map(tracing::field::display),
        what = text(info.payload()),
        "a bug of Weir (panic)"
    );
}

/// Panics so far.
#[must_use]
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// What a panic said.
#[must_use]
pub fn text(payload: &(dyn Any + Send)) -> &str {
    let owned = || payload.downcast_ref::<String>().map(String::as_str);
    payload.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("no text")
}

/// Runs a future to its end, or to its panic, which says what it said.
///
/// What it borrows may be in the middle of a change then: for state that is changed as a whole, or made anew.
///
/// # Errors
/// The text of its panic.
pub async fn caught<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        polled.map_or_else(
            |payload| std::task::Poll::Ready(Err(text(&*payload).to_owned())),
            |poll| poll.map(Ok),
        )
    })
    .await
}

/// A place at which a debug build fails if a test says so; it costs a release nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn point(_place: &str, _index: usize) {}

/// What a debug build takes in place of a bound if a test says so; a release has no such thing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn bound(_place: &str, usual: u64) -> u64 {
    usual
}

/// What a debug build takes in place of a bound if a test says so: in the folder that `WEIR_BUGS` names, by a file `PLACE` with a
/// number.
#[cfg(debug_assertions)]
pub(crate) fn bound(place: &str, usual: u64) -> u64 {
    let said = FOLDER.as_ref().and_then(|folder| std::fs::read_to_string(folder.join(place)).ok());
    said.and_then(|said| said.trim().parse().ok()).unwrap_or(usual)
}

#[cfg(debug_assertions)]
static FOLDER: std::sync::LazyLock<Option<std::path::PathBuf>> =
    std::sync::LazyLock::new(|| std::env::var_os("WEIR_BUGS").map(std::path::PathBuf::from));

/// A place at which a debug build fails if a test says so: in the folder that `WEIR_BUGS` names, by a file `PLACE-INDEX` that
/// says `panic` (once: it is removed) or `hang` (for as long as it is there).
#[cfg(debug_assertions)]
#[track_caller]
#[expect(clippy::panic, reason = "that is what it is for")]
pub(crate) fn point(place: &str, index: usize) {
    let Some(folder) = &*FOLDER else { return };
    let file = folder.join(format!("{place}-{index}"));
    match std::fs::read_to_string(&file).as_deref().map(str::trim) {
        // Whoever removes it is the one.
        Ok("panic") if std::fs::remove_file(&file).is_ok() => panic!("{place} {index} fails on purpose"),
        Ok("hang") => {
            while file.exists() {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_its_future_and_is_told() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let nothing = tokio::sync::oneshot::channel::<()>().1;
        let end = runtime.block_on(caught(async {
            tokio::task::yield_now().await;
            assert_eq!(nothing.await, Ok(()), "what was missing");
        }));
        assert!(end.unwrap_err().contains("what was missing"));
        assert_eq!(runtime.block_on(caught(async { 7 })), Ok(7));
    }
}
