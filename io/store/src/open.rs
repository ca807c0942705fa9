//! Opening the SQLite file, and every reason to refuse it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::sys::statfs::statfs;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::database::{Database, FileId, Session, level};
use crate::lease::{BOOT_ID, boot_id};
use crate::{Clock, Durability};

/// Why a SQLite file was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is a folder where the file should be.
    #[error("{} is a folder, not a file: name a file in it, for instance sqlite://{}/tartan.db", .path.display(), .path.display())]
    IsFolder {
        /// The folder.
        path: PathBuf,
    },

    /// The file is damaged, or not a database at all.
    #[error("{} is damaged or not a SQLite database: put a copy back, or move it away to begin with an empty store", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
    },

    /// The file is a database of another program.
    #[error("{} is a database of another program (application id {found:#010x}): name a file of Tartan's own as `store`", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its application id; 0 if it has none.
        found: u32,
    },

    /// The file was written by a newer Tartan.
    #[error("{} has schema {found}, this Tartan knows up to {known}: run the newer Tartan, or put back a copy from before the upgrade", .path.display())]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i32,
        /// The newest schema version that this program knows.
        known: i32,
    },

    /// The file lies on a filesystem that other machines share.
    #[error("{} is on {filesystem}, a network filesystem, where SQLite's locks do not hold: use a local disk, or etcd for several machines", .path.display())]
    NetworkFilesystem {
        /// The file or its folder.
        path: PathBuf,
        /// The filesystem's name.
        filesystem: &'static str,
    },

    /// The file or its folder may not be read and written.
    #[error("{} may not be read and written: run as root, or give this user the file and its folder", .path.display())]
    Permission {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// The system failed in another way.
    #[error("{} cannot be opened: mend the cause, or name another file as `store`", .path.display())]
    System {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// SQLite failed in another way.
    #[error("SQLite cannot open {}: mend the cause, or name another file as `store`", .path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
}

/// "TRTN": tells our databases from others.
const APPLICATION_ID: i32 = 0x5452_544e;

/// The schema that this program writes.
const SCHEMA: i32 = 1;

/// How long to wait for another process that writes.
const BUSY: Duration = Duration::from_secs(5);

/// Files below this size are read through when they are opened: some ten milliseconds.
const PROBE_MAX: u64 = 16 << 20;

/// How much of a file a connection keeps in memory, in KiB: what it reads the kernel keeps as well. Of a larger transaction
/// pages go into the write-ahead log before its end.
const CACHE_KIB: i64 = 256;

/// To what the write-ahead log is cut back after a burst, in bytes.
const LOG_FILE_MAX: i64 = 4 << 20;

const TABLES: &str = "
CREATE TABLE entry (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL) STRICT;
CREATE TABLE log (revision INTEGER PRIMARY KEY, key TEXT NOT NULL) STRICT;
CREATE TABLE lease (name TEXT PRIMARY KEY, holder TEXT NOT NULL, boot TEXT NOT NULL, expires_ms INTEGER NOT NULL) STRICT;
";

/// Filesystems of linux/magic.h that several machines share. FUSE may be local, so it is let through.
const NETWORK_FILESYSTEMS: [(u32, &str); 11] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x00c3_6400, "Ceph"),
    (0x0102_1997, "9P"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x0bd0_0bd0, "Lustre"),
];

/// Opens the database at `path`, making it if it is not there; its leases go by this clock.
pub(crate) fn open(path: &Path, clock: Clock) -> Result<Database, OpenError> {
    let path = make_file(path)?;
    let metadata = fs::metadata(&path).map_err(|source| system(&path, source))?;
    let boot = boot_id().map_err(|source| system(Path::new(BOOT_ID), source))?;
    let mut connection = connect(&path)?;
    recognize(&connection, &path)?;
    probe(&connection, &path, metadata.len())?;
    prepare(&mut connection).map_err(|source| sqlite(&path, source))?;
    recognize(&connection, &path)?;
    let mut watchers = path.clone().into_os_string();
    watchers.push(".watch");
    let session = Session { connection, durability: Durability::Crash };
    Ok(Database {
        file: FileId::from(&metadata),
        watchers: watchers.into(),
        session: Mutex::new(session),
        boot,
        clock,
        path,
    })
}

/// Makes the file if need be; answers its path without symbolic links.
fn make_file(path: &Path) -> Result<PathBuf, OpenError> {
    let path = std::path::absolute(path).map_err(|source| system(path, source))?;
    if path.is_dir() {
        return Err(OpenError::IsFolder { path });
    }
    if let Some(folder) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|source| system(folder, source))?;
        refuse_network(folder)?;
    }
    make_empty(&path)?;
    let path = path.canonicalize().map_err(|source| system(&path, source))?;
    refuse_network(&path)?;
    Ok(path)
}

