//! Damage on the disk: found, named, and no matter of others.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use compute::engine::BranchKey;
use serde_json::Value;
use store::manifest::Manifest;

use crate::world::{World, with_key};

const FOREVER: &str = r#"{"spec":{"no_expiry":true}}"#;

impl World {
    fn layers_of(&self, uid: &str) -> Vec<PathBuf> {
        let bytes = fs::read(self.branch_directory(uid).join("manifest")).unwrap();
        let entries = Manifest::decode(&bytes).unwrap().entries;
        let path = |layer| {
            let name = store::layer::directory_name(layer);
            self.dir.join("home/layers").join(name.to_str().unwrap())
        };
        entries.iter().map(|entry| path(entry.layer)).collect()
    }

    fn branch_directory(&self, uid: &str) -> PathBuf {
        self.dir.join("home/branches").join(uid)
    }

    /// Findings of a scrub, and its last line.
    async fn scrub(&self) -> (Vec<Value>, Value) {
        let socket = self.dir.join("api.sock");
        let request = "POST /api/anabranch/v1/scrub HTTP/1.0\r\nHost: localhost\r\n\r\n";
        let request = with_key(&socket, request);
        let text = tokio::task::spawn_blocking(move || {
            use std::io::{Read, Write};
            let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        let text = text.await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{text}");
        let mut lines: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let last = lines.pop().unwrap();
        assert_eq!(last["finished"], true, "{last}");
        let found = lines.into_iter().filter_map(|line| line.get("found").cloned()).collect();
        (found, last)
    }
}

/// Sealed files are read-only.
fn write_over(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    write_over(path, &bytes);
}

fn names(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        found.insert(entry.path());
        if entry.file_type().unwrap().is_dir() && entry.file_name().len() == 8 {
            found.extend(names(&entry.path()));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_names_what_is_damaged_and_who_reads_it() {
    let world = World::with_shop().await;
    let production = world.connect("production").await;
    production.batch_execute("CREATE TABLE t AS SELECT 7 AS a").await.unwrap();
    production.batch_execute("VACUUM t").await.unwrap();
    let path = production.query_one("SELECT pg_relation_filepath('t')", &[]).await.unwrap();
    let path: String = path.get(0);
    let uid = world.uid("production").await;
    let admin = world.superuser(&BranchKey::new(uid.clone()).unwrap(), "postgres").await;
    admin.batch_execute("CHECKPOINT").await.unwrap();
    for child in ["dev", "other"] {
        world.branch(child, FOREVER).await;
    }
    // A child that wrote the page itself does not read its parent's any more.
    world.connect("dev").await.batch_execute("UPDATE t SET a = 8").await.unwrap();
    let dev = BranchKey::new(world.uid("dev").await).unwrap();
    world.superuser(&dev, "postgres").await.batch_execute("CHECKPOINT").await.unwrap();
    world.engine.maintain().unwrap();

    let (found, totals) = world.scrub().await;
    assert_eq!(found, [] as [Value; 0], "beside three branches, two of them in use");
    assert!(
        totals["sealed"].as_u64().unwrap() >= 2 && totals["bytes"].as_u64().unwrap() > 1 << 20,
        "{totals}"
    );
    assert_eq!(totals["branches"], 3);

    let sealed: Vec<PathBuf> =
        world.layers_of(&uid).into_iter().filter(|layer| layer.join("index").exists()).collect();
    let page = sealed.iter().map(|layer| layer.join("f").join(&path)).find(|file| file.exists()).unwrap();
    let status = sealed[0].join("f/pg_xact/0000");
    let control = sealed[0].join("f/global/pg_control");
    let undamaged = [&page, &status, &control].map(|file| fs::read(file).unwrap());
    flip(&page, 8191);
    flip(&status, 3);
    flip(&control, 40);
    let stranger = world.dir.join("home/layers/core");
    fs::write(&stranger, "x").unwrap();
    let orphan = world.dir.join("home/layers/00ffffff/00ffffff00ffffff");
    fs::create_dir_all(&orphan).unwrap();

    let (found, _) = world.scrub().await;
    let of = |path: &Path, what: &str| {
        let path = path.to_str().unwrap();
        let all: Vec<_> = found.iter().filter(|finding| finding["path"] == path).collect();
        let hit = all.iter().find(|finding| finding["what"].as_str().unwrap().contains(what));
        (*hit.unwrap_or_else(|| panic!("{path}, {what}: {found:#?}"))).clone()
    };
    let bad = of(&page, "page checksum is ");
    assert_eq!((&bad["grade"], &bad["file"], &bad["block"]), (&"damage".into(), &path.into(), &0.into()));
    let readers = |finding: &Value| -> Vec<String> {
        let names = finding["branches"].as_array().unwrap();
        names.iter().map(|name| name.as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
    };
    let mut who = readers(&bad);
    who.sort();
    assert_eq!(who, ["other", "production"]);
    assert_eq!(of(&status, "does not have the content")["file"], "pg_xact/0000");
    // Every branch has a newer pg_control: recovery reads none of the first one.
    let old = of(&control, "pg_control is damaged");
    assert_eq!((&old["grade"], readers(&old)), (&"leftover".into(), vec![]));
    assert_eq!(of(&stranger, "belongs to nothing")["grade"], "leftover");
    assert_eq!(of(&orphan, "no branch names")["grade"], "leftover");

    for (file, bytes) in [&page, &status, &control].into_iter().zip(undamaged) {
        write_over(file, &bytes);
    }
    fs::remove_file(stranger).unwrap();
    fs::remove_dir_all(orphan.parent().unwrap()).unwrap();
    assert_eq!(world.scrub().await.0, [] as [Value; 0]);
}

#[cfg(debug_assertions)]
#[test]
fn planted_trust_in_what_lies_on_the_disk() {
    use compute::fault::{Fault, must_be_noticed};
    let test = "damage::a_damaged_branch_is_refused_and_its_relatives_go_on";
    must_be_noticed(Fault::DamageOverlooked, test, "could not rebuild layer");
}

/// What is done to a branch, given its directory and its layers, and the words that tell of it.
type Damage = (&'static str, fn(&Path, &[PathBuf]), &'static str);

const DAMAGES: [Damage; 8] = [
    ("flipped", |branch, _| flip(&branch.join("manifest"), 40), "/manifest is damaged or of another version"),
    ("cut", |branch, _| write_over(&branch.join("manifest"), b"ANAMANI1"), "/manifest is damaged or of"),
    ("version", |branch, _| flip(&branch.join("manifest"), 8), "/manifest is damaged or of another version"),
    ("lost", |branch, _| fs::remove_file(branch.join("manifest")).unwrap(), "/manifest is missing"),
    ("no-layer", |_, layers| fs::remove_dir_all(layers.last().unwrap()).unwrap(), "is missing"),
    ("arena", |_, layers| flip(&layers.last().unwrap().join("arena"), 8), "/arena is damaged or of another"),
    (
        "log",
        |_, layers| fs::remove_file(layers.last().unwrap().join("log")).unwrap(),
        "has lost its index, or its log",
    ),
    (
        "index",
        |_, layers| flip(&layers[layers.len() - 2].join("index"), 60),
        "/index is damaged or of another",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_branch_is_refused_and_its_relatives_go_on() {
    let world = World::with_shop().await;
    world.connect("production").await.batch_execute("CREATE TABLE t AS SELECT 7 AS a").await.unwrap();
    world.branch("whole", FOREVER).await;
    let mut uids = Vec::new();
    for (name, _, _) in DAMAGES {
        uids.push(world.branch(name, FOREVER).await["uid"].as_str().unwrap().to_owned());
    }
    // So that this one has a sealed layer of its own.
    let answer = world
        .post(
            "/projects/shop/branches?branch_id=grandchild",
            r#"{"spec":{"no_expiry":true,"source_branch":"projects/shop/branches/index"}}"#,
        )
        .await;
    answer.response();
    world.engine.maintain().unwrap();
    let world = world.restart_asleep().await;
    for ((name, damage, what), uid) in DAMAGES.iter().zip(&uids) {
        let branch = world.branch_directory(uid);
        damage(&branch, &world.layers_of(uid));
        // Nobody has looked yet: the start itself finds it.
        let wake = world.post(&format!("/api/anabranch/v1/projects/shop/branches/{name}/wake"), "").await;
        wake.refuses(500, "DATA_LOSS", what);
    }

    let world = world.restart_asleep().await;
    let before = (names(&world.dir.join("home/layers")), names(&world.dir.join("home/branches")));
    for ((name, _, what), uid) in DAMAGES.iter().zip(&uids) {
        let shown = world.get(&format!("/projects/shop/branches/{name}")).await.body;
        let damage = shown["anabranch"]["damage"].as_str().unwrap_or_else(|| panic!("{name}: {shown}"));
        assert!(damage.contains(what), "{name}: {damage}");
        let endpoint = world.get(&format!("/projects/shop/branches/{name}/endpoints/primary")).await.body;
        assert_eq!(endpoint["status"]["current_state"], "DEGRADED", "{name}");
        let spec =
            format!(r#"{{"spec":{{"no_expiry":true,"source_branch":"projects/shop/branches/{name}"}}}}"#);
        let child = world.post("/projects/shop/branches?branch_id=child", &spec).await;
        child.refuses(500, "DATA_LOSS", &format!("branch \"{name}\" is damaged: "));
        let wake = world.post(&format!("/api/anabranch/v1/projects/shop/branches/{name}/wake"), "").await;
        wake.refuses(500, "DATA_LOSS", what);
        assert!(!world.is_awake(name).await);
        let usage = world.get(&format!("/api/anabranch/v1/projects/shop/branches/{name}/usage")).await;
        assert_eq!(usage.status, 200, "{usage:?}");
        assert!(world.branch_directory(uid).exists());
    }
    let grandchild = world.get("/projects/shop/branches/grandchild").await.body;
    assert!(
        grandchild["anabranch"]["damage"].as_str().unwrap().contains("/index is damaged"),
        "{grandchild}"
    );
    let after = (names(&world.dir.join("home/layers")), names(&world.dir.join("home/branches")));
    assert_eq!(after, before, "a refusal has changed something");
    assert_eq!(world.get("/projects/shop/branches/child").await.status, 404);

    // Nothing of this concerns the others.
    for name in ["production", "whole"] {
        let shown = world.get(&format!("/projects/shop/branches/{name}")).await.body;
        assert_eq!(shown["anabranch"].get("damage"), None, "{shown}");
        let row = world.connect(name).await.query_one("SELECT a FROM t", &[]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), 7);
    }
    world.branch("more", FOREVER).await;
    world.connect("more").await.simple_query("SELECT a FROM t").await.unwrap();
    world.engine.maintain().unwrap();
    let (found, _) = world.scrub().await;
    let damaged: BTreeSet<&str> = found
        .iter()
        .filter(|finding| finding["grade"] == "damage")
        .flat_map(|finding| finding["branches"].as_array().unwrap())
        .map(|name| name.as_str().unwrap().rsplit('/').next().unwrap())
        .collect();
    let expected: BTreeSet<&str> = DAMAGES.iter().map(|(name, _, _)| *name).chain(["grandchild"]).collect();
    assert_eq!(damaged, expected, "{found:#?}");

    // All of them can be deleted, and what only they had goes once nothing is unreadable any more.
    world.delete("/projects/shop/branches/grandchild?purge=true").await.response();
    for (name, _, _) in DAMAGES {
        world.delete(&format!("/projects/shop/branches/{name}?purge=true")).await.response();
    }
    world.delete("/projects/shop/branches/more?purge=true").await.response();
    let world = world.restart_asleep().await;
    let live = ["production", "whole"];
    let mut layers = BTreeSet::new();
    for name in live {
        layers.extend(world.layers_of(&world.uid(name).await));
    }
    let there: BTreeSet<PathBuf> = names(&world.dir.join("home/layers"));
    let there: BTreeSet<PathBuf> =
        there.into_iter().filter(|path| path.file_name().unwrap().len() == 16).collect();
    assert_eq!(there, layers);
    world.connect("whole").await.simple_query("SELECT a FROM t").await.unwrap();
}
