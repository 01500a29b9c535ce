//! Records a run, cuts the power at chosen points and looks at what PostgreSQL makes of what is left.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use compute::engine::{Engine, StartOptions, StopMode};
use e2e::lab::{Lab, PASSWORD, connect_at, key, text};
use e2e::power::{Disk, Inodes, Random, Survival, copy_tree};
use e2e::tpcb;
use store::recorder::{self, Event};

/// A recorded run and the tree it began with.
pub struct Run<'a> {
    lab: &'a Lab,
    original: PathBuf,
    inodes: Inodes,
    log: Vec<u8>,
    /// What was promised before it began.
    before: Promises,
}

/// Where and how the power is cut.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Events that happened before.
    pub after: usize,
    pub survival: Survival,
    pub seed: u64,
}

/// What was acknowledged on one branch.
#[derive(Debug, Clone, Default)]
struct Promised {
    /// Last number of each client that was acknowledged, and the most that may be there.
    clients: BTreeMap<u64, (u64, u64)>,
    /// Question and answer by name.
    facts: BTreeMap<String, (String, String)>,
    /// Its parent, while nobody has answered yet that it exists.
    parent: Option<String>,
    deleting: bool,
    gone: bool,
}

impl Promised {
    fn is_uncertain(&self) -> bool {
        self.parent.is_some() || self.deleting
    }
}

type Promises = BTreeMap<String, Promised>;

impl<'a> Run<'a> {
    /// Records a run with the shim `shim` (our own where none is given) and `faults` planted.
    /// `ANABRANCH_POWER_KEEP` names a directory to keep the recording in, `ANABRANCH_POWER_REPLAY` one
    /// to take it from.
    pub fn record(lab: &'a Lab, shim: Option<&Path>, faults: &str) -> Run<'a> {
        if let Some(kept) = std::env::var_os("ANABRANCH_POWER_REPLAY").map(PathBuf::from) {
            let log = std::fs::read(kept.join("log")).unwrap();
            let inodes = Inodes::load(&kept.join("inodes"));
            return Run { lab, original: kept.join("original"), inodes, log, before: only_main() };
        }
        lab.engine.create_root(&key("main"), &lab.server, PASSWORD).unwrap();
        let run = Run::of_home(lab, &lab.path, shim, faults, only_main(), &[]);
        if let Some(keep) = std::env::var_os("ANABRANCH_POWER_KEEP").map(PathBuf::from) {
            run.keep(&keep.join(std::thread::current().name().unwrap_or("run")));
        }
        run
    }

    fn keep(&self, at: &Path) {
        std::fs::create_dir_all(at).unwrap();
        std::fs::write(at.join("log"), &self.log).unwrap();
        self.inodes.save(&at.join("inodes"));
        copy_tree(&self.original, &at.join("original"));
        println!("kept in {}", at.display());
    }

    fn of_home(
        lab: &'a Lab,
        place: &Path,
        shim: Option<&Path>,
        faults: &str,
        before: Promises,
        more: &[&str],
    ) -> Run<'a> {
        let home = place.join("home");
        let original = place.join("original");
        copy_tree(&home, &original);
        let inodes = Inodes::of(&home);
        let installed = shim_image::install(&lab.path.join("run")).unwrap();
        let shim = shim.unwrap_or(&installed);
        let log = place.join("log");
        let output = Command::new(env!("CARGO_BIN_EXE_power-run"))
            .args([&home, shim, &place.join("r")])
            .args(more)
            .env("LD_PRELOAD", shim)
            .env(recorder::VARIABLE, &log)
            .env(store::fault::VARIABLE, faults)
            .output()
            .unwrap();
        kill_all(&home, shim, &place.join("r"));
        assert!(output.status.success(), "the run failed: {}", String::from_utf8_lossy(&output.stderr));
        let log = std::fs::read(log).unwrap();
        Run { lab, original, inodes, log, before }
    }

