//! The agent's socket over real sockets: what arrives, what is refused, and who waits for whom.
#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tartan_api::rpc::{Answer, MAX_MESSAGE, Request};
use tartan_rpc::{Client, Handler, RpcError, Server, Serving, call};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(5);

/// Answers with the file behind the descriptor, and takes its time for `Routes`.
struct Echo;

impl Handler for Echo {
    fn handle(&self, request: Request, netns: Option<OwnedFd>, _: Client) -> Answer {
        if request == Request::Routes {
            thread::sleep(Duration::from_millis(800));
        }
        Answer::Ok(json!(netns.map(|fd| identity(&fs::File::from(fd)))))
    }
}

fn identity(file: &fs::File) -> (u64, u64) {
    let found = file.metadata().unwrap();
    (found.dev(), found.ino())
}

fn served() -> (TempDir, PathBuf, Serving) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/tartand.sock");
    let serving = Server::bind(&path).unwrap().serve(Arc::new(Echo)).unwrap();
    (folder, path, serving)
}

/// Sends bytes as they are and reads what comes back.
fn raw(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    // The server may stop reading; what counts is its answer.
    stream.write_all(bytes).ok();
    stream.shutdown(std::net::Shutdown::Write).ok();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok();
    answer
}

#[test]
fn a_descriptor_arrives_as_the_same_namespace() {
    let (_folder, path, _serving) = served();
    let netns = fs::File::open("/proc/self/ns/net").unwrap();
    let answer = call(&path, &Request::Status, Some(netns.as_fd()), SOON).unwrap();
    assert_eq!(answer, Answer::Ok(json!(identity(&netns))));
    assert_eq!(call(&path, &Request::Status, None, SOON).unwrap(), Answer::Ok(json!(null)));
}

#[test]
fn further_descriptors_are_closed() {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::os::fd::AsRawFd;
    let (_folder, path, _serving) = served();
    let (ours, theirs) = std::io::pipe().unwrap();
    let netns = fs::File::open("/proc/self/ns/net").unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    let fds = [netns.as_raw_fd(), theirs.as_raw_fd(), theirs.as_raw_fd()];
    let line = [std::io::IoSlice::new(b"\"status\"\n")];
    sendmsg::<()>(stream.as_raw_fd(), &line, &[ControlMessage::ScmRights(&fds)], MsgFlags::empty(), None)
        .unwrap();
    drop(theirs);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(&identity(&netns).1.to_string()), "{answer}");
    // The pipe ends only when every copy of its other end is closed.
    assert_eq!((&ours).read(&mut [0]).unwrap(), 0);
}

#[test]
fn garbage_is_refused_with_a_reason() {
    let (_folder, path, _serving) = served();
    for garbage in ["\n", "{\n", "\u{0}\u{1}\n", "{\"no-such-verb\":{}}\n", "\"status\""] {
        let answer = raw(&path, garbage.as_bytes());
        assert!(answer.starts_with(r#"{"error":{"code":"invalid","message":"#), "{garbage:?}: {answer}");
    }
    let deep = [b"[".repeat(100_000), b"\n".to_vec()].concat();
    assert!(raw(&path, &deep).starts_with(r#"{"error":{"code":"invalid""#));
}

#[test]
fn a_request_over_the_limit_is_refused() {
    let (_folder, path, _serving) = served();
    let answer = raw(&path, &vec![b' '; MAX_MESSAGE + 2]);
    assert!(answer.contains("longer than 16777216 bytes"), "{answer}");
    let long = Request::Delete {
        kind: tartan_api::object::ObjectKind::ClusterNetwork,
        name: "x".repeat(MAX_MESSAGE),
    };
    let error = call(&path, &long, None, SOON).unwrap_err();
    assert!(matches!(error, RpcError::LongRequest { .. }), "{error}");
}

#[test]
fn a_slow_client_does_not_hold_up_others_and_is_sent_away() {
    let (_folder, path, _serving) = served();
    let mut slow = UnixStream::connect(&path).unwrap();
    slow.write_all(b"\"stat").unwrap();
    let started = Instant::now();
    call(&path, &Request::Status, None, SOON).unwrap();
    assert!(started.elapsed() < Duration::from_secs(2));
    // A byte now and then does not win more time.
    for _ in 0..3 {
        thread::sleep(Duration::from_secs(3));
        slow.write_all(b" ").unwrap();
    }
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("no whole request within 10 s"), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(14));
}

#[test]
fn a_call_ends_when_its_time_is_over() {
    let (_folder, path, _serving) = served();
    let error = call(&path, &Request::Routes, None, Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, RpcError::Timeout { .. }), "{error}");
}

#[test]
fn an_agent_that_hangs_up_is_told_apart_from_one_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || drop(listener.accept()));
    let error = call(&path, &Request::Status, None, SOON).unwrap_err();
    server.join().unwrap();
    assert!(matches!(error, RpcError::Broken { .. }), "{error}");
    let error = call(&path, &Request::Status, None, SOON).unwrap_err();
    assert!(matches!(error, RpcError::Unreachable { .. }), "{error}");
}

