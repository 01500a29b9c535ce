//! Damage as people at a terminal meet it.
#![allow(clippy::unwrap_used)]

mod desk;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use compute::run_as;
use desk::Desk;

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

/// The file of the layer that has an index; there is one such layer.
fn sealed(desk: &Desk, file: &str) -> PathBuf {
    let inside =
        |path: &Path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let layers: Vec<PathBuf> =
        inside(&desk.path.join("data/layers")).iter().flat_map(|group| inside(group)).collect();
    let found =
        layers.iter().find(|layer| layer.join("index").exists() && layer.join("f").join(file).exists());
    found.unwrap().join("f").join(file)
}

#[test]
fn damage_is_found_and_shown_and_a_damaged_branch_can_be_deleted() {
    let desk = Desk::new("damage", run_as::choose(None).unwrap().map(|choice| choice.user));
    desk.succeed(&["up"]);
    desk.succeed(&["project", "create", "shop"]);
    desk.succeed(&["branch", "create", "dev", "--no-wait", "--no-expiry"]);
    let told = desk.succeed(&["doctor", "--scrub"]);
    assert!(told.contains("verified ") && told.contains(" layers of 2 branches"), "{told}");
    assert!(!told.contains("damage"), "{told}");

    let page = sealed(&desk, "base/1/1255");
    flip(&page, 3 * 8192 + 5000);
    let output = desk.ana(&["doctor", "--scrub"]);
    let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{told}{said}");
    assert!(told.contains("base/1/1255 block 3 page checksum is "), "{told}");
    assert!(
        told.contains("read by ") && told.contains("shop/dev") && told.contains("shop/production"),
        "{told}"
    );
    assert!(said.contains("error: one thing is damaged"), "{said}");
    let output = desk.ana(&["doctor", "--scrub", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let finding = &report["findings"][0];
    assert_eq!((finding["grade"].as_str(), finding["block"].as_u64()), (Some("damage"), Some(3)), "{report}");
    flip(&page, 3 * 8192 + 5000);
    desk.succeed(&["doctor", "--scrub"]);

    let dev = desk.json(&["branch", "show", "dev", "--json"]);
    let uid = dev["branch"]["uid"].as_str().unwrap();
    desk.succeed(&["down"]);
    flip(&desk.path.join("data/branches").join(uid).join("manifest"), 50);
    desk.succeed(&["up"]);
    let listed = desk.succeed(&["branch", "list"]);
    let line = listed.lines().find(|line| line.starts_with("dev ")).unwrap();
    assert!(line.ends_with("damaged"), "{listed}");
    assert_eq!(listed.matches("damaged").count(), 1, "{listed}");
    let shown = desk.succeed(&["branch", "show", "dev"]);
    assert!(shown.contains("damaged    its manifest ") && shown.contains(uid), "{shown}");
    let output = desk.ana(&["doctor"]);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("damaged branch dev of project shop: its manifest "), "{told}");
    assert_eq!(output.status.code(), Some(3), "{told}");
    let output = desk.ana(&["branch", "create", "child", "--from", "dev", "--no-wait", "--no-expiry"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error: branch \"dev\" is damaged: its manifest "), "{said}");
    assert_eq!(desk.ana(&["doctor", "--scrub"]).status.code(), Some(1));
    desk.succeed(&["branch", "delete", "dev"]);
    desk.succeed(&["endpoint", "wake", "production"]);
}
