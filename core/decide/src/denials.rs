//! What policies refused of late: counted by who, whom and what for. Which policy it was is looked up when somebody asks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tartan_api::explain::{ProtocolNumber, RuleName};
use tartan_api::verb::{DeniedConnection, DeniedRow, End};
use tartan_host::Denial;
use tartan_model::{Direction, IfName, NodeName, PodName, Verdict};
use tartan_policy::explain::Flow;

use crate::World;

/// How many are kept: who looks closer needs the counters, not more rows.
pub const MOST_DENIALS: usize = 4096;
/// How many of one source, so that one who tries every port leaves the others theirs.
pub const MOST_DENIALS_OF_ONE: usize = 512;
/// The first port that Linux gives to clients (`ip_local_port_range`).
const FIRST_OF_CLIENTS: u16 = 32_768;

/// Packets that policies refused, those of a kind counted together. The oldest are forgotten first.
#[derive(Debug, Clone, Default)]
pub struct Denials {
    tallies: BTreeMap<Packets, Tally>,
    /// By when the last of them came.
    by_age: BTreeMap<u64, Packets>,
    by_source: BTreeMap<IpAddr, usize>,
    next: u64,
}

/// Packets that are told from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Packets {
    direction: Direction,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    port: Option<u16>,
    icmp_type: Option<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Tally {
    /// The port that the last one came from.
    source_port: Option<u16>,
    age: u64,
    sums: Sums,
}

/// How many there were, and when, by the caller's clock.
#[derive(Debug, Clone, Copy)]
struct Sums {
    packets: u64,
    bytes: u64,
    first: Duration,
    last: Duration,
}

/// A connection that packets are a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Connection {
    direction: Direction,
    client: IpAddr,
    server: IpAddr,
    protocol: u8,
    port: Option<u16>,
    icmp_type: Option<u8>,
}

impl Denials {
    /// Counts a packet that was refused now, by the caller's clock.
    pub fn note(&mut self, denial: &Denial, now: Duration) {
        let packets = Packets {
            direction: denial.direction,
            source: denial.source,
            destination: denial.destination,
            protocol: denial.protocol,
            port: denial.destination_port,
            icmp_type: denial.icmp_type,
        };
        let before = self.take(&packets);
        if before.is_none() {
            self.make_room(denial.source);
        }
        let bytes = u64::from(denial.length);
        let sums = before.map_or(Sums { packets: 1, bytes, first: now, last: now }, |before| Sums {
            packets: before.sums.packets.saturating_add(1),
            bytes: before.sums.bytes.saturating_add(bytes),
            first: before.sums.first,
            last: now,
        });
        self.next += 1;
        self.tallies.insert(packets, Tally { source_port: denial.source_port, age: self.next, sums });
        self.by_age.insert(self.next, packets);
        *self.by_source.entry(denial.source).or_default() += 1;
    }

    /// How many rows are kept.
    pub fn len(&self) -> usize {
        self.tallies.len()
    }

    /// Whether nothing was refused.
    pub fn is_empty(&self) -> bool {
        self.tallies.is_empty()
    }

    fn take(&mut self, packets: &Packets) -> Option<Tally> {
        let tally = self.tallies.remove(packets)?;
        self.by_age.remove(&tally.age);
        if let Some(count) = self.by_source.get_mut(&packets.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_source.remove(&packets.source);
            }
        }
        Some(tally)
    }

    fn make_room(&mut self, source: IpAddr) {
        let oldest = if self.by_source.get(&source).is_some_and(|count| *count >= MOST_DENIALS_OF_ONE) {
            self.by_age.values().find(|packets| packets.source == source).copied()
        } else if self.tallies.len() >= MOST_DENIALS {
            self.by_age.values().next().copied()
        } else {
            None
        };
        oldest.and_then(|oldest| self.take(&oldest));
    }
}

impl Packets {
    /// The connections that they may be a part of, the likelier first: packets that open one go to the server, and of one
    /// that was cut some are answers.
    fn connections(&self, source_port: Option<u16>) -> [Connection; 2] {
        let Packets { direction, source, destination, protocol, port, icmp_type } = *self;
        let opens = Connection { direction, client: source, server: destination, protocol, port, icmp_type };
        let asked = icmp_type.map(|kind| match (protocol, kind) {
            (1, 0) => 8,
            (58, 129) => 128,
            (_, kind) => kind,
        });
        let answers =
            Connection { client: destination, server: source, port: source_port, icmp_type: asked, ..opens };
        let to_client =
            source_port.zip(port).is_some_and(|(from, to)| from < FIRST_OF_CLIENTS && to >= FIRST_OF_CLIENTS);
        if to_client || asked != icmp_type { [answers, opens] } else { [opens, answers] }
    }
}

