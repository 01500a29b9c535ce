//! The daemon killed in every phase of the making and the removal of a branch, and at random moments
//! under load. Release builds have no moments to stand still at (see `store::moment`).
#![cfg(debug_assertions)]
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::daemon::{Answer, Daemon, Home, PATIENCE, PROJECT};
use e2e::lab::{run, text};
use e2e::processes::{Random, wait_until};
use e2e::tpcb::{self, Load};
use store::moment::Moment;

const SCALE: i32 = 1;
const CLIENTS: usize = 2;
/// A moment that is reached more often than this is not tried each time.
const TRIES: usize = 3;
/// Kills of the other kind, at random, in each thing that is asked for.
const ROUNDS_PER_STEP: usize = 3;
/// What every transaction of the load may have brought at most, where that is not known.
const ANY: [u64; CLIENTS] = [u64::MAX; CLIENTS];

/// A home with a project whose `production` is written to all the time, past the daemon.
struct Shop {
    home: Home,
    production: String,
    load: Load,
}

/// What a new branch must hold: transactions acknowledged before, and sent by then.
struct Bounds {
    least: Vec<u64>,
    most: Vec<u64>,
}

impl Shop {
    async fn new() -> Shop {
        let home = Home::new(Path::new(env!("CARGO_BIN_EXE_ana")));
        let mut daemon = home.start(None);
        let made = daemon.call("POST", &format!("/projects?project_id={PROJECT}"), "{}");
        assert!(made.is_success(), "{made:?} {:#?}", daemon.said());
        let production = daemon.listed("production").unwrap().uid;
        let admin = home.connect_as_admin(&production).await;
        for setting in ["max_wal_size = '48MB'", "bgwriter_delay = '10ms'", "checkpoint_timeout = '30s'"] {
            run(&admin, &format!("alter system set {setting}")).await;
        }
        run(&admin, "select pg_reload_conf()").await;
        tpcb::fill(&admin, SCALE).await;
        daemon.kill();
        let password = home.admin_password(&production);
        let load = tpcb::start_with(&home.sockets(&production), &password, CLIENTS, SCALE, 0).await;
        Shop { home, production, load }
    }

    /// Bounds of a branch whose making begins now; the upper one is not known yet.
    fn beginning_now(&self) -> Bounds {
        Bounds { least: self.load.acknowledged(), most: ANY.to_vec() }
    }

    fn until_now(&self, bounds: Bounds) -> Bounds {
        Bounds { most: self.load.sent(), ..bounds }
    }

    /// Makes a branch, with its compute running and transactions of its own in it.
    async fn make(&self, daemon: &Daemon, id: &str, parent: &str) {
        let made = daemon.call("POST", &create(id), &spec(parent));
        assert!(made.is_success(), "{made:?}");
        daemon.wake(id);
        let admin = self.home.connect_as_admin(&daemon.listed(id).unwrap().uid).await;
        run(&admin, "create table if not exists mark as select 1").await;
        run(&admin, "update accounts set filler = 'own' where aid <= 100").await;
        self.home.note_shared_memory();
    }

    /// A daemon that has finished what an earlier one began. Its operations have ended.
    fn restart(&self) -> Daemon {
        self.home.note_shared_memory();
        let daemon = self.home.start(None);
        wait_until("all operations end", PATIENCE, || self.home.running_operations().is_empty());
        for begun in self.home.all_operations().iter().rev().take(10) {
            daemon.ended(begun);
        }
        self.home.assert_tidy(&daemon.rows());
        daemon
    }

    /// What was acknowledged on the parent is there, with or without this daemon.
    async fn check_parent(&self) {
        let least = self.load.acknowledged();
        tpcb::check(&self.home.connect_as_admin(&self.production).await, &least, &ANY).await;
    }

    /// A listed branch works for its owner, and holds what it must.
    async fn check_branch(&self, daemon: &Daemon, id: &str, bounds: &Bounds) {
        let row = daemon.listed(id).unwrap();
        let owner = daemon.connect(id).await;
        assert_eq!(text(&owner, "select 41 + 1").await, "42");
        tpcb::check(&self.home.connect_as_admin(&row.uid).await, &bounds.least, &bounds.most).await;
    }

