//! Builds the preload library, which travels inside the binary.
//!
//! It has its own target directory: cargo holds the lock of the shared one while this script runs.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates that the library is made of.
const SOURCES: [&str; 4] = ["shim", "shim-core", "store", "pgdata"];

fn main() {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let crates = manifest.parent().unwrap_or(&manifest).to_owned();
    for name in SOURCES {
        println!("cargo::rerun-if-changed={}", crates.join(name).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    let target_dir = PathBuf::from(variable("OUT_DIR")).join("shim-target");
    // Whatever this build needed is here already; the network is the last resort.
    let built = build(&crates, &target_dir, &["--locked", "--offline"])
        || build(&crates, &target_dir, &["--locked"])
        || build(&crates, &target_dir, &[]);
    assert!(built, "the preload library could not be built; see above");
    println!("cargo::rustc-env=ANA_SHIM={}", library(&target_dir).display());
}

fn build(crates: &Path, target_dir: &Path, flags: &[&str]) -> bool {
    let mut cargo = Command::new(variable("CARGO"));
    cargo.arg("build").args(["--package", "shim", "--release"]).args(flags);
    cargo.arg("--manifest-path").arg(crates.join("shim").join("Cargo.toml"));
    cargo.arg("--target-dir").arg(target_dir);
    if let Some(target) = cross_target() {
        cargo.args(["--target", &target]);
    }
    // A panic inside PostgreSQL must end the process at once, not unwind through C.
    cargo.env("CARGO_PROFILE_RELEASE_PANIC", "abort");
    // What wraps or flags the outer build (lints, coverage) is not meant for the library.
    for name in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS"] {
        cargo.env_remove(name);
    }
    cargo.status().is_ok_and(|status| status.success())
}

fn cross_target() -> Option<String> {
    let target = variable("TARGET");
    (target != variable("HOST")).then_some(target)
}

fn library(target_dir: &Path) -> PathBuf {
    let base = cross_target().map_or_else(|| target_dir.to_owned(), |target| target_dir.join(target));
    base.join("release").join("libanashim.so")
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