    /// The power comes back after `cut`; recovery and a second run are recorded.
    pub fn again(&self, cut: Cut) -> Run<'a> {
        let place = self.lab.path.join("again");
        std::fs::create_dir(&place).unwrap();
        let events = self.events();
        let mut disk = Disk::new(&self.original, &self.inodes);
        disk.advance(&events, cut.after);
        disk.write_out(&place.join("home"), cut.survival, cut.seed);
        let mut before = promises(&self.before, &events[..cut.after]);
        for (name, promised) in &mut before {
            if promised.is_uncertain() {
                promised.gone |= !place.join("home/branches").join(name).join("manifest").exists();
                (promised.parent, promised.deleting) = (None, false);
            }
        }
        Run::of_home(self.lab, &place, None, "", before, &["again"])
    }

    pub fn events(&self) -> Vec<Event<'_>> {
        recorder::read(&self.log).unwrap()
    }

    /// Tries the cuts, in their order; what was found wrong, by cut.
    pub async fn try_all(&self, cuts: &[Cut], stop_at_first: bool) -> Vec<(Cut, String)> {
        let events = self.events();
        let mut disk = Disk::new(&self.original, &self.inodes);
        let mut frozen = BTreeMap::new();
        let mut found = Vec::new();
        let mut cuts = cuts.to_vec();
        cuts.sort_by_key(|cut| cut.after);
        for cut in cuts {
            disk.advance(&events, cut.after);
            let place = self.lab.path.join("after");
            std::fs::create_dir(&place).unwrap();
            disk.write_out(&place.join("home"), cut.survival, cut.seed);
            let promises = promises(&self.before, &events[..cut.after]);
            let mut after = After { run: self, place, frozen: &mut frozen };
            let looked = after.look(&promises).await;
            if let Err(what) = looked {
                println!("{cut:?}: {what}");
                found.push((cut, what));
                if stop_at_first {
                    break;
                }
            }
        }
        found
    }
}

impl Run<'_> {
    /// Places right before a file whose path holds `part` is synced.
    pub fn before_syncs_of(&self, part: &str) -> Vec<usize> {
        let events = self.events();
        let mut disk = Disk::new(&self.original, &self.inodes);
        let mut places = Vec::new();
        for (at, event) in events.iter().enumerate() {
            let Event::SyncBegin { inode: Some(inode), .. } = event else { continue };
            disk.advance(&events, at);
            let path = disk.path_of(*inode);
            if path.is_some_and(|path| path.to_string_lossy().contains(part)) {
                places.push(at);
            }
        }
        places
    }
}

fn only_main() -> Promises {
    Promises::from([("main".to_owned(), Promised::default())])
}

/// A run that failed may have left computes.
fn kill_all(home: &Path, shim: &Path, sockets: &Path) {
    if let Ok(engine) = Engine::open(home, shim, sockets) {
        for key in engine.keys().unwrap_or_default() {
            let _ = engine.stop(&key, StopMode::Kill);
        }
    }
}

/// What had been promised when these events had happened.
fn promises(before: &Promises, events: &[Event<'_>]) -> Promises {
    let mut promises = before.clone();
    for event in events {
        let Event::Mark { text } = event else { continue };
        let text = std::str::from_utf8(text).unwrap();
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        let (branch, more) = rest.split_once(' ').unwrap_or((rest, ""));
        match verb {
            "ack" => acknowledged(&mut promises, branch, more),
            "fact" => {
                let parts: Vec<&str> = more.split('|').collect();
                // The question may hold bars itself.
                let (name, answer) = (parts[0], parts[parts.len() - 1]);
                let question = parts[1..parts.len() - 1].join("|");
                let facts = &mut promises.get_mut(branch).unwrap().facts;
                facts.insert(name.to_owned(), (question, answer.to_owned()));
            }
            "doubt" => {
                promises.get_mut(branch).unwrap().facts.remove(more);
            }
            "creating" => {
                let mut child = promises[more].clone();
                child.parent = Some(more.to_owned());
                promises.insert(branch.to_owned(), child);
            }
            "created" => promises.get_mut(branch).unwrap().parent = None,
            "deleting" => promises.get_mut(branch).unwrap().deleting = true,
            "deleted" => promises.get_mut(branch).unwrap().gone = true,
            _ => {}
        }
    }
    promises
}

/// One client runs one transaction at a time: the next may be there, unacknowledged. On a child that
/// is being cut meanwhile as many more may be there as were acknowledged until it was answered.
fn acknowledged(promises: &mut Promises, branch: &str, more: &str) {
    let (client, sequence) = more.split_once(' ').unwrap();
    let (client, sequence): (u64, u64) = (client.parse().unwrap(), sequence.parse().unwrap());
    promises.get_mut(branch).unwrap().clients.insert(client, (sequence, sequence + 1));
    for child in promises.values_mut().filter(|child| child.parent.as_deref() == Some(branch)) {
        child.clients.entry(client).or_default().1 = sequence + 1;
    }
}

/// Number of the first client that writes to a branch: those below came with the cut.
fn first_client(branch: &str) -> u64 {
    match branch {
        "main" => 0,
        "first" => 10,
        "third" | "fifth" => 10,
        _ => 20,
    }
}

/// The machine after the power came back.
struct After<'a> {
    run: &'a Run<'a>,
    place: PathBuf,
    /// What each child was found to have of its parent: at every cut the same.
    frozen: &'a mut BTreeMap<String, String>,
}

