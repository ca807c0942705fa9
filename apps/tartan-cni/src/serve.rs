//! The commands.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tartan_api::cni::{Add, Added, Del, NetConf, Version};
use tartan_api::rpc::{Answer, FailureCode, Request};

use crate::environment::Environment;
use crate::failure::{Failure, code};
use crate::{Served, config, netns, outcome, pod};

/// How long a command may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// Does what the runtime asks for.
pub(crate) fn command(environment: &Environment, text: &[u8], deadline: Instant) -> Served {
    match environment.command()? {
        "ADD" => add(environment, text, deadline),
        "DEL" => del(environment, text, deadline),
        "STATUS" => status(text, deadline),
        "VERSION" => version(text),
        other => {
            let other: String = other.chars().take(64).collect();
            let msg = format!(
                "CNI_COMMAND: {other:?} is not served; this plugin serves ADD, DEL, STATUS and VERSION"
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
    if !conf.args.cni.ips.is_empty() {
        let msg = "args.cni.ips: addresses cannot be asked for in this release; leave them out";
        return Err(Failure::new(code::CONFIG, msg).about(&whom));
    }
    let path = environment.netns().map_err(|failure| failure.about(&whom))?;
    let netns = netns::open(Path::new(path)).map_err(|failure| failure.about(&whom))?;
    let labels = conf.args.cni.label_map();
    let labels = labels.map_err(|error| Failure::new(code::CONFIG, error.to_string()).about(&whom))?;
    let network = conf.network.clone();
    let request = Request::Add(Add { key, pod, network, netns: path.into(), labels });
    let answer = ask(&conf, &request, Some(netns.as_fd()), deadline);
    let added = answer.and_then(|answer| added(&conf, answer)).map_err(|failure| failure.about(&whom))?;
    Ok(Some(outcome::result(conf, &added, path)))
}

/// A DEL needs no namespace, which may be gone, and says nothing; one that is done again is done.
fn del(environment: &Environment, text: &[u8], deadline: Instant) -> Served {
    let conf = config::parse(text)?;
    let key = environment.key()?;
    let pod = environment.pod_args().and_then(|args| pod::identity(&args, &key.container));
    // The pod is only named in messages: a variable that is wrong must not keep an address taken.
    let whom = pod.map_or_else(|_| format!("container {key}"), |pod| format!("pod {pod}"));
    match ask(&conf, &Request::Del(Del { key }), None, deadline) {
        Ok(_) => Ok(None),
        Err(failure) if failure.code == FailureCode::NotFound.cni_code() => Ok(None),
        Err(failure) => Err(failure.about(&whom)),
    }
}

fn status(text: &[u8], deadline: Instant) -> Served {
    let conf = config::parse(text)?;
    if conf.cni_version < Version::V1_1_0 {
        let msg =
            format!("STATUS came with version 1.1.0, the configuration is of {}", conf.cni_version.as_str());
        return Err(Failure::new(code::VERSION, msg));
    }
    let request = Request::Ready { network: conf.network.clone() };
    let whom = format!("network {}", conf.network);
    let not_available = |failure: Failure| Failure { code: code::NOT_AVAILABLE, ..failure.about(&whom) };
    ask(&conf, &request, None, deadline).map(|_| None).map_err(not_available)
}

/// The runtime asks this to find a version that both speak, so any version may ask.
fn version(text: &[u8]) -> Served {
    let written = if text.trim_ascii().is_empty() { None } else { config::written_version(text)? };
    let version = written.unwrap_or_else(|| Version::NEWEST.as_str().into());
    Ok(Some(json!({"cniVersion": version, "supportedVersions": Version::ALL})))
}

fn ask(
    conf: &NetConf,
    request: &Request,
    netns: Option<BorrowedFd<'_>>,
    deadline: Instant,
) -> Result<Value, Failure> {
    let left = deadline.saturating_duration_since(Instant::now());
    match tartan_rpc::call(Path::new(&conf.socket), request, netns, left)? {
        Answer::Ok(value) => Ok(value),
        Answer::Error(failure) => Err(failure.into()),
    }
}

fn added(conf: &NetConf, answer: Value) -> Result<Added, Failure> {
    serde_json::from_value(answer).map_err(|error| {
        let msg = format!("the agent at {} gave an answer that cannot be read: {error}; are it and this plugin of the same release?", conf.socket);
        Failure::new(code::IO, msg)
    })
}
