use std::path::Path;

use compute::confinement;
use compute::install::{self, Request};
use compute::machine::Machine;
use compute::os;
use compute::platform;
use compute::server::{DEFAULT_MAJOR, Server};
use serde::Serialize;

use crate::context::Global;
use crate::failure::{Exit, Failure};
use crate::output;

/// Look at the machine and the home, and say what is wrong and what to do
///
/// Nothing is changed. Ends with 0 where branches work, warnings or not.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ana doctor --json | jq '.[] | select(.verdict != \"ok\")'\n  ana doctor --scrub"
)]
pub struct Args {
    /// Verify instead all data that the daemon keeps, and name the branches that damage concerns
    ///
    /// Reads every sealed block, beside whatever runs. Ends with 1 where something is damaged.
    #[arg(long)]
    scrub: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Problem,
}

/// What was looked at, and found.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, found: impl Into<String>) -> Finding {
        Finding { check, verdict, found: found.into(), hint: None }
    }

    fn with_hint(self, hint: impl Into<String>) -> Finding {
        Finding { hint: Some(hint.into()), ..self }
    }
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    if args.scrub {
        return super::scrub::run(global, args.json).await;
    }
    let home = global.home()?;
    let mut findings = vec![system(&home)];
    findings.extend(space(&home));
    let status = match global.local_client()?.status().await {
        Ok(status) => {
            let found = format!("running, version {}, pid {}", status.version, status.pid);
            findings.push(daemon(found, &status.version));
            Some(status)
        }
        Err(client::Error::NotRunning { .. }) => {
            let finding = Finding::new("daemon", Verdict::Warning, "not running");
            findings.push(finding.with_hint("start it with: ana up"));
            None
        }
        Err(error) => {
            findings.push(Finding::new("daemon", Verdict::Problem, error.to_string()));
            None
        }
    };
    findings.push(match &status {
        Some(status) => {
            let server = Server::at(Path::new(&status.postgres.dir));
            server.map_or_else(|unfit| Finding::new("server", Verdict::Problem, unfit.to_string()), of_server)
        }
        None => server(&home),
    });
    findings.push(isolation());
    if let Some(status) = &status {
        findings.push(sizes(&status.host.sizes));
        // What the daemon says of isolation is said above.
        let moved = status.warnings.iter().filter(|warning| warning.starts_with("port "));
        findings.extend(moved.map(|warning| Finding::new("ports", Verdict::Warning, warning)));
        let damaged = status.warnings.iter().filter(|warning| warning.starts_with("damaged branch "));
        findings.extend(damaged.map(|warning| Finding::new("data", Verdict::Problem, warning)));
        let old = status.warnings.iter().filter(|warning| warning.starts_with("freeze age "));
        findings.extend(old.map(|warning| {
            Finding::new("freeze", Verdict::Warning, warning)
                .with_hint("run VACUUM (FREEZE) in its databases: children inherit the age")
        }));
    }
    if args.json {
        output::json(&findings)?;
    } else {
        findings.iter().for_each(show);
    }
    let problems = findings.iter().filter(|finding| finding.verdict == Verdict::Problem).count();
    match problems {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Outside, "one problem was found")),
        more => Err(Failure::new(Exit::Outside, format!("{more} problems were found"))),
    }
}

fn show(finding: &Finding) {
    let mark = match finding.verdict {
        Verdict::Ok => "ok     ",
        Verdict::Warning => "warning",
        Verdict::Problem => "problem",
    };
    output::data(format!("{mark}  {:<9}  {}", finding.check, finding.found));
    if let Some(hint) = &finding.hint {
        output::data(format!("{:<20}{hint}", ""));
    }
}

/// The C library, and the file system of the home or of where it would be made.
fn system(home: &Path) -> Finding {
    let place = home.ancestors().find(|place| place.is_dir()).unwrap_or(Path::new("/"));
    judge(platform::check(place), place, home)
}

fn judge(checked: Result<(), platform::Unsupported>, place: &Path, home: &Path) -> Finding {
    match checked {
        Ok(()) => {
            let glibc = os::glibc_version().unwrap_or_default();
            Finding::new(
                "system",
                Verdict::Ok,
                format!("glibc {glibc}, {} can hold branches", home.display()),
            )
        }
        // What a file system can do is tried out in the home, which not everybody may.
        Err(
            platform::Unsupported::Lacks { source, .. } | platform::Unsupported::Unreachable { source, .. },
        ) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            let found = format!("{} is closed to this user; its file system was not tried", place.display());
            Finding::new("system", Verdict::Ok, found)
        }
        Err(unsupported) => {
            Finding::new("system", Verdict::Problem, unsupported.to_string()).with_hint(unsupported.hint())
        }
    }
}

