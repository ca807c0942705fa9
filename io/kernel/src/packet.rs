//! Frames of one interface as they are, for those who try what Tartan lets through (packet(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use tartan_model::IfName;

use crate::{KernelError, Rtnl, netns, sys};

/// The longest frame: a jumbo one.
const FRAME: usize = 9216;

/// A socket for all frames of one interface.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens a socket on an interface of another network namespace.
    ///
    /// # Errors
    /// When there is no such interface, or without CAP_NET_RAW.
    pub fn open_in(netns: BorrowedFd<'_>, interface: &IfName) -> Result<PacketSocket, KernelError> {
        let index = Rtnl::open_in(netns)?.index(interface)?;
        let opened = netns::run_in(netns, || {
            // Of protocol 0, so that nothing comes in before it is bound.
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            sys::bind_packet(socket.as_fd(), index)?;
            Ok(PacketSocket(socket))
        })?;
        opened.map_err(KernelError::Socket)
    }

    /// Sends a frame, its Ethernet header included.
    ///
    /// # Errors
    /// When the interface does not take it.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty()).map(drop).map_err(Into::into)
    }

    /// The next frame that comes in or goes out; None if none does within `patience`.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn receive(&self, patience: Duration) -> io::Result<Option<Vec<u8>>> {
        let patience = patience.max(Duration::from_micros(1));
        let timeout = TimeVal::new(patience.as_secs() as i64, patience.subsec_micros().into());
        setsockopt(&self.0, sockopt::ReceiveTimeout, &timeout)?;
        let mut frame = vec![0; FRAME];
        match recv(self.0.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            Ok(length) => {
                frame.truncate(length);
                Ok(Some(frame))
            }
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}
