//! Answers for people: tables as kubectl prints them, and a status of about ten lines.

mod denied;
mod objects;

use std::collections::BTreeMap;
use std::fmt::Display;

use comfy_table::Table;
use tartan_api::explain::{Explain, Explanation, RuleName, Verdict};
use tartan_api::verb::{
    Action, AgentState, Applied, EndpointRow, Guards, IpamRow, Left, NodeRow, PeerHealth, PeerRow, Plan,
    RouteRow, Setting, Status, UninstallPlan, Uninstalled, UplinkStatus,
};
use tartan_model::Attachment;

pub(crate) use denied::{denied, denied_line};
pub(crate) use objects::objects;

/// Spaces between two columns.
const GAP: u16 = 3;

/// A row of a table.
pub(crate) trait Rows {
    /// The columns' names.
    const HEADER: &[&str];
    /// What there are no rows of.
    const PLURAL: &str;
    /// The cells.
    fn cells(&self) -> Vec<String>;
}

/// The table of these rows.
pub(crate) fn render<T: Rows>(rows: &[T]) -> String {
    if rows.is_empty() {
        return format!("no {}\n", T::PLURAL);
    }
    lines(T::HEADER, rows.iter().map(T::cells))
}

impl Rows for NodeRow {
    const HEADER: &[&str] = &["NAME", "ALIVE", "THIS", "ADDRESSES", "BLOCKS", "ID"];
    const PLURAL: &str = "nodes";
    fn cells(&self) -> Vec<String> {
        let this = if self.this { "*" } else { "" };
        vec![
            self.name.to_string(),
            yes(self.alive),
            this.into(),
            list(&self.addresses),
            list(&self.blocks),
            self.id.to_string(),
        ]
    }
}

impl Rows for PeerRow {
    const HEADER: &[&str] =
        &["NODE", "ADDRESS", "PATH", "HEALTH", "SEALED", "MTU", "RTT", "SINCE", "BLOCKS", "BLOCKED"];
    const PLURAL: &str = "peers";
    fn cells(&self) -> Vec<String> {
        let blocked = self.blocked.iter().map(|blocked| format!("{}: {}", blocked.path, blocked.reason));
        vec![
            self.node.to_string(),
            some(self.address),
            some(self.path),
            health(self),
            yes(self.sealed),
            some(self.mtu),
            some(self.rtt_ms.map(|rtt| format!("{rtt:.2} ms"))),
            some(self.since.as_ref()),
            list(&self.blocks),
            some(Some(blocked.collect::<Vec<_>>().join("; ")).filter(|text| !text.is_empty())),
        ]
    }
}

impl Rows for EndpointRow {
    const HEADER: &[&str] = &[
        "POD",
        "NETWORK",
        "ADDRESSES",
        "READY",
        "DENIED",
        "ATTACHMENT",
        "LINK",
        "MAC",
        "CONTAINER",
        "INTERFACE",
    ];
    const PLURAL: &str = "endpoints";
    fn cells(&self) -> Vec<String> {
        vec![
            self.pod.to_string(),
            self.network.to_string(),
            list(&self.addresses),
            yes(self.ready),
            by_reason(&self.denied),
            attachment(self.attachment).into(),
            self.link.to_string(),
            self.mac.to_string(),
            // Runtimes tell containers by their first twelve characters too; -o json has all.
            self.container.as_str().chars().take(12).collect(),
            self.interface.to_string(),
        ]
    }
}

/// Why a connection may be or may not, step by step.
pub(crate) fn explanation(asked: &Explain, told: &Explanation) -> String {
    let verdict = if told.verdict == Verdict::Allow { "allowed" } else { "denied" };
    let port = if asked.protocol.has_ports() { format!(" port {}", asked.port) } else { String::new() };
    let mut text = format!(
        "{verdict}: {} ({}) to {} ({}), {}{port}\n{}\n",
        asked.source, told.from, asked.destination, told.to, asked.protocol, told.reason
    );
    for step in &told.steps {
        text.push_str(&format!("  {:<7}  {:<5}  {}\n", step.direction, step.verdict, rule(&step.rule)));
    }
    if let Some(path) = told.path {
        let mtu = told.mtu.map_or(String::new(), |mtu| format!(", MTU {mtu}"));
        text.push_str(&format!("path {path}, not encrypted{mtu}\n"));
    }
    text
}

