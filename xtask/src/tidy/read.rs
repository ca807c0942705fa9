//! Reading the workspace: the graph from cargo, the files from git.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId, Resolve};

use super::workspace::{Edge, File, Package, Workspace};
use crate::{machine, run};

/// The workspace as it lies on disk, resolved for this machine's platform.
///
/// # Errors
/// When cargo, rustc or git fail, or a file cannot be read.
pub(crate) fn workspace(root: &Path) -> Result<Workspace> {
    let metadata = metadata(root)?;
    let places = metadata.packages.iter().enumerate().map(|(place, package)| (&package.id, place)).collect();
    let resolve = metadata.resolve.as_ref().context("cargo metadata answered without a graph")?;
    Ok(Workspace { packages: packages(&metadata), edges: edges(resolve, &places), files: files(root)? })
}

fn metadata(root: &Path) -> Result<Metadata> {
    let mut question = MetadataCommand::new();
    question.manifest_path(root.join("Cargo.toml"));
    question.other_options(["--filter-platform".to_owned(), host_platform(root)?]);
    question.exec().context("cargo metadata failed")
}

fn host_platform(root: &Path) -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = run::captured(&mut run::command(rustc, root, &["-vV"]))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

fn packages(metadata: &Metadata) -> Vec<Package> {
    let members: HashSet<&PackageId> = metadata.workspace_members.iter().collect();
    let folder = |package: &cargo_metadata::Package| {
        let folder = package.manifest_path.parent()?.strip_prefix(&metadata.workspace_root).ok()?;
        members.contains(&package.id).then(|| folder.to_string())
    };
    metadata
        .packages
        .iter()
        .map(|package| Package { name: package.name.to_string(), folder: folder(package) })
        .collect()
}

/// A package that is needed both to build and by tests is needed to build.
fn edges(resolve: &Resolve, places: &BTreeMap<&PackageId, usize>) -> Vec<Edge> {
    let of_node = |node: &cargo_metadata::Node| {
        let from = places.get(&node.id).copied();
        let edge = |dep: &cargo_metadata::NodeDep| {
            let dev = dep.dep_kinds.iter().all(|kind| kind.kind == DependencyKind::Development);
            Some(Edge { from: from?, to: places.get(&dep.pkg).copied()?, dev })
        };
        node.deps.iter().filter_map(edge).collect::<Vec<_>>()
    };
    resolve.nodes.iter().flat_map(of_node).collect()
}

/// Files that git keeps or would keep; in an unpacked archive, every file but what a build left.
fn files(root: &Path) -> Result<Vec<File>> {
    let paths = if root.join(".git").exists() { known_to_git(root)? } else { below(root, root)? };
    paths.iter().map(|path| file(root, path)).collect()
}

fn known_to_git(root: &Path) -> Result<Vec<String>> {
    let mut command = machine::git(root, &["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let list = run::captured(&mut command).context("tidy asks git which files belong to the project")?;
    let paths = list.split('\0').filter(|path| !path.is_empty() && is_file(&root.join(path)));
    Ok(paths.map(str::to_owned).collect())
}

fn below(root: &Path, folder: &Path) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for entry in folder.read_dir().with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.file_name() != "target" {
            paths.extend(below(root, &entry.path())?);
        } else if entry.file_type()?.is_file() {
            paths.push(entry.path().strip_prefix(root)?.to_string_lossy().into_owned());
        }
    }
    Ok(paths)
}

/// A file that was deleted but is still in git's index is none, nor is a link.
fn is_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
}

fn file(root: &Path, path: &str) -> Result<File> {
    let bytes = std::fs::read(root.join(path)).with_context(|| format!("cannot read {path}"))?;
    Ok(File { path: path.to_owned(), text: String::from_utf8_lossy(&bytes).into_owned() })
}
