//! The interface to the other nodes: what is known of it, and how people name it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

use crate::name::shorten;
use crate::{AddressError, Cidr, IfName, InterfaceAddress, Mtu};

/// The interface that carries traffic between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: IfName,
    /// Its MTU in bytes.
    pub mtu: Mtu,
    /// The node's addresses on it, the best one of each family.
    pub addresses: Vec<InterfaceAddress>,
    /// What the other nodes shall use instead, at most one a family.
    pub public_addresses: Vec<IpAddr>,
    /// It takes default routes for IPv6 from router advertisements (RFC 4861), or did before this node forwarded.
    pub accepts_routers: bool,
    /// It drops IPv4 packets whose answers would leave by another link (ip-sysctl: rp_filter), or did before us.
    pub is_strict: bool,
}

/// How the uplink is chosen. A link with a name of ours is never it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UplinkChoice {
    /// The link of the default route with the lowest metric, of IPv4 if there is one, else of IPv6.
    DefaultRoute,
    /// The link of this name.
    Named(IfName),
    /// The first link with an address whose name fits: the shortest name, of equally long ones the first by letters.
    Like(IfPattern),
    /// The first such link that has an address in this range; that address is taken for its family.
    Holding(Cidr),
    /// The link by which the kernel would send to this address.
    Reaching(IpAddr),
}

/// Why no link is as chosen.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoUplink {
    /// Nothing was looked at yet.
    #[error("the node's interfaces were not looked at yet")]
    Unseen,
    /// No default route by a link that could be it.
    #[error(
        "no default route leaves by an interface that is up; set one, or name the interface: interface = …"
    )]
    DefaultRoute,
    /// No link of the name.
    #[error("there is no interface {0}; bring it up or name another one: interface = …")]
    Absent(IfName),
    /// The link is down.
    #[error("interface {0} is down; set it up or name another one: interface = …")]
    Down(IfName),
    /// The name is one of our own.
    #[error("interface {0} bears a name of tartan's own interfaces; name another one: interface = …")]
    Ours(IfName),
    /// The link has no address.
    #[error(
        "interface {0} has no address that others could send to; give it one or name another: interface = …"
    )]
    NoAddress(IfName),
    /// The link has not the address that the configuration names.
    #[error("interface {link} has not the address {address}; give it that address or change it: address = …")]
    OtherAddress {
        /// The link.
        link: IfName,
        /// The address.
        address: IpAddr,
    },
    /// No link whose name fits.
    #[error(
        "no interface that is up and has an address is named like {0}; change the pattern: interface = …"
    )]
    Unlike(IfPattern),
    /// No link with an address in the range.
    #[error("no interface that is up has an address in {0}; change the range: interface = …")]
    NotIn(Cidr),
    /// No way to the address.
    #[error("no interface leads to {0}: the kernel has no route to it; change it: interface = can-reach=…")]
    Unreachable(IpAddr),
    /// The address is this node's.
    #[error(
        "{0} is this node's own address, so no interface leads to it; change it: interface = can-reach=…"
    )]
    Own(IpAddr),
}

/// A pattern of interface names as the shell has them (glob(7)): `*`, `?`, `[abc]`, `[a-c]`, `[!abc]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IfPattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Any,
    One,
    Of { these: bool, ranges: Vec<(u8, u8)> },
    Just(u8),
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatternError {
    /// It is longer than any pattern of 15 bytes needs.
    #[error("the pattern {0}… is longer than 64 bytes")]
    Long(String),
    /// A set is not closed, or empty.
    #[error("the pattern {0} has a [ without its ]; write it as in en[op]*")]
    Open(String),
    /// A byte that no name has.
    #[error("the pattern {0} has a character that no interface's name has")]
    Character(String),
}