/// Who has which address.
struct Names<'a> {
    pods: BTreeMap<IpAddr, (&'a PodName, Option<&'a IfName>)>,
    nodes: BTreeMap<IpAddr, NodeName>,
}

impl Names<'_> {
    fn end(&self, address: IpAddr) -> End {
        let pod = self.pods.get(&address).map(|(pod, _)| (*pod).clone());
        let node = if pod.is_none() { self.nodes.get(&address).cloned() } else { None };
        End { pod, node, address }
    }

    /// The host's end of the pod here that an address belongs to.
    fn link(&self, address: IpAddr) -> Option<IfName> {
        self.pods.get(&address).and_then(|(_, link)| link.cloned())
    }
}

impl World {
    /// `tartan denied`, as far as policies are concerned; `clock` writes a time of that clock. Which policy it is and whose
    /// addresses they are is told as it is now.
    pub fn report_denials(&self, denials: &Denials, clock: impl Fn(Duration) -> String) -> Vec<DeniedRow> {
        if denials.is_empty() {
            return Vec::new();
        }
        let mut found: BTreeMap<Connection, (Option<(RuleName, bool)>, Sums)> = BTreeMap::new();
        for (packets, tally) in &denials.tallies {
            let (connection, policy) = self.refused(packets.connections(tally.source_port));
            let sums = tally.sums;
            let all = found.entry(connection).and_modify(|(_, all)| all.add(sums)).or_insert((None, sums));
            all.0 = policy;
        }
        let names = self.names();
        let row = |(connection, (policy, sums))| row(&names, connection, policy, sums, &clock);
        found.into_iter().map(row).collect()
    }

    /// The first of these connections that policies refuse in their direction, and which; whether no rule is about it. If
    /// none is refused any more it is the likeliest.
    fn refused(&self, connections: [Connection; 2]) -> (Connection, Option<(RuleName, bool)>) {
        let policy = |connection: &Connection| {
            let Connection { client, server, protocol, port, .. } = *connection;
            let flow = Flow { client, server, protocol, port: port.unwrap_or_default() };
            let told = self.explain_side(&flow, connection.direction);
            let step = told.decisive.filter(|_| told.verdict == Verdict::Deny)?;
            Some((self.rule_name(&step.policy, step.rule), step.rule.is_none()))
        };
        let [likeliest, _] = connections;
        let found = connections.into_iter().find_map(|one| Some((one, Some(policy(&one)?))));
        found.unwrap_or((likeliest, None))
    }

    fn names(&self) -> Names<'_> {
        let others = self.remote_endpoints().flat_map(|remote| {
            let pod = remote.pod;
            remote.addresses.into_iter().map(move |address| (address, (pod, None)))
        });
        let own = self
            .endpoints()
            .map(|attached| &attached.endpoint)
            .flat_map(|own| own.addresses.iter().map(|address| (*address, (&own.pod, Some(&own.link)))));
        let mut nodes = BTreeMap::new();
        for (_, block, owner) in self.blocks() {
            if let Some(node) = self.node(owner) {
                let inner = [tartan_ipam::own_address(block), tartan_ipam::gateway(block)];
                nodes.extend(inner.map(|address| (address, node.name.clone())));
            }
        }
        for node in self.every_node() {
            nodes.extend(node.all_addresses().map(|address| (address, node.name.clone())));
        }
        Names { pods: others.chain(own).collect(), nodes }
    }
}

impl Sums {
    fn add(&mut self, more: Sums) {
        self.packets = self.packets.saturating_add(more.packets);
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.first = self.first.min(more.first);
        self.last = self.last.max(more.last);
    }
}

fn row(
    names: &Names<'_>,
    connection: Connection,
    policy: Option<(RuleName, bool)>,
    sums: Sums,
    clock: &impl Fn(Duration) -> String,
) -> DeniedRow {
    let Connection { direction, client, server, protocol, port, icmp_type } = connection;
    let (from, to) = (names.end(client), names.end(server));
    let (policy, default) = policy.unzip();
    let (about, other) = match direction {
        Direction::Ingress => (server, client),
        Direction::Egress => (client, server),
    };
    DeniedRow {
        pod: from.pod.clone(),
        link: names.link(about).or_else(|| names.link(other)),
        reason: "policy".into(),
        packets: sums.packets,
        bytes: sums.bytes,
        connection: Some(DeniedConnection {
            direction,
            from,
            to,
            protocol: ProtocolNumber(protocol).word(),
            port,
            icmp_type,
            policy,
            default: default.unwrap_or_default(),
            first: clock(sums.first),
            last: clock(sums.last),
        }),
    }
}
