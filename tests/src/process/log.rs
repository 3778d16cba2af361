//! What a process writes, in files that outlive a failed test.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

const TAIL_LINES: usize = 40;

#[derive(Debug)]
pub(super) struct Log {
    folder: TempDir,
    /// Where this life's part of each file begins.
    page: [u64; 2],
}

impl Log {
    pub(super) fn create(name: &str) -> Self {
        let prefix = format!("foghorn-test-{name}-");
        let folder =
            tempfile::Builder::new().prefix(&prefix).tempdir().expect("a temporary folder can be made");
        Self { folder, page: [0, 0] }
    }

    pub(super) fn stdout(&self) -> File {
        append(&self.paths()[0])
    }

    pub(super) fn stderr(&self) -> File {
        append(&self.paths()[1])
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What comes now is of another life.
    pub(super) fn turn_page(&mut self) {
        self.page = self.paths().map(|path| path.metadata().map_or(0, |file| file.len()));
    }

    pub(super) fn keep(&mut self) {
        self.folder.disable_cleanup(true);
    }

    /// The lines of this life, as they come.
    pub(super) fn follow(&self) -> Lines {
        let paths = self.paths();
        Lines {
            files: [0, 1].map(|i| Follower {
                path: paths[i].clone(),
                offset: self.page[i],
                partial: Vec::new(),
            }),
        }
    }

    pub(super) fn text(&self) -> String {
        self.paths()
            .iter()
            .map(|path| read_from(path, 0))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }

    pub(super) fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn paths(&self) -> [PathBuf; 2] {
        ["stdout.log", "stderr.log"].map(|name| self.folder.path().join(name))
    }
}

pub(super) struct Lines {
    files: [Follower; 2],
}

struct Follower {
    path: PathBuf,
    offset: u64,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
}

impl Lines {
    /// The lines that were completed since the last call.
    pub(super) fn fresh(&mut self) -> Vec<String> {
        self.files.iter_mut().flat_map(Follower::fresh).collect()
    }
}

impl Follower {
    fn fresh(&mut self) -> Vec<String> {
        let bytes = read_from(&self.path, self.offset);
        self.offset += bytes.len() as u64;
        self.partial.extend(bytes);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let whole: Vec<u8> = self.partial.drain(..=end).collect();
        String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
    }
}

fn append(path: &Path) -> File {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.unwrap_or_else(|error| panic!("opening {}: {error}", path.display()))
}

fn read_from(path: &Path, offset: u64) -> Vec<u8> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}
