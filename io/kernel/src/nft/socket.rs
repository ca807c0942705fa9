//! The socket: a batch is one transaction, taken whole or not at all.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use tartan_host::nftables::TableFamily;

use super::wire::{self, Attributes};
use super::{elements, kind, policy};
use crate::rtnl::{self, DATAGRAM, Message, Messages, outcome};
use crate::{KernelError, Refused};

/// The subsystem (NFNL_SUBSYS_NFTABLES).
const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// Room for a batch: 10,000 elements are about 1 MB.
const SEND: usize = 64 << 20;
/// Room for the answers to a batch: the refusals of about 20,000 messages.
const RECEIVE: usize = 8 << 20;
/// A dump that the kernel says was torn is taken anew, up to this often.
const DUMPS: usize = 20;

/// A connection to nf_tables. It stays in the network namespace that it was opened in, and tables that it owns are
/// nobody's once it is closed.
#[derive(Debug)]
pub struct Nftables {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Changes that are made all together, or not at all.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    messages: Vec<(u8, TableFamily, u16, Attributes)>,
}

impl Batch {
    /// Adds a message; gives its position.
    pub(super) fn push(
        &mut self,
        kind: u8,
        family: TableFamily,
        flags: u16,
        attributes: Attributes,
    ) -> usize {
        self.messages.push((kind, family, flags, attributes));
        self.messages.len() - 1
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

impl Nftables {
    /// Opens a connection to the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel has no netfilter netlink.
    pub fn open() -> Result<Nftables, KernelError> {
        let socket = socket().map_err(KernelError::Socket)?;
        let failed = |errno: nix::errno::Errno| KernelError::Socket(errno.into());
        setsockopt(&socket, sockopt::SndBufForce, &SEND).map_err(failed)?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE).map_err(failed)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(10)).map_err(failed)?;
        Ok(Nftables { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// The address of this socket, which notices of its own changes bear.
    pub(super) fn port(&self) -> u32 {
        let mut address = netlink_sys::SocketAddr::new(0, 0);
        self.socket.get_address(&mut address).map_or(0, |()| address.port_number())
    }

    /// Takes a batch.
    ///
    /// # Errors
    /// What the kernel refused, by the position of the message; nothing is changed then. Position `usize::MAX` is the
    /// whole batch.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), Vec<(usize, Refused)>> {
        if batch.is_empty() {
            return Ok(());
        }
        let whole = |error: &io::Error| vec![(usize::MAX, Refused::from_io(error))];
        let begin = self.sequence.wrapping_add(1);
        let bytes = self.write(batch);
        self.socket.send(&bytes, 0).map_err(|error| whole(&error))?;
        let mut refused = Vec::new();
        loop {
            rtnl::receive(&self.socket, &mut self.buffer, 0).map_err(|error| whole(&error))?;
            for message in Messages(&self.buffer).filter(|message| message.kind == NLMSG_ERROR) {
                // The beginning, the messages, the end. What is left of a batch that was given up has other numbers.
                let number = message.sequence.wrapping_sub(begin) as usize;
                if number > batch.messages.len() + 1 {
                    continue;
                }
                match (number.checked_sub(1), outcome(&message)) {
                    // Nothing of the batch was looked at.
                    (None, Err(reason)) => return Err(vec![(usize::MAX, reason)]),
                    (Some(position), Err(reason)) => refused.push((position, reason)),
                    (_, Ok(())) => {}
                }
                if number == batch.messages.len() {
                    return if refused.is_empty() { Ok(()) } else { Err(refused) };
                }
            }
        }
    }

    /// Begin, the messages, end. The last message is acknowledged; of the others only refusals are told.
    fn write(&mut self, batch: &Batch) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, BATCH_BEGIN, 0, 0, NFTABLES, &Attributes::default());
        for (position, (kind, family, flags, attributes)) in batch.messages.iter().enumerate() {
            let last = position + 1 == batch.messages.len();
            let flags = flags | if last { NLM_F_ACK } else { 0 };
            self.append(&mut bytes, subsystem(*kind), flags, number(*family), 0, attributes);
        }
        self.append(&mut bytes, BATCH_END, 0, 0, NFTABLES, &Attributes::default());
        bytes
    }

