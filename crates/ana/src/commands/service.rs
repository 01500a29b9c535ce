use std::path::{Path, PathBuf};
use std::process::Command as Program;

use crate::context::Global;
use crate::daemon::Options;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::system;

/// Run the daemon as a service of systemd
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Install(Install),
}

/// Write a unit for systemd: as root for the machine, else for this user
#[derive(Debug, clap::Args)]
pub struct Install {
    /// Print the unit and change nothing
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    options: Options,
}

const UNIT: &str = "anabranch.service";

/// User that computes run as when the machine's service is installed and nobody was named.
const USER: &str = "anabranch";

pub fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let Command::Install(args) = command;
    let program = std::env::current_exe().map_err(|error| Failure::io("cannot find this program", &error))?;
    let as_root = system::effective_uid() == 0;
    let unit = unit(&program, &global.home()?, &args.options, as_root)?;
    if args.print {
        output::data(unit.trim_end());
        return Ok(());
    }
    let dir = unit_dir(as_root)?;
    if as_root && args.options.run_as.is_none() {
        make_user()?;
    }
    let path = dir.join(UNIT);
    std::fs::create_dir_all(&dir)
        .and_then(|()| std::fs::write(&path, unit))
        .map_err(|error| Failure::io(format!("cannot write {}", path.display()), &error))?;
    output::talk(format!("wrote {}", path.display()));
    let user = if as_root { "" } else { " --user" };
    output::talk(format!(
        "start it: systemctl{user} daemon-reload && systemctl{user} enable --now anabranch"
    ));
    if !as_root {
        output::talk("to let it run while you are not logged in: loginctl enable-linger");
    }
    Ok(())
}

/// Computes outlive the daemon (`KillMode=process`), and the group they live in is the daemon's to
/// divide (`Delegate`), with the daemon itself beside them (`DelegateSubgroup`, from systemd 254 on).
fn unit(program: &Path, home: &Path, options: &Options, as_root: bool) -> Result<String, Failure> {
    let mut command = vec![text(program)?, "--home".to_owned(), text(home)?, "serve".to_owned()];
    command.push("--keep-computes".to_owned());
    command.extend(options.to_arguments());
    let command: Vec<String> = command.iter().map(|word| quote(word)).collect();
    let target = if as_root { "multi-user.target" } else { "default.target" };
    Ok(format!(
        "[Unit]\n\
         Description=Anabranch: branches for PostgreSQL\n\
         After=network.target\n\
         \n\
         [Service]\n\
         ExecStart={}\n\
         KillMode=process\n\
         Delegate=yes\n\
         DelegateSubgroup=daemon\n\
         Restart=on-failure\n\
         LimitNOFILE=65536\n\
         TimeoutStopSec=120\n\
         \n\
         [Install]\n\
         WantedBy={target}\n",
        command.join(" ")
    ))
}

fn text(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Failure::refused(format!("{} cannot be written into a unit: it is no valid text", path.display()))
    })
}

/// A word as systemd reads it: `%` begins a specifier, `$` a variable.
fn quote(word: &str) -> String {
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=@:+,".contains(c);
    if word.chars().all(plain) { escaped } else { format!("\"{escaped}\"") }
}

fn unit_dir(as_root: bool) -> Result<PathBuf, Failure> {
    if as_root {
        return Ok(PathBuf::from("/etc/systemd/system"));
    }
    let config = std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    config.or_else(home).map(|dir| dir.join("systemd/user")).ok_or_else(|| {
        Failure::new(Exit::Outside, "HOME is not set, so there is no place for the unit")
            .with_hint("see it with: ana service install --print")
    })
}

fn make_user() -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::io(format!("cannot make user {USER}"), &error);
    if compute::os::user_by_name(USER).map_err(failed)?.is_some() {
        return Ok(());
    }
    let status = Program::new("useradd")
        .args(["--system", "--user-group", "--no-create-home", "--home-dir", "/var/lib/anabranch"])
        .args(["--shell", "/usr/sbin/nologin", USER])
        .status()
        .map_err(failed)?;
    if !status.success() {
        return Err(Failure::new(Exit::Outside, format!("useradd could not make user {USER} ({status})"))
            .with_hint("name another user with --run-as"));
    }
    output::talk(format!("made user {USER}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn a_unit_keeps_computes_and_divides_its_group() {
        let line = ["ana", "--http-port=1", "--pg-port=2", "--patience=3s"];
        let options = <Line as clap::Parser>::parse_from(line).options;
        let unit = unit(Path::new("/opt/my ana/ana"), Path::new("/srv/50%"), &options, false).unwrap();
        let command = "ExecStart=\"/opt/my ana/ana\" --home \"/srv/50%%\" serve --keep-computes \
                       --http-port=1 --pg-port=2 --http-listen=127.0.0.1 --pg-listen=127.0.0.1 --patience=3s\n";
        assert!(unit.contains(command), "{unit}");
        for line in ["KillMode=process\n", "Delegate=yes\n", "WantedBy=default.target\n"] {
            assert!(unit.contains(line), "{unit}");
        }
    }

    #[test]
    fn words_are_quoted_for_systemd() {
        assert_eq!(quote("--owner=a@b"), "--owner=a@b");
        assert_eq!(quote("a \"b\" $c"), "\"a \\\"b\\\" $$c\"");
    }
}