/// Why a text does not name an uplink.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChoiceError {
    /// No name.
    #[error(transparent)]
    Name(#[from] crate::NameError),
    /// No pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// No range.
    #[error(transparent)]
    Range(#[from] AddressError),
    /// No address.
    #[error("{0} is no address; write it as in can-reach=192.0.2.1")]
    Address(String),
}

impl IfPattern {
    const MAX: usize = 64;

    /// Whether a name is as the pattern says.
    pub fn fits(&self, name: &IfName) -> bool {
        fits(&self.parts, name.as_str().as_bytes())
    }

    /// Whether a text could only be a pattern.
    fn is_one(text: &str) -> bool {
        text.contains(['*', '?', '['])
    }
}

/// Goes back to the last `*` only: what an earlier one could take, that one can, too.
fn fits(parts: &[Part], name: &[u8]) -> bool {
    let (mut at, mut byte) = (0, 0);
    let mut again = None;
    while byte < name.len() {
        match (parts.get(at), name.get(byte)) {
            (Some(Part::Any), _) => {
                again = Some((at, byte));
                at += 1;
            }
            (Some(part), Some(found)) if part.is(*found) => (at, byte) = (at + 1, byte + 1),
            _ => {
                let Some((star, from)) = again else { return false };
                again = Some((star, from + 1));
                (at, byte) = (star + 1, from + 1);
            }
        }
    }
    parts.iter().skip(at).all(|part| *part == Part::Any)
}

impl Part {
    fn is(&self, byte: u8) -> bool {
        match self {
            Part::Any | Part::One => true,
            Part::Just(wanted) => *wanted == byte,
            Part::Of { these, ranges } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&byte)) == *these
            }
        }
    }
}

impl FromStr for IfPattern {
    type Err = PatternError;
    fn from_str(text: &str) -> Result<Self, PatternError> {
        let shown = || shorten(text).escape_debug().to_string();
        if text.len() > Self::MAX {
            return Err(PatternError::Long(shown()));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/') {
            return Err(PatternError::Character(shown()));
        }
        let mut bytes = text.bytes();
        let mut parts = Vec::new();
        while let Some(byte) = bytes.next() {
            parts.push(match byte {
                b'*' => Part::Any,
                b'?' => Part::One,
                b'[' => set(&mut bytes).ok_or_else(|| PatternError::Open(shown()))?,
                other => Part::Just(other),
            });
        }
        Ok(IfPattern { text: text.into(), parts })
    }
}

/// What stands between `[` and `]`; a `]` right behind the `[` is one of them.
fn set(bytes: &mut std::str::Bytes<'_>) -> Option<Part> {
    let mut inside = Vec::new();
    loop {
        match bytes.next()? {
            b']' if !inside.is_empty() && inside != *b"!" => break,
            byte => inside.push(byte),
        }
    }
    let (these, inside) = match inside.split_first() {
        Some((b'!', rest)) => (false, rest),
        _ => (true, inside.as_slice()),
    };
    let mut ranges = Vec::new();
    let mut rest = inside;
    while let Some((first, behind)) = rest.split_first() {
        (ranges, rest) = match behind {
            [b'-', last, behind @ ..] => ([ranges, vec![(*first, *last)]].concat(), behind),
            _ => ([ranges, vec![(*first, *first)]].concat(), behind),
        };
    }
    Some(Part::Of { these, ranges })
}

impl fmt::Display for IfPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl FromStr for UplinkChoice {
    type Err = ChoiceError;
    fn from_str(text: &str) -> Result<Self, ChoiceError> {
        if let Some(address) = text.strip_prefix("can-reach=") {
            let wrong = |_| ChoiceError::Address(shorten(address).escape_debug().to_string());
            return address.parse().map(UplinkChoice::Reaching).map_err(wrong);
        }
        Ok(if text.contains('/') {
            UplinkChoice::Holding(text.parse()?)
        } else if IfPattern::is_one(text) {
            UplinkChoice::Like(text.parse()?)
        } else {
            UplinkChoice::Named(text.parse()?)
        })
    }
}
