//! What was refused: a table of what guards counted, and one of what policies refused.

use tartan_api::explain::RuleName;
use tartan_api::verb::{DeniedConnection, DeniedRow, End};

use super::{lines, some};

/// Both tables, as far as there are rows.
pub(crate) fn denied(rows: &[DeniedRow]) -> String {
    let (policies, guards): (Vec<&DeniedRow>, Vec<&DeniedRow>) =
        rows.iter().partition(|row| row.connection.is_some());
    let tables = [
        (["POD", "LINK", "REASON", "PACKETS", "BYTES"].as_slice(), guards),
        (&["FROM", "TO", "PORT", "DIRECTION", "POLICY", "PACKETS", "BYTES", "LAST"], policies),
    ];
    let tables = tables.into_iter().filter(|(_, rows)| !rows.is_empty());
    let tables: Vec<String> =
        tables.map(|(header, rows)| lines(header, rows.into_iter().map(cells))).collect();
    if tables.is_empty() { "no refused packets\n".into() } else { tables.join("\n") }
}

/// A row alone.
pub(crate) fn denied_line(row: &DeniedRow) -> String {
    format!("{}\n", cells(row).join("  "))
}

fn cells(row: &DeniedRow) -> Vec<String> {
    let counts = [row.packets.to_string(), row.bytes.to_string()];
    let Some(connection) = &row.connection else {
        let [packets, bytes] = counts;
        return vec![some(row.pod.as_ref()), some(row.link.as_ref()), row.reason.clone(), packets, bytes];
    };
    let mut cells = vec![
        end(&connection.from),
        end(&connection.to),
        port(connection),
        connection.direction.to_string(),
        connection.policy.as_ref().map_or("none any more".into(), |policy| name(policy, connection.default)),
    ];
    cells.extend(counts);
    cells.push(connection.last.clone());
    cells
}

fn end(end: &End) -> String {
    match (&end.pod, &end.node) {
        (Some(pod), _) => format!("{pod} ({})", end.address),
        (None, Some(node)) => format!("node {node} ({})", end.address),
        (None, None) => end.address.to_string(),
    }
}

fn port(connection: &DeniedConnection) -> String {
    let DeniedConnection { protocol, port, icmp_type, .. } = connection;
    match (port, icmp_type) {
        (Some(port), _) => format!("{protocol} {port}"),
        (None, Some(kind)) => format!("{protocol} type {kind}"),
        (None, None) => protocol.clone(),
    }
}

fn name(policy: &RuleName, default: bool) -> String {
    let namespace = policy.namespace.as_ref().map_or(String::new(), |namespace| format!("{namespace}/"));
    let which = match policy.index {
        Some(index) => format!(", rule {index}"),
        None if default => ", by default".into(),
        None => String::new(),
    };
    format!("{} {namespace}{}{which}", policy.kind, policy.name)
}
