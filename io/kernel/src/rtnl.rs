//! The rtnetlink socket (rtnetlink(7)): requests in batches, dumps, and the bytes of messages.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
    ParseableParametrized, parse_string,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use thiserror::Error;

use crate::{KernelError, netns};

/// Requests in one send: the answers to them must fit the receive buffer.
const BATCH: usize = 64;
/// Bytes in one send.
const BATCH_BYTES: usize = 32 << 10;
/// A datagram of a dump or a notice is at most 32 KiB (`netlink_recvmsg`).
pub(crate) const DATAGRAM: usize = 64 << 10;
/// Room for the answers to a batch: a link is about 4 KiB with its overhead.
const ANSWERS: usize = 2 << 20;
/// A dump that the kernel says was torn is taken anew, up to this often.
const DUMPS: usize = 20;

/// A connection to rtnetlink. It stays in the network namespace that it was opened in.
#[derive(Debug)]
pub struct Rtnl {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One request, to be acknowledged.
#[derive(Debug, Clone)]
pub struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
}

impl Request {
    /// A request with flags beside NLM_F_REQUEST and NLM_F_ACK, which are added.
    pub fn new(message: RouteNetlinkMessage, flags: u16) -> Request {
        Request { message, flags }
    }
}

/// Why the kernel refused a request.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text} (errno {errno})")]
pub struct Refused {
    /// The error number (errno(3)), positive.
    pub errno: i32,
    /// The extended acknowledgement, or the error number's own text.
    pub text: String,
}

impl Refused {
    pub(crate) fn from_errno(errno: i32) -> Refused {
        Refused { errno, text: Errno::from_raw(errno).desc().into() }
    }

    pub(crate) fn from_io(error: &io::Error) -> Refused {
        Refused::from_errno(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// One message as the kernel sent it.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The message type, RTM_ or NLMSG_.
    pub kind: u16,
    /// NLM_F_ flags.
    pub flags: u16,
    pub(crate) sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
    /// Header and payload.
    whole: &'a [u8],
}

impl Message<'_> {
    /// The message taken apart.
    ///
    /// # Errors
    /// When it is not what the library knows.
    pub fn parse(&self) -> Result<RouteNetlinkMessage, DecodeError> {
        RouteNetlinkMessage::parse_with_param(self.payload, self.kind)
    }

    /// A byte of the payload; 0 behind its end.
    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.payload.get(at).copied().unwrap_or(0)
    }

    /// Four bytes of the payload; 0 behind its end.
    pub(crate) fn word(&self, at: usize) -> u32 {
        word(self.payload, at).unwrap_or(0)
    }

    /// The address of the socket whose request this is a consequence of (`nlmsg_pid`).
    pub(crate) fn port(&self) -> u32 {
        word(self.whole, 12).unwrap_or(0)
    }

    /// `ifi_index` of a link message.
    pub(crate) fn link_index(&self) -> Option<u32> {
        word(self.payload, 4)
    }
}

/// All messages of a dump.
#[derive(Debug, Default)]
pub struct Dump(Vec<u8>);

impl Dump {
    /// The messages one by one.
    pub fn messages(&self) -> Messages<'_> {
        Messages(&self.0)
    }
}

/// The messages of a datagram one by one.
#[derive(Debug)]
pub struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = word(self.0, 0)? as usize;
        let kinds = word(self.0, 4)?;
        let sequence = word(self.0, 8)?;
        let whole = self.0.get(..length)?;
        let payload = whole.get(16..)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind: kinds as u16, flags: (kinds >> 16) as u16, sequence, payload, whole })
    }
}

