//! Unary gRPC calls over HTTP/2 without TLS: some connections, some calls at once on each.

use std::cell::RefCell;
use std::future::Future as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::SendStream;
use h2::client::{self, ResponseFuture, SendRequest};
use http::Request;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

use crate::backend::grpc::body;
use crate::client::Job;
use crate::client::idle::{first_part, settled};
use crate::client::pingpong::message;
use crate::cpu::{self, Window};
use crate::histogram::Histogram;
use crate::http::{HOST, METHOD};
use crate::report::Sample;

/// Time for the first call of a connection.
const LIMIT: Duration = Duration::from_secs(5);

/// What the callers have done.
#[derive(Default)]
struct Tally {
    calls: u64,
    latency: Histogram,
}

/// Measures `connections` with `streams` callers each, with messages of `bytes`.
///
/// # Errors
/// If a call fails or answers wrongly, or nothing comes back.
pub fn run(job: &Job, connections: usize, streams: usize, bytes: usize) -> Result<Sample> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let tally = Rc::new(RefCell::new(Tally::default()));
        let mut callers = JoinSet::new();
        for connection in 0..connections {
            let requests = connect(job.target).await?;
            for stream in 0..streams {
                let message = framed(&message(connection * streams + stream, bytes))?;
                callers.spawn_local(call_again(requests.clone(), message, Rc::clone(&tally)));
            }
        }
        pass(&mut callers, job.warm_up).await?;
        *tally.borrow_mut() = Tally::default();
        let window = Window::open(&job.watched)?;
        pass(&mut callers, job.length).await?;
        let usage = window.close()?;
        let tally = tally.borrow();
        ensure!(tally.calls > 0, "no call came back in {} ms", job.length.as_millis());
        Ok(Sample { ops: tally.calls as f64, usage, latency: tally.latency.quantiles(), ..Sample::default() })
    })
}

/// Opens `connections` with `streams` calls each that say one message and then nothing, and measures how much more memory the
/// proxy has with them than with the first part of the connections.
///
/// # Errors
/// If a call cannot be begun, or does not stay open.
pub fn idle(job: &Job, connections: usize, streams: usize) -> Result<Sample> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let message = framed(b"weir?")?;
    LocalSet::new().block_on(&runtime, async {
        let first = first_part(connections);
        let (mut before, mut window) = (memory(job).await?, Window::open(&job.watched)?);
        let mut open = Vec::with_capacity(connections * streams);
        for index in 0..connections {
            if index == first {
                (before, window) = (memory(job).await?, Window::open(&job.watched)?);
            }
            let mut requests = connect(job.target).await?;
            for _ in 0..streams {
                open.push(begin(&mut requests, &message, false).await?);
            }
        }
        let with = memory(job).await?;
        let usage = window.close()?;
        for (response, _) in &mut open {
            let answered =
                std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut *response).poll(context)));
            ensure!(answered.await.is_pending(), "a call was answered before its end");
        }
        let ops = (open.len() - first * streams) as f64;
        Ok(Sample { ops, usage, memory: Some((before, with)), ..Sample::default() })
    })
}

/// The proxy's memory once it has settled; connections are driven meanwhile.
async fn memory(job: &Job) -> Result<u64> {
    let watched = job.watched.clone();
    tokio::task::spawn_blocking(move || settled(&watched)).await?
}

/// Calls once and says why there was no right answer, if there was none.
///
/// # Errors
/// If a connection cannot be made, or the answer is wrong or does not come.
pub fn probe(target: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let message = framed(b"weir?")?;
    let once = async { call(&mut connect(target).await?, &message).await };
    LocalSet::new()
        .block_on(&runtime, async { tokio::time::timeout(LIMIT, once).await.context("no answer")? })
}

/// Lets the time pass, unless a caller fails.
async fn pass(callers: &mut JoinSet<Result<()>>, length: Duration) -> Result<()> {
    tokio::select! {
        Some(failed) = callers.join_next() => failed?,
        () = tokio::time::sleep(length) => Ok(()),
    }
}

async fn connect(target: SocketAddr) -> Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(target).await.context("cannot connect")?;
    stream.set_nodelay(true)?;
    let (requests, connection) = client::handshake(stream).await.context("no HTTP/2")?;
    // what is wrong with a connection its callers learn too
    tokio::task::spawn_local(async { drop(connection.await) });
    Ok(requests)
}

/// One call after the other, until one fails.
async fn call_again(
    mut requests: SendRequest<Bytes>,
    message: Bytes,
    tally: Rc<RefCell<Tally>>,
) -> Result<()> {
    loop {
        let began = Instant::now();
        call(&mut requests, &message).await?;
        let mut tally = tally.borrow_mut();
        tally.calls += 1;
        tally.latency.record(cpu::as_ns(began.elapsed()));
    }
}

/// Begins a call with its first message, which may be its last.
async fn begin(
    requests: &mut SendRequest<Bytes>,
    message: &Bytes,
    is_last: bool,
) -> Result<(ResponseFuture, SendStream<Bytes>)> {
    let request = Request::post(format!("http://{HOST}{METHOD}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "weir-bench");
    std::future::poll_fn(|context| requests.poll_ready(context)).await.context("no stream")?;
    let (response, mut sending) = requests.send_request(request.body(())?, false)?;
    sending.send_data(message.clone(), is_last)?;
    Ok((response, sending))
}

async fn call(requests: &mut SendRequest<Bytes>, message: &Bytes) -> Result<()> {
    let (response, _sending) = begin(requests, message, true).await?;
    let (head, mut receiving) = response.await.context("no response")?.into_parts();
    if head.status != http::StatusCode::OK {
        bail!("it answers: {}", head.status);
    }
    let answer = body(&mut receiving).await.context("no message")?;
    // a server that has nothing to say but this status says it in the head
    let trailers = receiving.trailers().await.context("no trailers")?;
    let status = trailers.as_ref().unwrap_or(&head.headers).get("grpc-status");
    ensure!(status.is_some_and(|status| status == "0"), "gRPC status {status:?}");
    ensure!(answer == *message, "a wrong answer");
    Ok(())
}

/// A message as gRPC frames it: not compressed, and its length.
fn framed(message: &[u8]) -> Result<Bytes> {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len().try_into().context("a message of 4 GiB")?);
    framed.put_slice(message);
    Ok(framed.freeze())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::backend;

    #[test]
    fn calls_to_the_backend_come_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let target = listener.local_addr().unwrap();
        thread::spawn(move || backend::grpc::run(listener));
        probe(target).unwrap();
        let (warm_up, length) = (Duration::from_millis(50), Duration::from_millis(100));
        let job = Job { target, watched: Vec::new(), warm_up, length };
        let sample = run(&job, 2, 3, 100).unwrap();
        assert!(sample.ops > 6.0 && sample.latency.is_some(), "{sample:?}");
        let own = Job { watched: vec![std::process::id()], ..job };
        let sample = idle(&own, 3, 20).unwrap();
        assert!(sample.ops == 60.0 && sample.memory.is_some_and(|(before, _)| before > 0), "{sample:?}");
    }

    #[test]
    fn somebody_who_speaks_http1_only_is_found_out() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
            }
        });
        assert!(probe(target).is_err());
    }
}
