//! `tartan bundle`: what a person who helps needs to see, in one archive without secrets.
//!
//! What goes in is listed here; nothing else does. Of the configuration only known keys are taken, and every text has
//! passwords in URLs and the secrets that this node is configured with taken out, should one have got into it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use tartan_api::VERSION;
use tartan_api::object::ObjectKind;
use tartan_api::rpc::Request;
use tartan_kernel::{Kernel, Marks, netns};

use crate::ask::Agent;
use crate::output::json;
use crate::secrets::{Secrets, configuration};

/// The longest part of a file that goes in, from its end: 4 MiB.
const MOST: u64 = 4 << 20;
/// Tables of the kernel that need no tool to read (proc(5)).
const TABLES: [&str; 6] = ["dev", "route", "ipv6_route", "if_inet6", "arp", "snmp"];

/// Where things are of the node that is looked at.
pub(crate) struct Place {
    pub(crate) agent: Agent,
    pub(crate) config: PathBuf,
    /// None where it is not in a file.
    pub(crate) log: Option<PathBuf>,
    /// None for the namespace of this program.
    pub(crate) netns: Option<PathBuf>,
}

/// A file of the archive.
pub(crate) struct Part {
    pub(crate) name: String,
    text: String,
}

/// Everything that can be had, in the order of the archive; what cannot be had says why.
pub(crate) fn gather(place: &Place) -> Vec<Part> {
    let secrets = Secrets::of(&place.config);
    let mut parts = vec![part("versions.txt", versions())];
    let questions = [
        ("status", Request::Status),
        ("nodes", Request::Nodes),
        ("peers", Request::Peers),
        ("endpoints", Request::Endpoints),
        ("ipam", Request::Ipam),
        ("routes", Request::Routes),
        ("denied", Request::Denied),
        ("plan", Request::Plan { objects: Vec::new() }),
    ];
    let objects = ObjectKind::ALL.into_iter().flat_map(|kind| {
        let plural = kind.words().get(1)?;
        Some((*plural, Request::Get { kind, name: None }))
    });
    for (name, question) in questions.into_iter().chain(objects) {
        let answer = place.agent.ask::<Value>(&question).and_then(|answer| json(&answer));
        parts.push(had(&format!("{name}.json"), answer));
    }
    parts.push(had("tartand.toml", configuration(&place.config)));
    parts.extend(kernel(place));
    if let Some(log) = &place.log {
        parts.push(had("tartand.log", end_of(log)));
    }
    for part in &mut parts {
        part.text = secrets.without(&part.text);
    }
    parts
}

/// Writes the archive, for its owner only.
///
/// # Errors
/// When the file is there already or cannot be written.
pub(crate) fn write(parts: &[Part], path: &Path) -> Result<()> {
    let cannot = || format!("cannot write {}; name another file", path.display());
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).with_context(cannot)?;
    // The archive's own time serves for what is in it.
    let time = file.metadata().map_or(0, |metadata| metadata.mtime()).unsigned_abs();
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for part in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(part.text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(time);
        let name = format!("tartan-bundle/{}", part.name);
        archive.append_data(&mut header, name, part.text.as_bytes()).with_context(cannot)?;
    }
    let mut file: File = archive.into_inner().and_then(GzEncoder::finish).with_context(cannot)?;
    file.flush().with_context(cannot)
}

fn part(name: &str, text: String) -> Part {
    Part { name: name.into(), text }
}

fn had(name: &str, text: Result<String>) -> Part {
    match text {
        Ok(text) => part(name, text),
        Err(error) => part(&format!("{name}.missing"), format!("{error:#}\n")),
    }
}

fn versions() -> String {
    let system = nix::sys::utsname::uname();
    let word = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    let kernel = system.map(|name| format!("{} {}", word(name.release()), word(name.machine())));
    format!("tartan {VERSION}\nkernel {}\n", kernel.unwrap_or_default())
}

/// What the kernel has of ours, and its tables.
fn kernel(place: &Place) -> Vec<Part> {
    let netns = match &place.netns {
        Some(path) => netns::open(path),
        None => netns::current(),
    };
    let netns = match netns {
        Ok(netns) => netns,
        Err(error) => return vec![part("kernel.missing", format!("{error}\n"))],
    };
    let rows = || -> Result<(String, String)> {
        let host = Kernel::open_in(netns.as_fd(), Marks::Node)?.read(&[])?;
        let rows: Vec<_> = host.rows.iter().collect();
        let foreign = host
            .foreign
            .iter()
            .map(|(name, link)| format!("{name} {}\n", if link.up { "up" } else { "down" }));
        Ok((json(&rows)?, foreign.collect()))
    };
    let mut parts = match rows() {
        Ok((ours, foreign)) => {
            vec![part("kernel/ours.json", ours), part("kernel/other-links.txt", foreign)]
        }
        Err(error) => vec![part("kernel/ours.json.missing", format!("{error:#}\n"))],
    };
    let tables = netns::run_in(netns.as_fd(), || {
        TABLES.map(|table| (table, end_of(&Path::new("/proc/thread-self/net").join(table))))
    });
    match tables {
        Ok(tables) => {
            parts.extend(tables.into_iter().map(|(table, text)| had(&format!("kernel/{table}.txt"), text)));
        }
        Err(error) => parts.push(part("kernel/tables.missing", format!("{error}\n"))),
    }
    parts
}

/// The end of a file.
fn end_of(path: &Path) -> Result<String> {
    let cannot = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(cannot)?;
    let length = file.metadata().with_context(cannot)?.len();
    if length > MOST {
        file.seek(SeekFrom::Start(length - MOST)).with_context(cannot)?;
    }
    let mut bytes = Vec::new();
    let read: io::Result<usize> = file.take(MOST).read_to_end(&mut bytes);
    read.with_context(cannot)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