impl Rtnl {
    /// Opens a connection to the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel has no rtnetlink.
    pub fn open() -> Result<Rtnl, KernelError> {
        let socket = socket().map_err(KernelError::Socket)?;
        setsockopt(&socket, sockopt::RcvBufForce, &ANSWERS).map_err(|e| KernelError::Socket(e.into()))?;
        // The kernel answers within the send; if an answer is lost for want of memory, this is how we notice.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(10))
            .map_err(|e| KernelError::Socket(e.into()))?;
        Ok(Rtnl { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Opens a connection to another network namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or its kernel has no rtnetlink.
    pub fn open_in(netns: BorrowedFd<'_>) -> Result<Rtnl, KernelError> {
        netns::run_in(netns, Rtnl::open)?
    }

    /// Sends requests, many in one system call, in order; one that fails does not stop those behind it. Gives an answer for each.
    pub fn request(&mut self, requests: Vec<Request>) -> Vec<Result<(), Refused>> {
        self.exchange(requests, |_, _| ())
    }

    /// As [`Rtnl::request`]; also hands over what the kernel replied beside the acknowledgement, with the position of the request.
    pub fn exchange(
        &mut self,
        requests: Vec<Request>,
        mut reply: impl FnMut(usize, Message<'_>),
    ) -> Vec<Result<(), Refused>> {
        let mut results = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let first = self.sequence.wrapping_add(1);
            let mut bytes = Vec::new();
            let mut count = 0;
            while count < BATCH && bytes.len() < BATCH_BYTES {
                let Some(request) = requests.next() else { break };
                self.append(&mut bytes, request);
                count += 1;
            }
            let done = results.len();
            let answers =
                self.batch(&bytes, first, count, |position, message| reply(done + position, message));
            results.extend(answers);
        }
        results
    }

    /// Asks for all objects of a kind, as the message describes them.
    ///
    /// # Errors
    /// When the kernel refuses, or its tables change too fast for a whole picture.
    pub fn dump(&mut self, message: &RouteNetlinkMessage) -> Result<Dump, KernelError> {
        for _ in 0..DUMPS {
            if let Some(dump) = self.try_dump(message.clone())? {
                return Ok(dump);
            }
        }
        Err(KernelError::Restless)
    }

    /// None if the tables changed while they were dumped.
    fn try_dump(&mut self, message: RouteNetlinkMessage) -> Result<Option<Dump>, KernelError> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, Request::new(message, NLM_F_DUMP));
        self.socket.send(&bytes, 0).map_err(KernelError::Talk)?;
        let mut dump = Vec::new();
        let mut torn = false;
        loop {
            self.receive().map_err(KernelError::Talk)?;
            // Of a dump that failed half way, more may come: that has another number.
            for message in Messages(&self.buffer).filter(|m| m.sequence == self.sequence) {
                torn |= message.flags & NLM_F_DUMP_INTR != 0;
                if matches!(message.kind, NLMSG_DONE | NLMSG_ERROR) {
                    return match outcome(&message) {
                        Ok(()) => Ok((!torn).then_some(Dump(dump))),
                        Err(source) => {
                            Err(KernelError::Refused { action: "dump", object: "table".into(), source })
                        }
                    };
                }
                dump.extend_from_slice(message.whole);
                dump.resize(dump.len().next_multiple_of(4), 0);
            }
        }
    }

    fn append(&mut self, bytes: &mut Vec<u8>, request: Request) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = request.flags | NLM_F_REQUEST | NLM_F_ACK;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request.message));
        message.finalize();
        let mut serialized = vec![0; message.buffer_len()];
        message.serialize(&mut serialized);
        serialized.resize(serialized.len().next_multiple_of(4), 0);
        bytes.append(&mut serialized);
    }

    fn batch(
        &mut self,
        bytes: &[u8],
        first: u32,
        count: usize,
        mut reply: impl FnMut(usize, Message<'_>),
    ) -> Vec<Result<(), Refused>> {
        if let Err(error) = self.socket.send(bytes, 0) {
            return vec![Err(Refused::from_io(&error)); count];
        }
        let mut answers = BTreeMap::new();
        while answers.len() < count {
            if let Err(error) = self.receive() {
                let missing = Err(Refused::from_io(&error));
                return (0..count).map(|n| answers.remove(&n).unwrap_or_else(|| missing.clone())).collect();
            }
            for message in Messages(&self.buffer) {
                let position = message.sequence.wrapping_sub(first) as usize;
                if position >= count {
                    continue;
                }
                if message.kind == NLMSG_ERROR {
                    answers.insert(position, outcome(&message));
                } else {
                    reply(position, message);
                }
            }
        }
        answers.into_values().collect()
    }

    fn receive(&mut self) -> io::Result<()> {
        receive(&self.socket, &mut self.buffer, 0)
    }
}

/// An rtnetlink socket that checks dumps strictly, so that the kernel filters them, and explains refusals.
pub(crate) fn socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    socket.set_netlink_get_strict_chk(true)?;
    Ok(socket)
}

/// Reads one datagram; one that does not fit is an error, as what it told is lost.
pub(crate) fn receive(socket: &Socket, buffer: &mut Vec<u8>, flags: i32) -> io::Result<()> {
    loop {
        buffer.clear();
        match socket.recv(buffer, flags | libc::MSG_TRUNC) {
            Ok(length) if length > buffer.len() => return Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl AsFd for Rtnl {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What an NLMSG_ERROR or NLMSG_DONE says: both begin with a negative error number or 0.
pub(crate) fn outcome(message: &Message<'_>) -> Result<(), Refused> {
    let errno = (message.word(0) as i32).wrapping_neg();
    if errno <= 0 {
        return Ok(());
    }
    let mut refused = Refused::from_errno(errno);
    if let Some(text) = explanation(message).filter(|text| !text.is_empty()) {
        refused.text = text;
    }
    Err(refused)
}

/// The extended acknowledgement's text (NLMSGERR_ATTR_MSG), which follows the request that it is about.
fn explanation(message: &Message<'_>) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    if message.flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let request = match message.kind {
        NLMSG_DONE => 0,
        _ if message.flags & NLM_F_CAPPED != 0 => 16,
        _ => (message.word(4) as usize).next_multiple_of(4),
    };
    let attributes = message.payload.get(4 + request..)?;
    NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|nla| nla.kind() == NLMSGERR_ATTR_MSG)
        .and_then(|nla| parse_string(nla.value()).ok())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_ne_bytes)
}