/// By mknod: to open and close the file here would drop the locks that another connection of this process
/// holds on it (sqlite.org/howtocorrupt.html, section 2.2).
fn make_empty(path: &Path) -> Result<(), OpenError> {
    match mknod(path, SFlag::S_IFREG, Mode::S_IRUSR | Mode::S_IWUSR, 0) {
        Ok(()) => sync_folder(path).map_err(|source| system(path, source)),
        Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(system(path, errno.into())),
    }
}

/// Else the file's name might not survive a loss of power that its content survives.
fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn refuse_network(path: &Path) -> Result<(), OpenError> {
    let filesystem = statfs(path).map_err(|errno| system(path, errno.into()))?.filesystem_type();
    // The word's width and sign differ between libcs, the magic numbers have 32 bits.
    match network_filesystem(filesystem.0 as u32) {
        Some(filesystem) => Err(OpenError::NetworkFilesystem { path: path.to_owned(), filesystem }),
        None => Ok(()),
    }
}

fn network_filesystem(magic: u32) -> Option<&'static str> {
    NETWORK_FILESYSTEMS.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name)
}

fn connect(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|source| sqlite(path, source))?;
    connection.busy_timeout(BUSY).map_err(|source| sqlite(path, source))?;
    // SQLite opens for reading only, without a word, what it may not write.
    if connection.is_readonly("main").map_err(|source| sqlite(path, source))? {
        return Err(system(path, ErrorKind::PermissionDenied.into()));
    }
    Ok(connection)
}

/// Refuses what is not ours before anything is written.
fn recognize(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    match identify(connection).map_err(|source| sqlite(path, source))? {
        Identity::Empty | Identity::Ours(..=SCHEMA) => Ok(()),
        Identity::Ours(found) => Err(OpenError::NewerSchema { path: path.to_owned(), found, known: SCHEMA }),
        Identity::Foreign(found) => Err(OpenError::Foreign { path: path.to_owned(), found }),
    }
}

enum Identity {
    Empty,
    Ours(i32),
    Foreign(u32),
}

fn identify(connection: &Connection) -> rusqlite::Result<Identity> {
    // One statement, hence one snapshot: another process may be making the tables right now.
    connection.query_row(
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
         FROM pragma_application_id, pragma_user_version",
        [],
        |row| {
            let (application, version, objects): (i32, i32, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(match (application, objects) {
                (APPLICATION_ID, _) => Identity::Ours(version),
                (0, 0) => Identity::Empty,
                _ => Identity::Foreign(application.cast_unsigned()),
            })
        },
    )
}

/// Looks for damage in a file that is small enough; of a larger one the schema has been read by now.
fn probe(connection: &Connection, path: &Path, size: u64) -> Result<(), OpenError> {
    if size >= PROBE_MAX {
        return Ok(());
    }
    let finding: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|source| sqlite(path, source))?;
    if finding == "ok" { Ok(()) } else { Err(OpenError::Corrupt { path: path.to_owned() }) }
}

fn prepare(connection: &mut Connection) -> rusqlite::Result<()> {
    use_write_ahead_log(connection)?;
    connection.pragma_update(None, "synchronous", level(Durability::Crash))?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update_and_check(None, "journal_size_limit", LOG_FILE_MAX, |_| Ok(()))?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if matches!(identify(&transaction)?, Identity::Empty) {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA)?;
    }
    transaction.commit()
}

/// Two processes that change a new file's mode at once do not wait for each other by themselves.
fn use_write_ahead_log(connection: &Connection) -> rusqlite::Result<()> {
    let deadline = Instant::now() + BUSY;
    loop {
        match connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())) {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(10));
            }
            outcome => return outcome,
        }
    }
}

fn system(path: &Path, source: io::Error) -> OpenError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => OpenError::Permission { path, source },
        _ => OpenError::System { path, source },
    }
}

fn sqlite(path: &Path, source: rusqlite::Error) -> OpenError {
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            OpenError::Corrupt { path: path.to_owned() }
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            OpenError::Permission { path: path.to_owned(), source: ErrorKind::PermissionDenied.into() }
        }
        _ => OpenError::Sqlite { path: path.to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::network_filesystem;

    #[test]
    fn shared_filesystems_are_known_by_their_magic() {
        assert_eq!(network_filesystem(0x6969), Some("NFS"));
        assert_eq!(network_filesystem(0xff53_4d42), Some("CIFS"));
        assert_eq!(network_filesystem(0x0102_1997), Some("9P"));
        assert_eq!(network_filesystem(0xef53), None, "ext4");
        assert_eq!(network_filesystem(0x6573_5546), None, "FUSE");
    }
}
