//! initdb takes a second or two: it runs once for each version, and each server gets a copy.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::env;
use crate::process::{Process, Program};

/// PostgreSQL refuses to run as root; this is `nobody`, which every Linux has.
const NOBODY: u32 = 65534;
const INITDB: Duration = Duration::from_secs(120);

/// Who is to run the server, if not whoever runs the test.
pub(super) fn user() -> Option<u32> {
    nix::unistd::geteuid().is_root().then_some(NOBODY)
}

/// A data folder that initdb has just made, as it were.
pub(super) async fn fresh_data() -> TempDir {
    let template = template().await;
    let data = temporary();
    copy(&template, data.path()).unwrap_or_else(|error| panic!("copying {}: {error}", template.display()));
    data
}

/// Writes a file into a data folder, which only the server's user may read; gives its path.
pub(super) fn put(data: &Path, name: &str, text: &str) -> PathBuf {
    let path = data.join(name);
    let written = fs::write(&path, text)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
        .and_then(|()| own(&path));
    written.unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
    path
}

/// A folder for somebody else to fill, who runs as the server's user.
pub(super) fn empty_data() -> TempDir {
    temporary()
}

async fn template() -> PathBuf {
    let cache = env::target_dir().join("foghorn-tests");
    let ready = cache.join(format!("postgresql-{}-1", version()));
    if !ready.is_dir() {
        let made = initdb().await;
        fs::create_dir_all(&cache).unwrap_or_else(|error| panic!("creating {}: {error}", cache.display()));
        let ours = tempfile::Builder::new().prefix("postgresql-unfinished-").tempdir_in(&cache);
        let ours = ours.unwrap_or_else(|error| panic!("creating a folder in {}: {error}", cache.display()));
        copy(made.path(), ours.path())
            .unwrap_or_else(|error| panic!("copying to {}: {error}", cache.display()));
        // It appears whole. If another test was faster, its copy is as good as ours.
        let moved = fs::rename(ours.path(), &ready);
        assert!(moved.is_ok() || ready.is_dir(), "creating {}: {moved:?}", ready.display());
    }
    ready
}

async fn initdb() -> TempDir {
    let data = temporary();
    let program = Program::new(env::postgres_bin().join("initdb"))
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "-D"])
        .arg(data.path())
        .folder(data.path())
        .user(user());
    let initdb = Process::spawn(program);
    let status = initdb.wait(INITDB).await;
    assert!(status.success(), "{}", initdb.report(&format!("failed ({status})")));
    // Hosts of a test's own network come from other addresses than this one.
    let rules = data.path().join("pg_hba.conf");
    let appended = OpenOptions::new().append(true).open(&rules);
    let appended = appended.and_then(|mut file| {
        file.write_all(b"host all all samenet trust\nhost all all 10.77.0.0/16 trust\n")
    });
    appended.unwrap_or_else(|error| panic!("appending to {}: {error}", rules.display()));
    data
}

fn version() -> String {
    let postgres = env::postgres_bin().join("postgres");
    let output = Command::new(&postgres).arg("--version").output();
    let output = output.unwrap_or_else(|error| panic!("running {}: {error}", postgres.display()));
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    number.unwrap_or_else(|| panic!("{} --version says {text:?}", postgres.display())).to_owned()
}

/// In the system's folder for such, where `nobody` can get to; a checkout may be in a home that is closed to it.
fn temporary() -> TempDir {
    let folder = tempfile::Builder::new().prefix("foghorn-test-postgresql-").permissions(private()).tempdir();
    let folder = folder.expect("a temporary folder can be made");
    own(folder.path())
        .unwrap_or_else(|error| panic!("giving {} to nobody: {error}", folder.path().display()));
    folder
}

/// Copies what is in `from` into the folder `to`, for the server's user.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            fs::set_permissions(&target, private())?;
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
        own(&target)?;
    }
    Ok(())
}

/// PostgreSQL takes no folder that others may look into.
fn private() -> fs::Permissions {
    fs::Permissions::from_mode(0o700)
}

fn own(path: &Path) -> io::Result<()> {
    user().map_or(Ok(()), |user| chown(path, Some(user), Some(user)))
}
