//! Connections that the kernel tracks (ctnetlink): our marks taken off them.
//!
//! The numbers are those of linux/netfilter/nfnetlink_conntrack.h.

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::Socket;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use tartan_host::policy::{Epoch, MARK_MASK};

use crate::nft::netfilter_socket;
use crate::nft::wire::{self, Attributes};
use crate::rtnl::{self, DATAGRAM, Message, Messages, outcome};
use crate::{KernelError, Refused};

/// NFNL_SUBSYS_CTNETLINK.
const CONNECTIONS: u16 = 1 << 8;
/// IPCTNL_MSG_CT_NEW, IPCTNL_MSG_CT_GET.
const NEW: u16 = CONNECTIONS;
const GET: u16 = CONNECTIONS | 1;
const TUPLE: u16 = 1;
const MARK: u16 = 8;
const ZONE: u16 = 18;
const MASK: u16 = 21;
/// The bit that tells the halves of the epochs apart.
const UPPER: u32 = 1 << 30;
/// Changes in one send: the refusals must fit the receive buffer.
const TOGETHER: usize = 1000;
const RECEIVE: usize = 8 << 20;
/// A dump that the kernel says was torn is taken anew, up to this often.
const DUMPS: usize = 20;

/// Which of our marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    All,
    /// Those of the half that this epoch is in.
    HalfOf(Epoch),
}

impl Marks {
    fn contain(self, mark: u32) -> bool {
        let is_ours = mark & MARK_MASK != 0;
        match self {
            Marks::All => is_ours,
            Marks::HalfOf(epoch) => is_ours && (mark & UPPER != 0) == epoch.is_upper(),
        }
    }
}

/// A connection that bears a mark: its family, and by what it is told from others.
struct Marked {
    family: u8,
    name: Attributes,
}

/// The connections of the network namespace that it was opened in.
#[derive(Debug)]
pub(crate) struct Connections {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Connections {
    /// # Errors
    /// When the kernel has no netfilter netlink.
    pub(crate) fn open() -> Result<Connections, KernelError> {
        let socket = netfilter_socket().map_err(KernelError::Socket)?;
        let failed = |errno: nix::errno::Errno| KernelError::Socket(errno.into());
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE).map_err(failed)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(10)).map_err(failed)?;
        Ok(Connections { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Takes marks off all connections that bear them, and says of how many. A connection that gets another one
    /// meanwhile may lose that too: its next packet is judged.
    ///
    /// # Errors
    /// When the kernel does not tell of connections, or does not let them be changed.
    pub(crate) fn unmark(&mut self, marks: Marks) -> Result<usize, KernelError> {
        let marked = self.marked(marks)?;
        for some in marked.chunks(TOGETHER) {
            self.change(some)?;
        }
        Ok(marked.len())
    }

    fn marked(&mut self, marks: Marks) -> Result<Vec<Marked>, KernelError> {
        for _ in 0..DUMPS {
            if let Some(found) = self.try_dump(marks)? {
                return Ok(found);
            }
        }
        Err(KernelError::Restless)
    }

    /// None if the dump was torn.
    fn try_dump(&mut self, marks: Marks) -> Result<Option<Vec<Marked>>, KernelError> {
        let filter = match marks {
            Marks::HalfOf(epoch) if epoch.is_upper() => {
                Attributes::default().number(MARK, UPPER).number(MASK, UPPER)
            }
            _ => Attributes::default(),
        };
        let mut bytes = Vec::new();
        self.append(&mut bytes, GET, NLM_F_DUMP, 0, &filter);
        self.socket.send(&bytes, 0).map_err(KernelError::Talk)?;
        let (mut found, mut torn) = (Vec::new(), false);
        loop {
            rtnl::receive(&self.socket, &mut self.buffer, 0).map_err(KernelError::Talk)?;
            for message in Messages(&self.buffer).filter(|message| message.sequence == self.sequence) {
                torn |= message.flags & NLM_F_DUMP_INTR != 0;
                if matches!(message.kind, NLMSG_DONE | NLMSG_ERROR) {
                    outcome(&message).map_err(|source| refused("dump", source))?;
                    return Ok((!torn).then_some(found));
                }
                found.extend(marked(&message, marks));
            }
        }
    }

    fn change(&mut self, connections: &[Marked]) -> Result<(), KernelError> {
        let mut bytes = Vec::new();
        let first = self.sequence.wrapping_add(1);
        for (position, connection) in connections.iter().enumerate() {
            let flags = if position + 1 == connections.len() { NLM_F_ACK } else { 0 };
            let attributes = connection.name.clone().number(MARK, 0).number(MASK, MARK_MASK);
            self.append(&mut bytes, NEW, flags, connection.family, &attributes);
        }
        self.socket.send(&bytes, 0).map_err(KernelError::Talk)?;
        loop {
            rtnl::receive(&self.socket, &mut self.buffer, 0).map_err(KernelError::Talk)?;
            for message in Messages(&self.buffer).filter(|message| message.kind == NLMSG_ERROR) {
                let position = message.sequence.wrapping_sub(first) as usize;
                if position >= connections.len() {
                    continue;
                }
                match outcome(&message) {
                    // It came to its end meanwhile.
                    Err(source) if source.errno != libc::ENOENT => return Err(refused("change", source)),
                    _ => {}
                }
                if position + 1 == connections.len() {
                    return Ok(());
                }
            }
        }
    }

    fn append(&mut self, bytes: &mut Vec<u8>, kind: u16, flags: u16, family: u8, attributes: &Attributes) {
        self.sequence = self.sequence.wrapping_add(1);
        wire::message(bytes, kind, flags | NLM_F_REQUEST, self.sequence, family, 0, attributes);
    }
}

fn refused(action: &'static str, source: Refused) -> KernelError {
    KernelError::Refused { action, object: "tracked connections".into(), source }
}

/// The connection of a message, if it bears one of these marks.
fn marked(message: &Message<'_>, marks: Marks) -> Option<Marked> {
    let body = message.payload.get(4..)?;
    let mark = wire::find(body, MARK).and_then(wire::short)?;
    let tuple = wire::find(body, TUPLE).filter(|_| marks.contain(mark))?;
    let name = Attributes::default().nested_bytes(TUPLE, tuple);
    let zone = wire::find(body, ZONE);
    let name = zone.into_iter().fold(name, |name, zone| name.bytes(ZONE, zone));
    Some(Marked { family: message.byte(0), name })
}
