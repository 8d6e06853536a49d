//! Both sides of a connection joined in memory, and a peer of raw frames.

mod endpoint;
mod frames;
mod pair;
mod scripts;
mod waiting;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use proxy_core::http::HttpLimits;
use proxy_core::http2::FieldList;

use super::conn::Conn;
use super::stream::{Piece, Stream};
use super::window::Window;
use super::{COLLECTED_BYTES, ENDPOINT_WINDOW_BYTES, Error, STREAM_WINDOW_BYTES, WINDOW_BYTES};

/// Counts how often somebody was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A client and a server, and the bytes that are under way between them.
struct Pair {
    client: Rc<RefCell<Conn>>,
    server: Rc<RefCell<Conn>>,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    /// Whoever moves the bytes of client and server.
    drivers: [Arc<Woken>; 2],
    /// Of what the whole connection may bring to client and server.
    windows: [u32; 2],
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let client = Rc::new(RefCell::new(Conn::of_endpoint(&HttpLimits::DEFAULT)));
        let server = Rc::new(RefCell::new(Conn::of_client(&HttpLimits::DEFAULT, now)));
        let mut pair = Self {
            client,
            server,
            to_server: Vec::new(),
            to_client: Vec::new(),
            drivers: Default::default(),
            windows: [ENDPOINT_WINDOW_BYTES, WINDOW_BYTES],
            now,
        };
        pair.collect();
        pair
    }

    /// One that knows the other side's settings.
    fn greeted() -> Self {
        let mut pair = Self::new();
        pair.settle();
        pair
    }

    /// One whose window is so much smaller.
    fn narrow(window_bytes: u32) -> Self {
        let mut pair = Self::greeted();
        for conn in [&pair.client, &pair.server] {
            let mut conn = conn.borrow_mut();
            (conn.send_window, conn.receive_window) = (i64::from(window_bytes), Window::new(window_bytes));
        }
        pair.windows = [window_bytes; 2];
        pair
    }

    /// Has both drivers send what there is to send, as if they were woken.
    fn collect(&mut self) {
        let ways = [(&self.client, &mut self.to_server), (&self.server, &mut self.to_client)];
        for ((conn, way), driver) in ways.into_iter().zip(&self.drivers) {
            let mut conn = conn.borrow_mut();
            conn.begin_turn();
            loop {
                conn.push_queued();
                if conn.out.is_empty() {
                    break;
                }
                assert!(conn.out.len() < COLLECTED_BYTES + (64 << 10), "{} are collected", conn.out.len());
                way.extend(conn.take_out());
            }
            conn.end_turn(&Context::from_waker(&Waker::from(Arc::clone(driver))));
            driver.0.store(0, Ordering::Relaxed);
        }
    }

    /// Whoever has something to send has woken its driver.
    fn assert_drivers_know(&self) {
        for (conn, driver) in [&self.client, &self.server].into_iter().zip(&self.drivers) {
            let conn = conn.borrow();
            let has_more = !conn.queue.is_empty() && conn.send_window > 0 && conn.has_room();
            let is_woken = driver.0.load(Ordering::Relaxed) > 0;
            assert!(is_woken || (conn.out.is_empty() && !has_more), "{:?}", conn.role);
        }
    }

    /// Brings up to so many bytes to the server and to the client.
    fn carry(&mut self, to_server: usize, to_client: usize) {
        self.collect();
        for (conn, way, bytes) in
            [(&self.server, &mut self.to_server, to_server), (&self.client, &mut self.to_client, to_client)]
        {
            let some: Vec<u8> = way.drain(..bytes.min(way.len())).collect();
            let mut conn = conn.borrow_mut();
            conn.begin_turn();
            conn.receive(&some, self.now);
        }
        self.collect();
    }

    /// Brings all that is said to the other side, until nobody says more.
    fn settle(&mut self) {
        loop {
            self.collect();
            if self.to_server.is_empty() && self.to_client.is_empty() {
                return;
            }
            self.carry(usize::MAX, usize::MAX);
        }
    }

    fn ask(&self, path: &str, has_ended: bool) -> Stream {
        self.try_ask(path, has_ended).unwrap()
    }

    fn try_ask(&self, path: &str, has_ended: bool) -> Result<Stream, Error> {
        let request = FieldList::of_request("GET", Some("a"), path);
        let key = self.client.borrow_mut().begin(&request, &[], has_ended)?;
        Ok(Stream::new(Rc::clone(&self.client), key))
    }

    /// The next request at the server, with its path.
    fn asked(&self) -> Option<(String, Stream)> {
        let (key, request) = self.server.borrow_mut().asked.pop_front()?;
        Some((request.path_and_query().to_owned(), Stream::new(Rc::clone(&self.server), key)))
    }

    /// Nothing is left of streams on either side, and both windows are whole again.
    fn assert_nothing_is_left(&self) {
        for (conn, window_bytes) in [&self.client, &self.server].into_iter().zip(self.windows) {
            let conn = conn.borrow();
            assert_eq!((conn.streams.open(), conn.streams.all.len()), (0, 0), "{:?}", conn.role);
            assert!(conn.asked.is_empty() && conn.queue.iter().all(|key| !conn.streams.all.contains(*key)));
            assert_eq!(conn.receive_window.whole_bytes(), window_bytes, "{:?}", conn.role);
        }
    }
}

fn ok() -> FieldList {
    FieldList::of_answer(200)
}

fn data(bytes: &[u8], is_last: bool) -> Piece {
    Piece::Data(bytes.to_vec().into(), is_last)
}

/// Polls once, with nobody to wake.
fn once<T>(poll: impl FnOnce(&Context<'_>) -> Poll<T>) -> Option<T> {
    match poll(&Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// All of a body that is there, and whether it came to its end.
fn take_all(stream: &mut Stream) -> Result<(Vec<u8>, bool), Error> {
    let mut all = Vec::new();
    loop {
        match once(|cx| stream.poll_take(cx)) {
            Some(Ok(Piece::Data(data, is_last))) => {
                all.extend_from_slice(&data);
                if is_last {
                    return Ok((all, true));
                }
            }
            Some(Ok(Piece::Trailers(_) | Piece::End)) => return Ok((all, true)),
            Some(Err(error)) => return Err(error),
            None => return Ok((all, false)),
        }
    }
}