fn rule(rule: &RuleName) -> String {
    let namespace = rule.namespace.as_ref().map_or(String::new(), |namespace| format!("{namespace}/"));
    let which = rule.index.map_or("no rule is about it".into(), |index| format!("rule {index}"));
    let source =
        rule.source.as_ref().map_or(String::new(), |place| format!("  ({}:{})", place.file, place.line));
    format!("{} {namespace}{}, {which}{source}", rule.kind, rule.name)
}

impl Rows for IpamRow {
    const HEADER: &[&str] = &["NETWORK", "POOL", "BLOCK", "NODE", "USED", "CAPACITY"];
    const PLURAL: &str = "blocks";
    fn cells(&self) -> Vec<String> {
        vec![
            self.network.to_string(),
            self.pool.to_string(),
            self.block.to_string(),
            self.node.clone(),
            some(self.used),
            self.capacity.to_string(),
        ]
    }
}

impl Rows for RouteRow {
    const HEADER: &[&str] = &["DESTINATION", "VIA", "DEV", "FOR", "INSTALLED"];
    const PLURAL: &str = "routes";
    fn cells(&self) -> Vec<String> {
        vec![
            self.dst.to_string(),
            some(self.via),
            some(self.dev.as_ref()),
            self.purpose.clone(),
            yes(self.installed),
        ]
    }
}

/// One line about what became of an object.
pub(crate) fn applied(applied: &Applied) -> String {
    let action = match applied.action {
        Action::Created => "created",
        Action::Configured => "configured",
        Action::Unchanged => "unchanged",
        Action::Deleted => "deleted",
    };
    format!("{}/{} {action}\n", applied.kind.to_string().to_lowercase(), clean(&applied.name))
}

/// How many of a kind are named in a plan.
const NAMED: usize = 12;

/// What uninstalling will do.
pub(crate) fn uninstall_plan(plan: &UninstallPlan) -> String {
    if plan.is_empty() {
        return "there is nothing of ours on this node\n".into();
    }
    let mut text = String::from("This is what will be done to this node:\n");
    match plan.agent {
        AgentState::Running => text += "  the agent gives back its blocks, leaves the cluster and ends\n",
        AgentState::Silent => text += "  nothing: an agent runs that does not answer; stop it first\n",
        AgentState::Stopped => text.extend(plan.store.iter().map(|store| format!("  the store: {store}\n"))),
    }
    text += &some_of("pods lose their network", &plan.pods);
    text += &some_of("go out of the kernel", &plan.kernel);
    let settings: Vec<String> = plan.settings.iter().map(setting).collect();
    text += &some_of("settings are put back", &settings);
    text += &some_of("files are removed", &plan.files);
    text += &some_of("stay", &plan.kept);
    text
}

/// What uninstalling did.
pub(crate) fn uninstalled(outcome: &Uninstalled) -> String {
    let blocks: Vec<String> =
        outcome.blocks.iter().map(|left| format!("{} of network {}", left.block, left.network)).collect();
    let settings: Vec<String> = outcome.restored.iter().map(setting).collect();
    let mut text = String::new();
    text += &some_of("blocks are free again", &blocks);
    text += &some_of("were removed", &outcome.removed);
    text += &some_of("settings were put back", &settings);
    text += &some_of("stay", &outcome.kept);
    text += &some_of("could not be done", &outcome.failed);
    let done =
        if outcome.failed.is_empty() { "nothing of ours is left on this node" } else { "something is left" };
    text + done + "\n"
}

fn setting(setting: &Setting) -> String {
    format!("{}: {} -> {}", setting.key, setting.now, setting.then)
}

fn some_of(what: &str, all: &[String]) -> String {
    let mut text = String::new();
    if !all.is_empty() {
        text += &format!("  {what} ({}):\n", all.len());
    }
    for one in all.iter().take(NAMED) {
        text += &format!("    {one}\n");
    }
    if all.len() > NAMED {
        text += &format!("    and {} more (-o json names all)\n", all.len() - NAMED);
    }
    text
}

