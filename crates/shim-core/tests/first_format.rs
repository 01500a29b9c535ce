//! Stores from before layers had groups: `layers/<16 digits>` instead of `layers/<8 digits>/<16 digits>`.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use store::home::Home;
use store::layer::{directory_name, group_of};
use support::{Place, RDWR};

#[test]
fn a_layer_of_the_first_format_keeps_its_place_and_new_ones_get_a_group() {
    assert_eq!(directory_name(7).to_str().unwrap(), "0000000000000007");
    assert_eq!(directory_name(3 << 32 | 9).to_str().unwrap(), "00000003/0000000300000009");
    let place = Place::new();
    place.first_format_root("main", &[("base/5/1", vec![1; 3 * 8192])]);
    let process = place.attach("main");
    let fd = process.open("base/5/1", RDWR).unwrap();
    process.pwrite(fd, &[2; 8192], 8192).unwrap();
    let gate = process.tracker.gate();
    place.cut("main", Some(gate), "child");
    process.pwrite(fd, &[3; 8192], 0).unwrap();

    let layers = |name: &str| -> Vec<u64> {
        place.home.manifest(name).unwrap().entries.iter().map(|entry| entry.layer).collect()
    };
    let (main, child) = (layers("main"), layers("child"));
    let groups: Vec<u32> = main.iter().map(|layer| group_of(*layer)).collect();
    assert_eq!(groups[..2], [0, 0]);
    assert_ne!(group_of(main[2]), 0);
    assert_ne!(group_of(child[2]), 0);
    assert_ne!(group_of(main[2]), group_of(child[2]), "each branch has a group of its own");
    place.cut("main", Some(gate), "another");
    assert_eq!(group_of(layers("main")[3]), group_of(main[2]), "a branch stays in its group");

    let content = |process: &support::Process| {
        let bytes = process.content("base/5/1").unwrap();
        [bytes[0], bytes[8192], bytes[16384]]
    };
    assert_eq!(content(&place.attach("child")), [1, 2, 1]);
    assert_eq!(content(&process), [3, 2, 1]);
    process.close(fd);
    drop(process);

    // Opened again nothing is lost, and numbers are not given twice.
    let there: BTreeSet<u64> = place.home.layers_there().unwrap().into_iter().collect();
    let (home, swept) = Home::open(&place.path).unwrap();
    assert!(swept.layers.is_empty(), "{swept:?}");
    assert_eq!(home.layers_there().unwrap().into_iter().collect::<BTreeSet<_>>(), there);
    let new = home.reserve_layer(0);
    assert!(there.iter().all(|layer| layer & 0xffff_ffff != new & 0xffff_ffff));
    for name in ["child", "another", "main"] {
        home.remove(name).unwrap();
    }
    assert_eq!(std::fs::read_dir(place.path.join("layers")).unwrap().count(), 0, "groups are left");
}