impl After<'_> {
    async fn look(&mut self, promises: &Promises) -> Result<(), String> {
        let shim = shim_image::install(&self.run.lab.path.join("run")).unwrap();
        let engine = Engine::open(&self.place.join("home"), &shim, &self.place.join("s"))
            .map_err(|error| format!("the home does not open: {error}"))?;
        let looked = self.look_at_all(&engine, promises).await;
        for key in engine.keys().unwrap_or_default() {
            let _ = engine.stop(&key, StopMode::Kill);
        }
        std::fs::remove_dir_all(&self.place).unwrap();
        looked
    }

    async fn look_at_all(&mut self, engine: &Engine, promises: &Promises) -> Result<(), String> {
        let found = engine.keys().map_err(|error| error.to_string())?;
        for key in &found {
            match promises.get(key.as_str()) {
                None => return Err(format!("{key} exists, but was never asked for")),
                Some(promised) if promised.gone => return Err(format!("{key} is there again")),
                Some(_) => {}
            }
        }
        // A parent first: what it writes while it recovers must not show on its children.
        let main_first = promises.iter().filter(|(branch, _)| *branch == "main");
        for (branch, promised) in main_first.chain(promises.iter().filter(|(branch, _)| *branch != "main")) {
            if found.contains(&key(branch)) {
                self.look_at(engine, branch, promised).await.map_err(|what| format!("{branch}: {what}"))?;
            } else if !promised.is_uncertain() && !promised.gone {
                return Err(format!("{branch} is lost"));
            }
        }
        Ok(())
    }

    async fn look_at(&mut self, engine: &Engine, branch: &str, promised: &Promised) -> Result<(), String> {
        let options = StartOptions { first_start: false, settings: settings() };
        engine
            .start(&key(branch), &self.run.lab.server, &options)
            .map_err(|error| format!("{error}\n{}", log_tail(&engine.log_path(&key(branch)))))?;
        let sockets = engine.socket_dir(&key(branch));
        let (name, promised) = (branch.to_owned(), promised.clone());
        let task = tokio::spawn(async move { questions(&sockets, &name, &promised).await });
        let frozen = match task.await {
            Ok(answer) => answer?,
            Err(error) => return Err(panic_text(error)),
        };
        // Not until it was answered is it the same cut at every point.
        if let Some(frozen) = frozen {
            let before = self.frozen.entry(branch.to_owned()).or_insert_with(|| frozen.clone());
            if *before != frozen {
                return Err(format!("it has {frozen} of its parent, at another point it had {before}"));
            }
        }
        engine.maintain().map_err(|error| format!("maintenance: {error}"))
    }
}