/// What leaving did.
pub(crate) fn left(left: &Left) -> String {
    let mut text = format!("node {} has left the cluster\n", left.node);
    for block in &left.blocks {
        text += &format!("block {} of network {} is free again\n", block.block, block.network);
    }
    for pod in &left.pods {
        text += &format!("pod {pod} has no interface of ours any more\n");
    }
    if let Some(reason) = &left.store {
        text += &format!("the store was not told: {reason}\n");
    }
    for stays in &left.stays {
        text += &format!("still in the kernel: {}\n", clean(stays));
    }
    if !left.stays.is_empty() {
        text += "take away what stays with: tartan uninstall\n";
    }
    text
}

/// The steps, then the notes.
pub(crate) fn plan(plan: &Plan) -> String {
    let steps = plan.steps.iter().map(|step| clean(step) + "\n");
    let notes = plan.notes.iter().map(|note| format!("note: {}\n", clean(note)));
    let text: String = steps.chain(notes).collect();
    if plan.steps.is_empty() { format!("nothing to change\n{text}") } else { text }
}

/// This node in about ten lines.
pub(crate) fn status(status: &Status) -> String {
    let mut rows = vec![
        row("node", format!("{} ({})", status.node, status.id)),
        row("health", if status.healthy { "healthy" } else { "not healthy" }),
    ];
    rows.extend(status.reasons.iter().map(|reason| row("", reason)));
    rows.extend(status.warnings.iter().map(|warning| row("warning", warning)));
    let connected = if status.store.connected { "connected" } else { "not connected" };
    rows.push(row("agent", format!("{}, since {}", status.version, status.since)));
    rows.push(row("store", format!("{}, {connected}", status.store.kind)));
    rows.push(row("fabric", &status.fabric));
    rows.push(row("uplink", status.uplink.as_ref().map_or_else(|| "-".into(), uplink)));
    for (number, network) in status.networks.iter().enumerate() {
        let (mtu, blocks) = (some(network.mtu), list(&network.blocks));
        let attachment = attachment(network.attachment);
        let text = format!("{}: {attachment}, MTU {mtu}, blocks {blocks}", network.name);
        rows.push(row(if number == 0 { "networks" } else { "" }, text));
    }
    rows.push(row("peers", format!("{} of {} up", status.peers.up, status.peers.total)));
    let guards = match status.guards {
        Guards::Programs => "programs",
        Guards::Rules => "rules",
    };
    rows.push(row("pods", format!("{}, guarded by {guards}", status.endpoints)));
    rows.push(row("policies", status.policies));
    rows.push(row("last error", status.last_error.as_deref().unwrap_or("none")));
    lines(&[], rows.into_iter())
}

fn uplink(uplink: &UplinkStatus) -> String {
    format!("{}, MTU {}, {}", uplink.interface, uplink.mtu, list(&uplink.addresses))
}

fn row(name: &str, value: impl Display) -> Vec<String> {
    vec![name.into(), value.to_string()]
}

/// Columns as wide as their longest cell; a header of nothing is left out.
fn lines(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header);
    }
    table.add_rows(rows.map(|cells| cells.iter().map(|cell| clean(cell)).collect::<Vec<_>>()));
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table.lines().map(|line| line.trim_end().to_string() + "\n").collect()
}

/// Text from elsewhere must not steer the terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn some(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

fn list(values: &[impl Display]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    if values.is_empty() { "-".into() } else { values.join(",") }
}

/// Refused packets by reason.
fn by_reason(denied: &BTreeMap<String, u64>) -> String {
    let reasons: Vec<String> = denied.iter().map(|(reason, packets)| format!("{reason}:{packets}")).collect();
    list(&reasons)
}

fn health(peer: &PeerRow) -> String {
    let word = match peer.health {
        PeerHealth::Works => "works",
        PeerHealth::Unknown => "-",
        PeerHealth::LargePacketsLost => "large packets lost",
        PeerHealth::OneWay => "one way",
        PeerHealth::Dead => "dead",
    };
    word.into()
}

pub(crate) fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.into()
}

fn attachment(attachment: Attachment) -> &'static str {
    match attachment {
        Attachment::Routed => "routed",
        Attachment::Bridge => "bridge",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_in_the_kernel_is_shown() {
        let mut left: Left =
            serde_json::from_str(r#"{"node": "n1", "blocks": [], "pods": [], "store": null}"#).unwrap();
        assert_eq!(super::left(&left), "node n1 has left the cluster\n");
        left.stays.push("link tartan.1 stays: busy".into());
        assert!(super::left(&left).contains("still in the kernel: link tartan.1 stays: busy\n"));
    }
}
