//! Who owns which block of a pool, and which address of a block is next.
//!
//! Nothing here keeps time or throws dice: the only luck is a seed that the caller hands in.

mod block;
mod choice;
mod ranges;

pub use block::{BlockAddresses, IpamError, MAX_RELEASED, Released, capacity, gateway, own_address};
pub use choice::{choose_block, reserved_block};
