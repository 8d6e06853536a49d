//! The baselines: what forwarders cost that are written in an afternoon, one thread, on tokio or on tokio-uring.

#![forbid(unsafe_code)]

use std::net::{Shutdown, SocketAddr};

use anyhow::{Context as _, Result};
use clap::Parser;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio_uring::buf::BoundedBuf as _;

/// Bytes of one read on tokio-uring: as many as tokio's `copy_bidirectional` takes.
const BUFFER_BYTES: usize = 8 << 10;
/// Submissions that fit between two system calls: more than connections that are busy at once.
const RING_ENTRIES: u32 = 1024;

/// Forwards TCP connections.
#[derive(Debug, Parser)]
struct Cli {
    /// LISTEN=TARGET; repeatable
    #[arg(long = "forward", value_parser = forward, required = true)]
    forwards: Vec<(SocketAddr, SocketAddr)>,
    /// By tokio-uring: reads and writes that wait in the kernel, with a buffer each
    #[arg(long)]
    uring: bool,
}

fn forward(text: &str) -> Result<(SocketAddr, SocketAddr), String> {
    let (listen, target) = text.split_once('=').ok_or("expected LISTEN=TARGET")?;
    let address = |text: &str| text.parse().map_err(|_| format!("{text} is no address"));
    Ok((address(listen)?, address(target)?))
}

fn main() -> Result<()> {
    let Cli { forwards, uring } = Cli::parse();
    if uring {
        return tokio_uring::builder().entries(RING_ENTRIES).start(uring::serve_all(forwards));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut listening = Vec::new();
        for (listen, target) in forwards {
            let listener =
                TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
            listening.push(tokio::task::spawn_local(serve(listener, target)));
        }
        for task in listening {
            task.await??;
        }
        Ok(())
    })
}

async fn serve(listener: TcpListener, target: SocketAddr) -> Result<()> {
    loop {
        let (mut downstream, _) = listener.accept().await?;
        tokio::task::spawn_local(async move {
            let Ok(mut upstream) = TcpStream::connect(target).await else { return };
            let _ = (downstream.set_nodelay(true), upstream.set_nodelay(true));
            // how a connection ends is between its ends
            let _ = tokio::io::copy_bidirectional(&mut downstream, &mut upstream).await;
        });
    }
}

mod uring {
    use super::*;
    use tokio_uring::net::{TcpListener, TcpStream};

    pub(super) async fn serve_all(forwards: Vec<(SocketAddr, SocketAddr)>) -> Result<()> {
        let mut listening = Vec::new();
        for (listen, target) in forwards {
            let listener = TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
            listening.push(tokio_uring::spawn(serve(listener, target)));
        }
        for task in listening {
            task.await??;
        }
        Ok(())
    }

    async fn serve(listener: TcpListener, target: SocketAddr) -> Result<()> {
        loop {
            let (downstream, _) = listener.accept().await?;
            tokio_uring::spawn(async move {
                let Ok(upstream) = TcpStream::connect(target).await else { return };
                let _ = (downstream.set_nodelay(true), upstream.set_nodelay(true));
                tokio::join!(copy(&downstream, &upstream), copy(&upstream, &downstream));
            });
        }
    }

    /// One direction, to its end.
    async fn copy(from: &TcpStream, to: &TcpStream) {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let (count, read) = from.read(buffer).await;
            let Ok(count @ 1..) = count else { break };
            let (written, rest) = to.write_all(read.slice(..count)).await;
            if written.is_err() {
                break;
            }
            buffer = rest.into_inner();
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}
