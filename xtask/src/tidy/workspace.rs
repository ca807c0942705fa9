//! The workspace as a value: packages, who depends on whom, and the text of every file.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// What every law judges.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    pub(crate) packages: Vec<Package>,
    pub(crate) edges: Vec<Edge>,
    pub(crate) files: Vec<File>,
}

/// A package of the resolved graph, ours or from outside.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Folder below the root (`core/model`) of a workspace member; none for packages from outside.
    pub(crate) folder: Option<String>,
}

/// `from` depends on `to`; both are places in [`Workspace::packages`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edge {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// Only tests and examples need it.
    pub(crate) dev: bool,
}

/// A file that git keeps or would keep.
#[derive(Debug)]
pub(crate) struct File {
    /// Below the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A broken law: where, what, and which.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Breach {
    pub(crate) path: String,
    pub(crate) what: String,
    pub(crate) law: &'static str,
}

/// A law answers with every breach it finds.
pub(crate) type Law = fn(&Workspace) -> Vec<Breach>;

/// The first folder of a crate's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Floor {
    Core,
    Io,
    Apps,
    Lab,
    Xtask,
}

/// Which dependencies count when we ask what a crate reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    /// What it is built with.
    Build,
    /// Also what its own tests are built with.
    BuildAndOwnTests,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} [{}]", self.path, self.what, self.law)
    }
}

impl Package {
    /// The floor its folder lies on, if there is such a floor.
    pub(crate) fn floor(&self) -> Option<Floor> {
        let folder = self.folder.as_deref()?;
        match folder.split_once('/').map_or((folder, ""), |parts| parts) {
            ("xtask", "") => Some(Floor::Xtask),
            ("core", room) if is_room(room) => Some(Floor::Core),
            ("io", room) if is_room(room) => Some(Floor::Io),
            ("apps", room) if is_room(room) => Some(Floor::Apps),
            ("lab", room) if is_room(room) => Some(Floor::Lab),
            _ => None,
        }
    }

    /// The last folder of its path: the crate's room.
    pub(crate) fn room(&self) -> Option<&str> {
        self.folder.as_deref().and_then(|folder| folder.rsplit('/').next())
    }

    /// Where a person finds it.
    pub(crate) fn manifest(&self) -> String {
        self.folder.as_ref().map_or_else(|| self.name.clone(), |folder| format!("{folder}/Cargo.toml"))
    }
}

impl Workspace {
    /// Our own crates and their places.
    pub(crate) fn members(&self) -> impl Iterator<Item = (usize, &Package)> {
        self.packages.iter().enumerate().filter(|(_, package)| package.folder.is_some())
    }

    /// Direct dependencies between our own crates, those of tests included.
    pub(crate) fn own_edges(&self) -> impl Iterator<Item = (&Package, &Package)> {
        let pairs = self
            .edges
            .iter()
            .filter_map(|edge| Some((self.packages.get(edge.from)?, self.packages.get(edge.to)?)));
        pairs.filter(|(from, to)| from.folder.is_some() && to.folder.is_some())
    }

    /// Everything that `start` reaches, each with the shortest chain of names to it.
    pub(crate) fn reached(&self, start: usize, through: Through) -> Vec<(&Package, String)> {
        let came_from = self.breadth_first(start, through);
        let others = came_from.keys().filter(|&&place| place != start);
        others.filter_map(|&place| Some((self.packages.get(place)?, self.chain(&came_from, place)))).collect()
    }

    fn breadth_first(&self, start: usize, through: Through) -> BTreeMap<usize, usize> {
        let counts = |edge: &Edge| !edge.dev || (edge.from == start && through == Through::BuildAndOwnTests);
        let mut came_from = BTreeMap::from([(start, start)]);
        let mut waiting = VecDeque::from([start]);
        while let Some(place) = waiting.pop_front() {
            for edge in self.edges.iter().filter(|edge| edge.from == place && counts(edge)) {
                came_from.entry(edge.to).or_insert_with(|| {
                    waiting.push_back(edge.to);
                    place
                });
            }
        }
        came_from
    }

    fn chain(&self, came_from: &BTreeMap<usize, usize>, end: usize) -> String {
        let step = |place: &usize| came_from.get(place).copied().filter(|before| before != place);
        let mut places: Vec<usize> = std::iter::successors(Some(end), step).collect();
        places.reverse();
        let names = places.iter().filter_map(|&place| self.packages.get(place));
        names.map(|package| package.name.as_str()).collect::<Vec<_>>().join(" -> ")
    }
}

fn is_room(room: &str) -> bool {
    !room.is_empty() && !room.contains('/')
}

#[cfg(test)]
impl Workspace {
    /// A graph for tests: `core/model` is ours, `tokio` is from outside; `a -> b` depends, `a ~> b` only in tests.
    pub(crate) fn drawn(lines: &[&str]) -> Self {
        let mut workspace = Self::default();
        for line in lines {
            let arrow = if line.contains("~>") { "~>" } else { "->" };
            let places: Vec<usize> = line.split(arrow).map(|word| workspace.place_of(word.trim())).collect();
            for pair in places.windows(2) {
                workspace.edges.push(Edge { from: pair[0], to: pair[1], dev: arrow == "~>" });
            }
        }
        workspace
    }

    /// Only files, for tests.
    pub(crate) fn of_files(files: &[(&str, &str)]) -> Self {
        let file = |(path, text): &(&str, &str)| File { path: (*path).to_owned(), text: (*text).to_owned() };
        Self { files: files.iter().map(file).collect(), ..Self::default() }
    }

    fn place_of(&mut self, word: &str) -> usize {
        let folder = (word.contains('/') || word == "xtask").then(|| word.to_owned());
        let room = word.rsplit('/').next().unwrap_or(word);
        let prefixed = word.contains('/') && !word.starts_with("apps/");
        let name = if prefixed { format!("tartan-{room}") } else { room.to_owned() };
        self.packages.iter().position(|package| package.name == name).unwrap_or_else(|| {
            self.packages.push(Package { name, folder });
            self.packages.len() - 1
        })
    }
}
