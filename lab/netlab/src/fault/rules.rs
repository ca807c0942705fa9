//! Faults in the kernel: rules of nftables on the wire's bridge, in a table of the lab's own.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use tartan_host::nftables::{Base, BaseKind, Chain, Field, Hook, Rule, Statement, Table, TableFamily};
use tartan_kernel::{Batch, KernelError, Nftables, Rtnl, netns};
use tartan_model::IfName;

use super::bar::{Bar, What, bars};
use super::kind::{End, Fault};
use crate::names::{LabNode, OUTSIDE, WIRE};
use crate::state::State;
use crate::wire;

/// The table, of the family `bridge`.
const TABLE: &str = "tartan-lab";
/// A bridge's frames from port to port, those for its router, and those of its router.
const HOOKS: [(&str, Hook); 3] =
    [("forward", Hook::Forward), ("input", Hook::Input), ("output", Hook::Output)];
/// Bytes of an interface's name in a rule (IFNAMSIZ).
const IFNAMSIZ: usize = 16;
/// Types of frames (linux/if_ether.h).
const IPV4: &[u8] = &[0x08, 0x00];
const IPV6: &[u8] = &[0x86, 0xdd];
/// Protocols above IP.
const UDP: &[u8] = &[17];
const ICMPV6: &[u8] = &[58];
/// Neighbor solicitation and advertisement (RFC 4861, section 4).
const SOLICITATION: &[u8] = &[135];
const ADVERTISEMENT: &[u8] = &[136];
/// How many segments a link takes as one packet unless told otherwise (GSO_MAX_SEGS, linux/netdevice.h).
const ANY_SEGMENTS: u32 = 65535;

/// Writes the faults that stand in place of those that stood before.
///
/// # Errors
/// When the kernel refuses. The rules are as they were then, unless all that failed is to let a link send as it did.
pub(super) fn write(state: &State, before: &[Fault]) -> Result<()> {
    let (was, is) = (ends_by_size(before), ends_by_size(&state.faults));
    let written = limit_segments(state, &is, 1).and_then(|()| commit(state, before));
    let free = if written.is_ok() { &was - &is } else { &is - &was };
    written.and(limit_segments(state, &free, ANY_SEGMENTS))
}

fn commit(state: &State, before: &[Fault]) -> Result<()> {
    let bars: Vec<Bar<'_>> = state.faults.iter().flat_map(bars).collect();
    if bars.is_empty() && before.iter().all(|fault| fault.ended().is_some()) {
        return Ok(());
    }
    let mut batch = Batch::default();
    // Made before it is deleted, as it need not be there.
    batch.add_table(TableFamily::Bridge, TABLE, 0);
    batch.delete_table(TableFamily::Bridge, TABLE);
    if !bars.is_empty() {
        batch.add_table(TableFamily::Bridge, TABLE, 0);
        batch.fill_table(&table(state, &bars));
    }
    let wire = wire::open(&state.name.netns(WIRE))?;
    let mut nftables = netns::run_in(wire.as_fd(), Nftables::open)??;
    let refused = |reasons: Vec<(usize, tartan_kernel::Refused)>| match reasons.into_iter().next() {
        Some((_, reason)) => anyhow::Error::new(reason),
        None => anyhow::anyhow!("no reason given"),
    };
    nftables.commit(&batch).map_err(refused).context("the kernel refused the faults of the wire")
}

