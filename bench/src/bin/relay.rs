//! The baseline: what a forwarder costs that is written in an afternoon on tokio, one thread, `copy_bidirectional`.

#![forbid(unsafe_code)]

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use clap::Parser;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// Forwards TCP connections.
#[derive(Debug, Parser)]
struct Cli {
    /// LISTEN=TARGET; repeatable
    #[arg(long = "forward", value_parser = forward, required = true)]
    forwards: Vec<(SocketAddr, SocketAddr)>,
}

fn forward(text: &str) -> Result<(SocketAddr, SocketAddr), String> {
    let (listen, target) = text.split_once('=').ok_or("expected LISTEN=TARGET")?;
    let address = |text: &str| text.parse().map_err(|_| format!("{text} is no address"));
    Ok((address(listen)?, address(target)?))
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut listening = Vec::new();
        for (listen, target) in cli.forwards {
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
