//! What a power cut leaves of a recorded run.
//!
//! The recorder's log says what was done to the disk and what was asked to be durable. A [`Disk`]
//! follows it and, at any point, writes out a directory tree as it could be found after the power
//! came back:
//!
//! - `fsync` of a file covers its data, size and attributes; `fdatasync` its data and size; `fsync` of
//!   a directory the names in it; `syncfs` everything. Covered is what came before the call began, once
//!   it ended. A rename is atomic, and durable when either of its directories is.
//! - Of the rest, each 4 KiB page of a file is as some number of the first writes to it left it;
//!   sizes and attributes of one file reach the disk in order; names as [`Survival`] says.
//!
//! What was in mapped memory is gone: arenas and gates come back empty or not at all.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{CStr, CString};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use store::recorder::{Event, Place};
use store::sys;

const PAGE: u64 = 4096;
/// Files that only mapped memory writes to.
const MAPPED: [&[u8]; 3] = [b"arena", b"arena.new", b"gate"];

/// How much of what nobody asked to be durable survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// Nothing.
    Nothing,
    /// All of it, as after a mere crash of all processes.
    Everything,
    /// Names, sizes and attributes, but no data: a journal that is ahead of the data.
    Metadata,
    /// As with one journal for the file system: names, sizes and attributes up to one point of
    /// time, data at random.
    Journal,
    /// Each thing by itself, in so many cases of a hundred.
    Scattered(u64),
}

impl Survival {
    /// One of them, by chance.
    pub fn random(random: &mut Random) -> Survival {
        match random.below(10) {
            0..2 => Survival::Nothing,
            2 => Survival::Everything,
            3 => Survival::Metadata,
            4..7 => Survival::Journal,
            _ => Survival::Scattered(5 + random.below(91)),
        }
    }
}

/// xorshift64*: the same numbers from the same seed, for ever.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(mix(seed) | 1)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.draw() % limit.max(1)
    }
}

