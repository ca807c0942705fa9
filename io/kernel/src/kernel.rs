//! The kernel of one network namespace: opened, read, listened to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteProtocol, RouteType};
use tartan_host::policy::Direction;
use tartan_host::{ForeignChain, Host, LinkKind, NetnsToken, Notice, Row, SysctlKey};
use tartan_model::{Family, IfName};

use crate::marks::{Marks, PROTOCOL};
use crate::notices::{Footing, Hearing, Listener, Notices};
use crate::programs::Programs;
use crate::read::{Links, Seen};
use crate::sysctl::{self, Settings, Watch};
use crate::{Denied, Dump, KernelError, Message, NetnsError, Request, Rtnl, netns, nft, tables};

/// The kernel of one network namespace, as far as it concerns us.
#[derive(Debug)]
pub struct Kernel {
    pub(crate) requests: Rtnl,
    pub(crate) links: Links,
    pub(crate) adopted: BTreeMap<NetnsToken, OwnedFd>,
    pub(crate) settings: Settings,
    /// Our nftables: only a node has them, and only where the kernel can.
    pub(crate) filter: Option<Filter>,
    /// The guards' programs, where they do what rules would do else.
    pub(crate) programs: Option<Programs>,
    /// Where programs of an agent before may be, which are to go once rules guard.
    pub(crate) former_programs: Option<PathBuf>,
    /// The namespace, when it is not that of the process.
    pub(crate) netns: Option<OwnedFd>,
    /// The uplink is where this address is reached: routes to it matter.
    pub(crate) sought: Option<IpAddr>,
    /// Whether the kernel has IPv6; with `ipv6.disable=1` it has none.
    pub(crate) ipv6: bool,
    listener: Listener,
    footing: Footing,
    /// Settings that somebody asked for: of these changes are told.
    told: BTreeSet<SysctlKey>,
    watch: Watch,
    /// Heard and not yet taken.
    pub(crate) pending: Notices,
    next_token: u64,
}

/// The hand and the ear for our nftables.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) ruleset: nft::Ruleset,
    pub(crate) policy: nft::Policy,
    listener: nft::Listener,
    /// What others have for forwarded packets; None if that may have changed since.
    foreign: Option<Vec<ForeignChain>>,
}

impl Filter {
    fn open() -> Result<Filter, KernelError> {
        // Listening begins first, so that nothing is missed.
        let listener = nft::Listener::open()?;
        Ok(Filter { ruleset: nft::Ruleset::open()?, policy: nft::Policy::open()?, listener, foreign: None })
    }

    /// What others told of since the last time.
    fn hear(&mut self) -> nft::Heard {
        let ports = nft::Ports { ruleset: self.ruleset.port(), policy: self.policy.port() };
        let heard = self.listener.drain(ports);
        if heard.foreign {
            self.foreign = None;
        }
        heard
    }
}

impl Kernel {
    /// Opens the kernel of the calling thread's network namespace, for use by threads in that namespace.
    ///
    /// # Errors
    /// When there is no rtnetlink, or without CAP_NET_ADMIN.
    pub fn open(marks: Marks) -> Result<Kernel, KernelError> {
        let filter = match &marks {
            Marks::Node => open_filter()?,
            Marks::Pod(_) => None,
        };
        Ok(Kernel {
            filter,
            programs: None,
            former_programs: None,
            requests: Rtnl::open()?,
            listener: Listener::open()?,
            links: Links::new(marks),
            ipv6: Path::new("/proc/sys/net/ipv6").exists(),
            adopted: BTreeMap::new(),
            settings: Settings::default(),
            netns: None,
            sought: None,
            footing: Footing::default(),
            told: BTreeSet::new(),
            watch: Watch::default(),
            pending: Notices::default(),
            next_token: 1,
        })
    }

