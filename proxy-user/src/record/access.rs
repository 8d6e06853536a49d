//! The access log: one line per connection, and one per HTTP request, written on a thread of its own.
//!
//! ```text
//!   workers --record()--> bounded queue --> weir-access-log thread --> file
//!              full: dropped and counted      failed: lost, counted, logged once
//! ```
//!
//! The thread writes through tokio-uring, or with ordinary calls where io_uring is off. It gathers lines for a moment and
//! writes them together; nothing that happens to the file stops or slows a connection.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use proxy_core::addr::{ClientAddr, EndpointAddr, OriginalDst};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior};

use super::cgroup::CgroupNames;
use super::line;
use super::request::RequestRecord;
use crate::config::{AccessLogConfig, LogFormat};

/// Lines that may wait: with [`GATHER_TIME`] enough for 800,000 connections a second, in 4 MiB when full; of requests with
/// usual texts in about 10 MiB, with texts as long as [`RequestRecord`] takes them in 50.
const QUEUE_LEN: usize = 16_384;
/// Lines written with one call.
const BATCH_LEN: usize = 1024;
/// Pause after each write: bounds the writes, and the wake-ups that workers pay for, to fifty a second.
const GATHER_TIME: Duration = Duration::from_millis(20);
/// Time between two looks at whether the path still names the file: as often as log rotation needs it.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// For the owner, and a group of log readers: client addresses are nobody else's business.
const FILE_MODE: u32 = 0o640;

/// One connection that is over.
#[derive(Clone, Debug)]
pub struct AccessRecord {
    /// The application's end.
    pub client: ClientAddr,
    /// What it asked for.
    pub original_dst: OriginalDst,
    /// Who served it, if anybody did.
    pub endpoint: Option<EndpointAddr>,
    /// Name of the service, if it is known.
    pub service: Option<Arc<str>>,
    /// Word of the lane.
    pub lane: &'static str,
    /// Cgroup of the application; 0 if it is not known.
    pub cgroup_id: u64,
    /// Bytes from the client to the endpoint.
    pub sent_bytes: u64,
    /// Bytes from the endpoint to the client.
    pub received_bytes: u64,
    /// From the connection's begin to its end.
    pub duration: Duration,
    /// Word of the reason for its end.
    pub reason: &'static str,
}

/// What becomes a line.
#[derive(Clone, Debug)]
pub enum Record {
    /// A connection.
    Connection(AccessRecord),
    /// A request; boxed, so that the queue of a node without HTTP stays small.
    Request(Box<RequestRecord>),
}

impl From<AccessRecord> for Record {
    fn from(record: AccessRecord) -> Self {
        Self::Connection(record)
    }
}

impl From<RequestRecord> for Record {
    fn from(record: RequestRecord) -> Self {
        Self::Request(Box::new(record))
    }
}

impl Record {
    fn cgroup_id(&self) -> u64 {
        match self {
            Self::Connection(record) => record.cgroup_id,
            Self::Request(record) => record.cgroup_id,
        }
    }
}

/// Where connections and requests are recorded. Clones share one log.
#[derive(Clone)]
pub struct AccessSink(Option<Inner>);

#[derive(Clone)]
struct Inner {
    queue: mpsc::Sender<Entry>,
    state: Arc<State>,
}

/// A record with the time of the end that it tells of.
type Entry = (SystemTime, Record);

#[derive(Default)]
struct State {
    dropped: AtomicU64,
    is_reopen_wanted: AtomicBool,
    is_closing: AtomicBool,
    wake: Notify,
}

impl AccessSink {
    /// A log that nothing is written to.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Whether there is a log.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Records a connection or a request; `make` is called only if there is a log.
    ///
    /// Never blocks: a record that finds the queue full is dropped and counted.
    #[expect(clippy::disallowed_methods, reason = "a date for operators")]
    pub fn record<R: Into<Record>>(&self, make: impl FnOnce() -> R) {
        let Some(inner) = &self.0 else { return };
        if inner.queue.try_send((SystemTime::now(), make().into())).is_err() {
            inner.state.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records that were lost, because the queue was full or the file could not be written.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.state.dropped.load(Ordering::Relaxed))
    }