fn mix(value: u64) -> u64 {
    let value =
        (value ^ (value >> 30)).wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[derive(Debug)]
enum Node<'a> {
    Directory,
    File(File<'a>),
    /// Where it leads. The bytes lie in the inode, which becomes durable with the name.
    Link(Cow<'a, [u8]>),
}

#[derive(Debug, Default)]
struct File<'a> {
    /// Its content as the run began.
    original: Option<PathBuf>,
    /// Its durable content, once that is another.
    durable: Option<Vec<u8>>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    pending: Vec<(usize, Change<'a>)>,
    pending_attributes: Vec<(usize, &'a [u8], &'a [u8])>,
}

#[derive(Debug, Clone, Copy)]
enum Change<'a> {
    Write(u64, &'a [u8]),
    Truncate(u64),
    Allocate(u64),
}

/// A change of names: what each of them stands for afterwards.
#[derive(Debug)]
struct Naming {
    at: usize,
    names: Vec<(usize, Vec<u8>, Option<usize>)>,
    durable: bool,
}

/// The disk of a recorded run, as of some number of events.
#[derive(Debug)]
pub struct Disk<'a> {
    nodes: Vec<Node<'a>>,
    /// The present owner of each inode number.
    inodes: HashMap<u64, usize>,
    namings: Vec<Naming>,
    /// What each name stands for, un-synced changes and all.
    names: HashMap<(usize, Vec<u8>), usize>,
    /// Namings before this one are durable all.
    settled: usize,
    syncs: HashMap<usize, (Option<usize>, bool)>,
    events: usize,
}

const ROOT: usize = 0;

impl<'a> Disk<'a> {
    /// A disk with the tree `original`, which must not change; `recorded` is the tree that the run
    /// changes, of the same names, whose inode numbers the log speaks of.
    pub fn new(original: &Path, inodes: &Inodes) -> Disk<'a> {
        let mut disk = Disk {
            nodes: vec![Node::Directory],
            inodes: HashMap::from([(inodes.root, ROOT)]),
            namings: Vec::new(),
            names: HashMap::new(),
            settled: 0,
            syncs: HashMap::new(),
            events: 0,
        };
        for (path, inode, is_directory) in &inodes.entries {
            let parent = disk.walk(path.parent().unwrap());
            let original = original.join(path);
            let node = if *is_directory {
                Node::Directory
            } else if let Ok(target) = std::fs::read_link(&original) {
                Node::Link(Cow::Owned(target.into_os_string().into_encoded_bytes()))
            } else {
                let entry = entry_of(&original).map(|entry| (b"user.anabranch".to_vec(), entry));
                let attributes = entry.into_iter().collect();
                Node::File(File { original: Some(original), attributes, ..File::default() })
            };
            let id = disk.add(*inode, node);
            let name = path.file_name().unwrap().as_encoded_bytes().to_vec();
            disk.names.insert((parent, name.clone()), id);
            disk.namings.push(Naming { at: 0, names: vec![(parent, name, Some(id))], durable: true });
        }
        disk
    }

    fn walk(&self, path: &Path) -> usize {
        path.iter().fold(ROOT, |at, name| self.names[&(at, name.as_encoded_bytes().to_vec())])
    }

    fn add(&mut self, inode: u64, node: Node<'a>) -> usize {
        self.nodes.push(node);
        self.inodes.insert(inode, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    /// Follows the log up to but without event number `until`.
    pub fn advance(&mut self, log: &[Event<'a>], until: usize) {
        while self.events < until.min(log.len()) {
            self.apply(self.events, &log[self.events]);
            self.events += 1;
        }
    }

    fn apply(&mut self, at: usize, event: &Event<'a>) {
        match *event {
            Event::Create { inode, place: None } => {
                self.add(inode, Node::File(File::default()));
            }
            Event::Create { inode, place: Some(place) } => {
                if self.inodes.contains_key(&place.directory) {
                    let id = self.add(inode, Node::File(File::default()));
                    self.rename(at, &[(place, Some(id))]);
                }
            }
            Event::MakeDirectory { inode, place } => {
                if self.inodes.contains_key(&place.directory) {
                    let id = self.add(inode, Node::Directory);
                    self.rename(at, &[(place, Some(id))]);
                }
            }
            Event::Symlink { inode, place, target } => {
                if self.inodes.contains_key(&place.directory) {
                    let id = self.add(inode, Node::Link(Cow::Borrowed(target)));
                    self.rename(at, &[(place, Some(id))]);
                }
            }
            Event::Link { inode, place } => {
                let id = self.known(inode);
                self.rename(at, &[(place, Some(id))]);
            }
            Event::Remove { place } => self.rename(at, &[(place, None)]),
            Event::Rename { inode, from, to } => {
                let id = self.known(inode);
                self.rename(at, &[(from, None), (to, Some(id))]);
            }
            Event::Write { inode, offset, data } => self.change(inode, at, Change::Write(offset, data)),
            Event::Truncate { inode, length } => self.change(inode, at, Change::Truncate(length)),
            Event::Allocate { inode, length } => self.change(inode, at, Change::Allocate(length)),
            Event::Attribute { inode, name, value } => {
                if let Some(Node::File(file)) = self.inodes.get(&inode).map(|&id| &mut self.nodes[id]) {
                    file.pending_attributes.push((at, name, value));
                }
            }
            Event::SyncBegin { inode, data_only } => {
                let node = inode.map(|inode| self.inodes.get(&inode).copied());
                if node != Some(None) {
                    self.syncs.insert(at, (node.flatten(), data_only));
                }
            }
            Event::SyncEnd { begin } => {
                if let Some((node, data_only)) = self.syncs.remove(&(begin as usize)) {
                    self.sync(node, begin as usize, data_only);
                }
            }
            Event::Mark { .. } => {}
        }
    }

    /// The node of an inode; a file whose making was not seen (by stdio) is empty.
    fn known(&mut self, inode: u64) -> usize {
        match self.inodes.get(&inode) {
            Some(&id) => id,
            None => self.add(inode, Node::File(File::default())),
        }
    }

    fn rename(&mut self, at: usize, places: &[(Place<'a>, Option<usize>)]) {
        let names: Vec<_> = places
            .iter()
            .filter_map(|(place, id)| Some((*self.inodes.get(&place.directory)?, place.name.to_vec(), *id)))
            .collect();
        for (directory, name, id) in &names {
            match id {
                Some(id) => self.names.insert((*directory, name.clone()), *id),
                None => self.names.remove(&(*directory, name.clone())),
            };
        }
        if !names.is_empty() {
            self.namings.push(Naming { at, names, durable: false });
        }
    }

    fn change(&mut self, inode: u64, at: usize, change: Change<'a>) {
        if let Some(Node::File(file)) = self.inodes.get(&inode).map(|&id| &mut self.nodes[id]) {
            file.pending.push((at, change));
        }
    }

    /// Makes durable what happened before event `before`.
    fn sync(&mut self, node: Option<usize>, before: usize, data_only: bool) {
        let all = node.is_none();
        for id in node.map_or(0..self.nodes.len(), |id| id..id + 1) {
            match &mut self.nodes[id] {
                Node::File(file) => file.sync(before, data_only),
                Node::Link(_) => {}
                Node::Directory if all => {}
                Node::Directory => self.sync_names(Some(id), before),
            }
        }
        if all {
            self.sync_names(None, before);
        }
    }

    fn sync_names(&mut self, directory: Option<usize>, before: usize) {
        for naming in self.namings[self.settled..].iter_mut().take_while(|naming| naming.at < before) {
            naming.durable |=
                directory.is_none_or(|directory| naming.names.iter().any(|(at, _, _)| *at == directory));
        }
        while self.namings.get(self.settled).is_some_and(|naming| naming.durable) {
            self.settled += 1;
        }
    }

    /// Path of an inode's file as the running system sees it now.
    pub fn path_of(&self, inode: u64) -> Option<PathBuf> {
        let mut at = *self.inodes.get(&inode)?;
        let mut parts = Vec::new();
        while at != ROOT {
            let ((parent, name), _) = self.names.iter().find(|(_, id)| **id == at)?;
            parts.push(String::from_utf8_lossy(name).into_owned());
            at = *parent;
        }
        Some(parts.iter().rev().collect())
    }

    /// Writes out what a power cut now could leave, to `target`, which must not exist.
    pub fn write_out(&self, target: &Path, survival: Survival, seed: u64) {
        let mut random = Random::new(seed);
        // The journal's last committed point, at most some thousand events ago.
        let committed = self.events - random.below(3000.min(self.events as u64)) as usize;
        let mut tree: BTreeMap<usize, BTreeMap<&[u8], usize>> = BTreeMap::new();
        for naming in &self.namings {
            let kept = naming.durable
                || match survival {
                    Survival::Nothing => false,
                    Survival::Everything | Survival::Metadata => true,
                    Survival::Journal => naming.at < committed,
                    Survival::Scattered(percent) => random.below(100) < percent,
                };
            for (directory, name, id) in naming.names.iter().filter(|_| kept) {
                let entries = tree.entry(*directory).or_default();
                match id {
                    Some(id) => entries.insert(name, *id),
                    None => entries.remove(&name[..]),
                };
            }
        }
        let mut writer = Writer {
            disk: self,
            tree,
            fate: Fate { survival, seed, committed, now: self.events },
            written: HashMap::new(),
            open: BTreeSet::new(),
        };
        writer.directory(ROOT, target);
    }
}

impl File<'_> {
    fn sync(&mut self, before: usize, data_only: bool) {
        let covered = self.pending.partition_point(|(at, _)| *at < before);
        if covered > 0 {
            let mut content = self.durable.take().unwrap_or_else(|| self.content());
            for (_, change) in &self.pending[..covered] {
                change.apply(&mut content);
            }
            self.durable = Some(content);
            self.pending.drain(..covered);
        }
        if !data_only {
            let covered = self.pending_attributes.partition_point(|(at, _, _)| *at < before);
            for (_, name, value) in self.pending_attributes.drain(..covered) {
                self.attributes.insert(name.to_vec(), value.to_vec());
            }
        }
    }

    fn content(&self) -> Vec<u8> {
        match (&self.durable, &self.original) {
            (Some(content), _) => content.clone(),
            (None, Some(path)) => std::fs::read(path).unwrap(),
            (None, None) => Vec::new(),
        }
    }
}

impl Change<'_> {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write(offset, data) => write_at(content, *offset, data),
            Change::Truncate(length) => content.resize(*length as usize, 0),
            Change::Allocate(length) => grow(content, *length),
        }
    }

    fn grows_to(&self, size: u64) -> u64 {
        match self {
            Change::Write(offset, data) => size.max(offset + data.len() as u64),
            Change::Truncate(length) => *length,
            Change::Allocate(length) => size.max(*length),
        }
    }
}

fn grow(content: &mut Vec<u8>, length: u64) {
    if (content.len() as u64) < length {
        content.resize(length as usize, 0);
    }
}

fn write_at(content: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let end = offset + data.len() as u64;
    grow(content, end);
    content[offset as usize..end as usize].copy_from_slice(data);
}

/// What becomes of changes that are not durable.
#[derive(Debug, Clone, Copy)]
struct Fate {
    survival: Survival,
    seed: u64,
    committed: usize,
    now: usize,
}

impl Fate {
    /// The first event that does not survive, of all that concern one thing; `first` is the oldest.
    fn limit(&self, thing: [u64; 2], first: usize) -> usize {
        let mut random = Random::new(self.seed ^ mix(thing[0]) ^ mix(!thing[1]).rotate_left(7));
        let percent = match self.survival {
            Survival::Nothing | Survival::Metadata => return 0,
            Survival::Everything => return self.now,
            Survival::Journal => 50,
            Survival::Scattered(percent) => percent,
        };
        if random.below(3) == 0 {
            return first + random.below((self.now - first) as u64 + 1) as usize;
        }
        if random.below(100) < percent { self.now } else { 0 }
    }

    fn metadata_limit(&self, node: usize, first: usize) -> usize {
        match self.survival {
            Survival::Journal => self.committed,
            Survival::Metadata => self.now,
            _ => self.limit([node as u64, u64::MAX], first),
        }
    }
}

struct Writer<'d, 'a> {
    disk: &'d Disk<'a>,
    tree: BTreeMap<usize, BTreeMap<&'d [u8], usize>>,
    fate: Fate,
    written: HashMap<usize, PathBuf>,
    open: BTreeSet<usize>,
}

impl Writer<'_, '_> {
    fn directory(&mut self, id: usize, path: &Path) {
        std::fs::DirBuilder::new().mode(0o700).create(path).unwrap();
        // A move into a directory whose own move was lost could close a circle.
        if !self.open.insert(id) {
            return;
        }
        for (name, child) in self.tree.get(&id).cloned().unwrap_or_default() {
            let path = path.join(std::str::from_utf8(name).unwrap());
            match &self.disk.nodes[child] {
                Node::Directory => self.directory(child, &path),
                Node::File(_) if MAPPED.contains(&name) => {
                    if mix(self.fate.seed ^ child as u64) & 1 == 0 {
                        std::fs::write(&path, b"").unwrap();
                    }
                }
                Node::File(file) => self.file(child, file, &path),
                Node::Link(target) => {
                    std::os::unix::fs::symlink(std::str::from_utf8(target).unwrap(), &path).unwrap();
                }
            }
        }
        self.open.remove(&id);
    }

    fn file(&mut self, id: usize, file: &File<'_>, path: &Path) {
        if let Some(first) = self.written.get(&id) {
            std::fs::hard_link(first, path).unwrap();
            return;
        }
        self.written.insert(id, path.to_owned());
        let untouched = file.pending.is_empty() && file.pending_attributes.is_empty();
        if let (Some(original), None, true) = (&file.original, &file.durable, untouched) {
            // Files of a layer that was sealed before the run are never written to again.
            if std::fs::metadata(original).unwrap().permissions().readonly() {
                std::fs::hard_link(original, path).unwrap();
            } else {
                copy_file(original, path);
            }
            return;
        }
        std::fs::write(path, self.survivor(id, file)).unwrap();
        let first = file.first_metadata();
        let limit = self.fate.metadata_limit(id, first.unwrap_or(0));
        let late = file.pending_attributes.iter().filter(|(at, _, _)| *at < limit);
        let mut attributes = file.attributes.clone();
        attributes.extend(late.map(|(_, name, value)| (name.to_vec(), value.to_vec())));
        for (name, value) in attributes {
            set_attribute(path, &CString::new(name).unwrap(), &value);
        }
    }

    fn survivor(&self, id: usize, file: &File<'_>) -> Vec<u8> {
        let mut content = file.content();
        let Some((first, _)) = file.pending.first() else { return content };
        let sizes = self.fate.metadata_limit(id, file.first_metadata().unwrap_or(*first));
        let mut size = content.len() as u64;
        for (at, change) in &file.pending {
            if let Change::Write(offset, data) = change {
                let mut done = 0;
                while done < data.len() {
                    let position = offset + done as u64;
                    let length = ((PAGE - position % PAGE) as usize).min(data.len() - done);
                    if *at < self.fate.limit([id as u64, position / PAGE], *first) {
                        write_at(&mut content, position, &data[done..done + length]);
                    }
                    done += length;
                }
            }
            if *at < sizes {
                size = change.grows_to(size);
                if matches!(change, Change::Truncate(_)) {
                    content.truncate(size as usize);
                }
            }
        }
        content.resize(size as usize, 0);
        content
    }
}

impl File<'_> {
    fn first_metadata(&self) -> Option<usize> {
        let changes = self.pending.first().map(|(at, _)| *at);
        let attributes = self.pending_attributes.first().map(|(at, _, _)| *at);
        changes.into_iter().chain(attributes).min()
    }
}

