//! A preload library with faults in it: release builds hold none, and the one that is installed is one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The library, built below `target` when first asked for. To be asked for before anything else: it is built by
/// the user that runs the tests, who may become another afterwards.
pub fn library(target: &Path) -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let target = target.join("planted");
        let built = [&["--offline"][..], &[]].iter().any(|extra| build(&target, extra));
        assert!(built, "the preload library did not build");
        target.join("release/libanashim.so")
    })
}

fn build(target: &Path, extra: &[&str]) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(root)
        .args(["build", "--quiet", "--release", "--package", "shim", "--features", "plant", "--target-dir"])
        .arg(target)
        .args(extra)
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort");
    command.status().is_ok_and(|status| status.success())
}
