use std::future::Future;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};

use proxy_core::id::{Registry, Version};
use tokio::time::timeout;

use super::*;
use crate::connection::Peers;
use crate::connection::moving::Leaver;
use crate::listener::Purpose;

const SOON: Duration = Duration::from_secs(20);

/// A post with a listener whose service is on loopback, too.
struct Place {
    post: Post,
    mailbox: mpsc::Sender<Command>,
    listening: Listening,
    _endpoint: TcpListener,
}

impl Place {
    fn new(kind: DriverKind) -> Self {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let endpoint = TcpListener::bind(any).unwrap();
        let socket = TcpListener::bind(any).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let text = format!(
            "listeners: [{{address: \"{address}\", protocol: tcp, service: web}}]\n\
             services: [{{name: web, endpoints: [{{address: \"{}\"}}]}}]\n",
            endpoint.local_addr().unwrap()
        );
        let config = crate::config::parse("weir.yaml", &text).map_err(|errors| errors.to_string()).unwrap();
        let snapshot = Arc::new(config.snapshot(&mut Registry::default(), Version(1), None));
        let (peers, mut handed) = Peers::new(1);
        let shared = Arc::new(Shared::alone(peers));
        let (mailbox, commands) = mpsc::channel(8);
        let post = Post::new(
            0,
            (kind, Duration::ZERO),
            shared,
            snapshot,
            commands,
            handed.remove(0),
            Arc::default(),
        );
        let listening = Listening { socket: Arc::new(socket.into()), address, purpose: Purpose::Explicit };
        Self { post, mailbox, listening, _endpoint: endpoint }
    }

    /// Lets the worker begin and serve until something has happened, then lets go of everything that it has made, as a failure
    /// does.
    fn serve_until<T>(&mut self, happened: impl Future<Output = T>) -> T {
        let (runtime, local) = self.post.make().unwrap();
        let _entered = runtime.enter();
        LocalSet::new().block_on(&runtime, async {
            tokio::select! {
                biased;
                happened = timeout(SOON, happened) => happened.expect("it happens soon"),
                () = self.post.run(local) => panic!("nobody told it to end"),
            }
        })
    }
}

/// A client that is connected to the endpoint, and goes on elsewhere.
async fn leaves(address: SocketAddr, leaving: &mut mpsc::Receiver<Leaver>) {
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"hello").unwrap();
    let leaver = leaving.recv().await.expect("the way out is open");
    assert_eq!(leaver.parcel.identity.client, client.local_addr().unwrap());
}

#[test]
fn an_order_to_leave_outlives_a_failure() {
    let kinds = [DriverKind::Epoll, DriverKind::Ring];
    let can = |kind: &DriverKind| *kind == DriverKind::Epoll || proxy_io::driver::probe::ring().is_ok();
    for kind in kinds.into_iter().filter(can) {
        let mut place = Place::new(kind);
        let (exit, mut leaving) = Exit::new(1);
        let (listening, address) = (place.listening.clone(), place.listening.address);
        place.mailbox.try_send(Command::Listen(listening)).unwrap();
        place.mailbox.try_send(Command::Leave(exit.clone())).unwrap();
        place.serve_until(leaves(address, &mut leaving));
        place.serve_until(leaves(address, &mut leaving));

        // it may come while the worker rests
        let (other, mut leaving) = Exit::new(1);
        place.mailbox.try_send(Command::Leave(other)).unwrap();
        assert!(!place.post.rest(Duration::from_millis(1)), "it is not told to end");
        place.serve_until(leaves(address, &mut leaving));
    }
}
