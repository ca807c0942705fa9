//! The commands.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tartan_api::cni::{Add, Added, Check, Del, Gc, NetConf, Version};
use tartan_api::rpc::{FailureCode, Request};
use tartan_model::{AttachmentKey, PodName};

use crate::environment::Environment;
use crate::failure::{Failure, code};
use crate::{Served, ask, config, gc, netns, outcome, pod};

/// How long a command may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// Does what the runtime asks for.
pub(crate) fn command(environment: &Environment, text: &[u8], deadline: Instant) -> Served {
    match environment.command()? {
        "ADD" => add(environment, text, deadline),
        "DEL" => del(environment, text, deadline),
        "CHECK" => check(environment, text, deadline),
        "GC" => gc(text, deadline),
        "STATUS" => status(text, deadline),
        "VERSION" => version(text),
        other => {
            let other: String = other.chars().take(64).collect();
            let msg = format!(
                "CNI_COMMAND: {other:?} is not served; this plugin serves ADD, DEL, CHECK, GC, STATUS and VERSION"
            );
            Err(Failure::new(code::ENVIRONMENT, msg))
        }
    }
}

fn add(environment: &Environment, text: &[u8], deadline: Instant) -> Served {
    let conf = config::parse(text)?;
    let key = environment.key()?;
    let pod = pod::identity(&environment.pod_args()?, &key.container)?;
    let whom = format!("pod {pod}");
    attach(environment, conf, key, pod, deadline).map_err(|failure| failure.about(&whom))
}

fn attach(
    environment: &Environment,
    conf: NetConf,
    key: AttachmentKey,
    pod: PodName,
    deadline: Instant,
) -> Served {
    config::supported(&conf)?;
    let path = environment.netns()?;
    let netns = netns::open(Path::new(path))?;
    outcome::has_room(&conf, &key.interface, path)?;
    let labels = conf.args.cni.label_map().map_err(|error| Failure::new(code::CONFIG, error.to_string()))?;
    let ips = conf.ips().map_err(|error| Failure::new(code::CONFIG, error.to_string()))?;
    let (network, list) = (conf.network.clone(), Some(conf.name.clone()));
    let request = Request::Add(Add { key, pod, network, netns: path.into(), labels, list, ips });
    let answer = ask::patiently(&conf.socket, &request, Some(netns.as_fd()), deadline)?;
    Ok(Some(outcome::result(conf.clone(), &added(&conf, answer)?, path)))
}

/// A DEL needs no namespace, which may be gone, and says nothing; one that is done again is done. Nothing in the
/// configuration that it has no use for, a previous result among it, can keep an address taken.
fn del(environment: &Environment, text: &[u8], deadline: Instant) -> Served {
    let socket = config::socket(text)?;
    let key = environment.key()?;
    let pod = environment.pod_args().and_then(|args| pod::identity(&args, &key.container));
    // The pod is only named in messages: a variable that is wrong must not keep an address taken.
    let whom = pod.map_or_else(|_| format!("container {key}"), |pod| format!("pod {pod}"));
    match ask::patiently(&socket, &Request::Del(Del { key }), None, deadline) {
        Ok(_) => Ok(None),
        Err(failure) if failure.code == FailureCode::NotFound.cni_code() => Ok(None),
        Err(failure) => Err(failure.about(&whom)),
    }
}

fn check(environment: &Environment, text: &[u8], deadline: Instant) -> Served {
    config::needs("CHECK", Version::V0_4_0, text)?;
    let conf = config::parse(text)?;
    let key = environment.key()?;
    let pod = pod::identity(&environment.pod_args()?, &key.container)?;
    let whom = format!("pod {pod}");
    compare(environment, &conf, key, deadline).map_err(|failure| failure.about(&whom))
}

fn compare(environment: &Environment, conf: &NetConf, key: AttachmentKey, deadline: Instant) -> Served {
    let wrong = |what: String| Failure::new(code::CONFIG, what);
    let path = environment.netns()?;
    let netns = netns::open(Path::new(path))?;
    let result = conf.prev_result.as_ref();
    let result = result.ok_or_else(|| wrong("a CHECK needs prevResult, the result of the ADD".into()))?;
    let listed = result.listed(&key.interface, path).map_err(|error| wrong(error.to_string()))?;
    let request = Request::Check(Check { key, listed });
    ask::patiently(&conf.socket, &request, Some(netns.as_fd()), deadline).map(|_| None)
}

fn gc(text: &[u8], deadline: Instant) -> Served {
    config::needs("GC", Version::V1_1_0, text)?;
    let conf = gc::parse(text)?;
    let whom = format!("network {}", conf.name);
    let request = Request::Gc(Gc { valid: conf.valid()?, list: conf.name });
    ask::patiently(&conf.socket, &request, None, deadline)
        .map(|_| None)
        .map_err(|failure| failure.about(&whom))
}

fn status(text: &[u8], deadline: Instant) -> Served {
    config::needs("STATUS", Version::V1_1_0, text)?;
    let conf = config::parse(text)?;
    let request = Request::Ready { network: conf.network.clone() };
    let whom = format!("network {}", conf.network);
    let unready = |failure: Failure| match failure.code {
        code::LIMITED => failure.about(&whom),
        _ => Failure { code: code::NOT_AVAILABLE, ..failure.about(&whom) },
    };
    ask::once(&conf.socket, &request, None, deadline).map(|_| None).map_err(unready)
}

/// The runtime asks this to find a version that both speak, so any version may ask.
fn version(text: &[u8]) -> Served {
    let written = if text.trim_ascii().is_empty() { None } else { config::written_version(text)? };
    let version = written.unwrap_or_else(|| Version::NEWEST.as_str().into());
    Ok(Some(json!({"cniVersion": version, "supportedVersions": Version::ALL})))
}

fn added(conf: &NetConf, answer: Value) -> Result<Added, Failure> {
    serde_json::from_value(answer).map_err(|error| {
        let msg = format!("the agent at {} gave an answer that cannot be read: {error}; are it and this plugin of the same release?", conf.socket);
        Failure::new(code::IO, msg)
    })
}