fn settings() -> Vec<(String, String)> {
    [("shared_buffers", "2MB"), ("max_connections", "20"), ("autovacuum", "off")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

fn panic_text(error: tokio::task::JoinError) -> String {
    let payload = error.into_panic();
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

fn log_tail(path: &Path) -> String {
    let log = std::fs::read(path).unwrap_or_default();
    // What the cut left of the log itself may be zeros.
    let log = String::from_utf8_lossy(&log).replace('\0', "");
    let lines: Vec<&str> = log.lines().rev().take(15).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Everything promised of a branch; what it has of its parent, if its cut was answered.
async fn questions(sockets: &Path, branch: &str, promised: &Promised) -> Result<Option<String>, String> {
    let client = connect_at(sockets, "postgres").await;
    let sums = text(
        &client,
        "select (select sum(abalance) from accounts) || ' ' || (select sum(tbalance) from tellers) || ' ' ||
                (select sum(bbalance) from branches) || ' ' || (select coalesce(sum(delta), 0) from history)",
    )
    .await;
    let numbers: Vec<&str> = sums.split(' ').collect();
    if numbers.iter().any(|number| *number != numbers[0]) {
        return Err(format!("sums differ: {sums}"));
    }
    for (number, (least, most)) in &promised.clients {
        let question = format!(
            "select count(*) || ' ' || count(distinct seq) || ' ' || coalesce(max(seq), 0) from history where client = {number}"
        );
        let row = text(&client, &question).await;
        let found: Vec<u64> = row.split(' ').map(|number| number.parse().unwrap()).collect();
        if found[0] != found[1] || found[1] != found[2] {
            return Err(format!("client {number} has gaps or doubles: {row}"));
        }
        if found[2] < *least || found[2] > *most {
            return Err(format!("client {number} has {row}, promised are {least} to {most}"));
        }
    }
    for (name, (question, answer)) in &promised.facts {
        let found = text(&client, question).await;
        if found != *answer {
            return Err(format!("{name}: {question} says {found}, it was {answer}"));
        }
    }
    tpcb::check_pages(&client).await;
    let frozen = format!(
        "select coalesce(string_agg(client || ':' || n || ':' || total, ' ' order by client), '') from
         (select client, count(*) n, sum(delta) total from history where client < {} group by client) t",
        first_client(branch)
    );
    let frozen = text(&client, &frozen).await;
    Ok((!promised.is_uncertain() && branch != "main").then_some(frozen))
}

/// Places right after notes that begin so.
pub fn after_marks(events: &[Event<'_>], beginning: &str) -> Vec<usize> {
    let fits =
        |event: &Event<'_>| matches!(event, Event::Mark { text } if text.starts_with(beginning.as_bytes()));
    events.iter().enumerate().filter(|(_, event)| fits(event)).map(|(at, _)| at + 1).collect()
}

/// Number of the event that is this note.
pub fn marked(events: &[Event<'_>], note: &str) -> usize {
    let wanted = Event::Mark { text: note.as_bytes() };
    events.iter().position(|event| *event == wanted).unwrap_or_else(|| panic!("no note {note:?} in the log"))
}

/// Cuts where the planted faults of `power_faults` show, up to `share` of each kind.
pub fn telling_cuts(run: &Run<'_>, share: usize, seed: u64) -> Vec<Cut> {
    let events = run.events();
    let begin = marked(&events, "filled");
    let targets = [
        (run.before_syncs_of("pg_xact/"), Survival::Metadata),
        (after_marks(&events, "checkpointed"), Survival::Nothing),
        (after_marks(&events, "checkpointed"), Survival::Scattered(50)),
        (after_marks(&events, "created"), Survival::Nothing),
        (after_marks(&events, "merged"), Survival::Nothing),
    ];
    let mut cuts = Vec::new();
    for (places, survival) in targets {
        let places: Vec<usize> = places.into_iter().filter(|&at| at > begin).collect();
        let step = (places.len() / share).max(1);
        let chosen = places.iter().skip(seed as usize % step).step_by(step).take(share);
        cuts.extend(chosen.map(|&after| Cut { after, survival, seed }));
    }
    cuts
}

/// `count` cuts after the tables were filled: half anywhere, half soon after a sync ended or a note
/// was made, where what is promised changes.
pub fn cuts(events: &[Event<'_>], count: usize, seed: u64) -> Vec<Cut> {
    let mut random = Random::new(seed);
    let (from, to) = (marked(events, "filled") + 1, marked(events, "end"));
    let turns: Vec<usize> = (from..to)
        .filter(|&at| match events[at] {
            Event::SyncEnd { .. } => true,
            Event::Mark { text } => !text.starts_with(b"ack"),
            _ => false,
        })
        .collect();
    (0..count)
        .map(|number| {
            let after = if number % 2 == 0 {
                from + random.below((to - from) as u64) as usize
            } else {
                turns[random.below(turns.len() as u64) as usize] + 1 + random.below(4) as usize
            };
            Cut { after: after.min(to), survival: Survival::random(&mut random), seed: random.draw() }
        })
        .collect()
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    let value: OsString = std::env::var_os(name)?;
    Some(value.to_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{name} is no number")))
}
