//! Descriptors as the kernel hands them over in a message: plain numbers that nobody owns yet.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// As many descriptors as the kernel puts into one message (`SCM_MAX_FD`, include/net/scm.h): with room for all of
/// them none is cut off, and each is owned and so closed.
const MAX_DESCRIPTORS: usize = 253;

/// Reads once; adds what descriptors came along to `descriptors`, which close on exec. 0 bytes mean the end.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> Result<usize, Errno> {
    let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    // The kernel had no number left for the descriptor (net/core/scm.c, scm_detach_fds); our clients send only one.
    if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(Errno::EMFILE);
    }
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            // SAFETY: the kernel made these descriptors for this message just now; nobody else knows their numbers.
            descriptors.extend(received.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
        }
    }
    Ok(message.bytes)
}