    fn purge(&self, daemon: &Daemon, id: &str) {
        let deleted = daemon.call("DELETE", &format!("{}?purge=true&cascade=true", branch(id)), "");
        assert!(deleted.is_success(), "{deleted:?}");
        self.home.assert_tidy(&daemon.rows());
    }

    /// After a create of `id` that may have been cut off: a whole branch, or none; and the same call
    /// again gets a caller there.
    async fn check_create(&self, daemon: &Daemon, id: &str, answer: Option<Answer>, bounds: Bounds) {
        let there = daemon.listed(id).is_some();
        if let Some(answer) = answer {
            assert!(answer.is_success() && there, "an answered branch is gone: {answer:?}");
        }
        let begun = self.home.operations_on(id);
        assert!(begun.len() <= 1, "{begun:?}");
        for begun in &begun {
            let ended = daemon.ended(begun);
            assert_eq!(ended.is_success(), there, "{ended:?}");
        }
        if there {
            self.check_branch(daemon, id, &bounds).await;
            let again = daemon.call("POST", &create(id), &spec("production"));
            assert_eq!((again.status, again.error_code()), (409, "ALREADY_EXISTS"), "{again:?}");
            let path = format!("{}&replace_existing=true", create(id));
            let again = daemon.call("POST", &path, &spec("production"));
            assert!(again.is_success(), "{again:?}");
        } else {
            assert_eq!(daemon.call("GET", &branch(id), "").status, 404);
            let bounds = self.beginning_now();
            let again = daemon.call("POST", &create(id), &spec("production"));
            assert!(again.is_success(), "{again:?}");
            self.check_branch(daemon, id, &self.until_now(bounds)).await;
        }
        self.home.note_shared_memory();
        self.purge(daemon, id);
        self.check_parent().await;
    }

    /// After a delete that was begun on `ids`: none is listed, and the same call again is answered.
    fn check_delete(&self, daemon: &Daemon, path: &str, ids: &[&str], answer: Option<Answer>) {
        if let Some(answer) = answer {
            assert!(answer.is_success(), "{answer:?}");
        }
        for id in ids {
            assert!(daemon.listed(id).is_none(), "{id} is listed");
        }
        let begun = self.home.operations_on(ids[0]);
        let ended = daemon.ended(begun.last().unwrap());
        assert!(ended.is_success(), "{ended:?}");
        let again = daemon.call("DELETE", path, "");
        assert_eq!((again.status, again.error_code()), (404, "NOT_FOUND"), "{again:?}");
        let mark = if path.contains('?') { '&' } else { '?' };
        let again = daemon.call("DELETE", &format!("{path}{mark}allow_missing=true"), "");
        assert!(again.is_success(), "{again:?}");
    }

    /// Nothing is missing and nothing too much on the parent, also after it was killed itself.
    async fn close(self) {
        let clients = self.load.clients.clone();
        self.load.stop().await;
        let sent: Vec<u64> =
            clients.iter().map(|one| one.sent.load(std::sync::atomic::Ordering::SeqCst)).collect();
        let daemon = self.home.start(None);
        tpcb::check(&self.home.connect_as_admin(&self.production).await, &sent, &sent).await;
        self.home.note_shared_memory();
        compute::process::kill_all(&self.home.data().join("branches").join(&self.production).join("pgdata"))
            .unwrap();
        daemon.wake("production");
        tpcb::check(&self.home.connect_as_admin(&self.production).await, &sent, &sent).await;
        self.home.assert_tidy(&daemon.rows());
    }
}

fn create(id: &str) -> String {
    format!("/projects/{PROJECT}/branches?branch_id={id}")
}

fn branch(id: &str) -> String {
    format!("/projects/{PROJECT}/branches/{id}")
}

