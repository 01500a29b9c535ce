//! Processes that die or stand still at the worst moment: of a compute, of a cutter, of the engine.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use compute::engine::{BranchKey, ComputeState, Engine, Error, StartOptions, StopMode};
use compute::os;
use compute::process::PostmasterFile;
use compute::server::Server;
use e2e::lab::{Lab, PASSWORD, key, open_engine, run, text};
use e2e::processes::{
    Helper, JOB, Random, calls_inside, freeze, kill_everything, listen, say, servers, signal, thaw, title,
    wait_until,
};
use e2e::tpcb::{self, Load};
use store::gate::Gate;
use tokio_postgres::Client;

const SCALE: i32 = 1;
const CLIENTS: usize = 3;
/// Small enough that the load evicts, checkpoints and switches WAL segments all the time.
const SETTINGS: [(&str, &str); 4] = [
    ("shared_buffers", "4MB"),
    ("checkpoint_timeout", "30s"),
    ("max_wal_size", "32MB"),
    ("bgwriter_delay", "10ms"),
];
/// For what takes no time at all on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn lab_with_load_tables() -> Lab {
    let lab = Lab::new();
    lab.engine.create_root(&key("main"), &lab.server, PASSWORD).unwrap();
    lab.start_with("main", &SETTINGS);
    tpcb::fill(&lab.connect("main").await, SCALE).await;
    lab
}

async fn load(lab: &Lab, branch: &str, from: u64) -> Load {
    tpcb::start(&lab.engine.socket_dir(&key(branch)), CLIENTS, SCALE, from).await
}

/// Cuts under load; what the child must hold at least, and at most.
fn cut(lab: &Lab, load: &Load, parent: &str, child: &str) -> (Vec<u64>, Vec<u64>) {
    let before = load.acknowledged();
    tokio::task::block_in_place(|| lab.engine.create_child(&key(parent), &key(child))).unwrap();
    (before, load.sent())
}