/// Full disks stop servers: said before it happens.
fn space(home: &Path) -> Option<Finding> {
    let place = home.ancestors().find(|place| place.is_dir())?;
    let (free, all) = os::file_system_space(place).ok()?;
    let found = format!("{} of {} free for {}", output::bytes(free), output::bytes(all), home.display());
    let scarce = free < (all / 20).min(10 << 30);
    Some(Finding::new("disk", if scarce { Verdict::Warning } else { Verdict::Ok }, found))
}

fn daemon(found: String, version: &str) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    if version == ours {
        return Finding::new("daemon", Verdict::Ok, found);
    }
    let found = format!("{found}; this command is version {ours}");
    Finding::new("daemon", Verdict::Warning, found)
        .with_hint("restart it with: ana down --keep-computes && ana up")
}

/// The server that the daemon would use.
fn server(home: &Path) -> Finding {
    let request = Request { major: DEFAULT_MAJOR, bin_dir: None, home: home.to_owned(), archive: None };
    match install::find(&Machine::this(), &request, &mut |_| {}) {
        Some(server) => of_server(server),
        None => {
            let found = format!("no PostgreSQL {DEFAULT_MAJOR} on this machine yet");
            Finding::new("server", Verdict::Warning, found)
                .with_hint("the first start of the daemon fetches it")
        }
    }
}

fn of_server(server: Server) -> Finding {
    let found = format!("PostgreSQL {} in {}", server.version(), server.bin_dir.display());
    if !server.bin_dir.starts_with("/usr")
        && server.bin_dir.components().any(|part| part.as_os_str() == "postgres")
    {
        let found = format!("{found}, with the contrib extensions only");
        let hint =
            "for more extensions install PostgreSQL 17 from your distribution: it is found and preferred";
        return Finding::new("server", Verdict::Ok, found).with_hint(hint);
    }
    Finding::new("server", Verdict::Ok, found)
}

/// What keeps a superuser of one branch from the files of the others.
fn isolation() -> Finding {
    match os::landlock_version() {
        Some(version) if confinement::available() && version >= 6 => {
            let found =
                format!("Landlock {version}: computes reach the files and processes of their branch only");
            Finding::new("isolation", Verdict::Ok, found)
        }
        Some(version) if confinement::available() => {
            let found = format!(
                "Landlock {version}: computes reach the files of their branch only, but can send \
                                 signals to others"
            );
            Finding::new("isolation", Verdict::Warning, found)
                .with_hint("Linux 6.12 confines signals, too; until then give superuser to nobody")
        }
        _ => Finding::new(
            "isolation",
            Verdict::Warning,
            "no Landlock: programs that a superuser of one branch starts can reach the files of the others",
        )
        .with_hint(
            "give superuser (ana psql --superuser) to nobody, or use Linux 6.2 with Landlock switched on",
        ),
    }
}

fn sizes(means: &str) -> Finding {
    match means {
        "advisory" => Finding::new("sizes", Verdict::Warning, "advisory: sizes are priorities, not limits")
            .with_hint("ana service install runs the daemon where systemd gives it control groups"),
        "cgroup v1" => {
            Finding::new("sizes", Verdict::Ok, "cgroup v1: processors and disk are limited, memory is not")
        }
        other => Finding::new("sizes", Verdict::Ok, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_limit_is_a_warning() {
        assert_eq!(sizes("advisory").verdict, Verdict::Warning);
        assert_eq!(sizes("cgroup v2").verdict, Verdict::Ok);
    }

    #[test]
    fn a_home_where_branches_cannot_be_is_a_problem() {
        let home = Path::new("/home");
        assert_eq!(judge(Ok(()), home, home).verdict, Verdict::Ok);
        let finding = judge(Err(platform::Unsupported::NotGlibc), home, home);
        assert_eq!(finding.verdict, Verdict::Problem, "{finding:?}");
        assert!(finding.hint.is_some());
        assert_eq!(daemon("running".to_owned(), "0.0.0").verdict, Verdict::Warning);
    }
}
