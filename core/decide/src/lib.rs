//! The one decision: what this node knows ([`World`]), how it comes to know it ([`World::learn`]), what follows
//! from it ([`World::decide`]) and what that means for the kernel ([`lower`]).

mod attach;
mod check;
mod choice;
mod conflict;
mod decide;
mod denials;
mod explain;
mod fact;
mod judge;
mod lanes;
mod learn;
mod lower;
mod objects;
mod report;
mod way_out;
mod world;

pub use check::{Sides, differences};
pub use choice::{
    Announcement, Bridge, Choice, Claim, Decision, EndpointChoice, NetworkChoice, NodeChoice, Note,
    PeerChoice, Reach,
};
pub use conflict::{Conflict, MOST_POOLS};
pub use denials::{Denials, MOST_DENIALS, MOST_DENIALS_OF_ONE};
pub use explain::Unexplained;
pub use fact::{Attach, Fact, Learned, Record, Refused};
pub use lower::{GATEWAY_IPV4, GATEWAY_IPV6, gateway, inside, lower};
pub use objects::RemoteEndpoint;
pub use report::{Probed, added, worst};
pub use tartan_ipam::capacity;
pub use way_out::WayOut;
pub use world::{Attached, Phase, Scope, World};
