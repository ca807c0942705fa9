//! Does what a line of `tartan lab` says, and gives the exit code.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use tartan_model::{Name, PodName};
use tartan_netlab::down::{down, labs};
use tartan_netlab::error::{Usage, exit_code, require_root};
use tartan_netlab::exec::{self, NotStarted};
use tartan_netlab::fault::Fault;
use tartan_netlab::matrix::{self, Question};
use tartan_netlab::names::LabName;
use tartan_netlab::pod::{self, NewPod};
use tartan_netlab::programs::Programs;
use tartan_netlab::store::{self, LabStore};
use tartan_netlab::{fault, label, node, respond, status, up};

use super::fault::FaultVerb;
use super::show::Show;
use super::{Lab, MatrixFlags, NamespaceVerb, NodeVerb, PodVerb, Store, StoreVerb, Up, Verb};
use crate::args::Output;

/// The answer is no.
const NO: u8 = 1;

/// Does it; says on standard error what went wrong, as the lab has exit codes of its own.
///
/// # Errors
/// None: they are told.
pub(crate) fn run(lab: Lab, output: Output) -> Result<ExitCode> {
    dispatch(lab, Show { json: output == Output::Json }).or_else(|error| {
        eprintln!("error: {error:#}");
        Ok(ExitCode::from(exit_code(&error)))
    })
}

