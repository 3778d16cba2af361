//! A wire between two processes that a test can cut, stop, or lay to somewhere else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What a wire does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Carries it.
    Open,
    /// Takes nothing more from the server: its buffers fill, as when the client reads nothing.
    Stuck,
    /// Takes everything from either end and loses it, without a word.
    Swallowing,
    /// Keeps what comes from the client from where this text is in it, until it is open again; the client may be
    /// gone by then.
    HoldingFrom(&'static str),
}

#[derive(Debug, Clone)]
struct Laid {
    to: SocketAddr,
    state: State,
    /// Counts how often it was cut.
    cuts: u64,
}

/// A TCP proxy. Ends with its value, and its connections with it.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    laid: Arc<watch::Sender<Laid>>,
    holds: Arc<watch::Sender<bool>>,
    accepting: JoinHandle<()>,
}

impl Wire {
    /// A wire to `to`, where nobody has to listen yet.
    pub async fn lay(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port can be had");
        let address = listener.local_addr().expect("a listener has an address");
        let laid = Arc::new(watch::Sender::new(Laid { to, state: State::Open, cuts: 0 }));
        let holds = Arc::new(watch::Sender::new(false));
        let accepting = tokio::spawn(accept(listener, laid.subscribe(), holds.clone()));
        Self { address, laid, holds, accepting }
    }

    /// Where it is connected to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does from now on, also to connections that stand.
    pub fn set(&self, state: State) {
        self.laid.send_modify(|laid| laid.state = state);
    }

    /// Waits until something is held, or nothing any more.
    pub async fn holds(&self, something: bool) {
        // The sender is ours.
        drop(self.holds.subscribe().wait_for(|holds| *holds == something).await);
    }

    /// Ends every connection, both ends at once.
    pub fn cut(&self) {
        self.laid.send_modify(|laid| laid.cuts += 1);
    }

    /// Ends every connection; new ones go to `to`.
    pub fn lay_to(&self, to: SocketAddr) {
        self.laid.send_modify(|laid| (laid.to, laid.cuts) = (to, laid.cuts + 1));
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, laid: watch::Receiver<Laid>, holds: Arc<watch::Sender<bool>>) {
    while let Ok((client, _)) = listener.accept().await {
        let (laid, holds) = (laid.clone(), holds.clone());
        tokio::spawn(async move {
            let begun = laid.borrow().clone();
            // To a server that isn't there one can't connect: the client sees its connection closed.
            let Ok(Ok(server)) =
                tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(begun.to)).await
            else {
                return;
            };
            let (mut cut, cuts) = (laid.clone(), begun.cuts);
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), server.into_split());
            tokio::select! {
                _ = cut.wait_for(|laid| laid.cuts != cuts) => {}
                () = carry(from_client, to_server, laid.clone(), Some(&holds)) => {}
                () = carry(from_server, to_client, laid, None) => {}
            }
        });
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut laid: watch::Receiver<Laid>,
    holds: Option<&watch::Sender<bool>>,
) {
    let of_server = holds.is_none();
    let mut bytes = vec![0; 64 * 1024];
    loop {
        if laid.wait_for(|laid| !(of_server && laid.state == State::Stuck)).await.is_err() {
            return;
        }
        let Ok(length @ 1..) = from.read(&mut bytes).await else { return };
        // What was read just when it got stuck waits, too.
        if laid.wait_for(|laid| !(of_server && laid.state == State::Stuck)).await.is_err() {
            return;
        }
        let state = laid.borrow().state;
        let holds = match (state, holds) {
            (State::Swallowing, _) => continue,
            (State::HoldingFrom(text), Some(holds)) => {
                let is_in = bytes[..length].windows(text.len()).any(|window| window == text.as_bytes());
                is_in.then_some(holds)
            }
            _ => None,
        };
        if let Some(holds) = holds {
            holds.send_replace(true);
            if laid.wait_for(|laid| laid.state == State::Open).await.is_err() {
                return;
            }
        }
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
        if let Some(holds) = holds {
            holds.send_replace(false);
        }
    }
}