/// Inode numbers of a tree as a run begins.
#[derive(Debug)]
pub struct Inodes {
    root: u64,
    /// Parents before what is in them.
    entries: Vec<(PathBuf, u64, bool)>,
}

impl Inodes {
    pub fn of(root: &Path) -> Inodes {
        let mut entries = Vec::new();
        collect(root, root, &mut entries);
        Inodes { root: std::fs::metadata(root).unwrap().ino(), entries }
    }

    /// Keeps them in a file.
    pub fn save(&self, file: &Path) {
        let mut lines = format!("{}\n", self.root);
        for (path, inode, is_directory) in &self.entries {
            lines += &format!("{inode} {is_directory} {}\n", path.display());
        }
        std::fs::write(file, lines).unwrap();
    }

    /// Reads what [`Inodes::save`] kept.
    pub fn load(file: &Path) -> Inodes {
        let text = std::fs::read_to_string(file).unwrap();
        let mut lines = text.lines();
        let root = lines.next().unwrap().parse().unwrap();
        let entry = |line: &str| {
            let parts: Vec<&str> = line.splitn(3, ' ').collect();
            (PathBuf::from(parts[2]), parts[0].parse().unwrap(), parts[1].parse().unwrap())
        };
        Inodes { root, entries: lines.map(entry).collect() }
    }
}

