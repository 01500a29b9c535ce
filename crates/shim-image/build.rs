//! Builds the preload library with a target directory of its own: the shared one is locked by the
//! cargo that runs us.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let variable = |name: &str| std::env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")).join("../..");
    for watched in ["shim", "shim-core", "store", "pgdata"] {
        println!("cargo::rerun-if-changed={}", root.join("crates").join(watched).display());
    }
    println!("cargo::rerun-if-changed={}", root.join("Cargo.lock").display());
    let target = PathBuf::from(variable("OUT_DIR")).join("shim");
    // What the outer cargo resolved is at hand; only an unusual set-up needs the network again.
    let built = [&["--offline"][..], &[]].iter().any(|extra| build(&root, &target, extra));
    assert!(built, "the preload library did not build");
    println!("cargo::rustc-env=ANABRANCH_SHIM={}", target.join("release/libanashim.so").display());
}

fn build(root: &Path, target: &Path, extra: &[&str]) -> bool {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args(["build", "--release", "--package", "shim", "--target-dir"]).arg(target);
    // A panic that unwound into C would be undefined; a hook that panics must abort.
    command
        .args(extra)
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "RUSTC_WRAPPER"] {
        command.env_remove(name);
    }
    command.status().is_ok_and(|status| status.success())
}