    /// Opens the path anew, for log rotation; returns at once.
    pub fn reopen(&self) {
        self.tell(|state| &state.is_reopen_wanted);
    }

    /// Makes the thread write what is queued and end; returns at once. What is recorded later is dropped and counted.
    pub fn close(&self) {
        self.tell(|state| &state.is_closing);
    }

    fn tell(&self, flag: impl Fn(&State) -> &AtomicBool) {
        if let Some(inner) = &self.0 {
            flag(&inner.state).store(true, Ordering::Release);
            inner.state.wake.notify_one();
        }
    }
}

impl std::fmt::Debug for AccessSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AccessSink").field(&self.0.is_some()).finish()
    }
}

/// Opens the log and starts its thread, which ends after [`AccessSink::close`] or with the last clone of the sink.
///
/// # Errors
/// If the file cannot be opened for appending, or the thread not be made.
pub fn open(config: &AccessLogConfig) -> io::Result<(AccessSink, JoinHandle<()>)> {
    let (queue, lines) = mpsc::channel(QUEUE_LEN);
    let state = Arc::new(State::default());
    let (file, inode) = append_to(&config.path)?;
    let (path, format, shared) = (config.path.clone(), config.format, Arc::clone(&state));
    let thread = std::thread::Builder::new().name("weir-access-log".to_owned()).spawn(move || {
        let log = Log::new(path, format, shared);
        match tokio_uring::Runtime::new(&tokio_uring::builder()) {
            Ok(runtime) => {
                let target = Target::Ring(tokio_uring::fs::File::from_std(file));
                runtime.block_on(log.run(lines, target, inode));
            }
            Err(error) => {
                tracing::debug!(%error, "the access log is written without io_uring");
                log.run_plain(lines, file, inode);
            }
        }
    })?;
    Ok((AccessSink(Some(Inner { queue, state })), thread))
}

fn append_to(path: &Path) -> io::Result<(std::fs::File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)?;
    let inode = file.metadata()?.ino();
    Ok((file, inode))
}

/// The open file.
enum Target {
    Ring(tokio_uring::fs::File),
    Plain(std::fs::File),
}

impl Target {
    /// Writes everything at the end of the file and gives the buffer back.
    async fn write(&mut self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        match self {
            // The offset does not matter: the file is open for appending (pwrite(2), BUGS).
            Self::Ring(file) => file.write_all_at(bytes, 0).await,
            Self::Plain(file) => (file.write_all(&bytes), bytes),
        }
    }

    async fn close(self) -> io::Result<()> {
        match self {
            Self::Ring(file) => file.close().await,
            Self::Plain(_) => Ok(()),
        }
    }
}

/// The thread's own state.
struct Log {
    path: PathBuf,
    format: LogFormat,
    state: Arc<State>,
    names: CgroupNames,
    /// Lines to write; kept for its memory.
    bytes: Vec<u8>,
    /// The last write failed: the file may end within a line.
    is_torn: bool,
    /// The last attempt to open the path failed.
    is_lost: bool,
}

impl Log {
    fn new(path: PathBuf, format: LogFormat, state: Arc<State>) -> Self {
        Self {
            path,
            format,
            state,
            names: CgroupNames::default(),
            bytes: Vec::new(),
            is_torn: false,
            is_lost: false,
        }
    }