    /// Opens the kernel of another network namespace, for use by any thread.
    ///
    /// # Errors
    /// As [`Kernel::open`], and when the namespace cannot be entered.
    pub fn open_in(netns: BorrowedFd<'_>, marks: Marks) -> Result<Kernel, KernelError> {
        let keep = netns
            .try_clone_to_owned()
            .map_err(|source| NetnsError::System { action: "keep a descriptor of", source })?;
        let kernel = netns::run_in(netns, || Kernel::open(marks))??;
        Ok(Kernel { netns: Some(keep), ..kernel })
    }

    /// The families of which another network namespace has a default route, whoever made it.
    ///
    /// # Errors
    /// When the namespace cannot be entered or read.
    pub fn default_routes(netns: BorrowedFd<'_>) -> Result<BTreeSet<Family>, KernelError> {
        netns::run_in(netns, || {
            let mut rtnl = Rtnl::open()?;
            let mut found = BTreeSet::new();
            for family in Family::ALL {
                let dump = tables::dump_routes(&mut rtnl, family, None)?;
                let is_default = |message: &Message<'_>| match message.parse() {
                    Ok(RouteNetlinkMessage::NewRoute(route)) => {
                        route.header.destination_prefix_length == 0 && route.header.kind == RouteType::Unicast
                    }
                    _ => false,
                };
                if dump.messages().any(|message| is_default(&message)) {
                    found.insert(family);
                }
            }
            Ok(found)
        })?
    }

    /// Keeps the value that a sysctl had before we first changed it in this JSON file, an object of paths below
    /// `/proc/sys` to values. A sysctl whose old value cannot be kept is not changed.
    pub fn save_settings_in(&mut self, path: PathBuf) {
        self.settings.save_in(path);
    }

    /// Takes a namespace in, so that [`tartan_host::Peer`] can name it. It stays alive until it is released.
    pub fn adopt(&mut self, netns: OwnedFd) -> NetnsToken {
        let token = NetnsToken(self.next_token);
        self.next_token += 1;
        self.adopted.insert(token, netns);
        token
    }

    /// Lets go of a namespace; nothing happens if the token is unknown.
    pub fn release(&mut self, token: NetnsToken) {
        self.adopted.remove(&token);
    }

    /// The namespace that a token stands for.
    pub fn netns(&self, token: NetnsToken) -> Option<BorrowedFd<'_>> {
        self.adopted.get(&token).map(AsFd::as_fd)
    }

    /// Reads everything of ours, and these sysctls; one that the kernel does not have is left out. Notices of before are
    /// dropped, those about the underlay too: look at the uplink after this.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn read(&mut self, sysctls: &[SysctlKey]) -> Result<Host, KernelError> {
        self.listener.drain(|_| ());
        self.pending = Notices::default();
        sysctls.iter().for_each(|key| self.listen_to(key));
        let seen = self.read_links()?;
        let mut rows = self.read_ruleset()?;
        rows.extend(self.read_policy()?);
        rows.extend(seen.iter().filter_map(|seen| self.links.row(seen)).map(Row::Link));
        rows.extend(self.read_addresses()?);
        rows.extend(self.read_neighbors()?);
        rows.extend(self.read_fdb(&seen)?);
        rows.extend(self.read_routes()?);
        let netns = self.netns.as_ref().map(AsFd::as_fd);
        let settings = sysctl::read(netns, sysctls)?;
        self.settings.keep(&settings);
        rows.extend(settings.into_iter().map(Row::Sysctl));
        self.guard_all(&seen, &mut rows);
        // All at once: a tree that grows by and by, in order, is half empty.
        Ok(Host { rows: rows.into_iter().collect(), foreign: self.links.foreign().collect() })
    }

    /// Has the kernel take note of these links' carrier at once: see [`Rtnl::sync_carrier`].
    pub fn sync_carrier<'a>(&mut self, links: impl IntoIterator<Item = &'a IfName>) {
        links.into_iter().for_each(|link| self.requests.sync_carrier(link));
    }

    /// Reads one setting, and tells of its changes from now on as far as they can be known; None where the kernel has
    /// no such setting or does not let it be read.
    pub fn read_sysctl(&mut self, key: &SysctlKey) -> Option<Row> {
        self.listen_to(key);
        let netns = self.netns.as_ref().map(AsFd::as_fd);
        let mut found = sysctl::read(netns, std::slice::from_ref(key)).ok()?;
        self.settings.keep(&found);
        found.pop().map(Row::Sysctl)
    }

    /// Reads our routes of both families. The links must have been read before, and notices be heard.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn read_routes(&mut self) -> Result<Vec<Row>, KernelError> {
        self.footing.clear();
        let mut rows = Vec::new();
        for family in Family::ALL {
            let dump = tables::dump_routes(&mut self.requests, family, Some(RouteProtocol::Other(PROTOCOL)))?;
            rows.extend(parsed(&dump).filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) => self.links.route(&route),
                _ => None,
            }));
        }
        rows.iter().for_each(|route| self.footing.add(route));
        Ok(rows.into_iter().map(Row::Route).collect())
    }

    /// Reads our nftables.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn read_ruleset(&mut self) -> Result<Vec<Row>, KernelError> {
        let Some(filter) = &mut self.filter else { return Ok(Vec::new()) };
        // What was heard of the other table is not read by this.
        self.pending.policy_stale |= filter.hear().policy_stale;
        filter.ruleset.read()
    }

    /// Reads our table of policies.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn read_policy(&mut self) -> Result<Vec<Row>, KernelError> {
        let Some(filter) = &mut self.filter else { return Ok(Vec::new()) };
        let heard = filter.hear();
        self.pending.rows.extend(heard.rows);
        self.pending.ruleset_stale |= heard.stale;
        self.pending.policy_stale = false;
        Ok(filter.policy.read()?.into_iter().map(Row::Policy).collect())
    }

    /// Writes our nftables as ordinary tables, as on a kernel before 6.9: others can change them, and are told of.
    pub fn own_no_tables(&mut self) {
        if let Some(filter) = &mut self.filter {
            filter.ruleset.own_no_tables();
            filter.policy.own_no_tables();
        }
    }

    /// What the guards refused since their counters were made; a counter goes a day after its last packet.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn denied(&mut self) -> Result<Vec<Denied>, KernelError> {
        let mut denied = self.filter.as_mut().map_or(Ok(Vec::new()), |filter| filter.ruleset.denied())?;
        denied.extend(self.programs.as_ref().map_or(Ok(Vec::new()), Programs::denied)?);
        Ok(denied)
    }

    /// How many packets policies refused in each direction since their table was made, and how many that are a part of no
    /// connection.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn denied_by_policies(&mut self) -> Result<Vec<(Option<Direction>, u64)>, KernelError> {
        self.filter.as_mut().map_or(Ok(Vec::new()), |filter| filter.policy.denied())
    }

    /// The chains of others that forwarded packets pass. They are read anew only if they may have changed.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn foreign_chains(&mut self) -> Result<&[ForeignChain], KernelError> {
        self.hear();
        let Some(filter) = &mut self.filter else { return Ok(&[]) };
        if filter.foreign.is_none() {
            filter.foreign = Some(filter.ruleset.foreign()?);
        }
        Ok(filter.foreign.as_deref().unwrap_or_default())
    }

    /// The kernel has notices for forwarding; other settings are watched by their files.
    fn listen_to(&mut self, key: &SysctlKey) {
        if let SysctlKey::AcceptRa(_) = key {
            self.watch.add(self.netns.as_ref().map(AsFd::as_fd), key);
        }
        self.told.insert(key.clone());
    }

    /// Descriptors of which one is readable when the kernel tells something; what [`Kernel::apply`] did can wait in
    /// [`Kernel::notices`] without them.
    pub fn notices_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let filter = self.filter.as_ref().map(|filter| filter.listener.as_fd());
        [Some(self.listener.as_fd()), filter, self.watch.fd()].into_iter().flatten()
    }

    /// What the kernel told since the last time; never waits. The kernel tells before it acknowledges, so what
    /// [`Kernel::apply`] did is among it as soon as that returns.
    pub fn notices(&mut self) -> Notices {
        self.hear();
        std::mem::take(&mut self.pending)
    }

    pub(crate) fn hear(&mut self) {
        let mut hearing = Hearing {
            links: &mut self.links,
            footing: &mut self.footing,
            sought: self.sought,
            told: &mut self.told,
            notices: &mut self.pending,
            other_files: Vec::new(),
            classifiers: BTreeSet::new(),
        };
        let whole = self.listener.drain(|message| hearing.hear(message));
        let Hearing { other_files, classifiers, .. } = hearing;
        self.guard_again(&classifiers);
        self.pending.lost |= !whole;
        if let Some(filter) = &mut self.filter {
            let heard = filter.hear();
            self.pending.rows.extend(heard.rows);
            self.pending.ruleset_stale |= heard.stale;
            self.pending.policy_stale |= heard.policy_stale;
        }
        other_files.iter().for_each(|key| self.watch.forget(key));
        for key in self.watch.drain().into_iter().chain(other_files) {
            let row = self.read_sysctl(&key);
            self.pending.rows.extend(row.map(Notice::Is));
        }
    }

    /// Asks for things that the kernel tells of later than it acknowledges them, and takes the answers for notices.
    pub(crate) fn hear_at_once(&mut self, requests: Vec<Request>) {
        self.hear();
        let mut hearing = Hearing {
            links: &mut self.links,
            footing: &mut self.footing,
            sought: self.sought,
            told: &mut self.told,
            notices: &mut self.pending,
            other_files: Vec::new(),
            classifiers: BTreeSet::new(),
        };
        self.requests.exchange(requests, |_, message| hearing.hear(message));
        let classifiers = hearing.classifiers;
        self.guard_again(&classifiers);
    }

    /// Learns all links before any row of them is made, as a port may come before its bridge.
    fn read_links(&mut self) -> Result<Vec<Seen>, KernelError> {
        let dump = self.requests.dump(&tables::links())?;
        let seen: Vec<Seen> = dump.messages().filter_map(|message| Seen::read(&message)).collect();
        self.links.clear();
        for link in &seen {
            self.links.learn(link);
        }
        Ok(seen)
    }

    fn read_addresses(&mut self) -> Result<Vec<Row>, KernelError> {
        let mut rows = Vec::new();
        for family in Family::ALL {
            let dump = self.requests.dump(&tables::addresses(family))?;
            rows.extend(parsed(&dump).filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(address) => self.links.address(&address).map(Row::Address),
                _ => None,
            }));
        }
        Ok(rows)
    }

    fn read_neighbors(&mut self) -> Result<Vec<Row>, KernelError> {
        let mut rows = Vec::new();
        for family in Family::ALL {
            let dump = self.requests.dump(&tables::neighbors(family))?;
            rows.extend(parsed(&dump).filter_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(entry) => self.links.neighbor(&entry)?.1.map(Row::Neighbor),
                _ => None,
            }));
        }
        Ok(rows)
    }

    fn read_fdb(&mut self, seen: &[Seen]) -> Result<Vec<Row>, KernelError> {
        let ours = seen.iter().filter(|link| matches!(link.kind, Some(LinkKind::Vxlan { .. })));
        let mut rows = Vec::new();
        for device in ours.filter(|link| self.links.ours(link.index).is_some()) {
            let dump = self.requests.dump(&tables::fdb(device.index))?;
            rows.extend(parsed(&dump).filter_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(entry) => self.links.fdb(&entry).map(Row::Fdb),
                _ => None,
            }));
        }
        Ok(rows)
    }
}

/// None where the kernel has no netfilter netlink.
fn open_filter() -> Result<Option<Filter>, KernelError> {
    match Filter::open() {
        Err(KernelError::Socket(error)) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Ok(None),
        other => other.map(Some),
    }
}

/// What the library cannot read is nothing that we made.
fn parsed(dump: &Dump) -> impl Iterator<Item = RouteNetlinkMessage> {
    dump.messages().filter_map(|message| message.parse().ok())
}
