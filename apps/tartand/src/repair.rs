//! Repair of what the loop cannot bring back alone: a pod's interface whose host's end is gone, and the inside of a pod
//! behind it. The pod's namespace is found by the path that it was added with.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use tartan_decide::{Choice, EndpointChoice, Phase, Scope, lower};
use tartan_host::Realm;
use tartan_kernel::{Kernel, KernelError, Marks, NetnsError, netns};
use tartan_model::{AttachmentKey, Endpoint, Mtu};
use tartan_reconcile::{Reconciler, Sweep};

use crate::pods::set_up_inside;
use crate::ring::Ring;

/// Why a pod's interface is not there, or not as it should be.
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
        if !orphans.is_empty() {
            self.remake_all(orphans);
        }
        self.forget_mended();
    }

    fn remake_all(&mut self, orphans: BTreeSet<AttachmentKey>) {
        for key in orphans {
            match self.remake_one(&key) {
                Ok(()) => drop(self.broken.remove(&key)),
                Err(broken) => self.note_broken(key, broken),
            }
        }
        // From now on the links are wanted without a namespace to make them in; those that failed are orphans again.
        self.decide();
        self.settle(Sweep::Later);
        self.note_orphans();
        self.orphans.retain(|key| !self.broken.contains_key(key));
    }

    fn note_broken(&mut self, key: AttachmentKey, broken: Broken) {
        if self.broken.get(&key) != Some(&broken) {
            self.went_wrong(broken.reason.clone());
        }
        self.broken.insert(key, broken);
    }

    /// A pod may have been deleted, or its interface be back without us: what stands on it nobody told of then.
    fn forget_mended(&mut self) {
        let (broken, mended) =
            std::mem::take(&mut self.broken).into_iter().partition(|(key, _)| self.is_wrong(key));
        let mended: BTreeMap<AttachmentKey, Broken> = mended;
        self.broken = broken;
        if mended.keys().any(|key| self.is_wanted(key)) {
            self.loop_.distrust();
        }
    }

    fn is_wrong(&self, key: &AttachmentKey) -> bool {
        let choice = self.world.decide(&Scope::Endpoint(key.clone())).choice;
        let Some(Choice::Endpoint(choice)) = choice.filter(is_open) else { return false };
        self.is_wanted(key) && (self.is_lost(key) || self.misfit(&choice).is_some())
    }

    /// Where the MTU is to change, or a shut pod is opened, the pod's own end goes first: if the agent dies in between,
    /// the host's end still shows that there is something to do. Where that fails, the host's end stays as it is.
    pub(crate) fn refit(&mut self, choice: &mut EndpointChoice) {
        let Some((open, mtu)) = self.misfit(choice) else { return };
        match open_inside(choice) {
            Ok(()) => drop(self.broken.remove(&choice.endpoint.key)),
            Err(broken) => {
                self.note_broken(choice.endpoint.key.clone(), broken);
                (choice.open, choice.mtu) = (open, mtu);
            }
        }
    }

    /// How the host's end is, if the inside of the pod has to be changed before it.
    fn misfit(&self, choice: &EndpointChoice) -> Option<(bool, Mtu)> {
        let link = self.loop_.mirror().rows.link(&choice.endpoint.link)?;
        (choice.open && (link.mtu != choice.mtu || !link.up)).then_some((link.up, link.mtu))
    }

    fn note_orphans(&mut self) {
        let found = self.loop_.take_orphans().into_iter().filter_map(|scope| match scope {
            Scope::Endpoint(key) => Some(key),
            _ => None,
        });
        self.orphans.extend(found);
        let mut orphans = std::mem::take(&mut self.orphans);
        orphans.retain(|key| self.is_wanted(key) && self.is_lost(key));
        self.orphans = orphans;
    }

    /// Tries again to make what could not be made, where that may help.
    pub(crate) fn retry_remake(&mut self) {
        for (key, _) in self.broken.iter().filter(|(_, broken)| !broken.lasting) {
            self.orphans.insert(key.clone());
            self.dirty.insert(Scope::Endpoint(key.clone()));
        }
    }

    /// Whether trying again may help a pod.
    pub(crate) fn has_passing(&self) -> bool {
        self.broken.values().any(|broken| !broken.lasting)
    }

    fn is_wanted(&self, key: &AttachmentKey) -> bool {
        self.world.endpoint(key).is_some_and(|attached| attached.phase == Phase::Wanted)
    }

    /// Whether a pod's host's end is not there, whatever else may bear its name.
    fn is_lost(&self, key: &AttachmentKey) -> bool {
        let attached = self.world.endpoint(key);
        attached.is_some_and(|attached| self.loop_.mirror().rows.link(&attached.endpoint.link).is_none())
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
fn open_inside(choice: &EndpointChoice) -> Result<(), Broken> {
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
