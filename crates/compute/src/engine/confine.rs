//! What the processes of a branch may reach: see [`crate::confinement`].

use std::path::{Path, PathBuf};

use store::layer::group_of;

use super::home::{Context, Engine};
use super::{BranchKey, Error};
use crate::confinement::{Confinement, Reach, available};
use crate::fault::{Fault, planted};
use crate::server::Server;

impl Engine {
    /// A compute confined to its branch may write to layers of its group only, those to come included;
    /// what a branch wrote before there were groups becomes a lower layer. For a branch at rest.
    pub(super) fn join_group(&self, key: &BranchKey) -> Result<(), Error> {
        if available() && group_of(self.manifest(key)?.top().layer) == 0 {
            let what = || format!("could not make a layer for branch {key}");
            self.home.prepare_cut(key.as_str(), None).context(what)?;
        }
        Ok(())
    }

    /// The confinement for a compute that is about to start; none where the machine has none to give.
    pub(super) fn confinement(&self, key: &BranchKey, server: &Server) -> Result<Option<Confinement>, Error> {
        if planted(Fault::Unconfined) {
            return Ok(None);
        }
        Confinement::new(&self.reach(key, server)?).map_err(|error| {
            Error::Postgres(format!("branch {key}: could not confine its processes: {error}"))
        })
    }

    fn reach(&self, key: &BranchKey, server: &Server) -> Result<Reach, Error> {
        let manifest = self.manifest(key)?;
        let branch = self.directory(key);
        let mut written =
            vec![branch.join("pgdata"), branch.join("private"), branch.join("gate"), self.socket_dir(key)];
        written.push(self.cache_directory(key));
        let top = self.home.layer_path(manifest.top().layer);
        written.extend(top.parent().map(Path::to_owned));
        // Manifest and server record say what the daemon will open and run: not the branch's to write.
        let mut read = vec![branch, self.shim.clone(), installation(server)];
        read.extend(self.extensions.get().cloned());
        for entry in &manifest.entries[..manifest.entries.len() - 1] {
            let layer = self.home.layer_path(entry.layer);
            // One that is not durable yet is synced by whoever needs it first, who says so in these.
            written.extend(
                ["arena", "log"].map(|name| layer.join(name)).into_iter().filter(|path| path.exists()),
            );
            read.push(layer);
        }
        // Whoever records our calls or lets them fail does so in our computes.
        for name in [store::recorder::VARIABLE, store::failing::VARIABLE] {
            let file = std::env::var_os(name).filter(|_| cfg!(debug_assertions)).map(PathBuf::from);
            written.extend(file.as_deref().and_then(Path::parent).map(Path::to_owned));
        }
        let mut closed =
            vec![self.home.path().to_owned(), self.sockets.clone(), PathBuf::from(super::run::MEMORY)];
        // Other daemons of this user have their sockets and keys beside ours.
        closed.extend(self.sockets.parent().filter(|base| is_common_base(base)).map(Path::to_owned));
        // Control groups and knobs of other processes: to look at.
        for kernel in ["/proc", "/sys"] {
            closed.push(kernel.into());
            read.push(kernel.into());
        }
        let closed = closed.into_iter().map(|path| path.canonicalize().unwrap_or(path)).collect();
        Ok(Reach { closed, written, read })
    }
}

/// Programs, libraries and shared files of an installation.
fn installation(server: &Server) -> PathBuf {
    let bin = server.bin_dir.canonicalize().unwrap_or_else(|_| server.bin_dir.clone());
    bin.parent().map_or(bin.clone(), Path::to_owned)
}

/// Whether a directory holds the run directories of all daemons of a user.
fn is_common_base(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name == b"anabranch" || name.starts_with(b".anabranch-")
}