#[test]
fn a_missing_socket_is_explained() {
    let error = call(Path::new("/nonexistent/tartand.sock"), &Request::Status, None, SOON).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot reach the agent at /nonexistent/tartand.sock: No such file or directory; is tartand running? \
         start it with `systemctl start tartand` or name its socket with --socket"
    );
}

#[test]
fn the_socket_has_mode_0600_and_its_folder_0755() {
    let (_folder, path, _serving) = served();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o755);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn a_stale_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    // What somebody leaves who is killed while binding.
    fs::create_dir(folder.path().join(".s")).unwrap();
    drop(UnixListener::bind(folder.path().join(".s/s")).unwrap());
    let serving = Server::bind(&path).unwrap().serve(Arc::new(Echo)).unwrap();
    call(serving.path(), &Request::Status, None, SOON).unwrap();
}

#[test]
fn a_live_socket_and_a_plain_file_are_left_alone() {
    let (folder, path, _serving) = served();
    assert!(matches!(Server::bind(&path).unwrap_err(), RpcError::InUse { .. }));
    call(&path, &Request::Status, None, SOON).unwrap();
    let plain = folder.path().join("plain");
    fs::write(&plain, "mine").unwrap();
    assert!(matches!(Server::bind(&plain).unwrap_err(), RpcError::NotASocket { .. }));
    assert_eq!(fs::read_to_string(&plain).unwrap(), "mine");
}

#[test]
fn of_many_that_bind_at_once_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    let bound = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| Server::bind(&path).map(|server| bound.lock().unwrap().push(server)));
        }
    });
    assert_eq!(bound.into_inner().unwrap().len(), 1);
}

#[test]
fn shutdown_answers_what_is_being_served_and_unlinks() {
    let (_folder, path, serving) = served();
    let asked = thread::spawn({
        let path = path.clone();
        move || call(&path, &Request::Routes, None, SOON)
    });
    thread::sleep(Duration::from_millis(200));
    serving.shutdown();
    assert!(asked.join().unwrap().is_ok());
    assert!(!path.exists());
    let error = call(&path, &Request::Status, None, SOON).unwrap_err();
    assert!(matches!(error, RpcError::Unreachable { .. }), "{error}");
}

#[test]
fn shutdown_leaves_a_successors_socket() {
    let (_folder, path, serving) = served();
    fs::remove_file(&path).unwrap();
    let successor = Server::bind(&path).unwrap().serve(Arc::new(Echo)).unwrap();
    serving.shutdown();
    call(successor.path(), &Request::Status, None, SOON).unwrap();
}

/// Tells, once it is asked, when its client has hung up.
struct Watching(Mutex<mpsc::Sender<bool>>);

impl Handler for Watching {
    fn handle(&self, _: Request, _: Option<OwnedFd>, client: Client) -> Answer {
        let told = self.0.lock().unwrap();
        told.send(client.is_gone()).unwrap();
        let deadline = Instant::now() + SOON;
        while !client.is_gone() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        told.send(client.is_gone()).unwrap();
        Answer::Ok(json!(null))
    }
}

#[test]
fn a_client_that_hangs_up_is_known_to_be_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let (tell, told) = mpsc::channel();
    let _serving = Server::bind(&path).unwrap().serve(Arc::new(Watching(Mutex::new(tell)))).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"\"status\"\n").unwrap();
    assert!(!told.recv_timeout(SOON).unwrap(), "it waits for its answer");
    drop(client);
    assert!(told.recv_timeout(SOON).unwrap());
}

#[test]
fn paths_that_do_not_fit_a_socket_address_work() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f".repeat(100)).join("g".repeat(100)).join("tartand.sock");
    let _serving = Server::bind(&path).unwrap().serve(Arc::new(Echo)).unwrap();
    call(&path, &Request::Status, None, SOON).unwrap();
    assert!(matches!(Server::bind(&path).unwrap_err(), RpcError::InUse { .. }));
}

#[test]
fn more_clients_than_slots_are_all_served() {
    let (_folder, path, _serving) = served();
    thread::scope(|scope| {
        for _ in 0..tartan_rpc::MAX_CONNECTIONS + 50 {
            scope.spawn(|| call(&path, &Request::Status, None, Duration::from_secs(20)).unwrap());
        }
    });
}
