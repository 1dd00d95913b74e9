//! Free ports of this machine.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};

/// A port of 127.0.0.1 that nobody else is given as long as this value lives.
#[derive(Debug)]
pub(super) struct FreePort {
    number: u16,
    /// Bound and not listening: whoever connects is refused.
    _socket: OwnedFd,
}

impl FreePort {
    /// One that the system chooses.
    ///
    /// # Errors
    /// There is none left.
    pub(super) fn find() -> io::Result<Self> {
        let socket = socket()?;
        bind(&socket, &loopback(0))?;
        let address = SocketAddr::try_from(getsockname(&socket)?)?;
        Ok(Self { number: address.port(), _socket: socket })
    }

    /// Its number.
    pub(super) fn number(&self) -> u16 {
        self.number
    }
}

/// Whether somebody listens at a port.
pub(super) fn is_taken(number: u16) -> bool {
    // With this option, connections of earlier that are still closing do not count.
    let bound = socket().and_then(|socket| {
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &loopback(number))
    });
    bound == Err(Errno::ADDRINUSE)
}

fn socket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

fn loopback(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_free_port_can_be_listened_at_once_it_is_given_up() {
        let (first, second) = (FreePort::find().unwrap(), FreePort::find().unwrap());
        assert_ne!(first.number(), second.number());
        let number = first.number();
        drop(first);
        assert!(!is_taken(number));
        let _listener = TcpListener::bind(loopback(number)).unwrap();
        assert!(is_taken(number));
    }
}