    fn run_plain(self, lines: mpsc::Receiver<Entry>, file: std::fs::File, inode: u64) {
        match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime.block_on(self.run(lines, Target::Plain(file), inode)),
            Err(error) => tracing::error!(%error, "the access log has stopped"),
        }
    }

    async fn run(mut self, mut lines: mpsc::Receiver<Entry>, mut target: Target, mut inode: u64) {
        let state = Arc::clone(&self.state);
        let mut watch = tokio::time::interval(WATCH_INTERVAL);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH_LEN);
        let mut is_open = true;
        while is_open {
            let mut is_reopen_wanted = false;
            tokio::select! {
                count = lines.recv_many(&mut batch, BATCH_LEN) => is_open = count > 0,
                () = state.wake.notified() => {}
                _ = watch.tick() => is_reopen_wanted = self.is_elsewhere(inode),
            }
            if state.is_closing.load(Ordering::Acquire) {
                lines.close();
            }
            self.write(&mut target, &mut batch).await;
            is_reopen_wanted |= state.is_reopen_wanted.swap(false, Ordering::AcqRel);
            if is_reopen_wanted && let Some((file, found)) = self.reopen() {
                inode = found;
                let next = match &target {
                    Target::Ring(_) => Target::Ring(tokio_uring::fs::File::from_std(file)),
                    Target::Plain(_) => Target::Plain(file),
                };
                self.end(std::mem::replace(&mut target, next)).await;
            }
            if is_open && lines.is_empty() && !lines.is_closed() {
                let until = Instant::now() + GATHER_TIME;
                let _ = tokio::time::timeout_at(until, state.wake.notified()).await;
                // The permit that ended the pause stands for a flag: look at it before waiting again.
                if Instant::now() < until {
                    state.wake.notify_one();
                }
            }
        }
        self.end(target).await;
    }

    async fn write(&mut self, target: &mut Target, batch: &mut Vec<Entry>) {
        if batch.is_empty() {
            return;
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        if self.is_torn {
            bytes.push(b'\n');
        }
        let count = batch.len() as u64;
        for (time, record) in batch.drain(..) {
            let application = self.names.application(record.cgroup_id());
            line::append(&mut bytes, self.format, time, &record, application.as_ref());
        }
        let (result, bytes) = target.write(bytes).await;
        self.bytes = bytes;
        match result {
            Ok(()) if self.is_torn => {
                tracing::info!(path = %self.path.display(), "the access log can be written again");
                self.is_torn = false;
            }
            Ok(()) => {}
            Err(error) => {
                self.state.dropped.fetch_add(count, Ordering::Relaxed);
                if !self.is_torn {
                    let path = self.path.display();
                    tracing::error!(%path, %error, "cannot write the access log; records are lost");
                }
                self.is_torn = true;
            }
        }
    }

    /// Tells whether the path no longer names the open file: it was renamed or removed.
    fn is_elsewhere(&self, inode: u64) -> bool {
        std::fs::metadata(&self.path).map_or(true, |metadata| metadata.ino() != inode)
    }

    /// Opens the path; if that fails, the old file stays in use.
    fn reopen(&mut self) -> Option<(std::fs::File, u64)> {
        match append_to(&self.path) {
            Ok(opened) => {
                self.is_lost = false;
                self.is_torn = false;
                Some(opened)
            }
            Err(error) => {
                if !self.is_lost {
                    let path = self.path.display();
                    tracing::error!(%path, %error, "cannot reopen the access log; the old file stays in use");
                }
                self.is_lost = true;
                None
            }
        }
    }

    async fn end(&self, target: Target) {
        if let Err(error) = target.close().await {
            tracing::warn!(path = %self.path.display(), %error, "cannot close the access log");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_off_asks_for_no_record() {
        let sink = AccessSink::off();
        sink.record(|| -> AccessRecord { panic!("nobody wants it") });
        sink.reopen();
        sink.close();
        assert_eq!(sink.dropped(), 0);
    }

    #[test]
    fn every_record_becomes_one_line_by_the_ring_and_without_it() {
        for is_plain in [false, true] {
            let dir = Dir::new("lines");
            let (sink, thread) = if is_plain { open_plain(&dir.log()) } else { open(&dir.log()).unwrap() };
            for port in 1..=5000 {
                sink.record(|| record(port));
            }
            sink.close();
            thread.join().unwrap();
            let text = std::fs::read_to_string(dir.path()).unwrap();
            assert_eq!(text.lines().count(), 5000);
            assert!(text.lines().all(|line| line.contains("dst.service=shop/web")), "{text}");
            assert!(text.lines().nth(4999).unwrap().contains("src.addr=127.0.0.1:5000 "));
            assert_eq!(sink.dropped(), 0);
            sink.record(|| record(1));
            assert_eq!(sink.dropped(), 1, "after the close");
        }
    }

    #[test]
    fn the_thread_ends_with_the_last_sink() {
        let dir = Dir::new("end");
        let (sink, thread) = open(&dir.log()).unwrap();
        let other = sink.clone();
        other.record(|| record(7));
        drop((sink, other));
        thread.join().unwrap();
        assert_eq!(std::fs::read_to_string(dir.path()).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (queue, _nobody_reads) = mpsc::channel(2);
        let sink = AccessSink(Some(Inner { queue, state: Arc::default() }));
        (1..=5).for_each(|port| sink.record(|| record(port)));
        assert_eq!(sink.dropped(), 3);
    }

    #[test]
    fn reopen_goes_on_in_a_new_file() {
        let dir = Dir::new("reopen");
        let (sink, thread) = open(&dir.log()).unwrap();
        sink.record(|| record(1));
        wait_for(|| std::fs::read_to_string(dir.path()).is_ok_and(|text| text.lines().count() == 1));
        let old = dir.path().with_extension("1");
        std::fs::rename(dir.path(), &old).unwrap();
        sink.reopen();
        wait_for(|| dir.path().exists());
        sink.record(|| record(2));
        drop(sink);
        thread.join().unwrap();
        let port = |path: &Path| std::fs::read_to_string(path).unwrap().contains("127.0.0.1:2 ");
        assert!(port(&dir.path()) && !port(&old));
    }

    #[test]
    fn a_removed_file_is_noticed_without_being_told() {
        let dir = Dir::new("removed");
        let (sink, thread) = open(&dir.log()).unwrap();
        std::fs::remove_file(dir.path()).unwrap();
        wait_for(|| dir.path().exists());
        drop(sink);
        thread.join().unwrap();
    }

    #[test]
    fn a_full_disk_is_counted_and_stops_nothing() {
        let log = AccessLogConfig { path: "/dev/full".into(), format: LogFormat::Json };
        let (sink, thread) = open(&log).unwrap();
        sink.record(|| record(1));
        wait_for(|| sink.dropped() == 1);
        sink.record(|| record(2));
        sink.close();
        thread.join().unwrap();
        assert_eq!(sink.dropped(), 2);
    }

    #[test]
    fn a_folder_that_is_missing_is_an_error() {
        let log = AccessLogConfig { path: "/nonexistent/access.log".into(), format: LogFormat::Text };
        assert_eq!(open(&log).map(drop).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    fn open_plain(config: &AccessLogConfig) -> (AccessSink, JoinHandle<()>) {
        let (queue, lines) = mpsc::channel(QUEUE_LEN);
        let state = Arc::new(State::default());
        let (file, inode) = append_to(&config.path).unwrap();
        let log = Log::new(config.path.clone(), config.format, Arc::clone(&state));
        let thread = std::thread::spawn(move || log.run_plain(lines, file, inode));
        (AccessSink(Some(Inner { queue, state })), thread)
    }

    fn record(port: u16) -> AccessRecord {
        AccessRecord {
            client: ClientAddr(([127, 0, 0, 1], port).into()),
            original_dst: OriginalDst("10.96.0.10:80".parse().unwrap()),
            endpoint: Some(EndpointAddr("10.1.0.5:8080".parse().unwrap())),
            service: Some("shop/web".into()),
            lane: "proxy",
            cgroup_id: 0,
            sent_bytes: 1,
            received_bytes: 2,
            duration: Duration::from_micros(1500),
            reason: "fin",
        }
    }

    /// Waits for something that another thread does; gives up after far more time than that needs.
    fn wait_for(is_done: impl Fn() -> bool) {
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while !is_done() {
            assert!(std::time::Instant::now() < until, "waited in vain");
            std::thread::yield_now();
        }
    }

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("weir-access-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn path(&self) -> PathBuf {
            self.0.join("access.log")
        }

        fn log(&self) -> AccessLogConfig {
            AccessLogConfig { path: self.path(), format: LogFormat::Text }
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
