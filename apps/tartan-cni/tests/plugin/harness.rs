//! Starts the plugin against an agent that gives prepared answers.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tartan_api::rpc::{Answer, Failure, FailureCode, Request};
use tartan_rpc::{Client, Handler, Server, Serving};
use tempfile::TempDir;

/// What came of a run.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
}

impl Ran {
    /// The error's code and message.
    pub(crate) fn error(&self) -> (u64, String) {
        assert_eq!(self.code, 1, "{}", self.stdout);
        let error: Value = serde_json::from_str(&self.stdout).unwrap();
        (error["code"].as_u64().unwrap(), error["msg"].as_str().unwrap().into())
    }
}

/// A call of the plugin.
pub(crate) struct Call {
    variables: Vec<(&'static str, String)>,
    input: Vec<u8>,
}

impl Call {
    pub(crate) fn new(command: &str, conf: &Value) -> Call {
        let set = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c0ffee"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=team;K8S_POD_NAME=web-0;K8S_POD_UID=7"),
        ];
        Call {
            variables: set.map(|(name, value)| (name, value.to_string())).to_vec(),
            input: serde_json::to_vec(conf).unwrap(),
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Call {
        self.variables.retain(|(set, _)| *set != name);
        self.variables.push((name, value.into()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Call {
        self.variables.retain(|(set, _)| *set != name);
        self
    }

    pub(crate) fn input(mut self, input: impl Into<Vec<u8>>) -> Call {
        self.input = input.into();
        self
    }

    pub(crate) fn run(self) -> Ran {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tartan-cni"))
            .env_clear()
            .envs(self.variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // A plugin that has read enough closes its end.
        child.stdin.take().unwrap().write_all(&self.input).ok();
        let output = child.wait_with_output().unwrap();
        Ran { code: output.status.code().unwrap(), stdout: String::from_utf8(output.stdout).unwrap() }
    }
}

/// Gives one answer to everything, and remembers what it was asked.
struct Prepared {
    answer: Answer,
    asked: Mutex<Vec<(Request, Option<u64>)>>,
}

impl Handler for Prepared {
    fn handle(&self, request: Request, netns: Option<OwnedFd>, _: Client) -> Answer {
        let netns = netns.map(|netns| fs::File::from(netns).metadata().unwrap().ino());
        self.asked.lock().unwrap().push((request, netns));
        self.answer.clone()
    }
}

pub(crate) struct Agent {
    folder: TempDir,
    handler: Arc<Prepared>,
    _serving: Serving,
}

impl Agent {
    pub(crate) fn answering(answer: Answer) -> Agent {
        let folder = tempfile::tempdir().unwrap();
        let (handler, serving) = serve(answer, &folder.path().join("tartand.sock"));
        Agent { folder, handler, _serving: serving }
    }

    /// Begins to answer at a socket now.
    pub(crate) fn answering_at(answer: Answer, socket: &Path) -> Agent {
        let (handler, serving) = serve(answer, socket);
        Agent { folder: tempfile::tempdir().unwrap(), handler, _serving: serving }
    }

    pub(crate) fn failing(code: FailureCode, message: &str) -> Agent {
        Agent::answering(Answer::Error(Failure { code, message: message.into() }))
    }

    pub(crate) fn conf(&self, version: &str) -> Value {
        conf(version, self.folder.path().join("tartand.sock").to_str().unwrap())
    }

    pub(crate) fn asked(&self) -> Vec<(Request, Option<u64>)> {
        std::mem::take(&mut self.handler.asked.lock().unwrap())
    }
}

fn serve(answer: Answer, socket: &Path) -> (Arc<Prepared>, Serving) {
    let handler = Arc::new(Prepared { answer, asked: Mutex::default() });
    let server = Server::bind(socket).unwrap();
    (handler.clone(), server.serve(handler).unwrap())
}

pub(crate) fn conf(version: &str, socket: &str) -> Value {
    json!({"cniVersion": version, "name": "tartan", "type": "tartan-cni", "socket": socket, "network": "blue",
        "capabilities": {"portMappings": true}})
}

pub(crate) fn added() -> Answer {
    Answer::Ok(json!({
        "host": {"name": "tt0123456789ab", "mac": "02:00:00:00:00:01"},
        "container": {"name": "eth0", "mac": "02:00:00:00:00:02"},
        "mtu": 1450,
        "ips": [
            {"address": "10.244.1.2/24", "gateway": "10.244.1.1"},
            {"address": "fd00:10:244:1::2/64", "gateway": "fd00:10:244:1::1"},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.1.1"}, {"dst": "::/0", "gw": "fd00:10:244:1::1"}],
    }))
}

/// A network namespace of its own, as long as this lives.
pub(crate) struct Netns {
    path: PathBuf,
    pub(crate) inode: u64,
    _thread: Sender<()>,
}

impl Netns {
    pub(crate) fn new() -> Netns {
        let ((said, hear), (keep, end)) = (channel(), channel());
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let own = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
            said.send(PathBuf::from(own)).unwrap();
            end.recv().ok();
        });
        let path = hear.recv().unwrap();
        Netns { inode: fs::metadata(&path).unwrap().ino(), path, _thread: keep }
    }

    pub(crate) fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }
}
