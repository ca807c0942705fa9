//! `tartan check`: whether this node, or the ways to its peers, are as they should be.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use tartan_api::rpc::Request;
use tartan_api::verb::{CheckRow, NetworkStatus, NodeRow, Status};
use tartan_model::{Family, NodeName};

use crate::ask::Agent;
use crate::table::{self, Rows};

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    what: String,
    ok: bool,
    detail: String,
}

impl Rows for Finding {
    const HEADER: &[&str] = &["CHECK", "OK", "DETAIL"];
    const PLURAL: &str = "checks";
    fn cells(&self) -> Vec<String> {
        vec![self.what.clone(), table::yes(self.ok), self.detail.clone()]
    }
}

impl Rows for CheckRow {
    const HEADER: &[&str] =
        &["NODE", "NETWORK", "PATH", "FROM", "TO", "SMALL", "MTU", "FULL", "OK", "REASON"];
    const PLURAL: &str = "ways to other nodes";
    fn cells(&self) -> Vec<String> {
        let time = |ms: Option<f64>| ms.map_or_else(|| "-".into(), |ms| format!("{ms:.2} ms"));
        vec![
            self.node.to_string(),
            self.network.to_string(),
            self.path.to_string(),
            self.local.to_string(),
            self.remote.to_string(),
            time(self.small_ms),
            self.mtu.to_string(),
            time(self.full_ms),
            table::yes(self.ok),
            self.reason.clone().unwrap_or_else(|| "-".into()),
        ]
    }
}

/// What is known of this node.
///
/// # Errors
/// When the agent does not answer.
pub(crate) fn node(agent: &Agent) -> Result<(Vec<Finding>, ExitCode)> {
    let findings = findings(&agent.ask(&Request::Status)?);
    let code = code(findings.iter().all(|finding| finding.ok));
    Ok((findings, code))
}

/// What probes find of the ways to these peers, or to all.
///
/// # Errors
/// When the agent does not answer, or there is no such peer.
pub(crate) fn connectivity(agent: &Agent, peers: Vec<NodeName>) -> Result<(Vec<CheckRow>, ExitCode)> {
    let named = peers.clone();
    // First the nodes: of one that comes meanwhile no way is missed, of one that goes it may be.
    let nodes: Vec<NodeRow> = agent.ask(&Request::Nodes)?;
    let rows: Vec<CheckRow> = agent.ask(&Request::Probe { peers })?;
    // There should be a way to those that were named, else to all with blocks whose agents live.
    let others = nodes.iter().filter(|node| node.alive && !node.this && !node.blocks.is_empty());
    let wanted: Vec<&NodeName> =
        if named.is_empty() { others.map(|node| &node.name).collect() } else { named.iter().collect() };
    let missing: Vec<String> = wanted.into_iter().flat_map(|name| without_way(&nodes, name, &rows)).collect();
    for what in &missing {
        eprintln!("error: there is no way {what} to probe; see why: tartan peers");
    }
    let code = code(missing.is_empty() && rows.iter().all(|row| row.ok));
    Ok((rows, code))
}

/// To what of a node no row tells of a way: to all of it, or to its pods of a family of which this node has blocks, too.
/// Networks are not told apart: a family that has a way in one of them is not missed in another.
fn without_way(nodes: &[NodeRow], name: &NodeName, rows: &[CheckRow]) -> Vec<String> {
    let ways: Vec<Family> =
        rows.iter().filter(|row| row.node == *name).map(|row| Family::of(row.remote)).collect();
    if ways.is_empty() {
        return vec![format!("to node {name}")];
    }
    let has = |node: &NodeRow, family| node.blocks.iter().any(|block| block.family() == family);
    let own = |family| nodes.iter().any(|node| node.this && has(node, family));
    let other = |family| nodes.iter().any(|node| node.name == *name && has(node, family));
    let missing = Family::ALL.into_iter().filter(|it| own(*it) && other(*it) && !ways.contains(it));
    missing.map(|family| format!("to the {family} pods of node {name}")).collect()
}

fn code(ok: bool) -> ExitCode {
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn findings(status: &Status) -> Vec<Finding> {
    let finding = |what: &str, ok, detail: String| Finding { what: what.into(), ok, detail };
    let mut findings = vec![finding("agent", true, format!("{}, since {}", status.version, status.since))];
    let connected = status.store.connected;
    let word = if connected { "connected" } else { "not connected" };
    findings.push(finding("store", connected, format!("{}, {word}", status.store.kind)));
    let uplink = status.uplink.as_ref().map(|uplink| format!("{}, MTU {}", uplink.interface, uplink.mtu));
    findings.push(finding("uplink", uplink.is_some(), uplink.unwrap_or_else(|| "none was found".into())));
    findings.extend(status.networks.iter().map(network));
    let peers = status.peers;
    // Of a peer that is away the warnings tell; all of them away is a reason.
    findings.push(finding("peers", true, format!("{} of {} up", peers.up, peers.total)));
    findings.extend(status.warnings.iter().map(|warning| finding("warning", true, warning.clone())));
    findings.extend(status.reasons.iter().map(|reason| finding("health", false, reason.clone())));
    if status.reasons.is_empty() {
        findings.push(finding("health", status.healthy, "everything wanted is in the kernel".into()));
    }
    findings
}

fn network(network: &NetworkStatus) -> Finding {
    let blocks: Vec<String> = network.blocks.iter().map(ToString::to_string).collect();
    let held = !blocks.is_empty();
    let detail = if held { format!("blocks {}", blocks.join(",")) } else { "no block held".into() };
    Finding { what: format!("network {}", network.name), ok: held, detail }
}
