//! The runner's end of a socket to a keeper or a zygote.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::ioctl_fionbio;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, sendmsg, shutdown};
use tokio::net::unix::pipe::{Receiver, Sender};

/// A socket of which only what can be read wakes the runner. Were it watched for room as well, it
/// would be woken each time that the other end has read something.
#[derive(Debug)]
pub(super) struct Channel(Receiver);

impl Channel {
    /// Watches a socket.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        ioctl_fionbio(&socket, true)?;
        Receiver::from_owned_fd_unchecked(socket).map(Self)
    }

    /// Waits until there may be something to read.
    ///
    /// # Errors
    /// The runtime ends.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Reads once: a packet where the socket has packets.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }

    /// Sends a packet, or bytes few enough to be sent whole, and with them descriptors, once there is
    /// room.
    ///
    /// # Errors
    /// What the system said.
    pub(super) async fn send(&self, bytes: &[u8], streams: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            match self.try_send(bytes, streams) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let socket = self.0.as_fd().try_clone_to_owned()?;
                    Sender::from_owned_fd_unchecked(socket)?.writable().await?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return sent,
            }
        }
    }

    /// The same, where there is room.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn try_send(&self, bytes: &[u8], streams: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !streams.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(streams));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, flags)?;
        Ok(())
    }

    /// Has both ends hear that there will be no more.
    pub(super) fn close(&self) {
        let _ = shutdown(&self.0, Shutdown::Both);
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether this is what the system says of a socket whose other end is gone.
pub(super) fn is_of_the_dead(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
