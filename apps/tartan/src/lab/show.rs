//! What `tartan lab` prints: tables for people, JSON with stable names for scripts.

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::json;
use tartan_api::label::Labels;
use tartan_netlab::fault::Fault;
use tartan_netlab::matrix::Matrix;
use tartan_netlab::names::LabName;
use tartan_netlab::state::PodState;
use tartan_netlab::status::{LabRow, LabStatus, NodeRow, PodRow};

use crate::output;

/// Spaces between two columns.
const GAP: u16 = 3;

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(super) struct Show {
    pub(super) json: bool,
}

impl Show {
    pub(super) fn list(self, labs: &[LabRow]) -> Result<()> {
        self.print(&labs, || {
            if labs.is_empty() {
                return "no lab is up; bring one up: tartan lab up".into();
            }
            let rows = labs
                .iter()
                .map(|lab| vec![lab.name.to_string(), lab.nodes.to_string(), lab.pods.to_string()]);
            table(&["NAME", "NODES", "PODS"], rows)
        })
    }

    pub(super) fn status(self, status: &LabStatus) -> Result<()> {
        self.print(status, || tables(status))
    }

    /// What `up` has built, and what to do with it.
    pub(super) fn built(self, status: &LabStatus) -> Result<()> {
        self.print(status, || {
            let name = &status.name;
            // The usual lab needs no name.
            let flag = if name.to_string() == "lab" { String::new() } else { format!(" --name {name}") };
            let third = match status.pods.first() {
                Some(pod) => format!("exec{flag} {} -- sh", pod.name),
                None => format!("pod add{flag} web --node n1"),
            };
            let next = format!(
                "  tartan lab matrix{flag}\n  tartan --lab {name} --node n1 peers\n  tartan lab {third}"
            );
            format!("{}\n\nTry next:\n{next}", tables(status))
        })
    }

    pub(super) fn down(self, gone: &[(LabName, bool)]) -> Result<()> {
        let names: Vec<&LabName> =
            gone.iter().filter(|(_, was_there)| *was_there).map(|(name, _)| name).collect();
        self.print(&json!({"down": names}), || {
            let word = |(name, was_there): &(LabName, bool)| match was_there {
                true => format!("lab {name} is down"),
                false => format!("lab {name} was not up"),
            };
            if gone.is_empty() {
                "no lab was up".into()
            } else {
                gone.iter().map(word).collect::<Vec<_>>().join("\n")
            }
        })
    }

    pub(super) fn store(self, done: &str) -> Result<()> {
        self.print(&json!({"store": done}), || format!("the lab's etcd is {done}"))
    }

    pub(super) fn node_added(self, node: &NodeRow) -> Result<()> {
        self.print(node, || format!("node {} is up at {}", node.name, node.address))
    }

    pub(super) fn pod_added(self, pod: &PodState) -> Result<()> {
        let row = PodRow { name: pod.name.clone(), node: pod.node.clone(), addresses: pod.addresses.clone() };
        self.print(&row, || format!("pod {} is on {} with {}", row.name, row.node, listed(&row.addresses)))
    }

    pub(super) fn labelled(self, kind: &str, name: &str, labels: &Labels) -> Result<()> {
        self.print(&json!({"kind": kind, "name": name, "labels": labels}), || {
            let labels: Vec<String> =
                labels.iter().map(|(key, value)| format!("{}={}", key.as_str(), value.as_str())).collect();
            match labels.as_slice() {
                [] => format!("{kind} {name} has no labels"),
                labels => format!("{kind} {name} has {}", labels.join(", ")),
            }
        })
    }

    pub(super) fn removed(self, kind: &str, name: &str) -> Result<()> {
        self.print(&json!({"removed": {"kind": kind, "name": name}}), || format!("{kind} {name} is gone"))
    }

    pub(super) fn matrix(self, matrix: &Matrix) -> Result<()> {
        self.print(matrix, || {
            let destinations = matrix.rows().map(|(name, _)| name.to_string());
            let header: Vec<String> = std::iter::once("FROM \\ TO".to_owned()).chain(destinations).collect();
            let rows = matrix.rows().map(|(from, row)| {
                let marks = row.values().map(|reaches| if *reaches { "✓" } else { "✗" }.to_owned());
                std::iter::once(from.to_string()).chain(marks).collect()
            });
            let header: Vec<&str> = header.iter().map(String::as_str).collect();
            format!("{}\n\n{} of {} reach", table(&header, rows), matrix.reached(), matrix.total())
        })
    }

    pub(super) fn fault(self, fault: &Fault) -> Result<()> {
        self.print(fault, || match fault.ended() {
            Some(node) => format!(
                "fault {fault}: the agent of {node} has ended; `tartan lab fault clear` starts it again"
            ),
            None => format!("fault {fault} stands; `tartan lab fault clear` heals it"),
        })
    }

    pub(super) fn cleared(self, faults: &[Fault]) -> Result<()> {
        self.print(&json!({"cleared": faults}), || match faults {
            [] => "there was no fault".into(),
            faults => format!("healed: {}; every agent is healthy", listed(faults)),
        })
    }

    fn print(self, json: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        output::print(&if self.json { output::json(json)? } else { text() + "\n" })
    }
}

fn tables(status: &LabStatus) -> String {
    let nodes = status.nodes.iter().map(|node| {
        let health = if node.healthy { "yes" } else { "no" };
        let pid = node.pid.map_or("-".to_owned(), |pid| pid.to_string());
        vec![node.name.to_string(), node.address.to_string(), health.into(), pid]
    });
    let pods = status
        .pods
        .iter()
        .map(|pod| vec![pod.name.to_string(), pod.node.to_string(), listed(&pod.addresses)]);
    let faults = status.faults.iter().map(|fault| vec![fault.to_string()]);
    let faults = match status.faults.as_slice() {
        [] => String::new(),
        _ => format!("\n\n{}", table(&["FAULT"], faults)),
    };
    format!(
        "lab {}\n\n{}\n\n{}{faults}",
        status.name,
        table(&["NODE", "ADDRESS", "HEALTHY", "PID"], nodes),
        table(&["POD", "NODE", "ADDRESSES"], pods)
    )
}

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec()).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn listed(items: &[impl ToString]) -> String {
    if items.is_empty() {
        return "-".into();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
