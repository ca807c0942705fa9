//! Bringing a lab up.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tartan_api::object::Object;
use tartan_api::rpc::Request;
use tartan_api::verb::Applied;
use tartan_model::{Family, NetworkName};

use crate::down::{down, namespaces};
use crate::error::{Interrupted, Usage, require_root};
use crate::names::{DIRECTORY, LabName, LabNode};
use crate::pod::{self, NewPod};
use crate::programs::Programs;
use crate::progress::Progress;
use crate::state::{self, MAX_NODES, MAX_PODS, NodeState, State};
use crate::store::LabStore;
use crate::wire::Layout;
use crate::{agent, cni, network, parallel, wire};

/// How many pods are made at once.
const PODS_AT_ONCE: usize = 16;
/// How long the agents may take: this, and a little for each node.
const PATIENCE: Duration = Duration::from_secs(30);
const PATIENCE_PER_NODE: Duration = Duration::from_millis(500);
/// How long the store may take to have the network.
const APPLY: Duration = Duration::from_secs(20);

/// What a lab is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name.
    pub lab: LabName,
    /// The preset of its network.
    pub preset: String,
    /// The families of its pods, at least one.
    pub families: Vec<Family>,
    /// The family that its nodes talk in.
    pub underlay: Family,
    /// How many links join them, with a router between: 1 to [`wire::MAX_LINKS`].
    pub links: u8,
    /// How many nodes: 1 to [`MAX_NODES`].
    pub nodes: u32,
    /// How many pods a node; [`MAX_PODS`] in all at most.
    pub pods: u32,
    /// Where its state is.
    pub store: LabStore,
    /// What differs from the preset, as `key=value`.
    pub settings: Vec<String>,
    /// Whether a lab that fails is left as it is.
    pub keep: bool,
}

/// Brings a lab up, and waits until every agent is healthy and every pod there. One that fails or is interrupted is
/// taken down again.
///
/// # Errors
/// [`Usage`] when the lab is up or cannot be had like this; [`Interrupted`]; and whatever a node says.
pub fn up(options: &Options, programs: &Programs) -> Result<State> {
    require_root()?;
    let network = check(options)?;
    claim(&options.lab)?;
    let interruption = Interruption::watch()?;
    let built =
        Building { options, programs, interruption: &interruption, progress: Progress::new() }.build(network);
    match built {
        Err(error) if options.keep && !error.is::<Interrupted>() => Err(error),
        // What a person stopped is no failure of its own, whatever was under way.
        Err(error) => {
            let error = if interruption.came() { Interrupted.into() } else { error };
            match down(&options.lab) {
                Ok(_) => Err(error),
                Err(also) => Err(error.context(format!("{also:#}"))),
            }
        }
        built => built,
    }
}

fn check(options: &Options) -> Result<Object> {
    let Options { nodes, pods, .. } = *options;
    if !(1..=MAX_NODES).contains(&nodes) {
        bail!(Usage(format!("--nodes {nodes}: a lab has 1 to {MAX_NODES} nodes")));
    }
    if !(1..=wire::MAX_LINKS).contains(&options.links) {
        bail!(Usage(format!("--links {}: a lab has 1 to {} links", options.links, wire::MAX_LINKS)));
    }
    if nodes.saturating_mul(pods) > MAX_PODS {
        bail!(Usage(format!(
            "--pods {pods}: that is for each node, and a lab has at most {MAX_PODS} in all"
        )));
    }
    options.store.check()?;
    network::build(&options.preset, &options.families, &options.settings)
}

/// Takes the name: of two that bring up the same lab at once, one makes the folder.
fn claim(lab: &LabName) -> Result<()> {
    let taken = || {
        Usage(format!(
            "lab {lab} is up already, or something of it is left; take it down: tartan lab down --name {lab}; \
             or bring up another beside it: tartan lab up --name OTHER"
        ))
    };
    if !namespaces(lab)?.is_empty() {
        bail!(taken());
    }
    fs::create_dir_all(DIRECTORY).with_context(|| format!("cannot create {DIRECTORY}"))?;
    match fs::create_dir(lab.directory()) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!(taken()),
        other => other.with_context(|| format!("cannot create {}", lab.directory().display())),
    }
}

struct Building<'a> {
    options: &'a Options,
    programs: &'a Programs,
    interruption: &'a Interruption,
    progress: Progress,
}

