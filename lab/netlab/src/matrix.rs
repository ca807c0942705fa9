//! Who reaches whom: every pod asks every pod, itself included.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use tartan_model::{Family, NetworkName, PodName};

use crate::error::require_root;
use crate::names::LabName;
use crate::probe::{self, Probe, TRIES};
use crate::{state, wire};

/// The most questions that are asked at once: on two cores more would be late by themselves.
const AT_ONCE: usize = 2048;
/// Descriptors that are wanted for other things.
const SPARE: u64 = 64;

/// How pods are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A connection to the responder.
    Tcp,
    /// A datagram to the responder.
    Udp,
    /// An echo request, which the kernel answers: no name comes back.
    Icmp,
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// How.
    pub protocol: Protocol,
    /// Where; not for ICMP.
    pub port: u16,
    /// By which family only; else every family that both pods have must answer.
    pub family: Option<Family>,
    /// Only pods of this network.
    pub network: Option<NetworkName>,
}

/// A pod that asks and is asked.
#[derive(Debug)]
pub struct Subject {
    /// Its name, which it answers with.
    pub name: PodName,
    /// Its namespace.
    pub netns: OwnedFd,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Who reaches whom: source, then destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Matrix(BTreeMap<PodName, BTreeMap<PodName, bool>>);

impl Matrix {
    /// The rows: a source, and whether it reaches each destination.
    pub fn rows(&self) -> impl Iterator<Item = (&PodName, &BTreeMap<PodName, bool>)> {
        self.0.iter()
    }

    /// How many pairs there are.
    pub fn total(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// How many of them reach.
    pub fn reached(&self) -> usize {
        self.0.values().flat_map(BTreeMap::values).filter(|reaches| **reaches).count()
    }

    /// Whether all reach.
    pub fn is_full(&self) -> bool {
        self.reached() == self.total()
    }
}

/// Asks the pods of a lab.
///
/// # Errors
/// When the lab is not up, or a pod's namespace is gone.
pub fn of_lab(lab: &LabName, question: &Question) -> Result<Matrix> {
    require_root()?;
    raise_descriptor_limit()?;
    let state = state::load(lab)?;
    let is_asked = |network: &NetworkName| question.network.as_ref().is_none_or(|only| only == network);
    let pods = state.pods.iter().filter(|pod| is_asked(&pod.network));
    let subject = |pod: &state::PodState| {
        let netns = wire::open(&lab.pod_netns(&pod.name)).with_context(|| format!("pod {}", pod.name))?;
        Ok(Subject { name: pod.name.clone(), netns, addresses: pod.addresses.clone() })
    };
    let subjects: Vec<Subject> = pods.map(subject).collect::<Result<_>>()?;
    ask(&subjects, question)
}

/// Asks these pods.
///
/// # Errors
/// When a namespace cannot be entered.
pub fn ask(subjects: &[Subject], question: &Question) -> Result<Matrix> {
    let mut asked: Vec<(&PodName, &PodName, Probe<'_>)> = subjects
        .iter()
        .enumerate()
        .flat_map(|(source, from)| subjects.iter().flat_map(move |to| pair(source, from, to, question)))
        .collect();
    let at_once = at_once(raise_descriptor_limit()?, subjects.len());
    let (names, mut probes): (Vec<_>, Vec<_>) =
        asked.drain(..).map(|(from, to, probe)| ((from, to), probe)).unzip();
    for some in probes.chunks_mut(at_once) {
        probe::ask(some, question.protocol)?;
    }
    let mut matrix: BTreeMap<PodName, BTreeMap<PodName, bool>> = BTreeMap::new();
    for ((from, to), probe) in names.into_iter().zip(probes) {
        let reaches = matrix.entry(from.clone()).or_default().entry(to.clone()).or_insert(true);
        *reaches &= probe.answered;
    }
    fill_in(&mut matrix, subjects);
    Ok(Matrix(matrix))
}

/// A question for each family.
fn pair<'a>(
    source: usize,
    from: &'a Subject,
    to: &'a Subject,
    question: &Question,
) -> Vec<(&'a PodName, &'a PodName, Probe<'a>)> {
    let port = if question.protocol == Protocol::Icmp { 0 } else { question.port };
    let has =
        |subject: &Subject, family| subject.addresses.iter().any(|address| Family::of(*address) == family);
    let families =
        Family::ALL.into_iter().filter(|family| question.family.is_none_or(|only| only == *family));
    families
        .filter(|family| has(from, *family))
        .filter_map(|family| to.addresses.iter().find(|address| Family::of(**address) == family))
        .map(|address| {
            let address = SocketAddr::new(*address, port);
            (&from.name, &to.name, Probe::new(source, from.netns.as_fd(), address, to.name.to_string()))
        })
        .collect()
}

/// Pairs that have no family in common do not reach.
fn fill_in(matrix: &mut BTreeMap<PodName, BTreeMap<PodName, bool>>, subjects: &[Subject]) {
    for from in subjects {
        let row = matrix.entry(from.name.clone()).or_default();
        for to in subjects {
            row.entry(to.name.clone()).or_insert(false);
        }
    }
}

/// Takes as many descriptors as we may have; says how many.
fn raise_descriptor_limit() -> Result<u64> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of open files")?;
    Ok(most)
}

/// How many questions may be open at once: each has a socket a try, and each pod's namespace is open as well.
fn at_once(descriptors: u64, subjects: usize) -> usize {
    let questions = descriptors.saturating_sub(SPARE + subjects as u64) / TRIES as u64;
    usize::try_from(questions).unwrap_or(usize::MAX).clamp(1, AT_ONCE)
}
