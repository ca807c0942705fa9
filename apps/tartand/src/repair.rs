//! Repair of what the loop cannot bring back alone: a pod's interface whose host's end is gone, and the inside of a pod
//! behind it. The pod's namespace is found by the path that it was added with.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use tartan_decide::{Choice, EndpointChoice, Phase, Scope, lower};
use tartan_host::Realm;
use tartan_kernel::{Kernel, KernelError, Marks, NetnsError, netns};
use tartan_model::{AttachmentKey, Endpoint};
use tartan_reconcile::{Reconciler, Sweep};

use crate::pods::set_up_inside;
use crate::ring::Ring;

/// Why a pod's interface is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) reason: String,
    /// Its namespace is gone, so trying again does not help.
    lasting: bool,
}

fn passing(reason: String) -> Broken {
    Broken { reason, lasting: false }
}

impl Ring {
    /// Makes those pods' interfaces anew whose host's end is gone, and with it the pod's.
    pub(crate) fn remake(&mut self) {
        self.note_orphans();
        let orphans = std::mem::take(&mut self.orphans);
        if orphans.is_empty() {
            return;
        }
        let mut failed = Vec::new();
        for key in orphans {
            match self.remake_one(&key) {
                Ok(()) => drop(self.broken.remove(&key)),
                Err(broken) => failed.push((key, broken)),
            }
        }
        // From now on the links are wanted without a namespace to make them in; those that failed are orphans again.
        self.decide();
        self.settle(Sweep::Later);
        self.note_orphans();
        self.orphans.retain(|key| !failed.iter().any(|(failed, _)| failed == key));
        for (key, broken) in failed {
            if self.broken.get(&key) != Some(&broken) {
                self.went_wrong(broken.reason.clone());
            }
            self.broken.insert(key, broken);
        }
    }

    fn note_orphans(&mut self) {
        let found = self.loop_.take_orphans().into_iter().filter_map(|scope| match scope {
            Scope::Endpoint(key) => Some(key),
            _ => None,
        });
        self.orphans.extend(found);
        let mut orphans = std::mem::take(&mut self.orphans);
        orphans.retain(|key| self.is_wanted(key));
        self.orphans = orphans;
    }

    /// Tries again to make what could not be made, where that may help.
    pub(crate) fn retry_remake(&mut self) {
        let passing = self.broken.iter().filter(|(_, broken)| !broken.lasting);
        self.orphans.extend(passing.map(|(key, _)| key.clone()));
    }

    /// Whether trying again may help a pod.
    pub(crate) fn has_passing(&self) -> bool {
        self.broken.iter().any(|(key, broken)| !broken.lasting && self.is_wanted(key))
    }

    fn is_wanted(&self, key: &AttachmentKey) -> bool {
        self.world.endpoint(key).is_some_and(|attached| attached.phase == Phase::Wanted)
    }

    /// The host's end stays shut until the inside is done: if the agent dies in between, it shows that there is
    /// something to do (see [`Ring::refit`]).
    fn remake_one(&mut self, key: &AttachmentKey) -> Result<(), Broken> {
        let scope = Scope::Endpoint(key.clone());
        self.dirty.insert(scope.clone());
        let Some(Choice::Endpoint(choice)) = self.world.decide(&scope).choice.filter(is_open) else {
            return Ok(());
        };
        self.refuse_foreign(&choice.endpoint)?;
        let netns = open_place(&choice.endpoint)?;
        remove_other_end(&choice, &netns)?;
        let token = self.loop_.kernel().adopt(netns);
        let shut = Choice::Endpoint(EndpointChoice { open: false, ..choice.clone() });
        self.loop_.want(&scope, lower(&shut, Some(token)));
        self.settle(Sweep::Later);
        let made = self.settled(&scope, &choice.endpoint).and_then(|()| self.finish_inside(&choice, token));
        self.loop_.kernel().release(token);
        made.map_err(passing)
    }

    /// A link of that name that does not bear our mark is not ours, even if it was: its other end is left alone, too.
    fn refuse_foreign(&self, endpoint: &Endpoint) -> Result<(), Broken> {
        let Endpoint { pod, link, .. } = endpoint;
        if self.loop_.mirror().foreign.contains_key(link) {
            let reason =
                format!("pod {pod}: interface {link} is there and is not tartan's: rename or remove it");
            return Err(passing(reason));
        }
        Ok(())
    }
}

/// Goes into the namespace that a pod was added in, if its path still leads there.
pub(crate) fn open_inside(choice: &EndpointChoice) -> Result<(), Broken> {
    let found = open_place(&choice.endpoint)?;
    set_up_inside(choice, found.as_fd()).map_err(passing)
}

fn is_open(choice: &Choice) -> bool {
    matches!(choice, Choice::Endpoint(choice) if choice.open)
}

fn open_place(endpoint: &Endpoint) -> Result<OwnedFd, Broken> {
    let Endpoint { pod, netns: place, .. } = endpoint;
    let found = netns::open(Path::new(&place.path)).map_err(|error| {
        let gone = match &error {
            NetnsError::NotANamespace { .. } => true,
            NetnsError::File { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            _ => false,
        };
        Broken { reason: format!("pod {pod}: {error}: delete and add it"), lasting: gone }
    })?;
    let id = netns::id(found.as_fd()).map_err(|error| passing(format!("pod {pod}: {error}")))?;
    if id != (place.device, place.inode) {
        let reason = format!("pod {pod}: {} is another namespace now: delete and add it", place.path);
        return Err(Broken { reason, lasting: true });
    }
    Ok(found)
}

/// Where the host's end was not deleted but taken elsewhere, the pod still has its end, known by its name and MAC.
fn remove_other_end(choice: &EndpointChoice, netns: &OwnedFd) -> Result<(), Broken> {
    let wrong = |error: KernelError| passing(format!("pod {}: {error}", choice.endpoint.pod));
    let interface = choice.endpoint.key.interface.clone();
    let kernel = Kernel::open_in(netns.as_fd(), Marks::Pod(interface.clone())).map_err(wrong)?;
    let mut pod_loop: Reconciler<(), Kernel> = Reconciler::new(kernel, Realm::Pod);
    pod_loop.hear().map_err(wrong)?;
    if pod_loop.mirror().rows.link(&interface).is_some_and(|link| link.mac == choice.endpoint.mac) {
        pod_loop.allow_removal();
        pod_loop.settle(Sweep::Now).map_err(wrong)?;
    }
    Ok(())
}
