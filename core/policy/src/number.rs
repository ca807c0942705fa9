//! Addresses as numbers, so that ranges of both families are cut by one rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tartan_model::Family;

pub(crate) fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The address of a number; one that is too large for its family is the last.
pub(crate) fn address_of(family: Family, number: u128) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        Family::Ipv6 => Ipv6Addr::from(number).into(),
    }
}

/// The number of a family's last address.
pub(crate) fn last_of(family: Family) -> u128 {
    match family {
        Family::Ipv4 => u32::MAX.into(),
        Family::Ipv6 => u128::MAX,
    }
}