fn collect(root: &Path, at: &Path, entries: &mut Vec<(PathBuf, u64, bool)>) {
    for entry in std::fs::read_dir(at).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        entries.push((
            entry.path().strip_prefix(root).unwrap().to_owned(),
            metadata.ino(),
            metadata.is_dir(),
        ));
        if metadata.is_dir() {
            collect(root, &entry.path(), entries);
        }
    }
}

/// Copies a tree with the attributes of the store; hard links become files of their own.
pub fn copy_tree(from: &Path, to: &Path) {
    std::fs::DirBuilder::new().mode(0o700).create(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else if let Ok(leads_to) = std::fs::read_link(entry.path()) {
            std::os::unix::fs::symlink(leads_to, &target).unwrap();
        } else {
            copy_file(&entry.path(), &target);
        }
    }
}

fn copy_file(from: &Path, to: &Path) {
    if let Some(entry) = entry_of(from) {
        std::fs::write(to, b"").unwrap();
        set_attribute(to, c"user.anabranch", &entry);
    }
    std::fs::copy(from, to).unwrap();
}

fn entry_of(path: &Path) -> Option<Vec<u8>> {
    let file = std::fs::File::open(path).unwrap();
    let mut value = [0; 64];
    let length = sys::fgetxattr(file.as_raw_fd(), c"user.anabranch", &mut value).ok()?;
    Some(value[..length].to_vec())
}

fn set_attribute(path: &Path, name: &CStr, value: &[u8]) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    sys::fsetxattr(file.as_raw_fd(), name, value).unwrap();
}
