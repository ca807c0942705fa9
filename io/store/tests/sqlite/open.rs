//! Opening: what is made, and every refusal with its words.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

use crate::place::Place;
use crate::suite::put;
use nix::unistd::{Uid, geteuid, setfsuid};
use rusqlite::Connection;
use tartan_store::{OpenError, Sqlite, Store};

fn refusal(path: &Path) -> OpenError {
    Sqlite::open(path).err().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_new_file_and_its_folder_are_for_us_alone() {
    let mut place = Place::new();
    let folder = place.folder.path().join("var/lib");
    place.file = folder.join("tartan.db");
    let store = place.open();
    put(&store, "a", "");
    let _watch = store.watch("", tartan_store::Revision(0)).unwrap();
    assert_eq!(mode(&place.file), 0o600);
    assert_eq!(mode(&folder.join("tartan.db-wal")), 0o600);
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&folder.join("tartan.db.watch")), 0o700);
}

#[test]
fn a_file_with_much_in_it_opens_again() {
    let place = Place::new();
    let store = place.open();
    for key in 0..20 {
        let value = vec![key; 1 << 20];
        store
            .put(&format!("k{key}"), &value, tartan_store::Expect::Any, tartan_store::Durability::Crash)
            .unwrap();
    }
    drop(store);
    assert!(fs::metadata(&place.file).unwrap().len() > 16 << 20);
    assert_eq!(place.open().list("").unwrap().entries.len(), 20);
}

#[test]
fn a_folder_is_refused() {
    let place = Place::new();
    let path = place.folder.path();
    let error = refusal(path);
    assert!(matches!(error, OpenError::IsFolder { .. }), "{error:?}");
    let shown = path.display();
    assert_eq!(
        error.to_string(),
        format!(
            "{shown} is a folder, not a file: name a file in it, for instance sqlite://{shown}/tartan.db"
        )
    );
}

#[test]
fn text_is_refused_as_corrupt_and_left_alone() {
    let place = Place::new();
    let text = "store: sqlite\n".repeat(100);
    fs::write(&place.file, &text).unwrap();
    let error = refusal(&place.file);
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!(
            "{} is damaged or not a SQLite database: put a copy back, or move it away to begin with an empty store",
            place.file.display()
        )
    );
    assert_eq!(fs::read_to_string(&place.file).unwrap(), text);
}

#[test]
fn a_damaged_database_is_refused() {
    let place = Place::new();
    let store = place.open();
    for key in 0..500 {
        put(&store, &format!("key/{key}"), "value");
    }
    drop(store);
    let mut bytes = fs::read(&place.file).unwrap();
    let whole = bytes.clone();
    bytes[4096..12288].fill(0xa5);
    fs::write(&place.file, &bytes).unwrap();
    assert!(matches!(refusal(&place.file), OpenError::Corrupt { .. }));
    fs::write(&place.file, &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(refusal(&place.file), OpenError::Corrupt { .. }));
    fs::write(&place.file, &whole).unwrap();
    assert_eq!(place.open().list("").unwrap().entries.len(), 500);
}

#[test]
fn a_database_of_another_program_is_refused_and_left_alone() {
    let place = Place::new();
    let other = Connection::open(&place.file).unwrap();
    other.execute_batch("CREATE TABLE kine (id INTEGER); PRAGMA user_version = 1;").unwrap();
    drop(other);
    let before = fs::read(&place.file).unwrap();
    let error = refusal(&place.file);
    assert!(matches!(error, OpenError::Foreign { found: 0, .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!(
            "{} is a database of another program (application id 0x00000000): name a file of Tartan's own as `store`",
            place.file.display()
        )
    );
    assert_eq!(fs::read(&place.file).unwrap(), before);
}

#[test]
fn a_newer_schema_is_refused() {
    let place = Place::new();
    drop(place.open());
    Connection::open(&place.file).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let error = refusal(&place.file);
    assert!(matches!(error, OpenError::NewerSchema { found: 7, known: 1, .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!(
            "{} has schema 7, this Tartan knows up to 1: run the newer Tartan, or put back a copy from before the upgrade",
            place.file.display()
        )
    );
}

#[test]
fn a_network_filesystem_is_refused_in_these_words() {
    // Whether a filesystem is one is tested beside the list of magic numbers; mounting one takes a server.
    let error = OpenError::NetworkFilesystem { path: "/net/tartan.db".into(), filesystem: "NFS" };
    assert_eq!(
        error.to_string(),
        "/net/tartan.db is on NFS, a network filesystem, where SQLite's locks do not hold: use a local disk, or etcd for several machines"
    );
}

#[test]
fn what_may_not_be_written_is_refused() {
    let place = Place::new();
    drop(place.open());
    let nobody = Uid::from_raw(65534);
    let as_nobody = |path: &Path| {
        thread::scope(|scope| {
            let opening = scope.spawn(|| {
                // Of this thread only, and it takes root's rights on files away (setfsuid(2)).
                setfsuid(nobody);
                refusal(path)
            });
            opening.join().unwrap()
        })
    };
    if !geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let closed = as_nobody(&place.folder.path().join("sub/tartan.db"));
    assert!(matches!(closed, OpenError::Permission { .. }), "{closed:?}");
    assert_eq!(
        closed.to_string(),
        format!(
            "{} may not be read and written: run as root, or give this user the file and its folder",
            place.folder.path().join("sub").display()
        )
    );

    fs::set_permissions(place.folder.path(), Permissions::from_mode(0o777)).unwrap();
    for file in [0o600, 0o644] {
        fs::set_permissions(&place.file, Permissions::from_mode(file)).unwrap();
        let error = as_nobody(&place.file);
        assert!(matches!(&error, OpenError::Permission { path, .. } if *path == place.file), "{error:?}");
    }
}

#[test]
fn a_file_where_the_folder_should_be_is_told_with_its_cause() {
    let place = Place::new();
    fs::write(&place.file, "").unwrap();
    let error = refusal(&place.file.join("tartan.db"));
    assert!(matches!(error, OpenError::System { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!("{} cannot be opened: mend the cause, or name another file as `store`", place.file.display())
    );
}
