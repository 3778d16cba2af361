//! A disk as POSIX promises it and no better: what is not synced may be there after a loss of power, or not, or
//! in part.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fastrand::Rng;

use super::trace::Step;

/// What is written to the medium at a time.
const SECTOR: usize = 512;

/// The data of one file: what is safe, and what was done to it since, in order.
#[derive(Debug, Default)]
struct Data {
    safe: Vec<u8>,
    since: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
enum Node {
    Folder,
    File(usize),
}

type Names = BTreeMap<PathBuf, Node>;

/// Everything below one folder, which is itself safe.
#[derive(Debug, Default)]
pub(super) struct Disk {
    files: Vec<Data>,
    /// As processes see it.
    names: Names,
    /// As it is safe.
    safe: Names,
    /// Changes of names since their folder was synced; None: the name is gone.
    since: Vec<(PathBuf, Option<Node>)>,
    /// Files of this name are not synced, whatever the disk says.
    lies_about: Option<&'static str>,
}

/// Which of what is not safe is on the medium when the power comes back.
#[derive(Debug)]
pub(super) enum Luck {
    Nothing,
    Everything,
    /// Any of it, in pieces.
    Some(Rng),
}

impl Disk {
    /// One that says that files of this name are synced, and forgets it.
    pub(super) fn lying_about(name: &'static str) -> Self {
        Disk { lies_about: Some(name), ..Disk::default() }
    }

    /// Does a step.
    pub(super) fn apply(&mut self, step: &Step) {
        match step {
            Step::MakeFolder(path) => self.name(path, Some(Node::Folder)),
            Step::Open(path) if !self.names.contains_key(path) => {
                self.files.push(Data::default());
                self.name(path, Some(Node::File(self.files.len() - 1)));
            }
            Step::Open(_) | Step::Told(_) | Step::Killed => {}
            Step::Remove(path) => self.name(path, None),
            Step::Write { path, offset, data } => {
                self.change(path, Change::Write(*offset, data.clone()));
            }
            Step::Truncate { path, length } => self.change(path, Change::Truncate(*length)),
            Step::Sync(path) => self.sync(path),
        }
    }

    fn name(&mut self, path: &Path, node: Option<Node>) {
        put(&mut self.names, path, node);
        self.since.push((path.to_owned(), node));
    }

    fn change(&mut self, path: &Path, change: Change) {
        let Some(Node::File(file)) = self.names.get(path) else { panic!("{} is no file", path.display()) };
        self.files[*file].since.push(change);
    }

    fn sync(&mut self, path: &Path) {
        if self.lies_about.is_some_and(|name| path.ends_with(name)) {
            return;
        }
        if let Some(Node::File(file)) = self.names.get(path) {
            let Data { safe, since } = &mut self.files[*file];
            since.drain(..).for_each(|change| done(safe, &change));
        }
        let (synced, rest) = std::mem::take(&mut self.since)
            .into_iter()
            .partition(|(name, _): &(PathBuf, _)| name.parent() == Some(path));
        self.since = rest;
        for (name, node) in synced as Vec<(PathBuf, Option<Node>)> {
            put(&mut self.safe, &name, node);
        }
    }

    /// Loses power: writes what is there afterwards below `target` instead of `root`.
    pub(super) fn lose_power(&self, luck: &mut Luck, root: &Path, target: &Path) {
        let mut names = self.safe.clone();
        // Journals keep changes of names in their order.
        let kept = match luck {
            Luck::Nothing => 0,
            Luck::Everything => self.since.len(),
            Luck::Some(rng) => rng.usize(..=self.since.len()),
        };
        for (name, node) in &self.since[..kept] {
            put(&mut names, name, *node);
        }
        for (name, node) in &names {
            let below = target.join(name.strip_prefix(root).unwrap());
            // In a folder that is not there itself nothing is.
            if !below.parent().unwrap().is_dir() {
                continue;
            }
            match node {
                Node::Folder => std::fs::create_dir(below).unwrap(),
                Node::File(file) => std::fs::write(below, self.files[*file].after(luck)).unwrap(),
            }
        }
    }
}

impl Data {
    fn after(&self, luck: &mut Luck) -> Vec<u8> {
        let mut data = self.safe.clone();
        for change in &self.since {
            match luck {
                Luck::Nothing => {}
                Luck::Everything => done(&mut data, change),
                Luck::Some(rng) => match rng.u8(..4) {
                    0 => {}
                    1 | 2 => done(&mut data, change),
                    _ => torn(&mut data, change, rng),
                },
            }
        }
        data
    }
}

fn put(names: &mut Names, path: &Path, node: Option<Node>) {
    match node {
        Some(node) => names.insert(path.to_owned(), node),
        None => names.remove(path),
    };
}

fn done(data: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, bytes) => {
            let end = offset + bytes.len();
            if data.len() < end {
                data.resize(end, 0);
            }
            data[*offset..end].copy_from_slice(bytes);
        }
        Change::Truncate(length) => data.resize(*length, 0),
    }
}

/// Any of a write's sectors.
fn torn(data: &mut Vec<u8>, change: &Change, rng: &mut Rng) {
    let Change::Write(offset, bytes) = change else { return };
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + SECTOR - (offset + at) % SECTOR);
        if rng.bool() {
            done(data, &Change::Write(offset + at, bytes[at..end].to_vec()));
        }
        at = end;
    }
}