    /// Hands over everything of a kind, in whole; a table that is not there has nothing.
    ///
    /// # Errors
    /// When the kernel refuses, or changes too fast for a whole picture.
    pub(super) fn dump<T>(
        &mut self,
        kind: u8,
        family: TableFamily,
        attributes: &Attributes,
        read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, KernelError> {
        self.dump_number(kind, number(family), attributes, usize::MAX, read)
    }

    /// The same for any family, by its number. What comes behind one more than `most` is not looked at.
    ///
    /// # Errors
    /// As [`Nftables::dump`].
    pub(super) fn dump_number<T>(
        &mut self,
        kind: u8,
        family: u8,
        attributes: &Attributes,
        most: usize,
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, KernelError> {
        for _ in 0..DUMPS {
            if let Some(found) = self.try_dump(kind, family, attributes, most, &mut read)? {
                return Ok(found);
            }
        }
        Err(KernelError::Restless)
    }

    /// The names of a family's tables, whosever they are.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn tables(&mut self, family: TableFamily) -> Result<Vec<String>, KernelError> {
        const NAME: u16 = 1;
        self.dump(kind::GETTABLE, family, &Attributes::default(), |body| {
            let name = wire::find(body, NAME)?;
            Some(String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned())
        })
    }

    fn try_dump<T>(
        &mut self,
        kind: u8,
        family: u8,
        attributes: &Attributes,
        most: usize,
        read: &mut impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<Vec<T>>, KernelError> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, subsystem(kind), NLM_F_DUMP, family, 0, attributes);
        self.socket.send(&bytes, 0).map_err(KernelError::Talk)?;
        let (mut found, mut torn) = (Vec::new(), false);
        loop {
            rtnl::receive(&self.socket, &mut self.buffer, 0).map_err(KernelError::Talk)?;
            for message in Messages(&self.buffer).filter(|message| message.sequence == self.sequence) {
                torn |= message.flags & NLM_F_DUMP_INTR != 0;
                if !matches!(message.kind, NLMSG_DONE | NLMSG_ERROR) {
                    // The kernel tells the rest in any case, and takes no other question before.
                    if found.len() <= most {
                        found.extend(body(&message).and_then(&mut *read));
                    }
                    continue;
                }
                return match outcome(&message) {
                    Err(source) if source.errno == libc::EINTR => Ok(None),
                    Err(source) if source.errno != libc::ENOENT => {
                        Err(KernelError::Refused { action: "dump", object: "nftables".into(), source })
                    }
                    _ => Ok((!torn).then_some(found)),
                };
            }
        }
    }

    fn append(
        &mut self,
        bytes: &mut Vec<u8>,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        attributes: &Attributes,
    ) {
        self.sequence = self.sequence.wrapping_add(1);
        wire::message(bytes, kind, flags | NLM_F_REQUEST, self.sequence, family, resource, attributes);
    }
}

/// A netfilter socket that explains refusals.
pub(crate) fn socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    Ok(socket)
}

/// A message's type and family, if it is one of nf_tables.
pub(super) fn head(message: &Message<'_>) -> Option<(u8, TableFamily)> {
    let family = TableFamily::ALL.into_iter().find(|family| number(*family) == message.byte(0));
    let [kind, subsystem] = message.kind.to_le_bytes();
    (u16::from(subsystem) == NFTABLES).then_some((kind, family?))
}

/// Whether a message tells of chains or rules that are not ours, of whatever family.
pub(super) fn is_foreign(message: &Message<'_>) -> bool {
    let [kind, subsystem] = message.kind.to_le_bytes();
    let tells = matches!(
        kind,
        kind::NEWTABLE | kind::DELTABLE | kind::NEWCHAIN | kind::DELCHAIN | kind::NEWRULE | kind::DELRULE
    );
    u16::from(subsystem) == NFTABLES
        && tells
        && !body(message).is_some_and(|body| elements::is_ours(body) || policy::is_ours(body))
}

/// What follows `struct nfgenmsg`.
pub(super) fn body<'a>(message: &Message<'a>) -> Option<&'a [u8]> {
    message.payload.get(4..)
}

const fn subsystem(kind: u8) -> u16 {
    NFTABLES << 8 | kind as u16
}

/// The family's number (NFPROTO_).
const fn number(family: TableFamily) -> u8 {
    match family {
        TableFamily::Inet => 1,
        TableFamily::Arp => 3,
        TableFamily::Bridge => 7,
    }
}
