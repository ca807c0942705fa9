//! What policies refused: the kernel's packet log (nfnetlink_log), where the table of policies puts it.
//!
//! The numbers are those of linux/netfilter/nfnetlink_log.h.

mod parse;

use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR};
use netlink_sys::Socket;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use tartan_host::Denial;

use crate::nft::wire::{self, Attributes};
use crate::nft::{LOG_GROUP, netfilter_socket};
use crate::rtnl::{self, DATAGRAM, Messages, outcome};
use crate::{KernelError, Refused, netns};

/// NFNL_SUBSYS_ULOG.
const LOG: u16 = 4 << 8;
/// NFULNL_MSG_PACKET, NFULNL_MSG_CONFIG.
const PACKET: u16 = LOG;
const CONFIG: u16 = LOG | 1;
/// Bytes of each packet: an IPv6 header with some extensions, and what tells the ports.
const COPIED: u32 = 128;
/// How long the kernel gathers, in hundredths of a second, and how many packets at most.
const GATHERED_FOR: u32 = 5;
const TOGETHER: u32 = 16;
/// Room for what nobody has taken yet: more than the kernel logs at once. It doubles it, for what it needs itself.
const QUEUE: usize = 128 << 10;
/// Datagrams that are taken in one go.
const AT_ONCE: usize = 64;

/// What policies refused in one network namespace, as the kernel logs it: not more than 100 packets a second in each
/// direction, after the first 100. Never waits.
#[derive(Debug)]
pub struct DenialLog {
    socket: Socket,
    buffer: Vec<u8>,
    lost: u64,
}

impl DenialLog {
    /// Listens in the calling thread's network namespace. Only one can listen there at a time.
    ///
    /// # Errors
    /// When the kernel has no packet log, when somebody else listens, or without CAP_NET_ADMIN.
    pub fn open() -> Result<DenialLog, KernelError> {
        let socket = netfilter_socket().map_err(KernelError::Socket)?;
        let failed = |errno: nix::errno::Errno| KernelError::Socket(errno.into());
        setsockopt(&socket, sockopt::RcvBufForce, &QUEUE).map_err(failed)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(10)).map_err(failed)?;
        let mut log = DenialLog { socket, buffer: Vec::with_capacity(DATAGRAM), lost: 0 };
        log.bind_group()?;
        Ok(log)
    }

    /// Listens in another network namespace, for use by any thread.
    ///
    /// # Errors
    /// As [`DenialLog::open`], and when the namespace cannot be entered.
    pub fn open_in(netns: BorrowedFd<'_>) -> Result<DenialLog, KernelError> {
        netns::run_in(netns, DenialLog::open)?
    }

    /// Hands over what came since the last call. What is more than a few hundred packets stays for the next: the
    /// descriptor goes on to tell of it.
    pub fn drain(&mut self, mut take: impl FnMut(Denial)) {
        for _ in 0..AT_ONCE {
            match rtnl::receive(&self.socket, &mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(()) => Messages(&self.buffer)
                    .filter(|message| message.kind == PACKET)
                    .filter_map(|message| parse::denial(message.payload))
                    .for_each(&mut take),
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return,
                // The kernel says once that it had no room, and goes on.
                Err(_) => self.lost = self.lost.saturating_add(1),
            }
        }
    }

    /// How often the kernel had no room for what it logged.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Binds the socket to the group, and says what is wanted of each packet.
    fn bind_group(&mut self) -> Result<(), KernelError> {
        const BIND: &[u8] = &[1];
        /// NFULNL_COPY_PACKET.
        const COPY_PACKET: u8 = 2;
        let mut mode = COPIED.to_be_bytes().to_vec();
        mode.extend([COPY_PACKET, 0]);
        let attributes =
            Attributes::default().bytes(1, BIND).bytes(2, &mode).number(4, GATHERED_FOR).number(5, TOGETHER);
        let mut bytes = Vec::new();
        wire::message(&mut bytes, CONFIG, NLM_F_REQUEST | NLM_F_ACK, 1, 0, LOG_GROUP, &attributes);
        self.socket.send(&bytes, 0).map_err(KernelError::Talk)?;
        loop {
            rtnl::receive(&self.socket, &mut self.buffer, 0).map_err(KernelError::Talk)?;
            // Packets may come before the answer.
            if let Some(answer) = Messages(&self.buffer).find(|message| message.kind == NLMSG_ERROR) {
                return outcome(&answer).map_err(refused);
            }
        }
    }
}

impl AsFd for DenialLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn refused(source: Refused) -> KernelError {
    KernelError::Refused { action: "bind", object: format!("packet log {LOG_GROUP}"), source }
}