fn dispatch(Lab { name: lab, verb }: Lab, show: Show) -> Result<ExitCode> {
    match verb {
        Verb::Up(flags) => bring_up(&lab, flags, show)?,
        Verb::Down { all } => take_down(lab, all, show)?,
        Verb::List => show.list(&status::list()?)?,
        Verb::Status => show.status(&status::status(&lab)?)?,
        Verb::Node(NodeVerb::Exec { node, command }) => {
            return Ok(ended(exec::on_node(&lab, &node, &command)?));
        }
        Verb::Node(verb) => change_nodes(&lab, verb, show)?,
        Verb::Pod(verb) => change_pods(&lab, verb, show)?,
        Verb::Namespace(NamespaceVerb::Label { namespace, changes }) => {
            require_root()?;
            let labels = label::namespace(&lab, &namespace, &changes)?;
            show.labelled("namespace", namespace.as_str(), &labels)?;
        }
        Verb::Exec { pod, namespace, command } => {
            return Ok(ended(exec::in_pod(&lab, &pod_name(&pod, namespace)?, &command)?));
        }
        Verb::Matrix(flags) => return ask_all(&lab, flags, show),
        Verb::Fault(verb) => change_faults(&lab, verb, show)?,
        Verb::Store(verb) => change_store(&lab, verb, show)?,
        Verb::Respond { pod } => respond::run(pod)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn bring_up(lab: &LabName, flags: Up, show: Show) -> Result<()> {
    let store = match (flags.store, flags.etcd_members) {
        (Store::Sqlite, None) => LabStore::Sqlite,
        (Store::Sqlite, Some(_)) => bail!(Usage("--etcd-members goes with --store etcd".into())),
        (Store::Etcd, members) => LabStore::Etcd(members.unwrap_or(1)),
    };
    let options = up::Options {
        lab: lab.clone(),
        preset: flags.preset,
        families: flags.family.list(),
        underlay: flags.underlay.map_or(flags.family.underlay(), Into::into),
        links: flags.links,
        nodes: flags.nodes,
        pods: flags.pods,
        store,
        settings: flags.settings,
        keep: flags.keep,
    };
    require_root()?;
    up::up(&options, &Programs::find()?)?;
    show.built(&status::status(lab)?)
}

fn take_down(lab: LabName, all: bool, show: Show) -> Result<()> {
    require_root()?;
    let names = if all { labs()?.into_iter().collect() } else { vec![lab] };
    // One that fails must not keep the others up.
    let results: Vec<(LabName, Result<bool>)> = names
        .into_iter()
        .map(|name| {
            let result = down(&name);
            (name, result)
        })
        .collect();
    let mut gone = Vec::new();
    let mut errors = Vec::new();
    for (name, result) in results {
        match result {
            Ok(was_there) => gone.push((name, was_there)),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    show.down(&gone)?;
    if errors.is_empty() { Ok(()) } else { bail!(errors.join("\n")) }
}

fn change_nodes(lab: &LabName, verb: NodeVerb, show: Show) -> Result<()> {
    match verb {
        NodeVerb::Add { node } => {
            node::add(lab, &node, &Programs::find()?)?;
            let row = status::status(lab)?.nodes.into_iter().find(|row| row.name == node);
            show.node_added(&row.with_context(|| format!("node {node} is gone already"))?)
        }
        NodeVerb::Rm { node } => {
            node::remove(lab, &node)?;
            show.removed("node", &node.to_string())
        }
        NodeVerb::Exec { .. } => Ok(()),
    }
}

fn change_pods(lab: &LabName, verb: PodVerb, show: Show) -> Result<()> {
    require_root()?;
    match verb {
        PodVerb::Add { pod, node, namespace, labels, network } => {
            let labels: BTreeMap<String, String> = labels.into_iter().collect();
            let new = NewPod { name: PodName { namespace, name: pod }, node: node.parse()?, network, labels };
            show.pod_added(&pod::add(lab, &new, &Programs::find()?)?)
        }
        PodVerb::Label { pod, namespace, changes } => {
            let name = pod_name(&pod, namespace)?;
            let labels = label::pod(lab, &name, &changes)?;
            show.labelled("pod", &name.to_string(), &labels)
        }
        PodVerb::Rm { pod, namespace } => {
            let name = pod_name(&pod, namespace)?;
            pod::remove(lab, &name)?;
            show.removed("pod", &name.to_string())
        }
    }
}

fn ask_all(lab: &LabName, flags: MatrixFlags, show: Show) -> Result<ExitCode> {
    let question = Question {
        protocol: flags.protocol.into(),
        port: flags.port,
        family: flags.family.map(Into::into),
        network: flags.network,
    };
    let matrix = matrix::of_lab(lab, &question)?;
    show.matrix(&matrix)?;
    Ok(if matrix.is_full() { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}

fn change_store(lab: &LabName, verb: StoreVerb, show: Show) -> Result<()> {
    match verb {
        StoreVerb::Stop => store::stop(lab)?,
        StoreVerb::Start => store::start(lab)?,
        StoreVerb::Wipe => store::wipe(lab)?,
    }
    show.store(match verb {
        StoreVerb::Stop => "stopped",
        StoreVerb::Start => "started",
        StoreVerb::Wipe => "wiped",
    })
}

fn change_faults(lab: &LabName, verb: FaultVerb, show: Show) -> Result<()> {
    match verb {
        FaultVerb::Clear => show.cleared(&fault::clear(lab, &Programs::find()?)?),
        FaultVerb::Rm(kind) => {
            let healed = Fault::from(kind);
            fault::remove(lab, &healed, &Programs::find()?)?;
            show.removed("fault", &healed.to_string())
        }
        FaultVerb::Add(kind) | FaultVerb::Kind(kind) => {
            let new = Fault::from(kind);
            fault::add(lab, &new)?;
            show.fault(&new)
        }
    }
}

/// `p1` in the namespace that was said, or `namespace/p1`.
fn pod_name(text: &str, namespace: Option<Name>) -> Result<PodName> {
    let wrong = |why: &str| Usage(format!("pod {text:?}: {why}"));
    match (text.split_once('/'), namespace) {
        (Some((said, _)), Some(namespace)) if said != namespace.as_str() => {
            bail!(wrong(&format!("-n says namespace {namespace}; leave one of the two out")))
        }
        (Some(_), _) => text.parse().map_err(|error| wrong(&format!("{error}")).into()),
        (None, namespace) => {
            let namespace = namespace.map_or_else(|| "default".parse(), Ok)?;
            let name = text.parse().map_err(|error| wrong(&format!("{error}")))?;
            Ok(PodName { namespace, name })
        }
    }
}

fn ended(NotStarted { exit_code, message }: NotStarted) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::from(exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_named_with_or_without_its_namespace() {
        let named = |text, namespace: Option<&str>| {
            pod_name(text, namespace.map(|name| name.parse().unwrap())).map(|pod| pod.to_string()).ok()
        };
        assert_eq!(named("p1", None).as_deref(), Some("default/p1"));
        assert_eq!(named("p1", Some("x")).as_deref(), Some("x/p1"));
        assert_eq!(named("x/p1", Some("x")).as_deref(), Some("x/p1"));
        assert_eq!(named("x/p1", Some("y")), None);
        assert_eq!(named("P1", None), None);
    }
}
