//! TLS, client certificates, users; and what is told when they do not fit.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::server::Cluster;
use crate::suite::{put, wait_until};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tartan_store::{Store, StoreError};
use tartan_store_etcd::EtcdFiles;

/// An authority and what it has issued, as files.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { issuer, folder }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for a name or address, and its key.
    fn issue(&self, name: &str, subject: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let cert =
            CertificateParams::new(vec![subject.into()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let paths = ["crt", "key"].map(|kind| self.folder.path().join(format!("{name}.{kind}")));
        fs::write(&paths[0], cert.pem()).unwrap();
        fs::write(&paths[1], key.serialize_pem()).unwrap();
        let [cert, key] = paths;
        (cert, key)
    }
}

/// An etcd whose certificate is for this subject.
fn secure(authority: &Authority, subject: &str, more: &[&str]) -> Cluster {
    let (cert, key) = authority.issue("server", subject);
    let mut flags = vec!["--cert-file".into(), text(&cert), "--key-file".into(), text(&key)];
    flags.extend(more.iter().map(ToString::to_string));
    let mut cluster = Cluster::new(1, &flags, true);
    cluster.start_all();
    cluster
}

fn text(path: &std::path::Path) -> String {
    path.to_str().unwrap().into()
}

/// It cannot be used, and says this. Asked again while it says something else: a server that has just begun to listen may not
/// serve yet, and one that does not understand a word may reset the connection before what it answered is read.
fn refused(cluster: &Cluster, files: &EtcdFiles, word: &str) -> String {
    let store = cluster.open_by(files);
    let mut told = String::new();
    wait_until(word, || {
        let error = store.list("").unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }));
        told = std::error::Error::source(&error).unwrap().to_string();
        told.contains(word)
    });
    told
}

fn serves(cluster: &Cluster, files: &EtcdFiles) {
    let store = cluster.open_by(files);
    wait_until("it serves", || store.list("").is_ok());
    let revision = put(&store, "a", "1");
    assert_eq!(store.get("a").unwrap().unwrap().revision, revision);
    assert!(store.watch("", revision).unwrap().changes().is_ok());
    store.take_lease("n1", "id", std::time::Duration::from_secs(60), false).unwrap();
    store.renew_lease("n1", "id", std::time::Duration::from_secs(60)).unwrap();
}

#[test]
fn a_ca_alone_encrypts_and_another_ca_or_name_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let cluster = secure(&authority, "127.0.0.1", &[]);
    let by_ca = |ca: PathBuf| EtcdFiles { ca: Some(ca), ..EtcdFiles::default() };
    serves(&cluster, &by_ca(authority.ca()));
    refused(&cluster, &by_ca(other.ca()), "its certificate is of no authority in etcd_ca");
    refused(&cluster, &EtcdFiles::default(), "for TLS set etcd_ca");
    // A bundle of several authorities.
    let bundle = authority.folder.path().join("bundle.pem");
    let texts = [other.ca(), authority.ca()].map(|path| fs::read_to_string(path).unwrap());
    fs::write(&bundle, texts.concat()).unwrap();
    serves(&cluster, &by_ca(bundle));

    let elsewhere = secure(&authority, "example.org", &[]);
    refused(&elsewhere, &by_ca(authority.ca()), "for another name");
    let plain = Cluster::start(1);
    refused(&plain, &by_ca(authority.ca()), "it does not speak TLS");
}

#[test]
fn a_client_certificate_is_shown_and_its_absence_told() {
    let authority = Authority::new();
    let ca = text(&authority.ca());
    let cluster = secure(&authority, "127.0.0.1", &["--client-cert-auth", "--trusted-ca-file", &ca]);
    let (cert, key) = authority.issue("client", "n1");
    let files =
        EtcdFiles { ca: Some(authority.ca()), cert: Some(cert), key: Some(key), ..EtcdFiles::default() };
    serves(&cluster, &files);
    refused(
        &cluster,
        &EtcdFiles { ca: Some(authority.ca()), ..EtcdFiles::default() },
        "set etcd_cert and etcd_key",
    );
    let stranger = Authority::new();
    let (cert, key) = stranger.issue("client", "n1");
    let files =
        EtcdFiles { ca: Some(authority.ca()), cert: Some(cert), key: Some(key), ..EtcdFiles::default() };
    refused(&cluster, &files, "look at etcd_cert");
}

#[test]
fn a_user_with_a_password_and_only_the_rights_it_needs() {
    let cluster = Cluster::start(1);
    let ctl = |args: &[&str]| cluster.ctl(args);
    ctl(&["user", "add", "root:rootpw"]);
    ctl(&["user", "grant-role", "root", "root"]);
    ctl(&["role", "add", "tartan"]);
    ctl(&["role", "grant-permission", "tartan", "--prefix=true", "readwrite", "/tartan/"]);
    ctl(&["user", "add", "tartan:hush"]);
    ctl(&["user", "grant-role", "tartan", "tartan"]);
    ctl(&["user", "add", "nobody:hush"]);
    ctl(&["auth", "enable"]);
    refused(&cluster, &EtcdFiles::default(), "set etcd_user and etcd_password_file");

    let password = |text: &str| {
        let path = cluster.folder.path().join(text);
        fs::write(&path, format!("{text}\n")).unwrap();
        Some(path)
    };
    let login = |user: &str, text: &str| EtcdFiles {
        user: Some(user.into()),
        password: password(text),
        ..EtcdFiles::default()
    };
    serves(&cluster, &login("tartan", "hush"));
    let told = refused(&cluster, &login("tartan", "wrong"), "look at etcd_user and etcd_password_file");
    assert!(!told.contains("wrong"), "{told}");
    refused(&cluster, &login("nobody", "hush"), "grant the user of etcd_user readwrite");
    let store = cluster.open_by(&login("tartan", "hush"));
    assert!(!format!("{store:?}").contains("hush"));

    // A token of before is asked for anew: by a restart, which forgets all, and by a change of rights.
    put(&store, "b", "1");
    root(&cluster, &["role", "add", "other"]);
    put(&store, "b", "2");
    let mut cluster = cluster;
    cluster.stop(0);
    cluster.start_all();
    wait_until("it serves again", || store.get("b").is_ok());
    // Somebody who lets in without asking is no trouble to who would tell.
    root(&cluster, &["auth", "disable"]);
    wait_until("it serves still", || store.get("b").is_ok());
    let login = EtcdFiles {
        user: Some("tartan".into()),
        password: Some(cluster.folder.path().join("hush")),
        ..EtcdFiles::default()
    };
    serves(&cluster, &login);
}

fn root(cluster: &Cluster, args: &[&str]) {
    let endpoint = format!("http://127.0.0.1:{}", cluster.members[0].port);
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint, "--user", "root:rootpw"]).args(args);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
