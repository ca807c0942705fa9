//! What each verb asks and shows.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tartan_api::VERSION;
use tartan_api::explain::{Explain, Explanation, Party, ProtocolNumber, Target, Verdict};
use tartan_api::flannel;
use tartan_api::object::{Object, ObjectKind};
use tartan_api::rpc::{Failure, FailureCode, Leave, Request};
use tartan_api::verb::{Applied, DeniedConnection, DeniedRow, Left, Plan, Status};
use tartan_model::{Family, Name, NameError, NetworkName};

use crate::args::{Check, Cli, ImportVerb, NodeVerb, Output, Shared, Usage, Verb};
use crate::ask::Agent;
use crate::bundle::Place;
use crate::output::{json, print};
use crate::table::{self, Rows};
use crate::{bundle, check, files, lab, uninstall};

/// How often `denied -f` looks.
const LOOK: Duration = Duration::from_secs(1);

/// Does what was typed.
///
/// # Errors
/// With what is wrong, where, and what to do.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    let Cli { shared, verb } = cli;
    if shared.output == Output::Yaml && !matches!(verb, Verb::Get { .. } | Verb::Import { .. }) {
        return Err(Usage("-o yaml is for `tartan get` and `tartan import` only: use -o json".into()).into());
    }
    match verb {
        Verb::Lab(verb) => return lab::run(verb, shared.output),
        Verb::Status => return status(&shared),
        Verb::Nodes => rows::<tartan_api::verb::NodeRow>(&shared, &Request::Nodes)?,
        Verb::Peers => rows::<tartan_api::verb::PeerRow>(&shared, &Request::Peers)?,
        Verb::Endpoints => rows::<tartan_api::verb::EndpointRow>(&shared, &Request::Endpoints)?,
        Verb::Denied { follow: false } => {
            let rows: Vec<DeniedRow> = agent(&shared)?.ask(&Request::Denied)?;
            show(&shared, &rows, || table::denied(&rows))?;
        }
        Verb::Denied { follow: true } => follow_denied(&shared)?,
        Verb::Explain { source, destination, protocol, family } => {
            return explain(&shared, source, destination, protocol, family.map(Family::from));
        }
        Verb::Ipam => rows::<tartan_api::verb::IpamRow>(&shared, &Request::Ipam)?,
        Verb::Routes => rows::<tartan_api::verb::RouteRow>(&shared, &Request::Routes)?,
        Verb::Plan { files } => {
            let plan: Plan = agent(&shared)?.ask(&Request::Plan { objects: files::read(&files)? })?;
            show(&shared, &plan, || table::plan(&plan))?;
        }
        Verb::Apply { files, wait } => {
            let agent = agent(&shared)?;
            let objects = files::read(&files)?;
            let has_policy = objects.iter().any(|object| object.kind() == ObjectKind::NetworkPolicy);
            let applied: Vec<Applied> = agent.ask(&Request::Apply { objects })?;
            if wait {
                agent.ask::<()>(&Request::Wait)?;
            }
            if has_policy {
                warn_unenforced(&agent)?;
            }
            show(&shared, &applied, || applied.iter().map(table::applied).collect())?;
        }
        Verb::Get { kind, name } => get(&shared, kind, name)?,
        Verb::Delete { kind, name } => {
            let name = checked_name(kind, &name)?;
            let applied: Applied = agent(&shared)?.ask(&Request::Delete { kind, name })?;
            show(&shared, &applied, || table::applied(&applied))?;
        }
        Verb::Uninstall(args) => return uninstall::run(&shared, &args),
        Verb::Import { verb: ImportVerb::Flannel { file, name } } => import_flannel(&shared, &file, &name)?,
        Verb::Node { verb: NodeVerb::Leave { name, force } } => {
            let leave = Leave { node: name, force, without_store: false };
            let left: Left = agent(&shared)?.ask(&Request::Leave(leave))?;
            show(&shared, &left, || table::left(&left))?;
            // It is out of the cluster, and not all of it is gone.
            return Ok(if left.stays.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Verb::Check { what: None } => {
            let (findings, code) = check::node(&agent(&shared)?)?;
            show(&shared, &findings, || table::render(&findings))?;
            return Ok(code);
        }
        Verb::Check { what: Some(Check::Connectivity { nodes }) } => {
            let (rows, code) = check::connectivity(&agent(&shared)?, nodes)?;
            show(&shared, &rows, || table::render(&rows))?;
            return Ok(code);
        }
        Verb::Bundle { file, config, log } => bundle(&shared, &file, config, log)?,
        Verb::Version => {
            show(&shared, &json!({"version": VERSION}), || format!("tartan {VERSION}\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(
    shared: &Shared,
    source: Party,
    destination: Target,
    protocol: ProtocolNumber,
    family: Option<Family>,
) -> Result<ExitCode> {
    if protocol.has_ports() && destination.port.is_none() {
        return Err(Usage(format!("{protocol} has ports: name one behind a colon, as in web:80")).into());
    }
    if !protocol.has_ports() && destination.port.is_some() {
        return Err(Usage(format!("{protocol} has no ports: leave out the colon and what follows")).into());
    }
    let port = destination.port.unwrap_or_default();
    let asked = Explain { source, destination: destination.party, port, protocol, family };
    let explanation: Explanation = agent(shared)?.ask(&Request::Explain(asked.clone()))?;
    show(shared, &explanation, || table::explanation(&asked, &explanation))?;
    Ok(if explanation.verdict == Verdict::Allow { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bundle(shared: &Shared, file: &Path, config: PathBuf, log: Option<PathBuf>) -> Result<()> {
    let agent = agent(shared)?;
    // A lab's agent has its files beside its socket, and a namespace of its own.
    let place = match (&shared.lab, &shared.node, agent.socket.parent().map(Path::to_path_buf)) {
        (Some(lab), Some(node), Some(folder)) => Place {
            config: folder.join("tartand.toml"),
            log: log.or_else(|| Some(folder.join("tartand.log"))),
            netns: Some(format!("/run/netns/tartan-{lab}_{node}").into()),
            agent,
        },
        _ => Place { agent, config, log, netns: None },
    };
    let parts = bundle::gather(&place);
    bundle::write(&parts, file)?;
    let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    show(shared, &json!({"file": file, "parts": names}), || {
        let list: String = names.iter().map(|name| format!("  {name}\n")).collect();
        format!(
            "{} holds\n{list}Secrets are left out; names and addresses are not. Look at it before you give it away.\n",
            file.display()
        )
    })
}

fn agent(shared: &Shared) -> Result<Agent> {
    Ok(Agent { socket: shared.socket()? })
}

fn show(shared: &Shared, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    match shared.output {
        Output::Json => print(&json(value)?),
        Output::Table | Output::Yaml => print(&text()),
    }
}

fn rows<T: Rows + Serialize + DeserializeOwned>(shared: &Shared, request: &Request) -> Result<()> {
    let rows: Vec<T> = agent(shared)?.ask(request)?;
    show(shared, &rows, || table::render(&rows))
}

/// What is refused from now on: rows with what came since the last look.
fn follow_denied(shared: &Shared) -> Result<()> {
    let agent = agent(shared)?;
    let mut before: Vec<DeniedRow> = agent.ask(&Request::Denied)?;
    loop {
        std::thread::sleep(LOOK);
        let now: Vec<DeniedRow> = agent.ask(&Request::Denied)?;
        for row in now.iter().filter_map(|row| since(&before, row)) {
            show(shared, &row, || table::denied_line(&row))?;
        }
        before = now;
    }
}

/// What of a row is new. A counter that was made anew counts from its beginning.
fn since(before: &[DeniedRow], row: &DeniedRow) -> Option<DeniedRow> {
    let old = before.iter().find(|old| is_of_one(old, row));
    let old = old.filter(|old| old.packets <= row.packets && old.bytes <= row.bytes);
    let (packets, bytes) = old.map_or((0, 0), |old| (old.packets, old.bytes));
    let new = DeniedRow { packets: row.packets - packets, bytes: row.bytes - bytes, ..row.clone() };
    (new.packets > 0).then_some(new)
}

/// Whether two rows count the same. Whose addresses they are, and which policy refuses it, may have changed.
fn is_of_one(a: &DeniedRow, b: &DeniedRow) -> bool {
    match (&a.connection, &b.connection) {
        (None, None) => (&a.link, &a.reason) == (&b.link, &b.reason),
        (Some(a), Some(b)) => {
            let of = |one: &DeniedConnection| {
                (one.direction, one.from.address, one.to.address, one.port, one.icmp_type)
            };
            of(a) == of(b) && a.protocol == b.protocol
        }
        _ => false,
    }
}

fn warn_unenforced(agent: &Agent) -> Result<()> {
    let all: Vec<Object> = agent.ask(&Request::Get { kind: ObjectKind::ClusterNetwork, name: None })?;
    let enforces = |object: &Object| match object {
        Object::ClusterNetwork(network) => network.resolve().is_ok_and(|network| network.policy),
        _ => false,
    };
    if !all.is_empty() && !all.iter().any(enforces) {
        eprintln!(
            "warning: policies are not enforced: no network here has `policy: true`; apply one that has"
        );
    }
    Ok(())
}

/// A question about the state, so its exit code answers it.
fn status(shared: &Shared) -> Result<ExitCode> {
    let status: Status = agent(shared)?.ask(&Request::Status)?;
    show(shared, &status, || table::status(&status))?;
    Ok(if status.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn get(shared: &Shared, kind: ObjectKind, name: Option<String>) -> Result<()> {
    let name = name.map(|name| checked_name(kind, &name)).transpose()?;
    let objects: Vec<Object> = agent(shared)?.ask(&Request::Get { kind, name: name.clone() })?;
    if let (Some(name), []) = (name, objects.as_slice()) {
        let word = kind.words().first().copied().unwrap_or_default();
        let message = format!("there is no {kind} {name}; `tartan get {word}` lists those that are there");
        return Err(Failure { code: FailureCode::NotFound, message }.into());
    }
    match shared.output {
        Output::Yaml => print(&yaml(&objects)?),
        _ => show(shared, &objects, || table::objects(kind, &objects)),
    }
}

/// Documents that `apply` reads.
fn yaml(objects: &[Object]) -> Result<String> {
    let documents = objects.iter().map(serde_saphyr::to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(documents.join("---\n"))
}

fn import_flannel(shared: &Shared, file: &Path, network: &NetworkName) -> Result<()> {
    let (name, text) = files::text(file).map_err(files::BadInput::File)?;
    let imported = flannel::import(&text, network)
        .map_err(|error| files::BadInput::File(flannel::within(&name, error.at(), &error)))?;
    for word in &imported.words {
        eprintln!("{}", flannel::within(&name, word.at, word));
    }
    match shared.output {
        Output::Json => print(&json(&imported.network)?),
        Output::Table | Output::Yaml => print(&serde_saphyr::to_string(&imported.network)?),
    }
}

/// The whole name of an object of a kind: with its namespace, `default` unless given, if the kind lives in namespaces.
fn checked_name(kind: ObjectKind, name: &str) -> Result<String, Usage> {
    let usage = |error: NameError| Usage(error.to_string());
    let (namespace, name) = match name.split_once('/') {
        Some((_, name)) if !kind.is_namespaced() => {
            return Err(Usage(format!("a {kind} is in no namespace: write the name alone, {name:?}")));
        }
        Some((namespace, name)) => (namespace, name),
        None => ("default", name),
    };
    match kind {
        ObjectKind::ClusterNetwork | ObjectKind::Namespace => {
            name.parse::<NetworkName>().map(String::from).map_err(usage)
        }
        ObjectKind::NetworkPolicy | ObjectKind::Pod | ObjectKind::ServiceAccount => {
            let namespace: NetworkName = namespace.parse().map_err(usage)?;
            let name: Name = name.parse().map_err(usage)?;
            Ok(format!("{namespace}/{name}"))
        }
    }
}