fn spec(parent: &str) -> String {
    format!(r#"{{"spec": {{"no_expiry": true, "source_branch": "projects/{PROJECT}/branches/{parent}"}}}}"#)
}

/// From the names of moments in the order in which they were reached: each with its number, as the
/// environment takes it, but only some of those that come many times.
fn numbered(reached: &[String]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    // The last line of a daemon that was killed may be cut short.
    let whole = |name: &&String| Moment::ALL.iter().any(|moment| moment.name() == name.as_str());
    for name in reached.iter().filter(whole) {
        *counts.entry(name).or_default() += 1;
    }
    let mut chosen = Vec::new();
    for (name, count) in counts {
        let tries = count.min(TRIES);
        let numbers: BTreeSet<usize> =
            (0..tries).map(|n| if tries == 1 { 1 } else { 1 + n * (count - 1) / (tries - 1) }).collect();
        chosen.extend(numbers.into_iter().map(|number| format!("{name}:{number}")));
    }
    chosen
}

/// All moments that were reached so far.
#[derive(Default)]
struct Seen(BTreeSet<String>);

impl Seen {
    fn add(&mut self, what: &str, reached: &[String]) -> Vec<String> {
        self.0.extend(reached.iter().cloned());
        let chosen = numbered(reached);
        println!("{what}: {} moments, {} of them tried: {}", reached.len(), chosen.len(), chosen.join(" "));
        chosen
    }
}

/// Says how a kill went. The first time of each moment comes in any case.
fn tell(what: &str, moment: &str, stood: bool, answer: Option<&Answer>) {
    let stood = if stood { "killed there" } else { "did not come" };
    println!("{what} {moment}: {stood}, {}", if answer.is_some() { "answered" } else { "not answered" });
    assert!(stood == "killed there" || !moment.ends_with(":1"), "{what}: {moment} did not come");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_at_any_moment_of_a_create_or_delete_leaves_a_whole_branch_or_none() {
    let shop = Shop::new().await;
    let mut seen = Seen::default();
    creates(&shop, &mut seen).await;
    deletes(&shop, &mut seen).await;
    merges(&shop, &mut seen).await;
    let never: Vec<&str> =
        Moment::ALL.iter().map(|moment| moment.name()).filter(|name| !seen.0.contains(*name)).collect();
    assert!(never.is_empty(), "never reached: {never:?}");
    shop.close().await;
}

async fn creates(shop: &Shop, seen: &mut Seen) {
    let mut daemon = shop.home.start(Some(""));
    let made = daemon.call("POST", &create("calm"), &spec("production"));
    assert!(made.is_success(), "{made:?}");
    // What was cut is synced and indexed behind the answer.
    let last = Moment::LayerIndexed.name();
    wait_until("the last moment comes", PATIENCE, || daemon.moments().iter().any(|one| one == last));
    daemon.kill();
    let moments = seen.add("create", &daemon.moments());
    for (round, moment) in moments.iter().enumerate() {
        let id = format!("child-{round}");
        let daemon = shop.home.start(Some(moment));
        let bounds = shop.beginning_now();
        let (stood, answer) = daemon.call_and_kill("POST", &create(&id), &spec("production"));
        let bounds = shop.until_now(bounds);
        tell("create", moment, stood, answer.as_ref());
        let mut daemon = shop.restart();
        shop.check_create(&daemon, &id, answer, bounds).await;
        daemon.kill();
    }
    // The daemon that clears up is killed as well: behind a branch that is nearly made, behind one that
    // needs only its last word.
    for (round, begun) in [Moment::ServerRecorded, Moment::BranchMade].iter().enumerate() {
        let half_make = |id: &str| {
            let daemon = shop.home.start(Some(begun.name()));
            let (stood, answer) = daemon.call_and_kill("POST", &create(id), &spec("production"));
            assert!(stood && answer.is_none(), "{answer:?}");
        };
        let id = format!("again-{round}");
        half_make(&id);
        let mut daemon = shop.home.start(Some(""));
        wait_until("the create is taken back", PATIENCE, || shop.home.running_operations().is_empty());
        daemon.kill();
        let moments = seen.add("after a create", &daemon.moments());
        for (number, moment) in moments.iter().enumerate() {
            let id = format!("again-{round}-{number}");
            half_make(&id);
            let mut daemon = shop.home.start(Some(moment));
            let stood = daemon.comes_to_stand();
            daemon.kill();
            tell(&format!("create {}, then", begun.name()), moment, stood, None);
            let mut daemon = shop.restart();
            assert!(daemon.listed(&id).is_none());
            shop.check_create(&daemon, &id, None, shop.beginning_now()).await;
            daemon.kill();
        }
    }
}

async fn deletes(shop: &Shop, seen: &mut Seen) {
    // What is deleted: with its data at once; for now; with its children.
    for (kind, query) in [("purge", "?purge=true"), ("keep", ""), ("cascade", "?cascade=true")] {
        let ids = |round: usize| {
            let count = if kind == "cascade" { 3 } else { 1 };
            (0..count).map(|n| format!("{kind}-{round}-{n}")).collect::<Vec<_>>()
        };
        let mut round = 0;
        let mut moments: Vec<String> = Vec::new();
        // First to see what there is, then once for each moment.
        while round <= moments.len() {
            let ids = ids(round);
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            let mut daemon = shop.home.start(None);
            for (n, id) in ids.iter().enumerate() {
                let parent = if n == 0 { "production" } else { ids[n - 1] };
                shop.make(&daemon, id, parent).await;
            }
            daemon.kill();
            let path = format!("{}{query}", branch(ids[0]));
            let answer = if round == 0 {
                let mut daemon = shop.home.start(Some(""));
                let answer = daemon.call("DELETE", &path, "");
                daemon.kill();
                moments = seen.add(kind, &daemon.moments());
                Some(answer)
            } else {
                let moment = &moments[round - 1];
                let (stood, answer) = shop.home.start(Some(moment)).call_and_kill("DELETE", &path, "");
                tell(kind, moment, stood, answer.as_ref());
                answer
            };
            let mut daemon = shop.restart();
            shop.check_delete(&daemon, &path, &ids, answer);
            shop.check_parent().await;
            if kind != "purge" {
                // Its data is there still.
                let back = daemon.call("POST", &format!("{}/undelete", branch(ids[0])), "");
                assert!(back.is_success(), "{back:?}");
                shop.check_branch(&daemon, ids[0], &Bounds { least: vec![0; CLIENTS], most: ANY.to_vec() })
                    .await;
                let uid = daemon.listed(ids[0]).unwrap().uid;
                let admin = shop.home.connect_as_admin(&uid).await;
                let own = text(&admin, "select count(*) from accounts where filler like 'own%'").await;
                assert_eq!(own, "100");
                drop(admin);
                shop.home.note_shared_memory();
                shop.purge(&daemon, ids[0]);
            }
            daemon.kill();
            round += 1;
        }
    }
}

/// Merges of layers that only production uses, in the background of a daemon that has nothing else to do.
async fn merges(shop: &Shop, seen: &mut Seen) {
    let mut moments: Vec<String> = Vec::new();
    let mut round = 0;
    // First to see what there is, then once for each moment.
    while round <= moments.len() {
        let mut daemon = shop.home.start(None);
        let admin = shop.home.connect_as_admin(&shop.production).await;
        for number in 0..8 {
            // Something has to be in each layer.
            run(&admin, "checkpoint").await;
            let id = format!("layer-{round}-{number}");
            let made = daemon.call("POST", &create(&id), &spec("production"));
            assert!(made.is_success(), "{made:?}");
            shop.purge(&daemon, &id);
        }
        daemon.kill();
        if round == 0 {
            let mut daemon = shop.home.start_merging(Some(""));
            let last = Moment::LayerRemoved.name();
            let begin = Instant::now();
            while !daemon.moments().iter().any(|one| one == last) {
                assert!(begin.elapsed() < PATIENCE, "nothing was merged: {:#?}", daemon.said());
                std::thread::sleep(Duration::from_millis(20));
            }
            daemon.kill();
            // What was cut is sealed by the daemon before or by this one.
            let others = [Moment::LayerSynced, Moment::LayerIndexed].map(Moment::name);
            let mut reached = daemon.moments();
            reached.retain(|name| !others.contains(&name.as_str()));
            moments = seen.add("merge", &reached);
        } else {
            let moment = &moments[round - 1];
            let mut daemon = shop.home.start_merging(Some(moment));
            let stood = daemon.comes_to_stand();
            daemon.kill();
            tell("merge", moment, stood, None);
        }
        let mut daemon = shop.restart();
        shop.check_parent().await;
        daemon.kill();
        round += 1;
    }
}

/// One thing that a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create(usize),
    Wake(usize),
    Delete(usize),
}

/// A life of two branches, the second made from the first.
const LIFE: [Step; 6] =
    [Step::Create(0), Step::Wake(0), Step::Create(1), Step::Wake(1), Step::Delete(1), Step::Delete(0)];

impl Step {
    fn request(self, ids: &[String; 2]) -> (&'static str, String, String) {
        match self {
            Step::Create(0) => ("POST", create(&ids[0]), spec("production")),
            Step::Create(n) => ("POST", create(&ids[n]), spec(&ids[n - 1])),
            Step::Wake(n) => ("POST", format!("/api/anabranch/v1{}/wake", branch(&ids[n])), String::new()),
            // One with its data, one without.
            Step::Delete(n) => ("DELETE", format!("{}?purge={}", branch(&ids[n]), n == 1), String::new()),
        }
    }
}

/// Takes one step after the other; how long each took.
fn live(daemon: &Daemon, ids: &[String; 2], steps: &[Step]) -> Vec<Duration> {
    let take = |step: &Step| {
        let (method, path, body) = step.request(ids);
        let begin = Instant::now();
        must_be_done(*step, &daemon.call(method, &path, &body));
        begin.elapsed()
    };
    steps.iter().map(take).collect()
}

fn must_be_done(step: Step, answer: &Answer) {
    assert_eq!(answer.status, 200, "{step:?}: {answer:?}");
    assert_eq!(answer.body.get("error"), None, "{step:?}: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_at_random_under_load_goes_on_where_it_was() {
    let mut random = Random::new();
    let shop = Shop::new().await;
    let mut daemon = shop.home.start(None);
    let ids = |round: &str| [format!("first-{round}"), format!("second-{round}")];
    let usually = live(&daemon, &ids("calm"), &LIFE);
    daemon.kill();
    println!("usually: {usually:?}");
    for round in 0..ROUNDS_PER_STEP * LIFE.len() {
        let ids = ids(&round.to_string());
        let mut done = round % LIFE.len();
        let interrupted = LIFE[done];
        let after = Duration::from_micros(random.below(usually[done].as_micros() as u64 * 5 / 4));
        let mut daemon = shop.home.start(None);
        let bounds = shop.beginning_now();
        live(&daemon, &ids, &LIFE[..done]);
        let (method, path, body) = interrupted.request(&ids);
        let answer = daemon.begin_call(method, &path, &body).recv_timeout(after).ok().map(Result::unwrap);
        daemon.kill();
        let bounds = shop.until_now(bounds);
        println!("round {round}: {interrupted:?}, killed after {after:?}, answered: {}", answer.is_some());
        if let Some(answer) = &answer {
            must_be_done(interrupted, answer);
            done += 1;
        }
        let interrupted = Some(interrupted).filter(|_| answer.is_none());
        let mut daemon = shop.restart();
        for (n, id) in ids.iter().enumerate() {
            let there = daemon.listed(id).is_some();
            let made = LIFE[..done].contains(&Step::Create(n));
            let deleted = LIFE[..done].contains(&Step::Delete(n));
            let open = [Step::Create(n), Step::Delete(n)].map(Some).contains(&interrupted);
            assert!(
                open || there == (made && !deleted),
                "{id}: listed {there}, made {made}, deleted {deleted}"
            );
            if there {
                shop.check_branch(&daemon, id, &bounds).await;
            }
        }
        // The same call again, and the rest of the life.
        for step in &LIFE[done..] {
            let (method, path, body) = step.request(&ids);
            let path = match step {
                Step::Create(_) => format!("{path}&replace_existing=true"),
                Step::Delete(_) => format!("{path}&allow_missing=true"),
                Step::Wake(_) => path,
            };
            let answer = daemon.call(method, &path, &body);
            must_be_done(*step, &answer);
            shop.home.note_shared_memory();
        }
        assert!(ids.iter().all(|id| daemon.listed(id).is_none()));
        shop.home.assert_tidy(&daemon.rows());
        shop.check_parent().await;
        daemon.kill();
    }
    shop.close().await;
}