async fn level(client: &Client) -> u64 {
    tpcb::level(client, CLIENTS).await
}

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parent_and_child_killed_altogether_keep_what_they_acknowledged() {
    let mut random = Random::new();
    let lab = lab_with_load_tables().await;
    let mut segments = vec![segment_of(&lab, "main")];
    for round in 0..3 {
        let from = level(&lab.connect("main").await).await;
        let on_main = load(&lab, "main", from).await;
        pause(300 + random.below(400)).await;
        let early = format!("early-{round}");
        let (least, most) = cut(&lab, &on_main, "main", &early);
        lab.start_with(&early, &SETTINGS);
        let client = lab.connect(&early).await;
        tpcb::check(&client, &least, &most).await;
        let on_child = load(&lab, &early, level(&client).await).await;
        drop(client);
        pause(200 + random.below(300)).await;
        // The last cut is still being synced when everything dies.
        let late = format!("late-{round}");
        let (least, most) = cut(&lab, &on_main, "main", &late);
        pause(random.below(60)).await;
        tokio::task::block_in_place(|| {
            kill_everything(&lab, "main", &mut random);
            kill_everything(&lab, &early, &mut random);
        });
        assert_eq!(lab.engine.state(&key("main")).unwrap(), ComputeState::Stopped);
        let (acknowledged, sent) = on_main.bounds().await;
        let (child_acknowledged, child_sent) = on_child.bounds().await;
        println!(
            "round {round}: {acknowledged:?} of {sent:?}; child {child_acknowledged:?} of {child_sent:?}"
        );

        lab.start_with("main", &SETTINGS);
        segments.push(segment_of(&lab, "main"));
        tpcb::check(&lab.connect("main").await, &acknowledged, &sent).await;
        lab.start_with(&early, &SETTINGS);
        segments.push(segment_of(&lab, &early));
        tpcb::check(&lab.connect(&early).await, &child_acknowledged, &child_sent).await;
        lab.start_with(&late, &SETTINGS);
        tpcb::check(&lab.connect(&late).await, &least, &most).await;
        for child in [&early, &late] {
            lab.engine.delete(&key(child)).unwrap();
        }
    }
    lab.engine.delete(&key("main")).unwrap();
    for (key, id) in segments {
        assert!(
            os::shared_memory(id).is_none_or(|found| found.key != key),
            "shared memory {id} was left behind"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_dies_is_recovered_from_within_the_living_postmaster() {
    let mut random = Random::new();
    let lab = lab_with_load_tables().await;
    let postmaster = lab.start("main");
    let mut children = Vec::new();
    for round in 0..3 {
        let from = level(&lab.connect("main").await).await;
        let on_main = load(&lab, "main", from).await;
        pause(300 + random.below(300)).await;
        let child = format!("child-{round}");
        let (least, most) = cut(&lab, &on_main, "main", &child);
        children.push((child, least, most));
        pause(random.below(60)).await;
        // The connection from above may still be on its way out.
        wait_until("only the load is connected", PATIENCE, || clients_of(&lab, "main").len() == CLIENTS);
        let backends = clients_of(&lab, "main");
        let unlucky = backends[random.below(CLIENTS as u64) as usize];
        // At any moment, or in the middle of a write.
        if round > 0 {
            tokio::task::block_in_place(|| freeze_when(&lab, "main", unlucky, true));
        }
        signal(unlucky, libc::SIGKILL);
        // Everyone is thrown out; the postmaster recovers by itself.
        let (acknowledged, sent) = on_main.bounds().await;
        wait_until("the others end", PATIENCE, || {
            servers(&lab, "main").iter().all(|process| !backends.contains(&process.pid))
        });
        let main = lab.reconnect("main").await;
        assert_eq!(lab.engine.state(&key("main")).unwrap(), ComputeState::Running { pid: postmaster });
        tpcb::check(&main, &acknowledged, &sent).await;
    }
    // What died in the gate does not hinder a cut.
    let main = lab.connect("main").await;
    let last = level(&main).await;
    lab.branch("main", "after");
    tpcb::check(&lab.connect("after").await, &[last; CLIENTS], &[last; CLIENTS]).await;
    for (child, least, most) in &children {
        lab.start_with(child, &SETTINGS);
        tpcb::check(&lab.connect(child).await, least, most).await;
        lab.engine.delete(&key(child)).unwrap();
    }
}

/// Key and id of the shared memory that a running compute has from the kernel.
fn segment_of(lab: &Lab, branch: &str) -> (i32, i32) {
    let file = PostmasterFile::read(&lab.data_directory(branch)).unwrap().unwrap();
    let (key, id) = file.shared_memory.unwrap();
    assert_eq!(os::shared_memory(id).unwrap().key, key);
    (key, id)
}

fn clients_of(lab: &Lab, branch: &str) -> Vec<i32> {
    let pids = servers(lab, branch).into_iter().map(|process| process.pid);
    pids.filter(|&pid| title(pid).starts_with("postgres: anabranch ")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_backend_keeps_every_second_postmaster_out() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    run(&main, "create table t(who text); insert into t values ('before'); checkpoint").await;
    let orphan: i32 = text(&main, "select pg_backend_pid()").await.parse().unwrap();
    let ComputeState::Running { pid: postmaster } = lab.engine.state(&key("main")).unwrap() else {
        panic!("main does not run");
    };
    // Looks at nothing but a file until that is there, then writes and commits.
    let busy = tokio::spawn(async move {
        let sql = "do $$ begin
                     while (pg_stat_file('postmaster.go', true)).size is null loop end loop;
                     insert into t values ('orphan');
                   end $$";
        main.batch_execute(sql).await.map(|()| main)
    });
    pause(300).await;
    signal(postmaster, libc::SIGKILL);
    // The others see its death and end.
    wait_until("all but the busy backend end", PATIENCE, || {
        let left = servers(&lab, "main");
        left.len() == 1 && left[0].pid == orphan
    });
    assert_eq!(lab.engine.state(&key("main")).unwrap(), ComputeState::Orphans { pids: vec![orphan] });
    let start = |lab: &Lab| lab.engine.start(&key("main"), &lab.server, &StartOptions::default());
    let refused = [start(&lab).map(drop), lab.engine.create_child(&key("main"), &key("child")).map(drop)];
    for result in refused {
        match result {
            Err(Error::Refused(branch, why)) => {
                assert_eq!(branch, "main");
                assert!(why.contains(&orphan.to_string()), "{why}");
            }
            other => panic!("not refused beside an orphan: {other:?}"),
        }
    }
    assert!(lab.engine.stop(&key("main"), StopMode::Fast).is_err());
    assert!(!lab.branch_directory("child").exists());

    // Whoever starts the server by hand is told by PostgreSQL itself, also without its lock file.
    for with_lock_file in [true, false] {
        let lock_file = lab.data_directory("main").join("postmaster.pid");
        if !with_lock_file {
            fs::rename(&lock_file, lab.path.join("postmaster.pid")).unwrap();
        }
        let output = second_postmaster(&lab, "main");
        assert!(output.contains("pre-existing shared memory block"), "{with_lock_file}: {output}");
    }
    fs::rename(lab.path.join("postmaster.pid"), lab.data_directory("main").join("postmaster.pid")).unwrap();
    assert_eq!(lab.engine.state(&key("main")).unwrap(), ComputeState::Orphans { pids: vec![orphan] });

    // The orphan ends its work. What it acknowledges then counts.
    fs::write(lab.data_directory("main").join("postmaster.go"), "go").unwrap();
    let acknowledged = busy.await.unwrap().is_ok();
    wait_until("the orphan ends", PATIENCE, || servers(&lab, "main").is_empty());
    start(&lab).unwrap();
    let main = lab.connect("main").await;
    assert!(acknowledged, "the orphan's answer was lost");
    assert_eq!(text(&main, "select string_agg(who, ' ' order by who) from t").await, "before orphan");
    tpcb::check_pages(&main).await;
    lab.branch("main", "child");
    let child = lab.connect("child").await;
    assert_eq!(text(&child, "select string_agg(who, ' ' order by who) from t").await, "before orphan");
}

/// Starts `postgres` beside what runs, with the preload library and sockets of its own; returns what
/// it said when it gave up.
fn second_postmaster(lab: &Lab, branch: &str) -> String {
    let sockets = lab.path.join("second");
    fs::create_dir_all(&sockets).unwrap();
    let shim = shim_image::install(&lab.path.join("run")).unwrap();
    let output = Command::new(lab.server.bin_dir.join("postgres"))
        .arg("-D")
        .arg(lab.data_directory(branch))
        .args(["-c", "listen_addresses=", "-c", "dynamic_shared_memory_type=mmap", "-c"])
        .arg(format!("unix_socket_directories={}", sockets.display()))
        .env("LD_PRELOAD", shim)
        .env("ANABRANCH_SHIM_BRANCH", lab.branch_directory(branch))
        .env("ANABRANCH_SHIM_LAYERS", lab.home().join("layers"))
        .env("ANABRANCH_SHIM_WAL_SEGMENT", "4194304")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Stops `pid` at a moment when it is inside the gate, or outside.
fn freeze_when(lab: &Lab, branch: &str, pid: i32, inside: bool) {
    for _ in 0..20_000 {
        assert!(freeze(pid), "the process has ended");
        if (calls_inside(lab, branch, pid) > 0) == inside {
            return;
        }
        thaw(pid);
        std::thread::sleep(Duration::from_micros(300));
    }
    panic!("never found inside = {inside}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stands_still_stops_a_cut_at_most_and_never_the_writers() {
    let lab = lab_with_load_tables().await;
    // A writer that holds no lock another one wants: it fills a temporary table through few buffers.
    let victim = lab.connect("main").await;
    let pid: i32 = text(&victim, "select pg_backend_pid()").await.parse().unwrap();
    run(&victim, "set temp_buffers = 100").await;
    run(&victim, "create temp table mine as select 1 as i, repeat('x', 500) from generate_series(1, 5000)")
        .await;
    let busy = tokio::spawn(async move {
        let sql = "do $$ begin
                     while (pg_stat_file('postmaster.go', true)).size is null loop
                       update mine set i = i + 1;
                     end loop;
                   end $$";
        run(&victim, sql).await;
        victim
    });
    let on_main = load(&lab, "main", 0).await;
    pause(200).await;

    freeze_when(&lab, "main", pid, true);
    let begin = Instant::now();
    let (before, sent) = (on_main.acknowledged(), on_main.sent());
    // A cut that never gives up must not keep this test waiting for ever.
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(45));
        thaw(pid);
    });
    let refused = tokio::task::block_in_place(|| lab.engine.create_child(&key("main"), &key("child")));
    println!("given up after {:?}: {refused:?}", begin.elapsed());
    match refused {
        Err(Error::Refused(_, why)) => assert!(why.contains(&pid.to_string()), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(!lab.branch_directory("child").exists() && !lab.branch_directory("child.new").exists());
    for (client, sent) in sent.iter().enumerate() {
        assert!(on_main.acknowledged()[client] > *sent, "client {client} stood still: {before:?}");
    }
    thaw(pid);
    let (least, most) = cut(&lab, &on_main, "main", "inside");

    // Outside the gate it hinders nobody, and finds the next layer when it wakes up.
    freeze_when(&lab, "main", pid, false);
    let info = lab.engine.cut_info(&key("inside")).unwrap();
    let (least_outside, most_outside) = cut(&lab, &on_main, "main", "outside");
    println!("{info:?}");
    thaw(pid);
    fs::write(lab.data_directory("main").join("postmaster.go"), "go").unwrap();
    let victim = busy.await.unwrap();
    let versions = "select count(distinct i) || ' ' || count(*) || ' ' || (min(i) > 1) from mine";
    assert_eq!(text(&victim, versions).await, "1 5000 true");

    let clients = on_main.clients.clone();
    let longest = on_main.stop().await.into_iter().max().unwrap();
    println!("longest transaction: {longest} us");
    assert!(longest < 10_000_000, "a writer was held back for {longest} us");
    let sent: Vec<u64> =
        clients.iter().map(|one| one.sent.load(std::sync::atomic::Ordering::SeqCst)).collect();
    tpcb::check(&lab.connect("main").await, &sent, &sent).await;
    lab.start("inside");
    tpcb::check(&lab.connect("inside").await, &least, &most).await;
    lab.start("outside");
    tpcb::check(&lab.connect("outside").await, &least_outside, &most_outside).await;
}

/// Time until every client of the load had two more transactions acknowledged.
fn time_to_progress(load: &Load) -> Duration {
    let begin = Instant::now();
    let from = load.acknowledged();
    wait_until("the clients go on", PATIENCE, || {
        load.acknowledged().iter().zip(&from).all(|(now, from)| *now >= from + 2)
    });
    begin.elapsed()
}

/// Lets the helper close the gate, and proves that it is closed: all clients stand still for 100 ms.
///
/// What was written before the gate closed may still be synced and acknowledged after it, which takes as
/// long as the disk takes; so the stand-still is awaited for half the time that writers wait for a cutter.
fn close_gate(helper: &mut Helper, load: &Load) {
    for _ in 0..10 {
        helper.tell("close");
        if helper.hear().as_deref() != Some("closed") {
            continue;
        }
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(500) {
            let early = load.acknowledged();
            std::thread::sleep(Duration::from_millis(100));
            if early == load.acknowledged() {
                return;
            }
        }
        helper.tell("open");
        assert_eq!(helper.hear().as_deref(), Some("opened"));
    }
    panic!("the gate could not be closed, or clients went on behind it, ten times");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cutter_that_dies_or_hangs_with_the_gate_closed_is_passed_over() {
    let lab = lab_with_load_tables().await;
    let on_main = load(&lab, "main", 0).await;
    pause(200).await;
    let job = format!("gate {}", lab.branch_directory("main").join("gate").display());
    let stack = lab.layers("main");

    // Dead: noticed at once. Busy machines get three tries.
    let mut fastest = PATIENCE;
    for _ in 0..3 {
        let mut helper = Helper::start(&job);
        tokio::task::block_in_place(|| close_gate(&mut helper, &on_main));
        helper.kill();
        fastest = fastest.min(tokio::task::block_in_place(|| time_to_progress(&on_main)));
    }
    println!("after a cutter's death the clients went on within {fastest:?}");
    assert!(fastest < Duration::from_millis(600), "{fastest:?}");

    // Hung: the writers wait a second, then open the gate themselves. Its switch comes too late.
    let mut fastest = PATIENCE;
    for _ in 0..3 {
        let mut helper = Helper::start(&job);
        tokio::task::block_in_place(|| close_gate(&mut helper, &on_main));
        assert!(freeze(helper.pid()));
        fastest = fastest.min(tokio::task::block_in_place(|| time_to_progress(&on_main)));
        thaw(helper.pid());
        helper.tell("switch");
        assert_eq!(helper.hear().as_deref(), Some("lost"));
    }
    println!("behind a hung cutter the clients went on within {fastest:?}");
    assert!(fastest < Duration::from_millis(1500), "{fastest:?}");
    assert_eq!(lab.layers("main"), stack, "nothing was switched");

    let (least, most) = cut(&lab, &on_main, "main", "child");
    let clients = on_main.clients.clone();
    on_main.stop().await;
    let sent: Vec<u64> =
        clients.iter().map(|one| one.sent.load(std::sync::atomic::Ordering::SeqCst)).collect();
    tpcb::check(&lab.connect("main").await, &sent, &sent).await;
    lab.start("child");
    tpcb::check(&lab.connect("child").await, &least, &most).await;
}

/// Nothing half-made on disk: every branch has its manifest, every layer is in one of them.
fn assert_tidy(lab: &Lab) {
    let names = |path: PathBuf| -> BTreeSet<String> {
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let branches = names(lab.home().join("branches"));
    assert!(branches.iter().all(|name| !name.contains('.')), "{branches:?}");
    let layers = lab.home().join("layers");
    let mut named = BTreeSet::new();
    for branch in &branches {
        let below = |path: &PathBuf| path.strip_prefix(&layers).unwrap().to_str().unwrap().to_owned();
        named.extend(lab.layers(branch).iter().map(below));
    }
    assert_eq!(e2e::files::layers_in(&layers), named);
    let sockets = names(lab.path.join("s"));
    assert!(sockets.is_subset(&branches), "{sockets:?} {branches:?}");
    let hash = store::path::fnv1a(lab.home().join("layers").as_os_str().as_encoded_bytes());
    for name in names("/dev/shm".into()) {
        if let Some((_, branch)) = name.split_once(&format!("-{hash:016x}-")) {
            assert!(branches.contains(branch), "{name}");
        }
    }
}

/// A daemon's engine, in a process of its own.
struct Daemon {
    helper: Helper,
}

impl Daemon {
    fn start(lab: &Lab) -> Daemon {
        let server = &lab.server;
        let (bin, major, minor) = (server.bin_dir.display(), server.major, server.minor);
        let mut helper = Helper::start(&format!("engine {} {bin} {major} {minor}", lab.path.display()));
        assert_eq!(helper.hear().as_deref(), Some("ready"));
        Daemon { helper }
    }

    /// Runs a command to its end; how long it took.
    fn finish(&mut self, command: &str) -> Duration {
        self.helper.tell(command);
        assert_eq!(self.helper.hear().as_deref(), Some("begin"));
        let begin = Instant::now();
        assert_eq!(self.helper.hear().as_deref(), Some("done"), "{command}");
        begin.elapsed()
    }

    /// Kills the daemon `after` the begin of a command; whether it had answered by then.
    fn die_in(mut self, command: &str, after: Duration) -> bool {
        self.helper.tell(command);
        assert_eq!(self.helper.hear().as_deref(), Some("begin"));
        std::thread::sleep(after);
        self.helper.kill();
        self.helper.hear().is_some()
    }
}

/// A moment within what takes `usually` that long, or just after it.
fn moment(random: &mut Random, usually: Duration) -> Duration {
    Duration::from_micros(random.below(usually.as_micros() as u64 * 3 / 2))
}

/// Command lines of live processes that name a program and the lab.
fn programs_on(lab: &Lab, program: &str) -> Vec<String> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()));
    pids.map(title)
        .filter(|line| line.contains(program) && line.contains(lab.home().to_str().unwrap()))
        .collect()
}

fn leftovers(lab: &Lab, suffix: &str) -> usize {
    let names = fs::read_dir(lab.home().join("branches")).unwrap();
    names.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(suffix)).count()
}

fn exists(lab: &Lab, branch: &str) -> bool {
    lab.engine.keys().unwrap().contains(&key(branch))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_in_the_middle_of_a_create_leaves_a_whole_branch_or_none() {
    let mut random = Random::new();
    let mut lab = lab_with_load_tables().await;
    let on_main = load(&lab, "main", 0).await;
    let mut usually = tokio::task::block_in_place(|| Daemon::start(&lab).finish("create main calm"));
    lab.reopen();
    lab.engine.delete(&key("calm")).unwrap();
    let (mut whole, mut none, mut half) = (0, 0, 0);
    for round in 0..100 {
        if round >= 24 && whole > 0 && half > 0 {
            break;
        }
        let child = format!("child-{round}");
        let after = moment(&mut random, usually);
        let daemon = Daemon::start(&lab);
        let least = on_main.acknowledged();
        let answered = tokio::task::block_in_place(|| daemon.die_in(&format!("create main {child}"), after));
        half += leftovers(&lab, ".new");
        lab.reopen();
        assert_tidy(&lab);
        let there = exists(&lab, &child);
        assert!(there || !answered, "an answered branch is gone");
        if there {
            let most = on_main.sent();
            whole += 1;
            tokio::task::block_in_place(|| lab.start(&child));
            tpcb::check(&lab.connect(&child).await, &least, &most).await;
            tokio::task::block_in_place(|| lab.engine.delete(&key(&child)).unwrap());
            assert_tidy(&lab);
        } else {
            none += 1;
        }
        // How long a create takes changes with the machine's other work.
        usually = usually * if there { 9 } else { 11 } / 10;
    }
    println!("a create takes {usually:?}; {whole} whole, {none} none, {half} caught half-made");
    assert!(whole > 0 && half > 0, "the kills did not spread over the create");
    let clients = on_main.clients.clone();
    let longest = on_main.stop().await.into_iter().max().unwrap();
    println!("longest transaction: {longest} us");
    let sent: Vec<u64> =
        clients.iter().map(|one| one.sent.load(std::sync::atomic::Ordering::SeqCst)).collect();
    tpcb::check(&lab.connect("main").await, &sent, &sent).await;
    // The parent starts from its own files as well, not only from its memory.
    lab.engine.stop(&key("main"), StopMode::Kill).unwrap();
    lab.start("main");
    tpcb::check(&lab.connect("main").await, &sent, &sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_in_a_delete_start_or_maintenance_leaves_a_whole_branch_or_none() {
    let mut random = Random::new();
    let mut lab = lab_with_load_tables().await;
    let main = lab.connect("main").await;
    let last = [level(&main).await; CLIENTS];
    let usually: Vec<Duration> = tokio::task::block_in_place(|| {
        let mut daemon = Daemon::start(&lab);
        daemon.finish("create main calm");
        ["maintain", "start calm", "delete calm"].iter().map(|command| daemon.finish(command)).collect()
    });
    println!("maintenance, start and delete take {usually:?}");
    let mut half = 0;
    for round in 0..18 {
        let child = format!("child-{round}");
        // Something for the maintenance to sync and index.
        run(&main, &format!("update accounts set filler = 'round {round}' where aid <= 2000")).await;
        run(&main, "checkpoint").await;
        let (command, usually) = match round % 3 {
            0 => ("maintain".to_owned(), usually[0].max(Duration::from_millis(30))),
            1 => (format!("start {child}"), usually[1]),
            _ => (format!("delete {child}"), usually[2]),
        };
        let after = moment(&mut random, usually);
        let answered = tokio::task::block_in_place(|| {
            let mut daemon = Daemon::start(&lab);
            daemon.finish(&format!("create main {child}"));
            if round % 6 == 5 {
                daemon.finish(&format!("start {child}"));
            }
            daemon.die_in(&command, after)
        });
        half += leftovers(&lab, ".gone");
        lab.reopen();
        assert_tidy(&lab);
        let there = exists(&lab, &child);
        assert!(there || round % 3 == 2, "{command} removed the branch");
        assert!(!there || round % 3 != 2 || !answered, "{command} was answered and {child} is there");
        if there {
            // Accepts connections when it returns, also where a start had begun.
            tokio::task::block_in_place(|| lab.start(&child));
            let client = lab.connect(&child).await;
            tpcb::check(&client, &last, &last).await;
            assert_eq!(
                text(&client, &format!("select count(*) from accounts where filler = 'round {round}'")).await,
                "2000"
            );
        }
        tokio::task::block_in_place(|| lab.engine.delete(&key(&child)).unwrap());
        assert_tidy(&lab);
    }
    println!("{half} caught half-removed");
    tpcb::check(&main, &last, &last).await;
}

#[test]
fn a_daemon_killed_while_it_makes_a_project_leaves_nothing() {
    let mut random = Random::new();
    let mut lab = Lab::new();
    let usually = Daemon::start(&lab).finish("root calm");
    lab.reopen();
    lab.engine.delete(&key("calm")).unwrap();
    assert_tidy(&lab);
    for round in 0..3 {
        let name = format!("root-{round}");
        let after = moment(&mut random, usually);
        let answered = Daemon::start(&lab).die_in(&format!("root {name}"), after);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(programs_on(&lab, "initdb"), [""; 0], "it outlives the daemon");
        lab.reopen();
        assert_tidy(&lab);
        assert!(exists(&lab, &name) || !answered, "an answered project is gone");
        // The same request again, as the next daemon would get it.
        lab.engine.create_root(&key(&name), &lab.server, PASSWORD).unwrap();
        lab.engine.delete(&key(&name)).unwrap();
        assert_tidy(&lab);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_of_a_child_leaves_out_one_sync_whoever_watches_it() {
    use std::os::unix::fs::FileExt;
    let lab = lab_with_load_tables().await;
    let on_main = load(&lab, "main", 0).await;
    pause(700).await;
    cut(&lab, &on_main, "main", "child");
    on_main.stop().await;
    let (gate, lock_file) =
        (lab.branch_directory("child").join("gate"), lab.data_directory("child").join("postmaster.pid"));
    // The engine would clear the flag when the server is ready; a killed one would not.
    let watch = std::thread::spawn(move || {
        let begin = Instant::now();
        let mut was_set = false;
        while begin.elapsed() < PATIENCE {
            let mut flags = [0; 4];
            let read = fs::File::open(&gate).and_then(|file| file.read_exact_at(&mut flags, 12));
            let set = read.is_ok() && flags[0] & 1 == 1;
            let ready = fs::read_to_string(&lock_file).is_ok_and(|text| text.contains("ready"));
            if ready || was_set && !set {
                return was_set && !set && !ready;
            }
            was_set |= set;
            std::thread::sleep(Duration::from_micros(200));
        }
        false
    });
    tokio::task::block_in_place(|| lab.start("child"));
    assert!(watch.join().unwrap(), "the recovery did not clear the flag itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_told_to_end_is_not_taken_for_a_running_one() {
    let lab = Lab::with_main();
    let ComputeState::Running { pid } = lab.engine.state(&key("main")).unwrap() else {
        panic!("main does not run");
    };
    // It hears of it only after the start has begun, as where an engine died just after it had told it.
    assert!(freeze(pid));
    signal(pid, libc::SIGINT);
    let waker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        thaw(pid);
    });
    let next = tokio::task::block_in_place(|| lab.start("main"));
    waker.join().unwrap();
    assert_ne!(next, pid, "the one that ends was taken for running");
    assert_eq!(text(&lab.connect("main").await, "select 1").await, "1");
}

#[cfg(debug_assertions)]
#[test]
fn planted_a_server_that_is_believed_to_be_ready() {
    let test = "a_server_that_was_told_to_end_is_not_taken_for_a_running_one";
    let why = "the one that ends was taken for running";
    store::fault::must_be_noticed(store::fault::Fault::ReadyBelieved, test, why);
}

#[cfg(debug_assertions)]
#[test]
fn planted_an_orphan_that_is_overlooked() {
    let test = "an_orphan_backend_keeps_every_second_postmaster_out";
    let why = "not refused beside an orphan: Ok(())";
    store::fault::must_be_noticed(store::fault::Fault::OrphanOverlooked, test, why);
}

/// What runs in a [`Helper`].
#[test]
#[ignore = "the other tests start it in a process of its own, to kill it"]
fn helper() {
    let Ok(job) = std::env::var(JOB) else { return };
    let words: Vec<&str> = job.split(' ').collect();
    match words[..] {
        ["gate", path] => cutter(path),
        ["engine", home, bin_dir, major, minor] => {
            let server = Server {
                bin_dir: bin_dir.into(),
                major: major.parse().unwrap(),
                minor: minor.parse().unwrap(),
            };
            daemon(&open_engine(home.as_ref()), &server);
        }
        _ => panic!("no such job: {job}"),
    }
}

/// Closes a gate and switches on command.
fn cutter(path: &str) {
    use std::os::fd::AsRawFd;
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let gate = Gate::open(file.as_raw_fd()).unwrap();
    loop {
        assert_eq!(listen(), "close");
        match gate.close(Duration::from_millis(250)) {
            Err(_) => say("busy"),
            Ok(closed) => {
                say("closed");
                match listen().as_str() {
                    "switch" => say(if closed.switch().is_ok() { "switched" } else { "lost" }),
                    _ => {
                        drop(closed);
                        say("opened");
                    }
                }
            }
        }
    }
}

fn daemon(engine: &Engine, server: &Server) {
    say("ready");
    let key = |name: &str| BranchKey::new(name).unwrap();
    loop {
        let line = listen();
        let words: Vec<&str> = line.split(' ').collect();
        say("begin");
        match words[..] {
            ["root", name] => engine.create_root(&key(name), server, PASSWORD).unwrap(),
            ["create", parent, child] => drop(engine.create_child(&key(parent), &key(child)).unwrap()),
            ["start", name] => drop(engine.start(&key(name), server, &StartOptions::default()).unwrap()),
            ["delete", name] => engine.delete(&key(name)).unwrap(),
            ["maintain"] => engine.maintain().unwrap(),
            _ => panic!("no such command: {line}"),
        }
        say("done");
    }
}
