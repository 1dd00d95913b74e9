//! A TCP proxy whose traffic can be cut, held up, and robbed of its answers.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// A proxy before one address, gone with this.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    traffic: watch::Sender<Traffic>,
    runtime: Option<Runtime>,
}

/// What becomes of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// They pass.
    Passes,
    /// Connections are closed, and new ones as soon as they are made.
    Cut,
    /// Each piece comes so much later.
    Delayed(Duration),
    /// Connections stay open and nothing passes, either way, until this changes.
    HalfOpen,
    /// Requests pass and answers are lost; with this, their connections end.
    Unanswered,
}

impl Proxy {
    /// A proxy before an address, through which all passes at first.
    ///
    /// # Panics
    /// There are no threads or ports to be had.
    pub fn before(target: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a thread can be started");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        listener.set_nonblocking(true).expect("it is bound");
        let entered = runtime.enter();
        let listener = TcpListener::from_std(listener).expect("it is bound");
        drop(entered);
        let address = listener.local_addr().expect("it is bound");
        let traffic = watch::Sender::new(Traffic::Passes);
        runtime.spawn(accept(listener, target.to_owned(), traffic.subscribe()));
        Self { address, traffic, runtime: Some(runtime) }
    }

    /// Where it listens, `host:port`.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Changes what becomes of the bytes from now on.
    pub fn set(&self, traffic: Traffic) {
        self.traffic.send_replace(traffic);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, target: String, traffic: watch::Receiver<Traffic>) {
    loop {
        // A client that is gone before it was let in is none.
        let Ok((client, _)) = listener.accept().await else { continue };
        tokio::spawn(connect(client, target.clone(), traffic.clone()));
    }
}

/// One connection, until either side closes it or the traffic is cut.
async fn connect(client: TcpStream, target: String, mut traffic: watch::Receiver<Traffic>) {
    if *traffic.borrow() == Traffic::Cut {
        return;
    }
    let passes = |now: &Traffic| *now != Traffic::HalfOpen;
    if traffic.wait_for(passes).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(&target).await else { return };
    // Small pieces are requests that somebody waits for.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let cut = async {
        let _ = traffic.clone().wait_for(|now| *now == Traffic::Cut).await;
    };
    tokio::select! {
        () = pump(from_client, to_server, false, traffic.clone()) => {}
        () = pump(from_server, to_client, true, traffic.clone()) => {}
        () = cut => {}
    }
}

/// Passes bytes on in one direction until it ends.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    answers: bool,
    mut traffic: watch::Receiver<Traffic>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(read) = from.read(&mut buffer).await else { return };
        if read == 0 {
            return;
        }
        let now = *traffic.borrow_and_update();
        match now {
            Traffic::Cut => return,
            Traffic::Unanswered if answers => {
                // What was taken out of a stream cannot be put back: it ends with the loss.
                let _ = traffic.wait_for(|now| *now != Traffic::Unanswered).await;
                return;
            }
            Traffic::HalfOpen => {
                if traffic.wait_for(|now| *now != Traffic::HalfOpen).await.is_err() {
                    return;
                }
            }
            Traffic::Delayed(time) => tokio::time::sleep(time).await,
            Traffic::Passes | Traffic::Unanswered => {}
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
