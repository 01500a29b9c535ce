//! Damage stays where it is: it is never taken for something else, and costs others nothing.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use store::home::Home;
use support::{Place, RDWR, Random};

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A root with two children; the first one's manifest is damaged.
fn family() -> (Place, std::path::PathBuf) {
    let place = Place::new();
    place.root("main", &[("base/5/1", vec![1; 3 * 8192])]);
    place.cut("main", None, "one");
    place.cut("main", None, "two");
    let manifest = place.path.join("branches/one/manifest");
    (place, manifest)
}

#[test]
fn what_an_unreadable_manifest_may_name_is_kept_until_it_is_gone() {
    let (place, manifest) = family();
    let layers = place.home.manifest("one").unwrap().entries;
    flip(&manifest, 40);

    let (home, swept) = Home::open(&place.path).unwrap();
    assert_eq!(swept.damaged, ["one"]);
    assert_eq!(swept.layers, []);
    // Its relatives go, all that only they are known to have stays.
    for relative in ["main", "two"] {
        home.remove(relative).unwrap();
    }
    assert!(layers.iter().all(|entry| home.layer_path(entry.layer).join("f").exists()), "collected");

    // Put back by somebody, it is whole again and counted again.
    flip(&manifest, 40);
    let process = place.attach("one");
    assert_eq!(process.content("base/5/1").unwrap(), vec![1; 3 * 8192]);
    drop(process);
    home.remove("one").unwrap();
    assert!(layers.iter().all(|entry| !home.layer_path(entry.layer).exists()), "not collected");
}

#[cfg(debug_assertions)]
#[test]
fn planted_collection_beside_an_unreadable_manifest() {
    let test = "what_an_unreadable_manifest_may_name_is_kept_until_it_is_gone";
    store::fault::must_be_noticed(store::fault::Fault::UnreadableCollected, test, "collected");
}

#[test]
fn a_branch_with_an_unreadable_manifest_can_be_removed() {
    for damage in [|path: &Path| flip(path, 8), |path: &Path| fs::remove_file(path).unwrap()] {
        let (place, manifest) = family();
        let layers = place.home.manifest("one").unwrap().entries;
        damage(&manifest);
        let (home, swept) = Home::open(&place.path).unwrap();
        assert_eq!(swept.damaged, ["one"]);
        home.remove("one").unwrap();
        assert!(!place.path.join("branches/one").exists());
        assert_eq!(place.attach("two").content("base/5/1").unwrap(), vec![1; 3 * 8192]);
        // What only it had is found to be garbage at the next opening.
        let own = layers.last().unwrap().layer;
        assert!(home.layer_path(own).exists());
        let (home, swept) = Home::open(&place.path).unwrap();
        assert_eq!(swept.layers, [own]);
        assert!(home.layer_path(layers[0].layer).exists());
    }
}

#[test]
fn the_number_of_a_lost_layer_is_not_given_out_again() {
    let (place, _) = family();
    let lost = place.home.manifest("two").unwrap().top().layer;
    fs::remove_dir_all(place.home.layer_path(lost)).unwrap();
    let (home, _) = Home::open(&place.path).unwrap();
    let number = |layer: u64| layer & 0xffff_ffff;
    assert!(number(home.reserve_layer(0)) > number(lost));
}

/// A process whose layers are damaged under it gets errors.
#[test]
fn no_call_falls_over_a_damaged_index() {
    let seed = std::env::var("ANA_SEED").ok().map_or_else(
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1,
        |text| text.parse().unwrap(),
    );
    println!("ANA_SEED={seed}");
    let mut random = Random(seed);
    let files = ["base/5/1", "base/5/2", "pg_xact/0000", "global/pg_control"];
    let place = Place::new();
    let content: Vec<(&str, Vec<u8>)> = files.iter().map(|name| (*name, vec![1; 5 * 8192])).collect();
    place.root("main", &content);
    place.cut("main", None, "middle");
    {
        let process = place.attach("middle");
        for name in files {
            let fd = process.open(name, RDWR).unwrap();
            process.pwrite(fd, &[2; 8192], 8192).unwrap();
            process.close(fd);
        }
        process.unlink("base/5/2").unwrap();
    }
    place.cut("middle", None, "child");
    place.seal("child");
    let indexes: Vec<_> = place.home.manifest("child").unwrap().entries[..3]
        .iter()
        .map(|entry| place.home.layer_path(entry.layer).join("index"))
        .map(|path| (fs::read(&path).unwrap(), path))
        .collect();
    for _ in 0..150 {
        let (good, path) = &indexes[random.below(indexes.len() as u64) as usize];
        let mut bad = good.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bad.len() as u64) as usize;
            bad[at] = if random.below(2) == 0 { random.next() as u8 } else { 0xff };
        }
        // A new file: what is mapped of the old one stays as it was.
        fs::remove_file(path).unwrap();
        fs::write(path, &bad).unwrap();
        {
            let process = place.attach("child");
            for name in files {
                if let Ok(fd) = process.open(name, RDWR) {
                    let _ = process.pread(fd, 5 * 8192, 0);
                    let _ = process.pwrite(fd, &[3; 8192], 3 * 8192);
                    let _ = process.pread(fd, 5 * 8192, 0);
                    let _ = process.ftruncate(fd, 8192);
                    let _ = process.fsync(fd);
                    process.close(fd);
                }
                let _ = process.exists(name);
                let _ = process.unlink(name);
            }
            for directory in ["base", "base/5"] {
                let _ = process.tracker.open_listing(directory.as_bytes());
            }
            let _ = process.rename("base/5/1", "base/5/7");
        }
        fs::write(path, good).unwrap();
        // Whatever was written lies in the child's own layer.
        let top = place.home.manifest("child").unwrap().top().layer;
        for entry in fs::read_dir(place.home.layer_path(top).join("f")).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        let _ = fs::remove_file(place.home.layer_path(top).join("arena"));
    }
    let process = place.attach("child");
    assert_eq!(process.content("pg_xact/0000").unwrap()[8192], 2);
}
