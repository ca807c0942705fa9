//! The nouns of Tartan. Each is parsed once, at the edge, and cannot be built wrong after that.
//!
//! Nothing here does I/O, and nothing here decides anything.

mod address;
mod name;
mod node;
mod pool;
mod uplink;
mod verdict;

pub use address::{AddressError, Cidr, Family, InterfaceAddress, Mac, Mtu, Port, Vni};
pub use name::{
    ContainerId, IfName, ListName, Name, NameError, NetworkName, NodeId, NodeName, PodName, PolicyName,
    ServiceAccountName,
};
pub use node::{Attachment, AttachmentKey, Endpoint, NetnsPlace, Node, NotServed, Path};
pub use pool::{MAX_RESERVATIONS, MIN_BLOCK_ADDRESSES, MIN_POOL_ADDRESSES, Pool, PoolError, Reservation};
pub use uplink::{ChoiceError, IfPattern, NoUplink, PatternError, Uplink, UplinkChoice};
pub use verdict::{Direction, Verdict};