fn table(state: &State, bars: &[Bar<'_>]) -> Table {
    let rules: Vec<(Hook, Rule)> = bars.iter().flat_map(|bar| rules(state, bar)).collect();
    let chain = |(name, hook): (&'static str, Hook)| Chain {
        name: name.into(),
        base: Some(Base { kind: BaseKind::Filter, hook, priority: 0 }),
        rules: rules.iter().filter(|(of, _)| *of == hook).map(|(_, rule)| rule.clone()).collect(),
    };
    let chains = HOOKS.map(chain).into();
    Table { family: TableFamily::Bridge, name: TABLE.into(), sets: Vec::new(), chains }
}

/// The rules of a bar, and where they stand. What is for the outside host is for the router first, which is the bridge
/// itself.
fn rules(state: &State, bar: &Bar<'_>) -> Vec<(Hook, Rule)> {
    let from = |node| Some(Statement::Is(Field::Iifname, port(state, node)?));
    let to = |node| Some(Statement::Is(Field::Oifname, port(state, node)?));
    let place = match bar.way {
        None => Some((Hook::Forward, Vec::new())),
        Some((End::Node(a), End::Node(b))) => from(a).zip(to(b)).map(|(a, b)| (Hook::Forward, vec![a, b])),
        Some((End::Node(a), End::Outside)) => from(a).map(|a| (Hook::Input, vec![a])),
        Some((End::Outside, End::Node(b))) => to(b).map(|b| (Hook::Output, vec![b])),
        Some((End::Outside, End::Outside)) => None,
    };
    let Some((hook, way)) = place else { return Vec::new() };
    let whole = |what: Rule| (hook, [way.clone(), what, vec![Statement::Drop]].concat());
    matches(bar.what).into_iter().map(whole).collect()
}

/// What a packet must be: one rule or another.
fn matches(what: What) -> Vec<Rule> {
    let is = |field, value: &'static [u8]| Statement::Is(field, Cow::Borrowed(value));
    let not = |field, value: &'static [u8]| Statement::Not(field, Cow::Borrowed(value));
    let (ipv4, ipv6) = (is(Field::EtherType, IPV4), is(Field::EtherType, IPV6));
    match what {
        What::Everything => vec![Vec::new()],
        What::Packets => vec![
            vec![ipv4],
            vec![ipv6.clone(), not(Field::Protocol, ICMPV6)],
            vec![
                ipv6,
                is(Field::Protocol, ICMPV6),
                not(Field::IcmpType, SOLICITATION),
                not(Field::IcmpType, ADVERTISEMENT),
            ],
        ],
        What::Udp(port) => {
            let port = Cow::Owned(port.to_be_bytes().to_vec());
            vec![vec![is(Field::Protocol, UDP), Statement::Is(Field::DestinationPort, port)]]
        }
        What::LongerThan(size) => vec![vec![Statement::LongerThan(size.into())]],
        What::Percent(percent) => vec![vec![Statement::Percent(percent)]],
    }
}

/// The name of a node's port as a rule compares it.
fn port(state: &State, node: &LabNode) -> Option<Cow<'static, [u8]>> {
    let index = state.nodes.iter().find(|other| other.name == *node)?.index;
    let mut name = wire::port(index).into_bytes();
    name.resize(IFNAMSIZ, 0);
    Some(name.into())
}

/// Has the links of these ends send at most so many segments as one packet. Where the size of packets is looked at, that
/// is 1: a packet of many segments (GSO) is cut behind the wire only, if at all, and its length is that of all segments.
fn limit_segments(state: &State, ends: &BTreeSet<End>, segments: u32) -> Result<()> {
    for end in ends {
        let name = match end {
            End::Outside => OUTSIDE,
            // A node that was removed has no link any more.
            End::Node(node) if state.node(node).is_err() => continue,
            End::Node(node) => node.as_str(),
        };
        let link: IfName = wire::INTERFACE.parse()?;
        let set =
            Rtnl::open_in(wire::open(&state.name.netns(name))?.as_fd())?.set_max_segments(&link, segments);
        match set {
            // Somebody took the link away or gave it another name meanwhile; that must not keep the faults.
            Err(KernelError::Refused { source, .. })
                if segments == ANY_SEGMENTS && source.errno == nix::libc::ENODEV => {}
            other => other.with_context(|| format!("node {name}"))?,
        }
    }
    Ok(())
}

fn ends_by_size(faults: &[Fault]) -> BTreeSet<End> {
    let mtu = faults.iter().filter(|fault| matches!(fault, Fault::Mtu { .. }));
    mtu.filter_map(Fault::pair).flat_map(|pair| [pair.from.clone(), pair.to.clone()]).collect()
}