impl Building<'_> {
    fn build(&self, network: Object) -> Result<State> {
        let nodes = self.nodes()?;
        self.make_nodes(&nodes)?;
        self.start_agents(&nodes, network)?;
        self.make_pods(&nodes)?;
        // A pod may have brought its node a block, which the others have to hear of.
        self.wait_for_agents(&nodes, "waiting until every agent has heard of every pod")?;
        state::load(&self.options.lab)
    }

    fn layout(&self) -> Layout {
        Layout { underlay: self.options.underlay, links: self.options.links }
    }

    fn nodes(&self) -> Result<Vec<NodeState>> {
        let node = |index| {
            let address = self.layout().node_address(index)?.address();
            Ok(NodeState { name: LabNode::numbered(index + 1), index, address })
        };
        (0..self.options.nodes).map(node).collect()
    }

    fn make_nodes(&self, nodes: &[NodeState]) -> Result<()> {
        let Options { lab, preset, families, underlay, links, store, settings, .. } = self.options;
        state::create(&State {
            name: lab.clone(),
            preset: preset.clone(),
            families: families.clone(),
            underlay: *underlay,
            store: *store,
            links: *links,
            settings: settings.clone(),
            next_index: self.options.nodes,
            nodes: nodes.to_vec(),
            pods: Vec::new(),
            faults: Vec::new(),
        })?;
        self.progress.step(nodes.len(), &format!("making the wire and {} nodes", nodes.len()));
        wire::create(lab, self.layout())?;
        store.start(lab, *underlay)?;
        let url = store.url(lab, *underlay)?;
        for node in nodes {
            self.interruption.check()?;
            prepare(lab, node, self.layout(), &url, self.programs)
                .with_context(|| format!("node {}", node.name))?;
            self.progress.tick();
        }
        Ok(())
    }

    fn start_agents(&self, nodes: &[NodeState], network: Object) -> Result<()> {
        let lab = &self.options.lab;
        self.progress.step(nodes.len(), &format!("starting {} agents", nodes.len()));
        for node in nodes {
            agent::start(lab, &node.name, self.programs).with_context(|| format!("node {}", node.name))?;
            self.progress.tick();
        }
        let Some(NodeState { name: first, .. }) = nodes.first() else { return Ok(()) };
        agent::wait_for_answer(lab, first, PATIENCE, &|| self.interruption.check())?;
        let request = Request::Apply { objects: vec![network] };
        agent::ask::<Vec<Applied>>(lab, first, &request, APPLY)
            .map_err(|error| agent::with_log(lab, first, &error.context("the network was not applied")))?;
        self.wait_for_agents(nodes, "waiting until every agent is healthy and has all its peers up")
    }

    fn wait_for_agents(&self, nodes: &[NodeState], text: &str) -> Result<()> {
        self.progress.step(nodes.len(), text);
        let deadline = Instant::now() + patience(nodes.len());
        for node in nodes {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
            let stop = || self.interruption.check();
            agent::wait_until_healthy(&self.options.lab, &node.name, nodes.len() - 1, left, &stop)?;
            self.progress.tick();
        }
        Ok(())
    }

    fn make_pods(&self, nodes: &[NodeState]) -> Result<()> {
        let lab = &self.options.lab;
        let pods = self.pods(nodes)?;
        self.progress.step(pods.len(), &format!("adding {} pods through the plugin", pods.len()));
        parallel::each(pods, PODS_AT_ONCE, |new| {
            self.interruption.check()?;
            pod::add(lab, &new, self.programs).map_err(|error| agent::with_log(lab, &new.node, &error))?;
            self.progress.tick();
            Ok(())
        })
    }

    /// `default/p1` on the first node, `default/p2` on the second, and round again.
    fn pods(&self, nodes: &[NodeState]) -> Result<Vec<NewPod>> {
        let network: NetworkName = "default".parse()?;
        let count = nodes.len() * self.options.pods as usize;
        let pod = |(number, node): (usize, &NodeState)| {
            let name = format!("default/p{}", number + 1).parse()?;
            let (node, network) = (node.name.clone(), network.clone());
            Ok(NewPod { name, node, network, labels: BTreeMap::new() })
        };
        nodes.iter().cycle().take(count).enumerate().map(pod).collect()
    }
}

/// Makes a node's namespace and files; its agent is not started.
pub(crate) fn prepare(
    lab: &LabName,
    node: &NodeState,
    layout: Layout,
    store: &str,
    programs: &Programs,
) -> Result<()> {
    wire::plug(lab, node.name.as_str(), node.index, layout)?;
    agent::configure(lab, &node.name, store)?;
    cni::configure(lab, &node.name, programs)
}

/// How long the agents of so many nodes may take to find each other.
pub(crate) fn patience(nodes: usize) -> Duration {
    PATIENCE + PATIENCE_PER_NODE * nodes as u32
}

/// Whether somebody has said stop: by Ctrl-C, or by ending us.
struct Interruption {
    came: Arc<AtomicBool>,
    signals: Vec<signal_hook::SigId>,
}

impl Interruption {
    fn watch() -> Result<Interruption> {
        let came = Arc::new(AtomicBool::new(false));
        let signals = [SIGINT, SIGTERM, SIGHUP]
            .map(|signal| signal_hook::flag::register(signal, Arc::clone(&came)))
            .into_iter()
            .collect::<Result<_, _>>()
            .context("cannot watch for signals")?;
        Ok(Interruption { came, signals })
    }

    fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<()> {
        if self.came() { Err(Interrupted.into()) } else { Ok(()) }
    }
}

impl Drop for Interruption {
    fn drop(&mut self) {
        for signal in self.signals.drain(..) {
            signal_hook::low_level::unregister(signal);
        }
    }
}
