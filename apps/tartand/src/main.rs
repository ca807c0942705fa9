//! `tartand`, the agent of each node: facts in, one decision, rows out to the kernel, and shutdown.

mod adding;
mod announce;
mod check;
mod cluster;
mod config;
mod counted;
mod deleted;
mod denied;
mod departure;
mod entry;
mod gauges;
mod health;
mod identity;
mod input;
mod keep;
mod lighten;
mod listen;
mod memory;
mod metrics;
mod pods;
mod probing;
mod records;
mod remove;
mod repair;
mod ring;
mod serve;
mod sleep;
mod status;
mod store;
mod survey;
mod uplink;
mod wait;
mod watchers;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;

use anyhow::Context;
use tartan_kernel::{Kernel, Marks, use_one_arena};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::cluster::{Cluster, Name};
use crate::config::{Config, Guards};
use crate::identity::{Identity, Lock};
use crate::input::Inbox;
use crate::metrics::Metrics;
use crate::records::Records;
use crate::ring::Ring;
use crate::serve::Service;
use crate::store::Stores;
use crate::watchers::Watchers;

/// The exit code where the configuration or the place is wrong, and where the store cannot be reached.
const WRONG: u8 = 2;
const UNREACHABLE: u8 = 3;

fn main() -> ExitCode {
    use_one_arena();
    let config = match Config::load() {
        Ok(config) => config,
        Err(refused) => return refused.exit(),
    };
    let filter = EnvFilter::try_new(&config.log).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            eprintln!("tartand: {error:#}");
            let unreachable = error.chain().any(|cause| cause.is::<tartan_store::StoreError>());
            ExitCode::from(if unreachable { UNREACHABLE } else { WRONG })
        }
    }
}

/// Programs guard where they can.
fn choose_guards(kernel: &mut Kernel, config: &Config) {
    let folder = config.run_dir.join(tartan_kernel::PROGRAMS);
    if config.guards == Guards::Programs {
        match kernel.use_programs(folder.clone()) {
            Ok(()) => return info!("programs guard pods"),
            Err(error) => info!("rules guard pods, as programs cannot: {:#}", anyhow::Error::new(error)),
        }
    }
    kernel.use_rules(folder);
}

fn run(config: Config) -> anyhow::Result<()> {
    if let Some(point) = tartan_fault::Point::chosen() {
        warn!("{}: this agent kills itself at {}", tartan_fault::VARIABLE, point.name());
    }
    // Signals are read from a descriptor by the ring: blocked before any thread is made, so that none gets them.
    let signals = ring::block_signals()?;
    let _lock = Lock::take(&config)?;
    let identity = Identity::load_or_make(&config)?;
    let metrics = Arc::new(Metrics::new());
    let Stores { store, watched } = config.store.open(&config.etcd, &metrics)?;
    let name = match identity.register(store.as_ref(), config.take_over) {
        Ok(()) => Name::Held,
        Err(error) if config.store.is_waited_for(&error) => {
            warn!("waiting for the store; what is in the kernel stays: {error:#}");
            Name::Wanted { force: config.take_over }
        }
        Err(error) => return Err(error),
    };
    let records = Records::open(&config.state_dir)?;
    let mut kernel =
        Kernel::open(Marks::Node).context("cannot talk to the kernel; tartand needs to be root")?;
    kernel.save_settings_in(config.state_dir.join("sysctls.json"));
    choose_guards(&mut kernel, &config);

    let (sender, receiver) = mpsc::channel();
    let inbox = Inbox::new(sender)?;
    let cluster = Cluster::start(&identity, name, store.clone(), watched, inbox.clone())?;
    let server = tartan_rpc::Server::bind(&config.socket())?;
    let mut ring = Ring::new(
        &config,
        &identity,
        records,
        kernel,
        cluster,
        inbox.clone(),
        receiver,
        metrics.clone(),
        store.kind(),
    )?;
    let watchers = Watchers { inbox: inbox.clone(), store: store.clone(), metrics: metrics.clone() };
    let service = Service::new(identity.id, inbox, store.clone(), metrics);
    let server = server.serve(Arc::new(service))?;
    let _watched = match &config.metrics_listen {
        Some(listen) => Some(tartan_http::serve(listen, Arc::new(watchers))?),
        None => None,
    };
    info!("node {} ({}) serves {}", identity.name, identity.id, config.socket().display());
    let outcome = ring.run(&signals);
    // The kernel keeps forwarding; only the name is given back, when nobody renews it any more.
    ring.stop();
    server.shutdown();
    if let Err(error) = store.release_lease(identity.name.as_str(), &identity.id.to_string()) {
        error!("cannot give back the node's name: {error}");
    }
    outcome
}
