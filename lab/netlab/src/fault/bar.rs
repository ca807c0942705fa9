//! What faults mean on the wire: who may not send what to whom.

use super::kind::{End, Fault, Pair};

/// Something that does not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bar<'a> {
    /// From whom to whom; None between any two nodes.
    pub(super) way: Option<(&'a End, &'a End)>,
    /// What.
    pub(super) what: What,
}

/// What does not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Every frame.
    Everything,
    /// Every IP packet, but neighbor discovery.
    Packets,
    /// UDP datagrams to this port.
    Udp(u16),
    /// IP packets of more bytes.
    LongerThan(u16),
    /// So many frames of a hundred.
    Percent(u8),
}

/// What a fault bars.
pub(super) fn bars(fault: &Fault) -> Vec<Bar<'_>> {
    match fault {
        Fault::Partition(pair) => both_ways(pair, What::Everything),
        Fault::OneWay(pair) => one_way(pair, What::Packets),
        Fault::BlockUdp { port, pair: Some(pair) } => both_ways(pair, What::Udp(*port)),
        Fault::BlockUdp { port, pair: None } => vec![Bar { way: None, what: What::Udp(*port) }],
        Fault::OneWayUdp { port, pair } => one_way(pair, What::Udp(*port)),
        Fault::Mtu { pair, size } => both_ways(pair, What::LongerThan(*size)),
        Fault::Loss { pair, percent } => both_ways(pair, What::Percent(*percent)),
        Fault::Kill { .. } | Fault::Stop { .. } => Vec::new(),
    }
}

fn one_way(pair: &Pair, what: What) -> Vec<Bar<'_>> {
    vec![Bar { way: Some((&pair.from, &pair.to)), what }]
}

fn both_ways(pair: &Pair, what: What) -> Vec<Bar<'_>> {
    [(&pair.from, &pair.to), (&pair.to, &pair.from)].map(|way| Bar { way: Some(way), what }).into()
}
