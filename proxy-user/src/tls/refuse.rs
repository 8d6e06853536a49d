//! Telling a peer why there will be no session.

use std::future::poll_fn;
use std::time::Duration;

use proxy_io::{Chunk, Socket};
use rustls::{AlertDescription, ContentType};

use super::stream::Stream;

/// Time for a peer to read why it was refused and close, so that a reset does not take the answer from it.
const LINGER: Duration = Duration::from_millis(500);
/// What it may send meanwhile.
const LINGER_BYTES: usize = 256 << 10;
/// Time for the kernel to take what a peer that was too slow is told: it gets no more, and a few bytes need none.
const GIVE_UP: Duration = Duration::from_millis(20);
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// Refuses a client that asked for a name that nobody here has (RFC 6066, 3). Its ClientHello was read and nothing was sent.
pub async fn refuse_name(mut stream: Stream) {
    if let Some(socket) = stream.as_plain() {
        tell(socket, &fatal(AlertDescription::UnrecognisedName)).await;
    }
}

/// Gives up a client that did not complete its ClientHello in time.
pub async fn refuse_slow(mut stream: Stream) {
    if let Some(socket) = stream.as_plain() {
        give_up(socket).await;
    }
}

/// A fatal alert for a peer with which there are no keys yet.
pub(super) fn fatal(alert: AlertDescription) -> Vec<u8> {
    in_the_clear(FATAL, alert).to_vec()
}

/// Sends the last words, and gives the peer time to read them and close.
pub(super) async fn tell(socket: &mut Socket, words: &[u8]) {
    let lingering = async {
        say(socket, words.to_vec()).await?;
        let mut left = LINGER_BYTES;
        while left > 0 {
            let chunk = poll_fn(|cx| socket.poll_recv(cx)).await.ok().filter(|chunk| !chunk.is_empty())?;
            left = left.saturating_sub(chunk.len());
        }
        Some(())
    };
    let _ = tokio::time::timeout(LINGER, lingering).await;
}

/// Ends a handshake that takes too long, while there are no keys yet: `user_canceled`, which is for what is no fault of the
/// protocol, with the `close_notify` that follows it (RFC 8446, 6.1). The peer gets no time to answer.
pub(super) async fn give_up(socket: &mut Socket) {
    let alerts = [AlertDescription::UserCanceled, AlertDescription::CloseNotify];
    let words = alerts.map(|alert| in_the_clear(WARNING, alert)).concat();
    let _ = tokio::time::timeout(GIVE_UP, say(socket, words)).await;
}

async fn say(socket: &mut Socket, words: Vec<u8>) -> Option<()> {
    let mut chunk = Chunk::from(words);
    poll_fn(|cx| socket.poll_send(cx, &mut chunk)).await.ok()?;
    socket.shutdown_write().ok()
}

fn in_the_clear(level: u8, alert: AlertDescription) -> [u8; 7] {
    [u8::from(ContentType::Alert), 3, 3, 0, 2, level, u8::from(alert)]
}
