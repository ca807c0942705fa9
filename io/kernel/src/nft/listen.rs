//! What the kernel tells of changes to our tables (NFNLGRP_NFTABLES).

use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::Socket;
use nix::sys::socket::{setsockopt, sockopt};
use tartan_host::nftables::TableFamily;
use tartan_host::{Notice, Row};

use super::{elements, kind, policy, socket};
use crate::KernelError;
use crate::rtnl::{self, DATAGRAM, Messages};

/// NFNLGRP_NFTABLES.
const GROUP: u32 = 7;
/// Room for notices that nobody has taken yet.
const QUEUE: usize = 4 << 20;

/// The socket that notices come by; it never blocks.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    buffer: Vec<u8>,
}

/// What was told.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Changes of elements.
    pub(crate) rows: Vec<Notice>,
    /// Somebody else changed tables, chains, rules or sets of ours, or something was lost.
    pub(crate) stale: bool,
    /// The same of the table of policies, and of its elements.
    pub(crate) policy_stale: bool,
    /// So did others with tables of their own.
    pub(crate) foreign: bool,
}

/// The addresses that our own changes bear: what they did is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) ruleset: u32,
    pub(crate) policy: u32,
}

impl Listener {
    pub(crate) fn open() -> Result<Listener, KernelError> {
        let socket = socket::socket().map_err(KernelError::Socket)?;
        setsockopt(&socket, sockopt::RcvBufForce, &QUEUE).map_err(|e| KernelError::Socket(e.into()))?;
        socket.add_membership(GROUP).map_err(KernelError::Socket)?;
        Ok(Listener { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Everything that has come; what these ports did to tables, chains, rules and sets is known.
    pub(crate) fn drain(&mut self, ports: Ports) -> Heard {
        let mut heard = Heard::default();
        loop {
            match rtnl::receive(&self.socket, &mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(()) => Messages(&self.buffer).for_each(|message| hear(&message, ports, &mut heard)),
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return heard,
                Err(error) => {
                    (heard.stale, heard.policy_stale, heard.foreign) = (true, true, true);
                    // Any other error would come again, so it must not be waited out here.
                    if !matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EMSGSIZE)) {
                        return heard;
                    }
                }
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn hear(message: &rtnl::Message<'_>, ports: Ports, heard: &mut Heard) {
    heard.foreign |= socket::is_foreign(message);
    let (Some((kind, family)), Some(body)) = (socket::head(message), socket::body(message)) else { return };
    if kind != kind::NEWGEN && family == TableFamily::Inet && policy::is_ours(body) {
        heard.policy_stale |= message.port() != ports.policy;
    }
    if kind == kind::NEWGEN || !elements::is_ours(body) {
        return;
    }
    if !matches!(kind, kind::NEWSETELEM | kind::DELSETELEM) {
        heard.stale |= message.port() != ports.ruleset;
        return;
    }
    let Some((set, list)) = elements::listed(body) else { return };
    let rows = list.filter_map(|bytes| elements::element(family, set, bytes)).map(Row::Element);
    heard.rows.extend(rows.map(|row| match kind {
        kind::NEWSETELEM => Notice::Is(row),
        _ => Notice::Gone(row.key()),
    }));
}
