//! Ports to listen at, now and later.

use std::net::{TcpListener, UdpSocket};

/// A port of this machine that no other test takes while this lives, also while nobody listens
/// there.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// The port of the same number for datagrams, which nobody needs: who holds it has both.
    _claim: UdpSocket,
}

impl Port {
    /// One at which nobody listens.
    ///
    /// # Panics
    /// There is none.
    pub fn free() -> Self {
        let claim = |_| {
            // Below those of outgoing connections, which would take it while nobody listens.
            let number = fastrand::u16(15_000..32_000);
            let claim = UdpSocket::bind(("127.0.0.1", number)).ok()?;
            TcpListener::bind(("127.0.0.1", number)).ok()?;
            Some(Self { number, _claim: claim })
        };
        (0..10_000).find_map(claim).expect("there is a free port")
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
